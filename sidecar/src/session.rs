//! The sidecar's side of the session: one pure machine that decides all of it.
//!
//! [`Session::step`] takes one input and appends what to do; it reads no clock, no randomness and
//! does no I/O, so a simulator can drive it. It keeps these rules:
//!
//! * an attempt is started at most once: its intent is journaled before [`Start`], and what is over
//!   stays over ([`settled`]);
//! * a result is journaled before it is sent, and kept and sent again until a release that counts;
//! * a frame of a leader epoch below one seen is dropped whole;
//! * free slots are told absolute, together with the number of the last assignment taken in.
//!
//! Every step ends in `reconcile`, which does whatever is due by state, not by the hint
//! that woke it. Bytes, connections, disks and programs are left to the shell ([`crate::upstream`],
//! [`crate::journal`], [`crate::runtime`]).
//!
//! [`Start`]: crate::runtime::RuntimeCommand::Start

mod assign;
mod attempt;
mod beat;
mod hello;
mod journal;
mod link;
pub mod record;
mod release;
mod report;
mod runtime;
pub mod settled;
mod stop;
mod types;
mod wire;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hive_proto::sidecar_v1::{SessionResponse, control_message::Kind};
use hive_proto::v1::{AgentSpec, DesiredState};

use crate::attempt::AttemptKey;
use crate::config::SidecarConfig;
use crate::mutant::{self, Mutant};
use attempt::Attempt;
use beat::Beats;
use journal::{Pending, Then};
use link::Link;
use record::{Entry, Recovered};
use settled::Settled;
use stop::Stopping;

pub use record::{Assigned, Unsettled};
pub use types::{Connection, ExitReason, Input, JournalSeq, Leader, LinkEnd, Now, Output, Revision, Stats};
pub(crate) use wire::result as result_to_wire;

/// Source of random numbers.
pub type Rng<'a> = &'a mut dyn FnMut() -> u64;

/// What the machine is told once.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Namespace.
    pub namespace: String,
    /// This sidecar's id.
    pub sidecar_id: String,
    /// Version said in Hello.
    pub version: String,
    /// Agents hosted, by id.
    pub agents: BTreeMap<String, AgentSpec>,
}

impl Settings {
    /// Of a configuration.
    #[must_use]
    pub fn new(config: &SidecarConfig) -> Self {
        Self {
            namespace: config.namespace.clone(),
            sidecar_id: config.id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agents: config.agents.iter().map(|a| (a.id.clone(), a.spec())).collect(),
        }
    }
}

/// An agent's room.
#[derive(Debug)]
struct Agent {
    spec: AgentSpec,
    ready: bool,
    desired: DesiredState,
    /// Free slots and readiness as last told on this stream.
    told: Option<(u32, bool)>,
}

/// The machine.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    boot_id: [u8; 16],
    generation: u64,
    connection: Connection,
    link: Link,
    failures: u32,
    /// Highest seen.
    leader: Leader,
    /// Whose leaders are known and whose attempts are held; empty before the first welcome.
    cluster: String,
    newest: Revision,
    agents: BTreeMap<String, Agent>,
    attempts: BTreeMap<AttemptKey, Attempt>,
    settled: Settled,
    /// Settlements still to be told on this stream or the next.
    owed: BTreeSet<AttemptKey>,
    /// Settlements the journal has refused so far.
    unsaved: BTreeSet<AttemptKey>,
    assigns: assign::Numbers,
    beats: Beats,
    pending: VecDeque<Pending>,
    appends: u64,
    disk: journal::Disk,
    progress_due: Option<u64>,
    stopping: Option<Stopping>,
    exited: bool,
    stats: Stats,
    now: Now,
}

impl Session {
    /// A machine that waits for [`Input::Start`].
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let agents = settings.agents.iter().map(|(id, spec)| {
            let spec = spec.clone();
            (id.clone(), Agent { spec, ready: false, desired: DesiredState::Active, told: None })
        });
        Self {
            agents: agents.collect(),
            settings,
            boot_id: [0; 16],
            generation: 0,
            connection: Connection(0),
            link: Link::New,
            failures: 0,
            leader: Leader::default(),
            cluster: String::new(),
            newest: Revision::default(),
            attempts: BTreeMap::new(),
            settled: Settled::default(),
            owed: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            assigns: assign::Numbers::default(),
            beats: Beats::default(),
            pending: VecDeque::new(),
            appends: 0,
            disk: journal::Disk::default(),
            progress_due: None,
            stopping: None,
            exited: false,
            stats: Stats::default(),
            now: Now { mono_ms: 0, wall_ms: 0 },
        }
    }

    /// Takes one input, appends what to do. After [`Output::Exit`] it does nothing more.
    pub fn step(&mut self, now: Now, input: Input, rng: Rng<'_>, out: &mut Vec<Output>) {
        if self.exited {
            return;
        }
        self.now = now;
        match input {
            Input::Start { recovered, host_boot } => self.start(*recovered, host_boot, rng, out),
            Input::Dialed(connection) => self.dialed(connection, out),
            Input::DialFailed(connection, end) | Input::StreamEnded(connection, end) => {
                self.link_ended(connection, end, rng, out);
            }
            Input::Frame(connection, frame) => self.frame(connection, frame, rng, out),
            Input::Runtime(event) => self.runtime(event, out),
            Input::Journaled(seq) => self.journaled(seq, true, out),
            Input::JournalFailed(seq) => self.journaled(seq, false, out),
            Input::Tick => {}
            Input::Shutdown => self.shutdown(),
        }
        if !self.exited {
            self.reconcile(rng, out);
        }
    }

    /// When [`Input::Tick`] is due, on the monotonic clock; nothing is due if absent.
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        if self.exited {
            return None;
        }
        let mut due = Vec::new();
        self.link_wakes(&mut due);
        self.beat_wakes(&mut due);
        self.result_wakes(&mut due);
        self.journal_wakes(&mut due);
        self.stop_wakes(&mut due);
        due.extend(self.progress_due.filter(|_| self.is_open()));
        // What was due by now has been done, or waits for something other than time.
        due.into_iter().filter(|&at| at > self.now.mono_ms).min()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Attempts that occupy a slot, per agent: a view for tests and logs.
    #[must_use]
    pub fn occupied(&self, agent: &str) -> u32 {
        let count = self.attempts.values().filter(|a| a.assigned.agent == agent && a.occupies()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Results kept until they are released: a view for tests and logs.
    pub fn unreleased(&self) -> impl Iterator<Item = AttemptKey> + '_ {
        self.attempts.iter().filter(|(_, a)| a.end().is_some()).map(|(&key, _)| key)
    }

    fn start(&mut self, recovered: Recovered, host_boot: [u8; 16], rng: Rng<'_>, out: &mut Vec<Output>) {
        let Recovered { boot_id, host_boot: known_host, cluster, generation, connection, attempts, settled, desired } =
            recovered;
        self.cluster = cluster;
        self.connection = connection;
        self.settled = settled;
        self.beats.contact = self.now.mono_ms;
        self.link = Link::Down { retry_at: self.now.mono_ms };
        match boot_id {
            Some(boot_id) if known_host == host_boot => (self.boot_id, self.generation) = (boot_id, generation),
            _ => {
                self.boot_id = random_id(rng);
                self.append(vec![Entry::Boot { boot_id: self.boot_id, host_boot }], Vec::new(), out);
            }
        }
        for (key, Unsettled { assigned, end }) in attempts {
            if mutant::is(Mutant::NoRelist) {
                continue;
            }
            self.leader = self.leader.max(assigned.leader);
            self.newest = self.newest.max(assigned.revision);
            let orphan = end.is_none() && !self.agents.contains_key(&assigned.agent);
            self.attempts.insert(key, Attempt::recovered(assigned, end, self.now.mono_ms));
            if orphan {
                self.lose(key, out);
            }
        }
        for (agent, state) in desired {
            self.desire(&agent, state, out);
        }
    }

    fn frame(&mut self, connection: Connection, frame: SessionResponse, rng: Rng<'_>, out: &mut Vec<Output>) {
        if !self.link.is_talking(connection) {
            return;
        }
        if !self.follow_cluster(&frame, out) {
            return self.hang_up(rng, out);
        }
        let leader = Leader::from_wire(frame.leader.as_ref());
        if leader < self.leader && !mutant::is(Mutant::StaleNo) {
            self.stats.stale_frames += 1;
            tracing::warn!(?leader, known = ?self.leader, "dropped a frame of a deposed leader");
            return;
        }
        self.leader = leader;
        let mut intake = assign::Intake::default();
        for message in frame.messages {
            if !self.link.is_talking(connection) {
                // The message before it has ended the stream.
                break;
            }
            match message.kind {
                Some(Kind::Welcome(welcome)) => self.welcomed(connection, welcome, rng, out),
                Some(Kind::Assign(assign)) => self.assign(assign, &mut intake, rng, out),
                Some(Kind::ResultAck(ack)) => self.acked(ack, out),
                Some(Kind::Cancel(cancel)) => self.cancel(cancel, &intake, out),
                Some(Kind::Input(input)) => self.answered(input, out),
                Some(Kind::Drain(drain)) => self.drain(drain, out),
                Some(Kind::HeartbeatAck(ack)) => self.beat_acked(ack),
                Some(Kind::TailLogs(tail)) => out.push(Output::TailLogs(tail)),
                Some(Kind::Resync(_)) => self.resync(connection, out),
                Some(Kind::Goaway(goaway)) => self.goaway(connection, goaway, rng, out),
                None => self.nonsense("a message of an unknown kind"),
            }
        }
        self.take_in(intake, out);
    }

    /// Does what is due: the one path for good and bad days.
    fn reconcile(&mut self, rng: Rng<'_>, out: &mut Vec<Output>) {
        self.check_contact(out);
        self.retry_journal(out);
        self.check_link(rng, out);
        self.check_stop(out);
        if !self.exited {
            self.report(rng, None, out);
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.link, Link::Open(_))
    }

    fn nonsense(&mut self, what: &'static str) {
        self.stats.nonsense += 1;
        tracing::warn!(what, "ignored a message that makes no sense");
    }

    /// Appends facts; `then` follows once they are (or could not be) appended.
    fn append(&mut self, entries: Vec<Entry>, then: Vec<Then>, out: &mut Vec<Output>) {
        self.appends += 1;
        let seq = JournalSeq(self.appends);
        self.pending.push_back(Pending { seq, then });
        out.push(Output::Journal(seq, entries));
    }
}

fn random_id(rng: Rng<'_>) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&rng().to_be_bytes());
    id[8..].copy_from_slice(&rng().to_be_bytes());
    id
}
