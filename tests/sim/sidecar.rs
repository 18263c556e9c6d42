//! A sidecar's host: the real session, a journal in memory, its process's deaths and its host's.

use std::collections::{BTreeMap, VecDeque};

use hive_proto::sidecar_v1::{self as pb, sidecar_message::Kind};
use hive_proto::v1;
use hive_sidecar::attempt::AttemptKey;
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};
use hive_sidecar::session::record::{Entry, Recovered};
use hive_sidecar::session::settled::Settlement;
use hive_sidecar::session::{Connection, ExitReason, Input, JournalSeq, LinkEnd, Now, Output, Session, Settings};

use crate::agent::{Agent, Program};
use crate::network::{Dir, Packet};
use crate::rng::Rng;
use crate::world::{CAPABILITIES, Event, World};

/// What was appended reaches the platter within this.
const SYNC: u64 = 25;

/// What the journal does with appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    Writes,
    /// Intents are refused, the rest is written.
    Full,
    Fails,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sidecar {
    pub(crate) name: String,
    /// Numbers its processes.
    pub(crate) life: u64,
    pub(crate) session: Option<Session>,
    pub(crate) paused: Option<Vec<Event>>,
    settings: Settings,
    /// The configuration file, which the next process reads.
    configured: BTreeMap<String, v1::AgentSpec>,
    pub(crate) disk: Disk,
    /// What survives the process.
    pub(crate) journal: Recovered,
    /// What survives the host.
    synced: Recovered,
    unsynced: VecDeque<(u64, Vec<Entry>)>,
    appends: VecDeque<(JournalSeq, Vec<Entry>)>,
    /// An append of this process was refused.
    failed: bool,
    /// Numbers the host's boots.
    pub(crate) boot: u64,
    /// Its stream's number and place in the world.
    pub(crate) link: Option<(Connection, usize)>,
    /// It has said goodbye since its last welcome from the control plane that leads.
    pub(crate) left: bool,
    /// A hello was said on this stream before the last one had its welcome, or comes once more: the
    /// leader's numbers begin anew with each, the sidecar's do not. Lists settle what that confuses.
    pub(crate) muddled: bool,
    pub(crate) greeting: bool,
    /// Assignments that came on it since its welcome.
    pub(crate) assigned: Vec<(u64, AttemptKey)>,
    /// The last dial asked for; earlier ones were given up.
    pub(crate) dialling: Connection,
    /// Nothing passes: up, down.
    pub(crate) cut: (bool, bool),
    /// Numbers its partitions.
    pub(crate) cuts: u64,
    wake: u64,
    pub(crate) agents: Vec<Agent>,
    pub(crate) programs: BTreeMap<AttemptKey, Program>,
    /// When the last command or event between session and runtimes arrives.
    pub(crate) commands: u64,
    pub(crate) events: u64,
    /// Its clocks against the world's.
    mono: u64,
    pub(crate) wall: i64,
}

impl Sidecar {
    pub(crate) fn new(index: usize, agents: usize, slots: u64, rng: &mut Rng) -> Self {
        let mut hosted = Vec::new();
        let mut specs = BTreeMap::new();
        for nth in 0..agents {
            let id = format!("a{index}-{nth}");
            let first = index == 0 && nth == 0;
            // The first agent can do everything, so that no task is without hope.
            let can = CAPABILITIES.iter().filter(|_| first || rng.chance(600)).map(ToString::to_string).collect();
            let slots = rng.between(1, slots) as u32;
            let spec = v1::AgentSpec { capabilities: can, slots, ..v1::AgentSpec::default() };
            specs.insert(id.clone(), spec);
            hosted.push(Agent::new(id, slots));
        }
        let name = format!("s{index}");
        let settings =
            Settings { namespace: "default".into(), sidecar_id: name.clone(), version: "sim".into(), agents: specs };
        let configured = settings.agents.clone();
        Self {
            name,
            life: 0,
            session: None,
            paused: None,
            settings,
            configured,
            disk: Disk::Writes,
            journal: Recovered::default(),
            synced: Recovered::default(),
            unsynced: VecDeque::new(),
            appends: VecDeque::new(),
            failed: false,
            boot: 1,
            link: None,
            left: false,
            muddled: false,
            greeting: false,
            assigned: Vec::new(),
            dialling: Connection(0),
            cut: (false, false),
            cuts: 0,
            wake: 0,
            agents: hosted,
            programs: BTreeMap::new(),
            commands: 0,
            events: 0,
            mono: rng.next() % 1_000_000_000,
            wall: rng.between(0, 600_000) as i64 - 300_000,
        }
    }

    pub(crate) fn spec(&self, agent: &str) -> Option<v1::AgentSpec> {
        self.configured.get(agent).cloned()
    }

    pub(crate) fn declared(&self) -> Vec<String> {
        self.configured.keys().cloned().collect()
    }

    fn write(&mut self, now: u64, entries: Vec<Entry>) {
        while self.unsynced.front().is_some_and(|(at, _)| at + SYNC < now) {
            let Some((_, entries)) = self.unsynced.pop_front() else { break };
            entries.into_iter().for_each(|entry| self.synced.apply(entry));
        }
        entries.iter().cloned().for_each(|entry| self.journal.apply(entry));
        self.unsynced.push_back((now, entries));
    }
}

impl World {
    pub(crate) fn sidecar_wall(&self, side: usize) -> u64 {
        self.wall().saturating_add_signed(self.sides[side].wall)
    }

    /// An agent is put into a sidecar's configuration, or taken out: its process is started anew.
    pub(crate) fn reconfigure(&mut self, index: usize, agent: &str, spec: Option<v1::AgentSpec>) {
        let side = &mut self.sides[index];
        match spec {
            Some(spec) => side.configured.insert(agent.to_owned(), spec),
            None => side.configured.remove(agent),
        };
        if side.session.is_none() {
            return;
        }
        if side.paused.is_none() && self.rng.chance(500) {
            return self.session(index, Input::Shutdown);
        }
        self.sidecar_crash(index, true);
        let wait = self.rng.skewed(50, 5_000);
        self.at(self.now + wait, Event::SidecarStart(index));
    }

    pub(crate) fn sidecar_start(&mut self, index: usize) {
        let side = &mut self.sides[index];
        if side.session.is_some() {
            return;
        }
        if side.settings.agents != side.configured {
            side.settings.agents = side.configured.clone();
            let agents = side.configured.iter().map(|(id, spec)| Agent::new(id.clone(), spec.slots));
            side.agents = agents.collect();
        }
        self.digest.add(index as u64);
        side.session = Some(Session::new(side.settings.clone()));
        side.failed = false;
        let recovered = Box::new(side.journal.clone());
        let mut host_boot = [1; 16];
        host_boot[..8].copy_from_slice(&side.boot.to_be_bytes());
        let adopt: Vec<_> = side.agents.iter().map(|a| (a.id.clone(), side.journal.adopt(&a.id))).collect();
        let name = side.name.clone();
        self.say(|| format!("{name} starts; adopts {adopt:?}"));
        self.session(index, Input::Start { recovered, host_boot });
        self.adopt(index, adopt);
    }

    /// Its process is gone: its streams break, what it had under way is undone or, if appended, stays.
    fn sidecar_gone(&mut self, index: usize, silent: bool) {
        let side = &mut self.sides[index];
        side.life += 1;
        side.session = None;
        side.paused = None;
        side.wake = 0;
        let appends = std::mem::take(&mut side.appends);
        let kept = self.rng.index(appends.len() + 1);
        for (_, entries) in appends.into_iter().take(kept) {
            self.sides[index].write(self.now, entries);
        }
        if let Some((_, stream)) = self.sides[index].link.take() {
            self.streams[stream].client_open = false;
            if silent {
                self.keepalive_end(stream, Dir::Up);
            } else {
                self.learn(stream, Dir::Up);
            }
        }
    }

    fn keepalive_end(&mut self, stream: usize, dir: Dir) {
        let wait = self.rng.between(8_000, 15_000);
        self.at(self.now + wait, Event::Broken(stream, dir));
    }

    /// Kill -9.
    pub(crate) fn sidecar_crash(&mut self, index: usize, programs: bool) {
        let name = self.sides[index].name.clone();
        self.say(|| format!("{name} CRASHES, its programs {}", if programs { "go on" } else { "die" }));
        self.sidecar_gone(index, false);
        if !programs {
            self.sides[index].programs.retain(|_, program| program.end.is_some());
        }
    }

    /// The host loses power: with it go all programs, and with `disk` the journal, too.
    pub(crate) fn host_boot(&mut self, index: usize, disk: bool) {
        let name = self.sides[index].name.clone();
        self.say(|| format!("{name}'s HOST REBOOTS{}", if disk { " WITH A NEW DISK" } else { "" }));
        self.sidecar_gone(index, true);
        let kept = self.rng.index(self.sides[index].unsynced.len() + 1);
        let side = &mut self.sides[index];
        side.boot += 1;
        side.programs.clear();
        if disk {
            (side.synced, side.journal) = (Recovered::default(), Recovered::default());
            side.unsynced.clear();
            return;
        }
        for (_, entries) in std::mem::take(&mut side.unsynced).into_iter().take(kept) {
            entries.into_iter().for_each(|entry| side.synced.apply(entry));
        }
        side.journal = side.synced.clone();
    }

    pub(crate) fn session(&mut self, index: usize, input: Input) {
        let mono_ms = self.now + self.sides[index].mono;
        let now = Now { mono_ms, wall_ms: self.sidecar_wall(index) };
        let side = &mut self.sides[index];
        let Some(session) = side.session.as_mut() else { return };
        let rng = &mut self.rng;
        let mut out = Vec::new();
        session.step(now, input, &mut || rng.next(), &mut out);
        let wake = session.next_wake().map(|at| at - side.mono);
        self.stats.steps += 1;
        for output in out {
            self.perform(index, output);
        }
        let side = &mut self.sides[index];
        if let Some(at) = wake.filter(|at| side.wake <= self.now || *at < side.wake) {
            side.wake = at;
            let life = side.life;
            self.at(at, Event::Wake(index, life));
        }
    }

    fn perform(&mut self, index: usize, output: Output) {
        match output {
            Output::Journal(seq, entries) => {
                self.check_forgotten(index, &entries);
                self.sides[index].appends.push_back((seq, entries));
                let wait = if self.healing { 1 } else { self.rng.between(0, self.options.append) };
                self.at(self.now + wait, Event::Append(index, self.sides[index].life));
            }
            Output::Dial(connection) => {
                if self.sides[index].journal.connection < connection {
                    self.fail(format!("{} dials before its number is journaled", self.sides[index].name));
                }
                self.sides[index].link = None;
                self.sides[index].dialling = connection;
                let wait = self.latency();
                self.at(self.now + wait, Event::Dial(index, self.sides[index].life, connection));
            }
            Output::Send(connection, request) => self.send_up(index, connection, request),
            Output::CloseStream(connection) => {
                if let Some((_, stream)) = self.sides[index].link.take_if(|link| link.0 == connection) {
                    self.streams[stream].client_open = false;
                    self.transmit(stream, Dir::Up, Packet::End(LinkEnd::Broken));
                }
            }
            Output::Runtime { agent, command } => {
                if let RuntimeCommand::Start(start) = &command
                    && !self.sides[index].journal.attempts.contains_key(&start.key)
                {
                    self.fail(format!("{} is started before its intent is journaled", start.key));
                }
                let at = (self.now + self.rng.between(0, 3)).max(self.sides[index].commands);
                self.sides[index].commands = at;
                let life = self.sides[index].life;
                self.at(at, Event::Command(index, life, agent, Box::new(command)));
            }
            Output::TailLogs(_) => {}
            Output::Exit(reason) => self.exit(index, reason),
        }
    }

    fn exit(&mut self, index: usize, reason: ExitReason) {
        let name = self.sides[index].name.clone();
        self.say(|| format!("{name} exits: {reason:?}"));
        if reason == ExitReason::Fenced {
            self.fail(format!("{name} is fenced, but no other boot has its id"));
        }
        // The runtimes end what is left, and write down how; the next start hears of it.
        for (key, program) in &mut self.sides[index].programs {
            if program.end.is_none() {
                program.end = Some(crate::agent::killed(*key, program.started_ms));
            }
        }
        self.sidecar_gone(index, false);
        let wait = self.rng.skewed(100, 20_000);
        self.at(self.now + wait, Event::SidecarStart(index));
    }

    /// The journal answers its oldest append.
    pub(crate) fn appended(&mut self, index: usize) {
        let side = &mut self.sides[index];
        let Some((seq, entries)) = side.appends.pop_front() else { return };
        let intent = entries.iter().any(|entry| matches!(entry, Entry::Intent { .. }));
        if side.disk == Disk::Fails || side.disk == Disk::Full && intent {
            side.failed = true;
            return self.session(index, Input::JournalFailed(seq));
        }
        side.write(self.now, entries);
        self.session(index, Input::Journaled(seq));
    }

    pub(crate) fn runtime_event(&mut self, index: usize, event: RuntimeEvent) {
        let at = (self.now + self.rng.between(0, 3)).max(self.sides[index].events);
        self.sides[index].events = at;
        let life = self.sides[index].life;
        self.at(at, Event::Runtime(index, life, Box::new(event)));
    }

    /// I6: what a sidecar forgets, the store has settled.
    fn check_forgotten(&mut self, index: usize, entries: &[Entry]) {
        for entry in entries {
            if let Entry::Settled { key, settlement: Settlement::Released, .. } = entry
                && self.is_current(*key)
            {
                let name = self.sides[index].name.clone();
                self.fail(format!("I6: {name} forgets {key}, which is current in the store"));
            }
        }
    }

    /// What a sidecar tells is in its journal.
    pub(crate) fn check_told(&mut self, index: usize, request: &pb::SessionRequest) {
        let mut faults = Vec::new();
        let side = &self.sides[index];
        let told = &mut self.ledger.told;
        let key = |attempt: &Option<pb::AttemptRef>| attempt.as_ref().and_then(|a| AttemptKey::try_from(a).ok());
        for message in &request.messages {
            let seen = match &message.kind {
                Some(Kind::Receipt(receipt)) => receipt.assigns_seen,
                Some(Kind::Credit(credit)) => credit.assigns_seen,
                Some(Kind::Heartbeat(beat)) => beat.assigns_seen,
                _ => 0,
            };
            for (_, key) in side.assigned.iter().filter(|(number, _)| *number <= seen) {
                let journal = &side.journal;
                let known = journal.attempts.contains_key(key) || journal.settled.rules_out(*key, Default::default());
                if !known && !side.failed && !side.muddled && self.options.repeated == 0 {
                    faults.push(format!("{} calls {key} taken in before it is journaled", side.name));
                }
            }
            match &message.kind {
                Some(Kind::Result(result)) => {
                    let Some(key) = key(&result.attempt) else { continue };
                    told.insert(key);
                    if side.journal.attempts.get(&key).is_none_or(|attempt| attempt.end.is_none()) {
                        faults.push(format!("I6: {} tells the result of {key} before it is journaled", side.name));
                    }
                }
                Some(Kind::Declined(pb::Declined { attempt, .. }) | Kind::AttemptLost(pb::AttemptLost { attempt })) => {
                    let Some(key) = key(attempt) else { continue };
                    told.insert(key);
                    if !side.failed && !side.journal.settled.rules_out(key, Default::default()) {
                        faults.push(format!("{} settles {key} before it is journaled", side.name));
                    }
                    if side.programs.get(&key).is_some_and(|program| program.end.is_none()) {
                        faults.push(format!("{} calls {key} over while it runs", side.name));
                    }
                }
                _ => {}
            }
        }
        for fault in faults {
            self.fail(fault);
        }
    }
}
