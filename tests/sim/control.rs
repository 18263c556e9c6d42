//! The control plane: the real driver's machine with the real leader in it, and a shell around it that
//! performs what it says.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use hive_control_plane::store::{Transaction as StoreTransaction, codec};
use hive_control_plane::{driver, session};
use hive_core::command::{Command, Reply};
use hive_core::driver::{Act, Landing, Machine, Next};
use hive_core::id::{LeaderEpoch, Revision, TaskId};
use hive_core::invariant;
use hive_core::leader::{
    CallError, CallId, CloseCause, Connection, FromSidecar, Input, Leader, StoreRefusal, ToSidecar, Transaction,
};
use hive_core::record::{Key, Record};
use hive_core::time::Time;
use hive_proto::sidecar_v1 as pb;
use prost::Message as _;

use crate::client::Asked;
use crate::network::{Dir, Packet};
use crate::store::Fate;
use crate::world::{Event, World};

/// What waits for the loop.
#[derive(Debug)]
pub(crate) enum Mail {
    Call { asked: Asked, command: Command },
    Frame { edge: Connection, leader: LeaderEpoch, messages: Vec<FromSidecar> },
    Attach { edge: Connection, stream: usize },
    Hangup(Connection),
    Read(TaskId),
}

/// Messages to a stream that may wait; then it is cut.
const DOWN: usize = 256;
const TICK: u64 = 100;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Control {
    /// Numbers its processes.
    pub(crate) life: u64,
    pub(crate) up: bool,
    /// What has come while it stands still.
    pub(crate) paused: Option<Vec<Event>>,
    pub(crate) machine: Option<Machine>,
    mail: VecDeque<Mail>,
    /// The transaction on its way, and what will become of it.
    pub(crate) flying: Option<(StoreTransaction, Fate)>,
    pump_due: bool,
    attached: BTreeMap<Connection, usize>,
    calls: BTreeMap<CallId, Asked>,
    names: u64,
    checks: u64,
    written: bool,
    /// Since when its leader counts silences.
    pub(crate) office: Time,
    pub(crate) paused_at: u64,
    /// Commits since then; a new leader has none to come from before.
    pub(crate) settled: u64,
    /// Cluster time at the world's time zero.
    base: u64,
    /// What the transaction in flight has changed on the disk already: keys, and what stood there.
    pub(crate) undo: Vec<(Key, Option<Record>)>,
}

impl World {
    /// Cluster time.
    pub(crate) fn cluster(&self) -> Time {
        Time(self.control.base + self.now)
    }

    pub(crate) fn control_start(&mut self) {
        self.control.up = true;
        if self.control.life == 0 {
            // The first one.
            self.lives += 1;
            self.control.life = self.lives;
        }
        // The wall clock counts only here.
        let wall = self.wall().saturating_add_signed(self.wall_offset);
        self.control.base = wall.saturating_sub(self.now);
        if let Some((leader, ..)) = self.control_lead() {
            self.control.machine = Some(Machine::new(leader, self.cluster()));
        }
        self.at(self.now + TICK, Event::Tick(self.control.life));
    }

    /// A leader over what the store holds, with number and nonce of the last commit.
    fn control_lead(&mut self) -> Option<(Leader, u64, u64)> {
        if let Some(tx) = self.store.late.take().filter(|tx| tx.fence == self.store.epoch()) {
            self.write(tx);
        }
        let loaded = self.store.acquire();
        let (seq, nonce) = (loaded.seq, loaded.nonce);
        // Cluster time goes on from the last stamp, which may be that of a commit that landed late.
        self.control.base = self.control.base.max(loaded.time.0.saturating_sub(self.now));
        self.say(|| format!("control plane leads under epoch {} from commit {seq}", loaded.epoch));
        let namespaces = [self.store.namespace.clone()];
        (self.control.office, self.control.settled) = (self.cluster(), 2);
        match driver::lead(loaded, &self.options.settings, &namespaces, self.cluster()) {
            Ok(leader) => Some((leader, seq, nonce)),
            Err(error) => {
                self.fail(format!("the store can't be read back: {error}"));
                None
            }
        }
    }

    fn leader(&self) -> Option<&Leader> {
        self.control.machine.as_ref().map(Machine::leader)
    }

    /// Kill -9.
    pub(crate) fn control_crash(&mut self) {
        self.say(|| "CONTROL PLANE CRASHES".into());
        if let Some((tx, _)) = self.control.flying.take()
            && !self.is_written()
            && tx.fence == self.store.epoch()
            && self.rng.chance(500)
        {
            self.write(tx);
        }
        let (old, life) = (self.control.life, self.lives + 1);
        if !self.haunted {
            self.store.open = true;
            self.lives = life;
        }
        let names = self.control.names;
        let calls = std::mem::take(&mut self.control.calls);
        let mail = std::mem::take(&mut self.control.mail);
        let streams: Vec<usize> = self.streams_of(old);
        self.control = Control { life, names, ..Control::default() };
        let waiting =
            mail.into_iter().filter_map(|mail| if let Mail::Call { asked, .. } = mail { Some(asked) } else { None });
        for asked in calls.into_values().chain(waiting) {
            self.answer_lost(asked);
        }
        for stream in streams {
            self.streams[stream].server_open = false;
            self.learn(stream, Dir::Down);
        }
    }

    fn streams_of(&self, life: u64) -> Vec<usize> {
        let theirs = |s: &usize| self.streams[*s].server_open && self.streams[*s].server == life;
        (0..self.streams.len()).filter(theirs).collect()
    }

    /// It stands still, and its supervisor starts another one. Its callers see their connections break.
    pub(crate) fn control_replaced(&mut self) {
        self.lives += 1;
        let next = Control { life: self.lives, names: self.control.names, ..Control::default() };
        let mut old = std::mem::replace(&mut self.control, next);
        old.paused = Some(Vec::new());
        old.paused_at = self.now;
        let waiting: Vec<Asked> = std::mem::take(&mut old.calls).into_values().collect();
        for mail in std::mem::take(&mut old.mail) {
            match mail {
                Mail::Call { asked, .. } => self.answer_lost(asked),
                mail => old.mail.push_back(mail),
            }
        }
        waiting.into_iter().for_each(|asked| self.answer_lost(asked));
        for stream in self.streams_of(old.life) {
            self.keepalive(stream, Dir::Down);
        }
        self.zombie = Some(old);
    }

    /// The transaction in flight is on the disk, though nobody knows.
    fn is_written(&self) -> bool {
        self.control.written
    }

    pub(crate) fn written(&mut self) {
        let Some((tx, _)) = &self.control.flying else { return };
        if tx.fence == self.store.epoch() && !self.control.written {
            let tx = tx.clone();
            self.control.written = true;
            self.control.undo = self.write(tx);
        }
    }

    pub(crate) fn mail(&mut self, mail: Mail) {
        self.control.mail.push_back(mail);
        if !self.control.pump_due {
            self.control.pump_due = true;
            let wait = if self.healing { 0 } else { self.rng.between(0, self.options.sitting) };
            self.at(self.now + wait, Event::Pump(self.control.life));
        }
    }

    fn is_ready(&self) -> bool {
        self.control.machine.as_ref().is_some_and(Machine::is_ready)
    }

    pub(crate) fn pump(&mut self) {
        self.control.pump_due = false;
        while self.is_ready() {
            let Some(mail) = self.control.mail.pop_front() else { break };
            let input = match mail {
                Mail::Call { asked, command } => {
                    self.control.names += 1;
                    let call = CallId(self.control.names);
                    self.control.calls.insert(call, asked);
                    Input::Call { call, namespace: self.store.namespace.clone(), command }
                }
                Mail::Frame { edge, leader, messages } => Input::Frame { connection: edge, leader, messages },
                Mail::Hangup(edge) => {
                    self.control.attached.remove(&edge);
                    Input::Hangup(edge)
                }
                Mail::Read(id) => {
                    self.check_read(id);
                    continue;
                }
                Mail::Attach { edge, stream } => {
                    self.control.attached.insert(edge, stream);
                    self.control.machine.iter_mut().for_each(|machine| machine.attach(edge));
                    continue;
                }
            };
            self.step_control(input);
        }
        self.turn();
    }

    pub(crate) fn tick(&mut self) {
        self.at(self.now + TICK, Event::Tick(self.control.life));
        // While the store is taken over anew the driver waits for that alone.
        if self.store.open {
            self.step_control(Input::Tick);
            self.turn();
        }
    }

    fn step_control(&mut self, input: Input) {
        let now = self.cluster();
        let idle = matches!(input, Input::Tick);
        let Some(machine) = self.control.machine.as_mut() else { return };
        let rng = &mut self.rng;
        machine.step(now, input, &mut || rng.next());
        self.stats.steps += 1;
        self.check_state(idle);
    }

    /// The invariants of the leader's own state.
    fn check_state(&mut self, idle: bool) {
        self.control.checks += 1;
        let Some(machine) = &self.control.machine else { return };
        // A tick that did nothing is looked at now and then.
        if (!idle || machine.has_news() || self.control.checks.is_multiple_of(32))
            && let Err(faults) = invariant::check(machine.leader().state())
        {
            self.fail(format!("the leader's state: {faults}"));
        }
    }

    /// Performs what is to be done after things were taken in.
    fn turn(&mut self) {
        loop {
            let now = self.cluster();
            let Some(machine) = self.control.machine.as_mut() else { return };
            let rng = &mut self.rng;
            let Some(act) = machine.next(now, &mut || rng.next()) else { break };
            self.act_on(act);
        }
        if !self.control.mail.is_empty() && self.is_ready() {
            self.pump_soon();
        }
    }

    fn pump_soon(&mut self) {
        if !self.control.pump_due {
            self.control.pump_due = true;
            self.at(self.now, Event::Pump(self.control.life));
        }
    }

    fn take_off(&mut self, transaction: Transaction, nonce: u64) {
        let tx = codec::transaction(transaction, nonce);
        let doubted = !self.healing && self.rng.chance(self.options.doubts);
        let fate = if std::mem::take(&mut self.store.doubt) || doubted {
            Fate::Unknown(self.rng.chance(500))
        } else if self.now < self.store.full_until {
            Fate::Refused
        } else {
            Fate::Lands
        };
        let slow = if self.now < self.store.slow_until { self.rng.between(50, 3_000) } else { 0 };
        let wait = slow + if self.healing { 1 } else { self.rng.between(0, self.options.commit) };
        self.control.flying = Some((tx, fate));
        self.control.written = false;
        if matches!(fate, Fate::Lands | Fate::Unknown(true)) && self.rng.chance(600) {
            let early = self.rng.between(0, wait);
            self.at(self.now + early, Event::Written(self.control.life));
        }
        self.at(self.now + wait, Event::Landed(self.control.life));
    }

    /// The store answers.
    pub(crate) fn landed(&mut self) {
        let Some((tx, fate)) = self.control.flying.take() else { return };
        let seq = tx.seq;
        self.control.undo.clear();
        let landing = match fate {
            _ if self.control.written && fate == Fate::Lands => Landing::Committed,
            Fate::Lands | Fate::Unknown(_)
                if self.haunted && !self.control.written && tx.fence != self.store.epoch() =>
            {
                Landing::Fenced
            }
            Fate::Lands => {
                self.write(tx);
                Landing::Committed
            }
            Fate::Refused => {
                self.say(|| format!("store refuses commit {seq}"));
                Landing::Refused(StoreRefusal::NoSpace)
            }
            Fate::Unknown(landed) => {
                self.stats.doubted += 1;
                self.say(|| format!("store: outcome of commit {seq} unknown (landed: {landed})"));
                if landed && !self.control.written {
                    // Now, or while nobody looks: till the store is open again.
                    if self.rng.chance(500) {
                        self.write(tx);
                    } else {
                        self.store.late = Some(tx);
                    }
                }
                Landing::Unknown
            }
        };
        let now = self.cluster();
        let Some(machine) = self.control.machine.as_mut() else { return };
        let rng = &mut self.rng;
        self.stats.steps += 1;
        match machine.land(now, landing, &mut || rng.next()) {
            Next::GoOn => {
                self.check_state(false);
                if fate == Fate::Refused {
                    self.compare_view();
                }
                self.turn();
            }
            // The folder is another one's.
            Next::TakeOver | Next::StepDown if self.haunted => {
                self.say(|| "the process that was REPLACED finds out".into());
                self.control_crash();
            }
            Next::TakeOver => {
                self.store.open = false;
                let wait = self.rng.skewed(1, 5_000);
                self.at(self.now + wait, Event::Reopened(self.control.life));
            }
            Next::StepDown => self.fail("the lead is lost, but nobody else is there".into()),
        }
    }

    /// The store is open again under a new epoch; what it holds settles what was unknown.
    pub(crate) fn reopened(&mut self) {
        let Some((leader, seq, nonce)) = self.control_lead() else { return };
        let now = self.cluster();
        let Some(machine) = self.control.machine.as_mut() else { return };
        machine.take_over(leader, seq, nonce, now);
        self.turn();
    }

    /// A client reads a task: what it sees is what has committed, as far as the leader knows.
    fn check_read(&mut self, id: TaskId) {
        let Some(leader) = self.leader().filter(|_| !self.haunted) else { return };
        let namespace = &self.store.namespace;
        let key = Key::Task(namespace.clone(), id);
        let known = self.control.undo.iter().find(|(k, _)| *k == key).map(|(_, before)| before.as_ref());
        let expected = match known.unwrap_or_else(|| self.store.records.get(&key)) {
            Some(Record::Task(task)) => Some(task),
            _ => None,
        };
        let seen = leader.view().task(namespace, id);
        if seen.as_ref() != expected {
            let (seen, expected) =
                (seen.map(|t| (t.attempt, crate::show::phase(&t.phase))), expected.map(|t| t.attempt));
            self.fail(format!("{id} is read as {seen:?}, committed is {expected:?}"));
        }
    }

    fn act_on(&mut self, act: Act) {
        match act {
            Act::Commit(transaction, nonce) => self.take_off(transaction, nonce),
            Act::Reply { call, result, revision } => self.reply(call, result, revision),
            Act::Frame { connection, messages } => {
                self.check_messages(&messages);
                let Some(stream) = self.control.attached.get(&connection).copied() else { return };
                if !self.send_down(stream, messages) {
                    self.control.attached.remove(&connection);
                    let now = self.cluster();
                    let Some(machine) = self.control.machine.as_mut() else { return };
                    let rng = &mut self.rng;
                    machine.cut(now, connection, &mut || rng.next());
                }
            }
            Act::Close { connection, messages, cause } => self.close(connection, messages, cause),
            Act::Committed { .. } if self.haunted => {}
            Act::Committed { revision, changes } => self.check_committed(revision, &changes),
            Act::Touched(_) | Act::ResultRefused { .. } | Act::Started { .. } => {}
        }
    }

    fn reply(&mut self, call: CallId, result: Result<Reply, CallError>, revision: Revision) {
        let Some(asked) = self.control.calls.remove(&call) else {
            if self.haunted {
                return;
            }
            return self.fail(format!("call {} is answered twice", call.0));
        };
        self.say(|| format!("reply to {asked:?}: {}", brief(&result)));
        self.check_reply(&asked, &result, revision);
        self.answer(asked, result);
    }

    /// What a replaced process tells is stale, and for sidecars to see through.
    fn check_messages(&mut self, messages: &[ToSidecar]) {
        if !self.haunted {
            messages.iter().for_each(|message| self.check_message(message));
        }
    }

    /// Ends the server's half of a stream.
    fn close(&mut self, edge: Connection, messages: Vec<ToSidecar>, cause: CloseCause) {
        self.check_messages(&messages);
        let Some(stream) = self.control.attached.remove(&edge) else { return };
        if !messages.is_empty() {
            self.send_down(stream, messages);
        }
        self.say(|| format!("control plane ends stream {stream}: {cause:?}"));
        if matches!(cause, CloseCause::Rejected(hive_core::rejection::Rejection::SidecarFenced(_))) {
            self.stats.fenced += 1;
        }
        self.end_down(stream, hive_sidecar::upstream::meaning(&session::close_status(cause)));
    }

    fn end_down(&mut self, stream: usize, end: hive_sidecar::session::LinkEnd) {
        if std::mem::replace(&mut self.streams[stream].answered, true) {
            return;
        }
        self.transmit(stream, Dir::Down, Packet::End(end));
        // The call is over; its reader finds out soon.
        let wait = 2 * self.latency();
        self.at(self.now + wait, Event::Broken(stream, Dir::Up));
    }

    /// One frame of these messages; false if the stream is too slow and was cut.
    fn send_down(&mut self, stream: usize, messages: Vec<ToSidecar>) -> bool {
        if self.streams[stream].answered || !self.streams[stream].server_open {
            return true;
        }
        if self.streams[stream].backlog() >= DOWN {
            self.end_down(stream, hive_sidecar::session::LinkEnd::Occupied);
            return false;
        }
        let Some(leader) = self.leader() else { return true };
        let (store, epoch) = (&self.store, leader.epoch());
        let fetch = |task, part| store.blob(task, part).filter(|_| store.open);
        match session::write_frame(epoch, messages, fetch) {
            Ok(frame) => {
                self.say(|| format!("  ↓ stream {stream}: {}", crate::show::down(&frame)));
                self.transmit(stream, Dir::Down, Packet::Frame(frame.encode_to_vec().into()));
            }
            Err(status) => self.end_down(stream, hive_sidecar::upstream::meaning(&status)),
        }
        true
    }

    /// A frame has come for the control plane.
    pub(crate) fn heard(&mut self, stream: usize, bytes: &Bytes) {
        let frame = match pb::SessionRequest::decode(bytes.clone()) {
            Ok(frame) => frame,
            Err(error) => return self.fail(format!("a sidecar's frame can't be decoded: {error}")),
        };
        let (leader, messages) = match session::read_frame(frame, &self.limits) {
            Ok(read) => read,
            Err(status) => return self.fail(format!("a sidecar's frame is refused: {}", status.message())),
        };
        let edge = match self.streams[stream].edge {
            Some(edge) => edge,
            None => {
                if !matches!(&messages[..], [FromSidecar::Hello(_)]) {
                    // Only where the hello was lost on the way.
                    return self.end_down(stream, hive_sidecar::session::LinkEnd::Broken);
                }
                self.control.names += 1;
                let edge = Connection(self.control.names);
                self.streams[stream].edge = Some(edge);
                self.mail(Mail::Attach { edge, stream });
                edge
            }
        };
        self.mail(Mail::Frame { edge, leader, messages });
    }

    /// The control plane finds that a stream is over.
    pub(crate) fn hung_up(&mut self, stream: usize) {
        if !std::mem::replace(&mut self.streams[stream].server_open, false) {
            return;
        }
        if let Some(edge) = self.streams[stream].edge {
            self.mail(Mail::Hangup(edge));
        }
    }

    /// What the leader shows as committed is what the store holds.
    pub(crate) fn compare_view(&mut self) {
        let Some(leader) = self.leader().filter(|_| !self.haunted) else { return };
        let view = leader.view();
        let mut wrong = None;
        for (key, record) in &self.store.records {
            let same = match (key, record) {
                (Key::Task(ns, id), Record::Task(task)) => view.task(ns, *id).as_ref() == Some(task),
                (Key::Agent(ns, id), Record::Agent(agent)) => view.agent(ns, id).is_some_and(|(a, _)| a == *agent),
                _ => true,
            };
            if !same {
                wrong = Some(format!("the committed view of {key:?} is not what the store holds: {record:?}"));
                break;
            }
        }
        if leader.revision().seq != self.store.seq {
            wrong = Some(format!("the leader is at {}, the store at {}", leader.revision(), self.store.seq));
        }
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }
}

fn brief(result: &Result<Reply, CallError>) -> String {
    match result {
        Ok(Reply::Task { task, duplicate }) => {
            format!(
                "task {} attempt {} {:?} duplicate {duplicate}",
                task.id,
                task.attempt,
                crate::show::phase(&task.phase)
            )
        }
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    }
}
