//! What a seed's world is like: drawn first, printed on failure. Each run draws which faults exist at
//! all ("swarm testing", Groce and others, 2012), so that some runs concentrate on few.

use std::time::Duration;

use hive_core::settings::{Liveness, Retention, Settings};

use crate::rng::Rng;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// The control plane's process dies, and comes back under a higher epoch.
    ControlCrash,
    /// It stands still; what is for it waits.
    ControlPause,
    /// It stands still and another one is started in its place; then it goes on, and answers the
    /// streams it still has.
    Zombie,
    /// A wall clock jumps, the control plane's or a sidecar's, by up to an hour.
    ClockJump,
    /// The next commit has an unknown outcome.
    StoreUnknown,
    /// The store refuses every write for a while: no space.
    StoreFull,
    /// The store answers late for a while.
    StoreSlow,
    /// A sidecar's process dies; its programs may go on.
    SidecarCrash,
    /// It is asked to stop, and started again later.
    SidecarStop,
    /// It stands still; its programs go on.
    SidecarPause,
    /// Its host reboots: programs are gone, and what the journal had not synced may be.
    HostBoot,
    /// Its host is replaced: the journal is gone, too.
    DiskLost,
    /// Its journal refuses appends for a while.
    JournalSick,
    /// A connection is reset.
    Reset,
    /// Nothing passes between a sidecar and the control plane, one way or both.
    Partition,
    /// An agent's process dies; its attempts fail.
    AgentDown,
    /// An agent is taken out of one sidecar's configuration and put into another's.
    AgentMoves,
    /// An agent is declared by a second sidecar, too, for a while.
    AgentTwice,
}

impl Fault {
    /// It hits the control plane, its store, or this sidecar, which is of the core.
    pub(crate) fn hits_core(self, side: usize) -> bool {
        let shared = [
            Self::ControlCrash,
            Self::ControlPause,
            Self::Zombie,
            Self::ClockJump,
            Self::AgentMoves,
            Self::AgentTwice,
            Self::StoreUnknown,
            Self::StoreFull,
            Self::StoreSlow,
        ];
        side == 0 || shared.contains(&self)
    }
}

pub(crate) const FAULTS: [Fault; 18] = [
    Fault::Zombie,
    Fault::ClockJump,
    Fault::AgentMoves,
    Fault::AgentTwice,
    Fault::ControlCrash,
    Fault::ControlPause,
    Fault::StoreUnknown,
    Fault::StoreFull,
    Fault::StoreSlow,
    Fault::SidecarCrash,
    Fault::SidecarStop,
    Fault::SidecarPause,
    Fault::HostBoot,
    Fault::DiskLost,
    Fault::JournalSick,
    Fault::Reset,
    Fault::Partition,
    Fault::AgentDown,
];

/// What a run is to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Faults till the end; then all is healed, and everything must come to its end.
    Safety,
    /// Then only a core is healed, the control plane and the first sidecar; what that can do must
    /// move while the rest stays broken.
    Liveness,
}

impl Mode {
    /// Half of the seeds each.
    pub(crate) fn of(seed: u64) -> Self {
        if seed.is_multiple_of(2) { Self::Liveness } else { Self::Safety }
    }
}

/// What becomes of a sidecar outside the core, for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Doom {
    /// It is healed with the core.
    Well,
    /// Strikes on it go on for a while.
    Struck,
    /// Its process is dead; its programs go on.
    Dead,
    /// It stands still.
    Still,
    /// It is cut off: up, down.
    Cut(bool, bool),
    /// Its journal takes nothing.
    Sick,
}

const DOOMS: [Doom; 8] = [
    Doom::Well,
    Doom::Struck,
    Doom::Dead,
    Doom::Still,
    Doom::Cut(true, true),
    Doom::Cut(true, false),
    Doom::Cut(false, true),
    Doom::Sick,
];

/// See the module. Times in ms, chances in thousandths.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) mode: Mode,
    /// Liveness mode: of each sidecar but the first.
    pub(crate) dooms: Vec<Doom>,
    pub(crate) sidecars: usize,
    pub(crate) agents: usize,
    pub(crate) slots: u64,
    pub(crate) clients: usize,
    pub(crate) tasks: usize,
    /// How long faults happen.
    pub(crate) chaos: u64,
    pub(crate) faults: Vec<Fault>,
    /// Between two faults, on average.
    pub(crate) fault_every: u64,
    /// Longest fault.
    pub(crate) fault_longest: u64,
    /// One way, longest.
    pub(crate) latency: u64,
    pub(crate) commit: u64,
    pub(crate) append: u64,
    /// Longest wait of the driver before it takes in what has come.
    pub(crate) sitting: u64,
    /// Frames lost and repeated. The transport never does this; a protocol that is level-triggered
    /// bears it all the same.
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    /// Commits whose outcome is unknown.
    pub(crate) doubts: u64,
    /// Calls and replies of clients lost.
    pub(crate) lost_calls: u64,
    /// Programs: longest run, and how often they behave badly.
    pub(crate) run: u64,
    pub(crate) failing: u64,
    pub(crate) asking: u64,
    pub(crate) stubborn: u64,
    /// Of client acts: cancels, repeats and operator acts.
    pub(crate) cancels: u64,
    pub(crate) repeats: u64,
    pub(crate) operators: u64,
    pub(crate) large: u64,
    pub(crate) settings: Settings,
}

impl Options {
    pub(crate) fn draw(seed: u64, rng: &mut Rng) -> Self {
        let quiet = rng.chance(30);
        let keep = rng.between(150, 1000);
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| rng.chance(keep)).collect();
        if quiet {
            faults.clear();
        }
        let maybe = |rng: &mut Rng, share: u64, most: u64| if rng.chance(share) { rng.between(1, most) } else { 0 };
        let sidecars = rng.between(1, 5) as usize;
        Self {
            mode: Mode::of(seed),
            dooms: (1..sidecars).map(|_| *rng.pick(&DOOMS)).collect(),
            sidecars,
            agents: rng.between(1, 3) as usize,
            slots: rng.between(1, 4),
            clients: rng.between(1, 3) as usize,
            tasks: rng.skewed(3, 40) as usize,
            chaos: rng.between(20_000, 90_000),
            faults,
            fault_every: rng.skewed(500, 20_000),
            fault_longest: rng.skewed(500, 60_000),
            latency: rng.skewed(1, 400),
            commit: rng.skewed(1, 100),
            append: rng.skewed(1, 60),
            sitting: *rng.pick(&[0, 0, 1, 20]),
            lost: maybe(rng, 150, 60),
            repeated: maybe(rng, 250, 100),
            doubts: maybe(rng, 250, 60),
            lost_calls: maybe(rng, 500, 300),
            run: rng.skewed(200, 30_000),
            failing: maybe(rng, 700, 500),
            asking: maybe(rng, 500, 400),
            stubborn: maybe(rng, 500, 500),
            cancels: maybe(rng, 600, 300),
            repeats: maybe(rng, 600, 300),
            operators: maybe(rng, 500, 150),
            large: maybe(rng, 500, 500),
            settings: settings(rng),
        }
    }
}

fn settings(rng: &mut Rng) -> Settings {
    let ms = |rng: &mut Rng, low, high| Duration::from_millis(rng.skewed(low, high));
    let mut settings = Settings {
        max_pending: *rng.pick(&[1_000_000, 1_000_000, 5]),
        cancel_grace: ms(rng, 500, 10_000),
        report_margin: ms(rng, 500, 5_000),
        batch_ops: *rng.pick(&[120, 120, 120, 10, 24]),
        batch_bytes: *rng.pick(&[1 << 20, 1 << 20, 4_000]),
        ..Settings::default()
    };
    if rng.chance(600) {
        // A faster fleet, so that more graces pass in a run.
        let beat = rng.between(1, 4);
        settings.liveness = Liveness {
            min_beat: Duration::from_secs(beat),
            min_grace: Duration::from_secs(beat * rng.between(3, 6)),
            min_kill: Duration::from_secs(beat * 2),
            kill_margin: Duration::from_secs(rng.between(1, 5)),
            max_lost_per_second: *rng.pick(&[1, 50]),
            ..Liveness::default()
        };
    }
    if rng.chance(300) {
        settings.id_window = Duration::from_secs(rng.between(5, 60));
        settings.retention = Retention {
            age: ms(rng, 8_000, 60_000),
            count: rng.between(2, 50),
            min_age: ms(rng, 2_000, 10_000),
            ..Retention::default()
        };
    }
    settings
}
