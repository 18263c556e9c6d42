//! One run: a virtual clock, a heap of what happens next, and everything it happens to.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use bytes::Bytes;
use hive_control_plane::api::check::Limits;
use hive_core::command::Reply;
use hive_core::id::{AgentId, Incarnation, Namespace, TaskId};
use hive_core::leader::CallError;
use hive_sidecar::attempt::AttemptKey;
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};
use hive_sidecar::session::{Connection, Input, LinkEnd};

use crate::agent::Step;
use crate::client::{Asked, Ledger};
use crate::control::Control;
use crate::fault::Weather;
use crate::network::{Dir, Packet, Stream};
use crate::options::{Doom, Mode, Options};
use crate::plan::{self, Cut, Strike};
use crate::rng::{Digest, Rng};
use crate::sidecar::Sidecar;
use crate::store::Store;

/// Virtual time 0 on the wall.
pub(crate) const EPOCH: u64 = 1_700_000_000_000;
pub(crate) const CAPABILITIES: [&str; 3] = ["count", "hash", "scan"];
/// Healed, everything must come to its end within this, in virtual ms.
pub(crate) const HEAL: u64 = 300_000;

/// What happens.
#[derive(Debug)]
pub(crate) enum Event {
    /// The control plane's process: its number first.
    Tick(u64),
    Pump(u64),
    Landed(u64),
    Reopened(u64),
    ControlStart,
    ControlResume(u64),
    ControlEnds(u64),
    /// The disk has what was sent to it; the answer is yet to come.
    Written(u64),
    /// A sidecar's process: place and number first.
    Wake(usize, u64),
    Append(usize, u64),
    Dial(usize, u64, Connection),
    Dialled(usize, u64, Connection, Option<usize>),
    Command(usize, u64, String, Box<RuntimeCommand>),
    Runtime(usize, u64, Box<RuntimeEvent>),
    SidecarStart(usize),
    SidecarResume(usize),
    /// A program: place and the host's boot first.
    Program(usize, u64, AttemptKey, Step),
    AgentUp(usize, usize),
    /// A stream.
    Arrive(usize, Dir),
    /// A frame to the control plane comes once more.
    Late(usize, Bytes),
    Broken(usize, Dir),
    Keepalive(usize, Dir),
    Healed(usize, u64),
    DiskWell(usize),
    /// An agent that was declared twice is so no more.
    Once(usize, String),
    /// Clients.
    Act(usize),
    Call(Asked),
    Answer(Asked, Box<Result<Reply, CallError>>),
    Retry(TaskId),
    /// Trouble.
    Strike(usize),
    Heal,
    Look,
}

#[derive(Debug)]
struct Due {
    at: u64,
    seq: u64,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.seq) == (other.at, other.seq)
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.seq).cmp(&(other.at, other.seq))
    }
}

/// What a run did.
#[derive(Debug, Default, Clone)]
pub(crate) struct Stats {
    pub(crate) events: u64,
    pub(crate) steps: u64,
    pub(crate) virtual_ms: u64,
    pub(crate) faults: BTreeMap<crate::options::Fault, u64>,
    pub(crate) commits: u64,
    pub(crate) assigned: u64,
    pub(crate) started: u64,
    pub(crate) accepted: u64,
    pub(crate) ended: u64,
    pub(crate) succeeded: u64,
    /// Tasks that ended while something was broken.
    pub(crate) under_fault: u64,
    /// Tasks that ended by the core alone, the rest being broken.
    pub(crate) by_core: u64,
    /// Commits whose outcome was unknown.
    pub(crate) doubted: u64,
    pub(crate) evicted: u64,
    pub(crate) unknown: u64,
    pub(crate) fenced: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    heap: BinaryHeap<Reverse<Due>>,
    seq: u64,
    pub(crate) rng: Rng,
    pub(crate) options: Options,
    pub(crate) limits: Limits,
    pub(crate) store: Store,
    pub(crate) control: Control,
    /// A process that was replaced while it stood still.
    pub(crate) zombie: Option<Control>,
    /// What happens now happens to that one, which is in `control` meanwhile.
    pub(crate) haunted: bool,
    /// Processes of the control plane so far.
    pub(crate) lives: u64,
    /// The control plane's wall clock against the world's.
    pub(crate) wall_offset: i64,
    pub(crate) sides: Vec<Sidecar>,
    pub(crate) streams: Vec<Stream>,
    pub(crate) ledger: Ledger,
    /// The latest life each agent was given work in.
    pub(crate) incarnations: BTreeMap<AgentId, Incarnation>,
    pub(crate) weather: Weather,
    pub(crate) healing: bool,
    pub(crate) healed_at: u64,
    pub(crate) strikes: Vec<Strike>,
    cut: Cut,
    /// Since when each pending task could have been given to the core, which had room.
    pub(crate) waits: BTreeMap<TaskId, u64>,
    pub(crate) digest: Digest,
    pub(crate) stats: Stats,
    pub(crate) failure: Option<String>,
    verbose: Verbose,
    timeline: Vec<String>,
}

/// What is told of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verbose {
    Nothing,
    /// All of it is kept.
    Kept,
    Everything,
}

impl World {
    pub(crate) fn new(seed: u64, verbose: Verbose, cut: &Cut) -> Self {
        let mut rng = Rng::new(seed);
        let mut options = Options::draw(seed, &mut rng);
        let strikes = plan::draw(seed, &options);
        cut.apply(&mut options);
        let namespace = Namespace::parse("default").expect("a name");
        let sides =
            (0..options.sidecars).map(|nth| Sidecar::new(nth, options.agents, options.slots, &mut rng)).collect();
        Self {
            now: 1_000,
            heap: BinaryHeap::new(),
            seq: 0,
            rng,
            limits: Limits { payload: 256 << 10, labels: 32, capabilities: 32, slots: 100 },
            store: Store::new(namespace),
            control: Control::default(),
            zombie: None,
            haunted: false,
            lives: 0,
            wall_offset: 0,
            sides,
            streams: Vec::new(),
            ledger: Ledger::default(),
            incarnations: BTreeMap::new(),
            weather: Weather::default(),
            healing: false,
            healed_at: u64::MAX,
            strikes,
            cut: cut.clone(),
            waits: BTreeMap::new(),
            digest: Digest(seed),
            stats: Stats::default(),
            failure: None,
            verbose,
            timeline: Vec::new(),
            options,
        }
    }

    pub(crate) fn wall(&self) -> u64 {
        EPOCH + self.now
    }

    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.seq += 1;
        self.heap.push(Reverse(Due { at, seq: self.seq, event }));
    }

    /// A line of the timeline; costs nothing when nobody reads it.
    pub(crate) fn say(&mut self, line: impl FnOnce() -> String) {
        if self.verbose == Verbose::Nothing {
            return;
        }
        let line = format!("{:>9.3} {}", self.now as f64 / 1000.0, line());
        if self.verbose == Verbose::Everything {
            eprintln!("{line}");
        }
        self.timeline.push(line);
    }

    /// Something that must hold does not; the first one counts.
    pub(crate) fn fail(&mut self, fault: String) {
        self.say(|| format!("VIOLATION {fault}"));
        self.failure.get_or_insert(fault);
    }

    pub(crate) fn take_timeline(&mut self) -> Vec<String> {
        std::mem::take(&mut self.timeline)
    }

    /// Runs to the end.
    pub(crate) fn run(&mut self) {
        self.at(self.now, Event::ControlStart);
        for side in 0..self.sides.len() {
            let wait = self.rng.between(0, 500);
            self.at(self.now + wait, Event::SidecarStart(side));
        }
        for client in 0..self.options.clients {
            let wait = self.rng.between(0, 2_000);
            self.at(self.now + wait, Event::Act(client));
        }
        for nth in 0..self.strikes.len() {
            if self.cut.keeps(nth) {
                self.at(self.strikes[nth].at, Event::Strike(nth));
            }
        }
        self.at(self.now + self.options.chaos, Event::Heal);
        while self.failure.is_none() {
            let Some(Reverse(Due { at, seq, event })) = self.heap.pop() else {
                return self.fail("nothing is left to happen".into());
            };
            self.now = at;
            self.digest.add(at ^ (seq << 24));
            self.stats.events += 1;
            if matches!(event, Event::Look) && self.is_over() {
                break;
            }
            self.happen(event);
        }
        self.stats.virtual_ms = self.now;
    }

    /// The control plane's process that an event is for, if it is for a certain one.
    fn life_of(&self, event: &Event) -> Option<u64> {
        match event {
            Event::Tick(life) | Event::Pump(life) | Event::Landed(life) | Event::Reopened(life) => Some(*life),
            Event::ControlResume(life) | Event::ControlEnds(life) | Event::Written(life) => Some(*life),
            Event::Arrive(stream, Dir::Up) | Event::Late(stream, _) | Event::Broken(stream, Dir::Up) => {
                Some(self.streams[*stream].server)
            }
            _ => None,
        }
    }

    /// Lets something happen to the process that was replaced.
    pub(crate) fn haunt(&mut self, act: impl FnOnce(&mut Self)) {
        let Some(zombie) = self.zombie.take() else { return };
        let current = std::mem::replace(&mut self.control, zombie);
        self.haunted = true;
        act(self);
        self.haunted = false;
        let zombie = std::mem::replace(&mut self.control, current);
        self.zombie = zombie.up.then_some(zombie);
    }

    fn happen(&mut self, event: Event) {
        let life = self.life_of(&event);
        if life.is_some() && self.zombie.as_ref().map(|zombie| zombie.life) == life {
            return self.haunt(|world| world.happen_now(event));
        }
        let timer = matches!(
            event,
            Event::Tick(_) | Event::Pump(_) | Event::Landed(_) | Event::Reopened(_) | Event::Written(_)
        );
        if timer && life != Some(self.control.life) {
            // Of a process that is gone.
            return;
        }
        self.happen_now(event);
    }

    fn happen_now(&mut self, event: Event) {
        // What is for a process that stands still waits for it.
        match self.addressee(&event) {
            Some(None) if self.control.paused.is_some() => return self.hold_control(event),
            Some(Some(side)) if self.sides[side].paused.is_some() => return self.hold_sidecar(side, event),
            _ => {}
        }
        let life = self.control.life;
        let lives = |world: &Self, side: usize, life: u64| {
            world.sides[side].life == life && world.sides[side].session.is_some()
        };
        match event {
            Event::Tick(l) if l == life && self.control.up => self.tick(),
            Event::Pump(l) if l == life => self.pump(),
            Event::Landed(l) if l == life => self.landed(),
            Event::Reopened(l) if l == life => self.reopened(),
            Event::Tick(_) | Event::Pump(_) | Event::Landed(_) | Event::Reopened(_) => {}
            Event::ControlStart if !self.control.up => self.control_start(),
            Event::ControlStart => {}
            Event::Written(l) if l == life => self.written(),
            Event::ControlResume(l) if l == life => self.control_resume(),
            Event::ControlEnds(_) if self.haunted => self.control_crash(),
            Event::Written(_) | Event::ControlResume(_) | Event::ControlEnds(_) => {}
            Event::Wake(side, l) if lives(self, side, l) => self.session(side, Input::Tick),
            Event::Append(side, l) if lives(self, side, l) => self.appended(side),
            Event::Dial(side, l, connection) if lives(self, side, l) => self.dialled(side, connection),
            Event::Dialled(side, l, connection, stream) if lives(self, side, l) => {
                self.dial_answered(side, connection, stream);
            }
            Event::Dialled(_, _, _, Some(stream)) => self.hung_up(stream),
            Event::Command(side, l, agent, command) if self.sides[side].life == l => {
                self.command(side, &agent, *command);
            }
            Event::Runtime(side, l, event) if lives(self, side, l) => self.session(side, Input::Runtime(*event)),
            Event::Wake(..)
            | Event::Append(..)
            | Event::Dial(..)
            | Event::Dialled(..)
            | Event::Command(..)
            | Event::Runtime(..) => {}
            Event::SidecarStart(side) if matches!(self.doom(side), Doom::Dead | Doom::Still) => {}
            Event::SidecarStart(side) => self.sidecar_start(side),
            Event::SidecarResume(side) if self.doom(side) == Doom::Still => {}
            Event::SidecarResume(side) => self.sidecar_resume(side),
            Event::Program(side, boot, key, step) => {
                if self.sides[side].boot == boot {
                    self.program(side, key, step);
                }
            }
            Event::AgentUp(side, nth) => self.agent_up(side, nth, true),
            Event::Arrive(stream, dir) => self.arrived(stream, dir),
            Event::Late(stream, bytes) => {
                if self.streams[stream].server_open && self.streams[stream].edge.is_some() {
                    self.heard(stream, &bytes);
                }
            }
            Event::Broken(stream, Dir::Up) => self.hung_up(stream),
            Event::Broken(stream, Dir::Down) => self.lost_stream(stream, LinkEnd::Broken),
            Event::Keepalive(stream, dir) => self.unanswered(stream, dir),
            Event::Healed(side, cut) => self.mend(side, cut),
            Event::DiskWell(side) if self.doom(side) == Doom::Sick => {}
            Event::Once(side, agent) => {
                let others = self.sides.iter().filter(|other| other.spec(&agent).is_some()).count();
                if others > 1 && self.sides[side].spec(&agent).is_some() {
                    self.reconfigure(side, &agent, None);
                }
            }
            Event::DiskWell(side) => self.sides[side].disk = crate::sidecar::Disk::Writes,
            Event::Act(client) => self.act(client),
            Event::Call(asked) => self.call(asked),
            Event::Answer(asked, result) => self.answered(&asked, &result),
            Event::Retry(id) => self.retry(id),
            Event::Strike(nth) => self.strike(nth),
            Event::Heal => {
                self.heal();
                self.at(self.now + 1_000, Event::Look);
            }
            Event::Look => self.at(self.now + 1_000, Event::Look),
        }
    }

    fn arrived(&mut self, stream: usize, dir: Dir) {
        let Some(packet) = self.arrive(stream, dir) else { return };
        match (dir, packet) {
            (Dir::Up, Packet::Frame(bytes)) if self.streams[stream].server_open => self.heard(stream, &bytes),
            (Dir::Up, Packet::Frame(_)) => {}
            (Dir::Up, Packet::End(_)) => self.hung_up(stream),
            (Dir::Down, Packet::Frame(bytes)) => self.received(stream, &bytes),
            (Dir::Down, Packet::End(end)) => self.lost_stream(stream, end),
        }
    }

    /// Whose event this is: the control plane's, a sidecar's, or nobody's.
    fn addressee(&self, event: &Event) -> Option<Option<usize>> {
        match event {
            Event::Tick(_) | Event::Pump(_) | Event::Landed(_) | Event::Reopened(_) | Event::Call(_) => Some(None),
            Event::Arrive(_, Dir::Up) | Event::Late(..) | Event::Broken(_, Dir::Up) | Event::Dial(..) => Some(None),
            Event::Wake(side, _)
            | Event::Append(side, _)
            | Event::Dialled(side, ..)
            | Event::Command(side, ..)
            | Event::Runtime(side, ..) => Some(Some(*side)),
            Event::Arrive(stream, Dir::Down) | Event::Broken(stream, Dir::Down) => {
                Some(Some(self.streams[*stream].side))
            }
            _ => None,
        }
    }

    /// Healed: all that was accepted has ended, nothing is kept that could be released, nothing runs.
    fn is_over(&mut self) -> bool {
        if !self.healing {
            return false;
        }
        self.answer_questions();
        if self.options.mode == Mode::Liveness {
            return self.core_is_over();
        }
        let quiet = self.sides.iter().all(|side| {
            side.programs.values().all(|p| p.end.is_some())
                && side.session.as_ref().is_some_and(|session| session.unreleased().next().is_none())
        });
        if quiet && self.ledger.is_settled() && self.control.flying.is_none() && self.store.open {
            self.compare_view();
            return true;
        }
        if self.now > self.healed_at + HEAL {
            let mut open = Vec::new();
            for (id, entry) in &self.ledger.tasks {
                if entry.ended.is_none() && (entry.created || !entry.refused) {
                    let stored =
                        self.store.task(*id).map(|t| (t.attempt, t.agent.clone(), crate::show::phase(&t.phase)));
                    open.push(format!("{id} accepted {} stored {stored:?}", entry.accepted));
                }
            }
            for side in &self.sides {
                let kept: Vec<_> = side.session.iter().flat_map(hive_sidecar::session::Session::unreleased).collect();
                let runs: Vec<_> = side.programs.iter().filter(|(_, p)| p.end.is_none()).map(|(k, _)| *k).collect();
                if !kept.is_empty() || !runs.is_empty() || side.session.is_none() {
                    let up = side.session.is_some();
                    open.push(format!("{} (up: {up}) keeps {kept:?}, runs {runs:?}", side.name));
                }
            }
            self.fail(format!("I1: healed for {} s and not at rest:\n    {}", HEAL / 1000, open.join("\n    ")));
        }
        false
    }
}
