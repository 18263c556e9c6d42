//! Checks around the start of a fleet: is the port free, does the control plane serve, and has it
//! taken too long.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use crate::clock;
use crate::connect::Client;
use crate::failure::{Exit, Failure};

/// For the control plane to serve, and then for all agents to be ready.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Says what is waited for once that takes longer than two seconds; ends at the limit.
pub(super) struct Patience {
    started: std::time::Instant,
    told: u64,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { started: clock::now(), told: 0 }
    }

    pub(super) fn check(&mut self, say: &mut impl FnMut(String), what: impl Fn() -> String) -> Result<(), Failure> {
        let waited = clock::now().duration_since(self.started);
        if waited >= START_LIMIT {
            let why = format!("{} for {} s", what(), waited.as_secs());
            return Err(Failure::new(Exit::Timeout, "the fleet does not come up", why)
                .next("read the files under logs/ in the data folder"));
        }
        if waited.as_secs() / 2 > self.told {
            self.told = waited.as_secs() / 2;
            say(what());
        }
        Ok(())
    }
}

/// Whether the control plane's health says SERVING.
pub(super) async fn is_serving(client: &Client) -> bool {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let check = client.attempt(
        HealthCheckRequest::default(),
        |s, r| async move { HealthClient::new(s.channel).check(r).await },
        true,
    );
    check.await.is_ok_and(|answer| answer.status() == ServingStatus::Serving)
}

/// Finds out early whether somebody else has the port: the reason is clearer here.
pub(super) fn check_port(address: SocketAddr) -> Result<(), Failure> {
    if !address.ip().is_loopback() {
        return Err(Failure::usage(
            format!("cannot listen on {address}"),
            "a fleet of `hive dev` is for this machine only",
        )
        .next("give a loopback address, such as 127.0.0.1:7070"));
    }
    if address.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(address).map(drop).map_err(|e| {
        Failure::error(format!("cannot listen on {address}"), e)
            .next("stop whoever listens there, perhaps another `hive dev`, or choose any free port with --port 0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_before_anything_starts() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let text = check_port(address).unwrap_err().to_string();
        assert!(text.contains(&address.to_string()) && text.contains("--port 0"), "{text}");
        assert!(check_port("127.0.0.1:0".parse().unwrap()).is_ok());
        assert!(check_port("0.0.0.0:0".parse().unwrap()).is_err());
    }
}
