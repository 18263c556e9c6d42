//! How many connections there may be: in all, of one address, and not yet identified.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Port;
use crate::config::Limits;
use crate::metrics;

/// Descriptors kept for the store, logs and the other port.
const RESERVED_DESCRIPTORS: u64 = 512;
/// The ops port serves probes and scrapes, never a fleet.
const OPS_CONNECTIONS: u32 = 256;

/// Bounds of one port.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Connections at once.
    pub connections: u32,
    /// Connections at once of one address beyond loopback.
    pub per_address: u32,
    /// Connections that have not shown their protocol.
    pub pending: u32,
    /// Time they have.
    pub handshake: Duration,
}

impl Caps {
    /// Bounds of a port as configured, and as the descriptor limit of this process allows.
    #[must_use]
    pub fn of(limits: &Limits, port: Port) -> Self {
        let connections = match port {
            Port::Main => within_descriptors(limits.connections, getrlimit(Resource::Nofile).current),
            Port::Ops => limits.connections.min(OPS_CONNECTIONS),
        };
        Self {
            connections,
            per_address: limits.connections_per_address,
            pending: limits.pending_handshakes,
            handshake: limits.handshake,
        }
    }
}

fn within_descriptors(wanted: u32, limit: Option<u64>) -> u32 {
    let Some(limit) = limit else { return wanted };
    // With very few descriptors half of them must do.
    let usable = limit.saturating_sub(RESERVED_DESCRIPTORS).max(limit / 2).max(1);
    wanted.min(u32::try_from(usable).unwrap_or(u32::MAX))
}

/// Counts connections. Clones count together.
#[derive(Clone)]
pub(super) struct Counter {
    port: Port,
    per_address: u32,
    all: Arc<Semaphore>,
    // Held for a few instructions only, never across an await.
    by_address: Arc<Mutex<BTreeMap<IpAddr, u32>>>,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Port,
    Address,
}

impl Full {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Port => "limit",
            Self::Address => "address_limit",
        }
    }
}

impl Counter {
    pub(super) fn new(port: Port, caps: &Caps) -> Self {
        let all = Arc::new(Semaphore::new(usize::try_from(caps.connections).unwrap_or(usize::MAX)));
        Self { port, per_address: caps.per_address, all, by_address: Arc::default() }
    }

    /// A place for a connection, given back when dropped.
    pub(super) fn admit(&self, peer: SocketAddr) -> Result<Place, Full> {
        let permit = Arc::clone(&self.all).try_acquire_owned().map_err(|_| Full::Port)?;
        let address = peer.ip().to_canonical();
        let counted = (!address.is_loopback()).then_some(address);
        if let Some(address) = counted {
            let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
            let count = by_address.entry(address).or_insert(0);
            if *count >= self.per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        metrics::connections(self.port.as_str(), 1);
        Ok(Place { counter: self.clone(), counted, _permit: permit })
    }
}

/// A connection's place.
pub(super) struct Place {
    counter: Counter,
    counted: Option<IpAddr>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::connections(self.counter.port.as_str(), -1);
        let Some(address) = self.counted else { return };
        let mut by_address = self.counter.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(connections: u32, per_address: u32) -> Counter {
        let caps = Caps { connections, per_address, pending: 1, handshake: Duration::from_secs(1) };
        Counter::new(Port::Main, &caps)
    }

    fn peer(address: &str) -> SocketAddr {
        address.parse().expect("address")
    }

    #[test]
    fn an_address_has_its_cap_and_loopback_has_none() {
        let counter = counter(10, 2);
        let first = counter.admit(peer("192.0.2.1:1")).map_err(drop).expect("first");
        let _second = counter.admit(peer("[::ffff:192.0.2.1]:2")).map_err(drop).expect("second");
        assert_eq!(counter.admit(peer("192.0.2.1:3")).err(), Some(Full::Address));
        let _other = counter.admit(peer("192.0.2.2:1")).map_err(drop).expect("other");
        let _local: Vec<_> =
            (1..=3).map(|port| counter.admit(([127, 0, 0, 1], port).into()).map_err(drop).expect("local")).collect();
        drop(first);
        assert!(counter.admit(peer("192.0.2.1:4")).is_ok());
    }

    #[test]
    fn all_together_have_theirs_and_a_refusal_takes_no_place() {
        let counter = counter(1, 1);
        let place = counter.admit(peer("192.0.2.1:1")).map_err(drop).expect("room");
        assert_eq!(counter.admit(peer("192.0.2.2:1")).err(), Some(Full::Port));
        drop(place);
        assert!(counter.admit(peer("192.0.2.2:1")).is_ok());
        assert!(counter.by_address.lock().expect("lock").is_empty());
    }

    #[test]
    fn descriptors_bound_connections() {
        assert_eq!(within_descriptors(20_000, Some(1_024)), 512);
        assert_eq!(within_descriptors(20_000, Some(100_000)), 20_000);
        assert_eq!(within_descriptors(20_000, Some(256)), 128);
        assert_eq!(within_descriptors(20_000, None), 20_000);
    }
}
