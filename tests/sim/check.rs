//! What must hold, held against the store: at every commit, at everything told, at every start.

use hive_core::command::{Release, Reply};
use hive_core::id::{Attempt, Generation, Revision, TaskId};
use hive_core::invariant;
use hive_core::leader::{CallError, ToSidecar};
use hive_core::record::{BlobPart, Cause, End, Key, Phase, Record, Run, TaskRecord};
use hive_core::rejection::Rejection;
use hive_core::time::Time;
use hive_proto::v1;
use hive_sidecar::attempt::{AttemptKey, StartAttempt};

use crate::agent::product;
use crate::client::{Asked, answer};
use crate::options::Mode;
use crate::store::Succession;
use crate::world::World;
use hive_control_plane::store::Transaction;

fn task_of(key: AttemptKey) -> TaskId {
    TaskId(key.task)
}

impl World {
    /// The attempt is current, by the store.
    pub(crate) fn is_current(&self, key: AttemptKey) -> bool {
        self.store.task(task_of(key)).is_some_and(|task| task.attempt.0 == key.attempt && task.run().is_some())
    }

    /// A transaction lands.
    pub(crate) fn write(&mut self, tx: Transaction) -> Vec<(Key, Option<Record>)> {
        for op in &tx.ops {
            self.digest.bytes(op.key());
        }
        self.digest.add(tx.seq);
        self.stats.commits += 1;
        let time = tx.time;
        self.control.settled += 1;
        match self.store.apply(tx) {
            Ok(changed) => {
                let tasks = changed.iter().any(|(key, ..)| matches!(key, Key::Task(..)));
                let undo = changed.iter().map(|(key, before, _)| (key.clone(), before.clone())).collect();
                changed.into_iter().for_each(|change| self.check_change(change, time));
                if tasks {
                    self.check_slots();
                }
                undo
            }
            Err(fault) => {
                self.fail(fault);
                Vec::new()
            }
        }
    }

    /// No agent is given more than it has slots for.
    fn check_slots(&mut self) {
        let mut taken = std::collections::BTreeMap::<_, u32>::new();
        for run in self.store.tasks().filter_map(|task| task.run()) {
            *taken.entry(&run.agent).or_default() += 1;
        }
        let over = taken.iter().find_map(|(id, taken)| {
            let slots = self.store.agent(id)?.spec.slots;
            (*taken > slots).then(|| format!("agent {id} has {slots} slots and is given {taken} tasks"))
        });
        if let Some(over) = over {
            self.fail(over);
        }
    }

    /// A deadline does not act before it has come.
    fn check_deadline(&mut self, before: &TaskRecord, after: &TaskRecord, time: Time) {
        let reported = matches!(after.phase, Phase::Ended { reported: true, .. });
        // What an earlier attempt failed of stays on record.
        let new = before.failure != after.failure;
        let cause = after.failure.as_ref().filter(|_| new).map(|failure| failure.cause);
        let due = match (&before.phase, cause) {
            (Phase::Pending { since, .. }, Some(Cause::QueueDeadline)) => *since + before.spec.queue_timeout,
            (Phase::Assigned(run), Some(Cause::Timeout)) if !reported => {
                // A sidecar may have reported that, too, and the task go on.
                let key = AttemptKey { task: before.id.0, attempt: before.attempt.0 };
                if self.ledger.told.contains(&key) {
                    return;
                }
                run.assigned + before.spec.attempt_timeout
            }
            (Phase::InputRequired(_, question), Some(Cause::InputTimeout)) => {
                question.asked + before.spec.input_timeout
            }
            (_, _) if matches!(after.phase, Phase::Ended { end: End::Cancelled(Cause::Unconfirmed), .. }) => {
                // Given up and hosted elsewhere in one commit it was lost in between.
                let lost = before.run().is_none_or(|run| {
                    let agent = self.store.agent(&run.agent);
                    agent.is_none_or(|a| a.lost || a.evict || a.moved != run.incarnation.moved)
                });
                // An attempt whose time is up while a cancel is pending ends by the cancel.
                let over = before.run().map_or(Time::NEVER, |run| run.assigned + before.spec.attempt_timeout);
                match before.cancel {
                    Some(at) if !lost => over.min(at + self.options.settings.cancel_grace),
                    _ => return,
                }
            }
            _ => return,
        };
        if time < due {
            self.fail(format!("task {} ends at {time} by a deadline ({cause:?}) that comes at {due}", before.id));
        }
    }

    fn check_change(&mut self, (key, before, after): Succession, time: Time) {
        match (before, after) {
            (None, Some(Record::Task(task))) => self.check_created(&task),
            (Some(Record::Task(before)), Some(Record::Task(after))) => {
                if let Err(fault) = invariant::check_succession(&before, &after) {
                    self.fail(format!("I2/I4: {fault}"));
                }
                self.check_word(&before, &after);
                self.check_deadline(&before, &after, time);
                if after.attempt > before.attempt {
                    self.stats.assigned += 1;
                    self.check_assigned(&after);
                }
                if after.is_ended() && !before.is_ended() {
                    self.check_ended(&after);
                }
            }
            (Some(Record::Task(before)), None) => {
                let id = before.id;
                self.stats.evicted += 1;
                if !before.is_ended() {
                    self.fail(format!("I1: task {id} is deleted before its end"));
                }
                if id.time() >= self.store.floor() {
                    self.fail(format!("I5: task {id} is deleted at or above the floor"));
                }
                if let Some(entry) = self.ledger.tasks.get_mut(&id) {
                    entry.deleted = true;
                }
            }
            (Some(Record::Agent(before)), Some(Record::Agent(after))) if after.created > before.created => {
                // Forgotten and declared again in one transaction.
                self.incarnations.remove(&after.id);
            }
            (Some(Record::Agent(before)), Some(Record::Agent(after)))
                if after.lost && !before.lost && after.host == before.host =>
            {
                // Nobody is lost whom this leader has not had the time to hear.
                let liveness = &self.options.settings.liveness;
                let soonest = self.control.office + liveness.min_grace;
                let host = after.host.as_ref().map(ToString::to_string);
                // A goodbye that comes once more is no transport's doing.
                let repeated = self.options.repeated > 0;
                let left = repeated || self.sides.iter().any(|side| side.left && host.as_deref() == Some(&side.name));
                // What was decided before the loop stood still counts as before it; what waited in its queue, too.
                let before = after.updated < self.control.office || self.control.settled <= 2;
                if !before && time < soonest && !left {
                    let id = &after.id;
                    self.fail(format!("agent {id} is lost at {time}, but the leader's grace lasts till {soonest}"));
                }
            }
            (Some(Record::Agent(before)), Some(Record::Agent(after))) if after.moved < before.moved => {
                self.fail(format!("I4: agent {} moved back", after.id));
            }
            (Some(Record::Sidecar(before)), Some(Record::Sidecar(after))) if after.generation <= before.generation => {
                // Forgotten and met again in one transaction: it begins anew, as it would in two.
                let anew = after.boot != before.boot && after.generation == Generation(1);
                if !anew || before.updated + self.options.settings.retention.age > after.updated {
                    let (id, from, to) = (&after.id, before.generation, after.generation);
                    self.fail(format!("I4: sidecar {id} got generation {to} after {from}"));
                }
            }
            (Some(Record::Namespace(before)), Some(Record::Namespace(after))) if after.floor < before.floor => {
                self.fail("I5: the floor went down".into());
            }
            (Some(Record::Agent(before)), None) => {
                self.incarnations.remove(&before.id);
                let busy = self.store.tasks().find(|t| t.run().is_some_and(|run| run.agent == before.id)).map(|t| t.id);
                if let Some(task) = busy {
                    self.fail(format!("agent {} is forgotten, but has {task}", before.id));
                }
            }
            (Some(Record::Sidecar(before)), None) => {
                let hosted = self.store.records.values().find_map(|record| match record {
                    Record::Agent(agent) if agent.host.as_ref() == Some(&before.id) => Some(agent.id.clone()),
                    _ => None,
                });
                if let Some(agent) = hosted {
                    self.fail(format!("{key:?} is forgotten, but hosts {agent}"));
                }
            }
            _ => {}
        }
    }

    /// I2: what ends an attempt by a sidecar's word was said of that attempt.
    fn check_word(&mut self, before: &TaskRecord, after: &TaskRecord) {
        if before.run().is_none() || after.attempt != before.attempt || after.run().is_some() {
            return;
        }
        let said = match &after.phase {
            Phase::Ended { reported, .. } => *reported,
            _ => after.failure.as_ref().is_some_and(|f| matches!(f.cause, Cause::ExitCode | Cause::Declined)),
        };
        let key = AttemptKey { task: after.id.0, attempt: after.attempt.0 };
        if said && !self.ledger.told.contains(&key) {
            self.fail(format!("I2: {key} is over by its sidecar's word, which nobody gave: {:?}", after.phase));
        }
    }

    fn check_created(&mut self, task: &TaskRecord) {
        let id = task.id;
        let Some(entry) = self.ledger.tasks.get_mut(&id) else {
            return self.fail(format!("task {id} is nobody's"));
        };
        if std::mem::replace(&mut entry.created, true) {
            return self.fail(format!("I5: task {id} is accepted a second time"));
        }
        if task.is_ended() {
            // Cancelled in the batch that accepted it.
            self.check_ended(task);
        } else if task.attempt > Attempt(0) {
            self.stats.assigned += 1;
        }
    }

    fn check_assigned(&mut self, task: &TaskRecord) {
        let Some(run) = task.run() else { return };
        let known = self.incarnations.entry(run.agent.clone()).or_default();
        if run.incarnation < *known {
            let fault =
                format!("I4: {} is assigned to {} at {:?} after {known:?}", task.id, run.agent, run.incarnation);
            return self.fail(fault);
        }
        *known = run.incarnation;
    }

    fn check_ended(&mut self, task: &TaskRecord) {
        let id = task.id;
        self.stats.ended += 1;
        if self.healing {
            self.stats.by_core += u64::from(self.options.mode == Mode::Liveness);
        } else if self.is_troubled() {
            self.stats.under_fault += 1;
        }
        if let Phase::Ended { end: End::Succeeded(body), .. } = &task.phase {
            self.stats.succeeded += 1;
            let made = product(AttemptKey { task: id.0, attempt: task.attempt.0 }, self.options.large);
            let kept = self.store.body(id, BlobPart::Result, body);
            if kept.as_ref() != Some(&made) {
                let kept = kept.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
                return self.fail(format!("I2: task {id} at attempt {} holds the result {kept:?}", task.attempt));
            }
        }
        if let Some(entry) = self.ledger.tasks.get_mut(&id) {
            entry.ended = Some(std::sync::Arc::new(task.clone()));
        }
    }

    pub(crate) fn check_committed(&mut self, revision: Revision, changes: &[(Key, Option<Record>)]) {
        if revision.seq != self.store.seq {
            return self.fail(format!("commit {revision} is announced, the store is at {}", self.store.seq));
        }
        for (key, record) in changes {
            if self.store.records.get(key) != record.as_ref() {
                return self.fail(format!("{key:?} is announced as {record:?}, the store does not hold that"));
            }
        }
    }

    /// Nothing uncommitted is told: sidecars.
    pub(crate) fn check_message(&mut self, message: &ToSidecar) {
        match message {
            ToSidecar::Assign(assignment) => {
                let task = &assignment.task;
                let agent = task.run().map(|run| run.agent.clone());
                let stored = self.store.task(task.id);
                let fits =
                    stored.is_some_and(|s| s.attempt == task.attempt && s.run().map(|r| r.agent.clone()) == agent);
                if !fits {
                    let stored = stored.map(|s| (s.attempt, crate::show::phase(&s.phase)));
                    self.fail(format!("attempt {} of {} is told, the store has {stored:?}", task.attempt, task.id));
                }
            }
            ToSidecar::ResultAck { token, release, .. } => {
                let key = AttemptKey { task: token.task.0, attempt: token.attempt.0 };
                // It may be deleted by now, in the very commit that this waited for: then as it ended.
                let ended = self.ledger.tasks.get(&token.task).and_then(|entry| entry.ended.as_ref());
                let last = self.store.task(token.task).or(ended).map(|task| task.attempt);
                let committed = *release == Release::Gone || last >= Some(token.attempt);
                if self.is_current(key) || !committed {
                    self.fail(format!(
                        "I6: {key} is released as {release:?}, the store has it as current or never had it"
                    ));
                }
            }
            ToSidecar::Welcome(welcome) => {
                let over = welcome.verdicts.iter().filter(|verdict| verdict.over.is_some());
                let wrong: Vec<_> = over
                    .map(|v| AttemptKey { task: v.token.task.0, attempt: v.token.attempt.0 })
                    .filter(|key| self.is_current(*key))
                    .collect();
                if !wrong.is_empty() {
                    self.fail(format!("I6: the welcome calls {wrong:?} over, the store has them as current"));
                }
            }
            ToSidecar::Answer { token, number, body } => {
                // An attempt that has ended in the same batch hears it in vain.
                let current = self.store.task(token.task).filter(|task| task.attempt == token.attempt);
                let run = current.and_then(|task| task.run());
                let known = |run: &Run| run.answer.as_ref().is_some_and(|a| a.number == *number && a.body == *body);
                if run.is_some_and(|run| !known(run)) {
                    self.fail(format!("the answer {number} of {} is told before it is committed", token.task));
                }
            }
            ToSidecar::Stop { .. } | ToSidecar::Desire { .. } | ToSidecar::BeatAck { .. } | ToSidecar::Resync => {}
        }
    }

    /// Nothing uncommitted is told: clients.
    pub(crate) fn check_reply(&mut self, asked: &Asked, result: &Result<Reply, CallError>, revision: Revision) {
        if revision.seq > self.store.seq {
            return self.fail(format!("a reply carries {revision}, the store is at {}", self.store.seq));
        }
        let fault = match (asked, result) {
            (Asked::Submit(id, other), Ok(Reply::Task { task, .. })) => {
                let entry = self.ledger.tasks.get(id);
                let created = entry.is_some_and(|entry| entry.created);
                let same = self.store.task(*id).is_none_or(|stored| stored.spec.digest == task.spec.digest);
                let asked_for = task.spec.digest == crate::client::digest(*id, *other);
                (!created || !same || !asked_for).then(|| {
                    format!("I1/I5: the submit of {id} is answered OK, the store holds {:?}", self.store.task(*id))
                })
            }
            (Asked::Submit(id, _), Err(CallError::Rejected(Rejection::TaskIdReused(_)))) => {
                let created = self.ledger.tasks.get(id).is_some_and(|entry| entry.created);
                (!created).then(|| format!("{id} is refused for another task that the store has never held"))
            }
            (Asked::Cancel(id), Ok(_)) => {
                let asked_for = self.store.task(*id).is_none_or(|task| task.cancel.is_some() || task.is_ended());
                let created = self.ledger.tasks.get(id).is_some_and(|entry| entry.created);
                (!asked_for || !created).then(|| format!("the cancel of {id} is answered before it is committed"))
            }
            (Asked::Cancel(id) | Asked::Answer(id, _), Err(CallError::Rejected(rejection))) => {
                let entry = self.ledger.tasks.get(id);
                match rejection {
                    Rejection::TaskNotFound(_) => entry
                        .is_some_and(|e| e.accepted)
                        .then(|| format!("I1: task {id} was accepted and is not found")),
                    Rejection::TaskTerminal(_) => entry
                        .is_none_or(|e| e.ended.is_none())
                        .then(|| format!("{id} is called ended, the store says no")),
                    Rejection::TaskIdTooOld { .. } => {
                        (id.time() >= self.store.floor()).then(|| format!("{id} is called too old, the floor is below"))
                    }
                    _ => None,
                }
            }
            (Asked::Remove(id, _), Ok(_)) => {
                let desired = self.store.agent(id).is_none_or(|a| a.desired == hive_core::record::Desired::Removed);
                (!desired).then(|| format!("the removal of {id} is answered before it is committed"))
            }
            _ => None,
        };
        if let Some(fault) = fault {
            self.fail(fault);
        }
    }

    /// An attempt is started: once, anywhere, with what was submitted, and committed before.
    pub(crate) fn check_start(&mut self, start: &StartAttempt) {
        let key = start.key;
        if !self.ledger.started.insert(key) {
            self.fail(format!("{key} is started a second time"));
        }
        let stored = self.store.task(task_of(key)).map(|task| task.attempt.0);
        if stored.is_some_and(|attempt| attempt < key.attempt) {
            self.fail(format!("{key} is started, the store is at attempt {stored:?}"));
        }
        if self.ledger.tasks.get(&task_of(key)).is_none_or(|entry| entry.payload != start.payload.data) {
            self.fail(format!("{key} is started with another payload than was submitted"));
        }
    }

    /// An answer reaches the agent.
    pub(crate) fn check_answer(&mut self, key: AttemptKey, input: &v1::Payload) {
        let id = task_of(key);
        let questions = self.store.task(id).map_or(64, |task| task.questions);
        if !(1..=questions).any(|number| answer(id, number) == input.data) {
            self.fail(format!("{key} gets an answer nobody gave"));
        }
    }
}
