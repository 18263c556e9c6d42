//! Parking and telling: what was decided leaves once it is committed, or is taken back.

use super::batch::Parked;
use super::{
    Abandoned, CallError, CloseCause, Leader, Output, STORE_PAUSE, StoreRefusal, ToSidecar, Transaction, Work,
};
use crate::command::Effect;
use crate::id::Namespace;
use crate::mutant::{self, Mutant};
use crate::record::Key;
use crate::state::Offer;
use crate::time::Time;

impl Leader {
    /// Tells now, or once the newest batch has committed.
    pub(super) fn park(&mut self, parked: Parked, out: &mut Vec<Output>) {
        if mutant::is(Mutant::ToldBeforeCommit) {
            self.tell(parked, out);
        } else if !self.forming.is_empty() {
            self.forming.parked.push(parked);
        } else if let Some(flying) = &mut self.flying {
            flying.parked.push(parked);
        } else {
            self.tell(parked, out);
        }
    }

    pub(super) fn tell(&mut self, parked: Parked, out: &mut Vec<Output>) {
        match parked {
            Parked::Reply(call, result) => out.push(Output::Reply { call, result, revision: self.revision() }),
            Parked::Effect(namespace, effect) => self.tell_effect(&namespace, effect, out),
            Parked::Release { connection, token, release } => {
                let revision = self.revision();
                out.push(Output::Send { connection, message: ToSidecar::ResultAck { token, release, revision } });
            }
            Parked::Welcome { connection, welcome } => self.tell_welcome(connection, *welcome, out),
            Parked::Close { connection, cause } => out.push(Output::Close { connection, cause }),
        }
    }

    pub(super) fn tell_effect(&mut self, namespace: &Namespace, effect: Effect, out: &mut Vec<Output>) {
        match effect {
            Effect::Offer(task) => {
                // A welcome told meanwhile has offered it already.
                let slot = self.state.space(namespace).and_then(|space| space.slot(&task));
                if slot.is_some_and(|slot| slot.offer == Offer::Decided) {
                    self.offer(namespace, &task, out);
                }
            }
            Effect::Stop { agent, token, reason } => {
                let grace = self.state.settings().cancel_grace;
                self.send_to_agent(namespace, &agent, ToSidecar::Stop { token, reason, grace }, out);
            }
            Effect::Answer(task) => {
                let Some(run) = task.run() else { return };
                let Some(answer) = &run.answer else { return };
                let (number, body) = (answer.number, answer.body.clone());
                let message = ToSidecar::Answer { token: task.token(), number, body };
                self.send_to_agent(namespace, &run.agent, message, out);
            }
            Effect::Desire(agent) => {
                // A later wish may be undecided.
                let Some((record, _)) = self.view().agent(namespace, &agent) else { return };
                let message = ToSidecar::Desire { agent: agent.clone(), desired: record.desired };
                self.send_to_agent(namespace, &agent, message, out);
                out.push(Output::Touched(Key::Agent(namespace.clone(), agent)));
            }
        }
    }

    pub(super) fn land(&mut self, out: &mut Vec<Output>) {
        let Some(batch) = self.flying.take() else { return };
        self.committed += 1;
        self.refusals = 0;
        let revision = self.revision();
        out.push(Output::Committed { revision, changes: batch.written });
        for parked in batch.parked {
            self.tell(parked, out);
        }
    }

    pub(super) fn roll_back(&mut self, now: Time, reason: StoreRefusal, out: &mut Vec<Output>) {
        let forming = std::mem::take(&mut self.forming);
        let flying = self.flying.take().unwrap_or_default();
        for batch in [forming, flying] {
            for (key, before) in batch.before {
                self.state.apply(crate::record::Change { key, value: before });
            }
            for parked in batch.parked {
                match parked {
                    // A rejection too: what it was decided upon has not happened.
                    Parked::Reply(call, _) => {
                        let result = Err(CallError::Refused(reason));
                        out.push(Output::Reply { call, result, revision: self.revision() });
                    }
                    Parked::Close { connection, .. } => {
                        out.push(Output::Close { connection, cause: CloseCause::StoreFailed });
                    }
                    // Level-triggered: the next hello or beat brings it up again.
                    Parked::Effect(..) | Parked::Release { .. } | Parked::Welcome { .. } => {}
                }
            }
        }
        for connection in self.hosts.connections() {
            if self.hosts.session_mut(connection).is_none_or(|session| !session.open) {
                // Its generation may never have been minted: it begins anew.
                self.hang_up(connection, out);
                out.push(Output::Close { connection, cause: CloseCause::StoreFailed });
            }
        }
        self.refusals += 1;
        if self.refusals > 1 {
            self.hold_until = now + STORE_PAUSE;
        }
        self.resync_owed = true;
        self.resync(now, out);
    }

    /// What was parked on a refused batch is found again by hellos: all are asked for one, but not
    /// more often than the store is tried.
    pub(super) fn resync(&mut self, now: Time, out: &mut Vec<Output>) {
        if !self.resync_owed || now < self.resynced + STORE_PAUSE {
            return;
        }
        self.resync_owed = false;
        self.resynced = now;
        for connection in self.hosts.connections() {
            if self.hosts.session_mut(connection).is_some_and(|session| session.open) {
                out.push(Output::Send { connection, message: ToSidecar::Resync });
            }
        }
    }

    /// Gives the next transaction to the store, if none is in flight and there is one.
    pub fn take_transaction(&mut self, now: Time, out: &mut Vec<Output>) -> Option<Transaction> {
        if self.flying.is_some() || self.forming.is_empty() {
            return None;
        }
        self.join_starts(now, out);
        let mut batch = std::mem::take(&mut self.forming);
        self.queue.extend(self.evictions.drain(..));
        batch.written = batch.before.keys().map(|key| (key.clone(), self.state.get(key))).collect();
        let transaction = Transaction {
            fence: self.epoch,
            prev_seq: self.committed,
            seq: self.committed + 1,
            time: now,
            records: batch.written.clone(),
            blobs: std::mem::take(&mut batch.blobs).into_iter().collect(),
        };
        self.flying = Some(batch);
        Some(transaction)
    }

    /// Gives up the lead: the calls that wait for the transaction in flight, and all others that
    /// wait. Whether the former were carried out is for the store to settle.
    pub fn abandon(self) -> Abandoned {
        let mut replies = Vec::new();
        let mut waiting = Vec::new();
        for parked in self.flying.map(|b| b.parked).unwrap_or_default() {
            if let Parked::Reply(call, result) = parked {
                replies.push((call, result));
            }
        }
        for parked in self.forming.parked {
            if let Parked::Reply(call, _) = parked {
                waiting.push(call);
            }
        }
        for work in self.queue {
            if let Work::Call { call, .. } | Work::Barrier(call) = work {
                waiting.push(call);
            }
        }
        Abandoned { decided: replies, waiting }
    }
}
