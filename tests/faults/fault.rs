//! The faults: what each is called, which fleet it is done to, what it touches, how long it lasts.

use std::time::Duration;

use crate::fleet::Size;
use crate::tools::Need;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    ControlPlaneKill,
    ControlPlaneKillAtStart,
    ControlPlaneRestart,
    ControlPlanePause,
    ControlPlaneOutage,
    ControlPlaneEio,
    ControlPlaneSlowFsync,
    ControlPlaneDescriptors,
    ControlPlaneDiskFull,
    ControlPlaneDiskNoReserve,
    ConnectionFlood,
    ResetFlood,
    OpenFlood,
    SlowLoris,
    StalledReaders,
    Malformed,
    SidecarKill,
    SidecarRestart,
    SidecarPause,
    SidecarDiskFull,
    ShimKill,
    AgentKill,
    AgentPause,
    WireCut,
    WireCutUp,
    WireCutDown,
    WireReset,
    ClockForward,
    ClockBack,
    ClockBackAndKill,
    HerdControlPlaneKill,
    HerdControlPlanePause,
    HerdSidecarsKill,
}

/// What a fault touches; two of one place are not done at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    ControlPlane,
    /// Load from outside, under which nobody may lose contact.
    Port,
    /// One sidecar, its agents or its wire.
    Sidecar,
}

/// A fault's description.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) name: &'static str,
    pub(crate) size: Size,
    pub(crate) place: Place,
    pub(crate) need: Need,
    /// In a random round, and where each is done once, in ms.
    brief_ms: (u64, u64),
    thorough_ms: u64,
}

impl Fault {
    pub(crate) fn lasts(&self, thorough: bool, draw: impl FnOnce(u64, u64) -> u64) -> Duration {
        let ms = if thorough { self.thorough_ms } else { draw(self.brief_ms.0, self.brief_ms.1) };
        Duration::from_millis(ms)
    }
}

const fn fault(
    kind: Kind,
    name: &'static str,
    size: Size,
    place: Place,
    need: Need,
    brief_ms: (u64, u64),
    thorough_ms: u64,
) -> Fault {
    Fault { kind, name, size, place, need, brief_ms, thorough_ms }
}

use Place::{ControlPlane, Port, Sidecar};
use Size::{Clock, Disk, Hundred, Six};

/// In the order of the table. Where each is done once, those of one fleet follow each other.
pub(crate) const ALL: &[Fault] = &[
    fault(Kind::ControlPlaneKill, "control plane: kill -9", Six, ControlPlane, Need::Nothing, (0, 200), 100),
    fault(
        Kind::ControlPlaneKillAtStart,
        "control plane: kill -9 while it starts",
        Six,
        ControlPlane,
        Need::Nothing,
        (0, 50),
        50,
    ),
    fault(Kind::ControlPlaneRestart, "control plane: SIGTERM, start", Six, ControlPlane, Need::Nothing, (0, 200), 100),
    fault(Kind::ControlPlanePause, "control plane: SIGSTOP", Six, ControlPlane, Need::Nothing, (500, 3_000), 8_000),
    fault(Kind::ControlPlaneOutage, "control plane: away", Six, ControlPlane, Need::Nothing, (1_500, 4_000), 21_000),
    fault(
        Kind::ControlPlaneEio,
        "control plane: fsync fails (EIO)",
        Six,
        ControlPlane,
        Need::Strace,
        (300, 1_500),
        4_000,
    ),
    fault(
        Kind::ControlPlaneSlowFsync,
        "control plane: fsync takes 400 ms",
        Six,
        ControlPlane,
        Need::Strace,
        (1_000, 2_500),
        5_000,
    ),
    fault(
        Kind::ControlPlaneDescriptors,
        "control plane: no file descriptor left",
        Six,
        ControlPlane,
        Need::Root,
        (800, 2_000),
        4_000,
    ),
    fault(Kind::ConnectionFlood, "flood: connections", Six, Port, Need::Nothing, (800, 1_500), 5_000),
    fault(Kind::ResetFlood, "flood: HTTP/2 rapid reset", Six, Port, Need::Nothing, (800, 1_500), 5_000),
    fault(Kind::OpenFlood, "flood: calls begun and never finished", Six, Port, Need::Nothing, (800, 1_500), 5_000),
    fault(Kind::SlowLoris, "slow-loris", Six, Port, Need::Nothing, (1_000, 2_000), 12_000),
    fault(Kind::StalledReaders, "watches that are not read", Six, Port, Need::Nothing, (1_000, 2_000), 6_000),
    fault(Kind::Malformed, "nonsense and oversize", Six, Port, Need::Nothing, (800, 1_500), 5_000),
    fault(Kind::SidecarKill, "sidecar: kill -9", Six, Sidecar, Need::Nothing, (0, 500), 300),
    fault(Kind::SidecarRestart, "sidecar: SIGTERM, start", Six, Sidecar, Need::Nothing, (0, 200), 100),
    fault(Kind::SidecarPause, "sidecar: SIGSTOP", Six, Sidecar, Need::Nothing, (500, 2_500), 15_000),
    fault(Kind::SidecarDiskFull, "sidecar: disk full", Six, Sidecar, Need::Mount, (800, 2_000), 5_000),
    fault(Kind::ShimKill, "shim: kill -9", Six, Sidecar, Need::Nothing, (0, 0), 0),
    fault(Kind::AgentKill, "agent: kill -9", Six, Sidecar, Need::Nothing, (0, 0), 0),
    fault(Kind::AgentPause, "agent: SIGSTOP", Six, Sidecar, Need::Nothing, (500, 2_500), 8_000),
    fault(Kind::WireCut, "network: black hole", Six, Sidecar, Need::Nothing, (500, 2_500), 15_000),
    fault(
        Kind::WireCutUp,
        "network: black hole to the control plane",
        Six,
        Sidecar,
        Need::Nothing,
        (500, 2_500),
        15_000,
    ),
    fault(
        Kind::WireCutDown,
        "network: black hole from the control plane",
        Six,
        Sidecar,
        Need::Nothing,
        (500, 2_500),
        15_000,
    ),
    fault(Kind::WireReset, "network: connections reset", Six, Sidecar, Need::Nothing, (0, 300), 300),
    fault(Kind::ClockForward, "wall clock: 1 h forward", Clock, ControlPlane, Need::Faketime, (500, 1_500), 3_000),
    fault(Kind::ClockBack, "wall clock: 1 h back", Clock, ControlPlane, Need::Faketime, (500, 1_500), 3_000),
    fault(
        Kind::ClockBackAndKill,
        "wall clock: 1 h off, and kill -9",
        Clock,
        ControlPlane,
        Need::Faketime,
        (0, 300),
        1_000,
    ),
    fault(
        Kind::HerdControlPlaneKill,
        "104 sidecars: control plane, kill -9",
        Hundred,
        ControlPlane,
        Need::Nothing,
        (0, 300),
        300,
    ),
    fault(
        Kind::HerdControlPlanePause,
        "104 sidecars: control plane, SIGSTOP",
        Hundred,
        ControlPlane,
        Need::Nothing,
        (500, 2_000),
        4_000,
    ),
    fault(Kind::HerdSidecarsKill, "104 sidecars: 30 of them, kill -9", Hundred, Sidecar, Need::Nothing, (0, 500), 500),
    fault(Kind::ControlPlaneDiskFull, "control plane: disk full", Disk, ControlPlane, Need::Mount, (800, 2_000), 4_000),
    fault(
        Kind::ControlPlaneDiskNoReserve,
        "control plane: disk full, reserve used up",
        Disk,
        ControlPlane,
        Need::Mount,
        (2_000, 3_000),
        8_000,
    ),
];
