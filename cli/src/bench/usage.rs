//! What the fleet's processes use, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

/// Of one kind of process.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub(super) struct Use {
    pub(super) processes: u32,
    /// Memory resident, in KiB, all together.
    pub(super) rss_kib: u64,
    /// Processor time used since their start, in seconds, all together.
    pub(super) cpu_seconds: f64,
}

/// Kinds: `control-plane`, `sidecar`, `shim`, `agent`, and `load` for this program.
pub(super) type Uses = BTreeMap<&'static str, Use>;

/// Looks at every process whose command line or environment mentions `mark`, and at this one.
pub(super) fn look(mark: &str) -> Uses {
    let mut uses = Uses::new();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().filter(|name| name.bytes().all(|b| b.is_ascii_digit())) else { continue };
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let kind = if pid == own { Some("load") } else { kind(&read("cmdline"), &read("environ"), mark) };
        let Some(kind) = kind else { continue };
        let Some((rss_kib, cpu_seconds)) = used(&String::from_utf8_lossy(&read("stat"))) else { continue };
        let all: &mut Use = uses.entry(kind).or_default();
        all.processes += 1;
        all.rss_kib += rss_kib;
        all.cpu_seconds += cpu_seconds;
    }
    uses
}

fn kind(command: &[u8], environment: &[u8], mark: &str) -> Option<&'static str> {
    let has = |bytes: &[u8], text: &str| bytes.windows(text.len().max(1)).any(|w| w == text.as_bytes());
    let program = command.split(|b| *b == 0).next().unwrap_or_default();
    let program = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
    match program {
        b"hive-control-plane" if has(command, mark) => Some("control-plane"),
        b"hive-sidecar" if has(command, mark) && has(command, "--config") => Some("sidecar"),
        b"hive-sidecar" if has(command, mark) || has(environment, mark) => Some("shim"),
        b"hive" if has(environment, mark) => Some("agent"),
        _ => None,
    }
}

/// Resident memory and processor time of a line of /proc/PID/stat.
fn used(stat: &str) -> Option<(u64, f64)> {
    // The program's name is in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
    let ticks = number(11)? + number(12)?;
    let page = rustix::param::page_size() as u64;
    #[expect(clippy::cast_precision_loss, reason = "seconds of processor time")]
    let cpu = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Some((number(21)? * page / 1024, cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_itself() {
        let uses = look("nothing has this in its environment 1f2e");
        assert_eq!(uses.keys().collect::<Vec<_>>(), [&"load"]);
        assert!(uses["load"].rss_kib > 100);
    }

    #[test]
    fn tells_kinds_apart() {
        let kind = |command: &str, env: &str| kind(command.replace(' ', "\0").as_bytes(), env.as_bytes(), "/tmp/b");
        assert_eq!(kind("/x/hive-control-plane --data /tmp/b/store", ""), Some("control-plane"));
        assert_eq!(kind("hive-sidecar --config /tmp/b/s1/sidecar.toml", ""), Some("sidecar"));
        assert_eq!(kind("hive-sidecar shim", "A=/tmp/b/s1"), Some("shim"));
        assert_eq!(kind("/x/hive bench agent", "HIVE_AGENT_SOCKET=/tmp/b/s1/s/a.sock"), Some("agent"));
        assert_eq!(kind("vi /tmp/b", "/tmp/b"), None);
    }
}
