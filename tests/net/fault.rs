//! What goes wrong, drawn from the seed: cuts, black holes, crashes, a store in trouble.

use std::time::Duration;

use turmoil::Sim;

use crate::lab::{Lab, Trouble};
use crate::rng::Rng;
use crate::wire::PLANE;

/// What.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Segments are dropped both ways; open connections never recover, new ones are refused.
    Cut(String),
    /// Dropped from the first to the second only.
    OneWay(String, String),
    /// Everything is swallowed, and delivered in the end.
    BlackHole(String),
    /// Nothing of it goes on but its disk.
    Crash(String),
    /// An orderly stop and a new start of the control plane.
    Restart,
    Store(u64, u64, bool),
    /// The store can't be opened.
    Away,
    /// Everything takes its time.
    Slow,
}

/// What, and when in virtual ms.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Fault {
    pub(crate) fn draw(rng: &mut Rng, chaos: u64, sidecars: &[String], clients: &[String]) -> Self {
        let peers: Vec<&String> = sidecars.iter().chain(clients).collect();
        let peer = (*rng.pick(&peers)).clone();
        let kind = match rng.between(0, 12) {
            0 | 1 => Kind::Cut(peer),
            2 | 3 => Kind::BlackHole(peer),
            4 => Kind::OneWay(peer, PLANE.into()),
            5 => Kind::OneWay(PLANE.into(), peer),
            6 | 7 => Kind::Crash(PLANE.into()),
            8 => Kind::Crash(rng.pick(sidecars).clone()),
            9 => Kind::Restart,
            10 => Kind::Store(rng.skewed(1, 2_000), rng.between(50, 400), rng.chance(200)),
            11 => Kind::Away,
            _ => Kind::Slow,
        };
        let from = rng.between(500, chaos);
        Self { kind, from, to: from + rng.skewed(100, 20_000) }
    }

    /// Two of these can't be on at a time.
    pub(crate) fn bars(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to && self.place() == other.place()
    }

    fn place(&self) -> &str {
        match &self.kind {
            Kind::Cut(peer) | Kind::BlackHole(peer) => peer,
            Kind::OneWay(from, to) => {
                if from == PLANE {
                    to
                } else {
                    from
                }
            }
            // Crashes beside cuts of the same host are fine; two of them are not.
            Kind::Crash(host) if host == PLANE => "process",
            Kind::Crash(_) => "sidecar process",
            Kind::Restart => "process",
            Kind::Store(..) | Kind::Away => "store",
            Kind::Slow => "all",
        }
    }

    pub(crate) fn begin(&self, sim: &mut Sim<'_>, lab: &Lab, stop: &mut dyn FnMut()) {
        match &self.kind {
            Kind::Cut(peer) => sim.partition(peer.as_str(), PLANE),
            Kind::OneWay(from, to) => sim.partition_oneway(from.as_str(), to.as_str()),
            Kind::BlackHole(peer) => sim.hold(peer.as_str(), PLANE),
            Kind::Crash(host) => sim.crash(host.as_str()),
            Kind::Restart => stop(),
            Kind::Store(slow_ms, unknown, full) => {
                lab.book().store = Trouble { slow_ms: *slow_ms, unknown: *unknown, full: *full }
            }
            Kind::Away => {
                lab.store.set_away(true);
                lab.book().store = Trouble { unknown: 1_000, ..Trouble::default() };
            }
            Kind::Slow => sim.set_max_message_latency(Duration::from_millis(800)),
        }
    }

    pub(crate) fn end(&self, sim: &mut Sim<'_>, lab: &Lab) {
        match &self.kind {
            Kind::Cut(peer) => sim.repair(peer.as_str(), PLANE),
            Kind::OneWay(from, to) => sim.repair_oneway(from.as_str(), to.as_str()),
            Kind::BlackHole(peer) => sim.release(peer.as_str(), PLANE),
            Kind::Crash(host) => sim.bounce(host.as_str()),
            // By now it has stopped by itself, or is killed.
            Kind::Restart => sim.bounce(PLANE),
            Kind::Store(..) => lab.book().store = Trouble::default(),
            Kind::Away => {
                lab.store.set_away(false);
                lab.book().store = Trouble::default();
            }
            Kind::Slow => sim.set_max_message_latency(Duration::from_millis(20)),
        }
    }
}
