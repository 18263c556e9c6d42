//! `status`: how the control plane stands.

use std::time::Duration;

use hive_proto::v1;

use super::{Context, task};
use crate::failure::Failure;
use crate::output::{self, Format};

/// `hive status`.
pub(super) async fn run(cx: &Context) -> Result<(), Failure> {
    let request = v1::GetStatusRequest { namespace: cx.client.namespace.clone() };
    let status = cx
        .client
        .call("cannot read the status", request, |mut s, r| async move { s.cluster.get_status(r).await })
        .await?;
    match cx.format {
        Format::Json => output::json("hive.v1.GetStatusResponse", &status),
        Format::Name => output::line(&status.cluster_id),
        Format::Table => output::line(&text(&cx.client.server, &status)),
    }
}

fn text(server: &str, status: &v1::GetStatusResponse) -> String {
    let tasks = status.tasks.unwrap_or_default();
    let agents = status.agents.unwrap_or_default();
    let store = status.store.clone().unwrap_or_default();
    let epoch = status.leader_epoch.unwrap_or_default();
    let revision = status.revision.unwrap_or_default();
    let uptime = status.uptime.and_then(|up| Duration::try_from(up).ok()).map_or_else(|| "?".to_owned(), task::human);
    let shedding = if store.shedding { ", refusing new tasks for want of space" } else { "" };
    [
        format!("server    {server}, version {}, up {uptime}", status.version),
        format!("transport {}", transport(status.transport_security())),
        format!("cluster   {}, leader epoch {}.{}", status.cluster_id, epoch.cluster_generation, epoch.number),
        format!("time      {}", status.cluster_time.map_or_else(|| "?".to_owned(), |t| t.to_string())),
        format!(
            "tasks     {} pending, {} assigned, {} waiting for input; {} succeeded, {} failed, {} cancelled, {} expired",
            tasks.pending,
            tasks.assigned,
            tasks.input_required,
            tasks.succeeded,
            tasks.failed,
            tasks.cancelled,
            tasks.expired
        ),
        format!(
            "agents    {} ready, {} asleep, {} suspect, {} lost, {} other; {} sidecars connected",
            agents.ready, agents.asleep, agents.suspect, agents.lost, agents.other, status.connected_sidecars
        ),
        format!(
            "store     {}, {} used, {} free{shedding}",
            store.kind,
            size(store.size_bytes),
            size(store.free_bytes)
        ),
        format!("revision  {}.{}", revision.cluster_generation, revision.seq),
    ]
    .join("\n")
}

fn transport(security: v1::TransportSecurity) -> &'static str {
    match security {
        v1::TransportSecurity::Unspecified => "unknown",
        v1::TransportSecurity::Loopback => "plain text, on loopback only",
        v1::TransportSecurity::Insecure => {
            "INSECURE: plain text beyond that machine; whoever is on the way reads and changes everything"
        }
        v1::TransportSecurity::Tls => "TLS; callers are not asked who they are",
        v1::TransportSecurity::MutualTls => "mutual TLS",
    }
}

/// Bytes for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut whole = bytes / 1024;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        whole /= 1024;
        unit += 1;
    }
    format!("{whole} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (5 << 20, "5 MiB"), (3 << 40, "3 TiB")] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn plain_text_beyond_the_machine_is_loud() {
        let security = v1::TransportSecurity::Insecure.into();
        let status = v1::GetStatusResponse { transport_security: security, ..Default::default() };
        assert!(text("http://h:1", &status).contains("INSECURE"));
    }

    #[test]
    fn an_empty_answer_is_shown_too() {
        assert!(text("http://h:1", &v1::GetStatusResponse::default()).contains("0 pending"));
    }
}
