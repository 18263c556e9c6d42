//! The sidecar's inventory against the committed state: what either side has missed is said again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::message::Listed;
use super::{Connection, Leader, Output, ToSidecar};
use crate::command::StopReason;
use crate::id::{AgentId, AssignNumber, Namespace, TaskId};
use crate::mutant::{self, Mutant};
use crate::record::{Desired, Key, TaskRecord};
use crate::state::Offer;

impl Leader {
    /// `seen` is the last assignment the inventory takes into account; none: all of them, because
    /// the session has just begun.
    pub(super) fn reconcile(
        &mut self,
        connection: Connection,
        attempts: &[Listed],
        seen: Option<AssignNumber>,
        out: &mut Vec<Output>,
    ) {
        let Some((namespace, sidecar)) = self.host_key(connection) else { return };
        for listed in attempts {
            self.reconcile_listed(&namespace, connection, listed, seen.is_some(), out);
        }
        let listed: BTreeMap<TaskId, &Listed> = attempts.iter().map(|l| (l.token.task, l)).collect();
        let Some(space) = self.state.space(&namespace) else { return };
        let agents: Vec<AgentId> = space.hosted(&sidecar).cloned().collect();
        for agent in agents {
            let missing = self.missing(&namespace, &agent, &listed, seen);
            for task in missing {
                self.stats.reoffers += u64::from(seen.is_some());
                self.offer(&namespace, &task, out);
            }
            if seen.is_none() {
                let committed = self.view().agent(&namespace, &agent).map(|(record, _)| record.desired);
                if committed == Some(Desired::Removed) {
                    let message = ToSidecar::Desire { agent, desired: Desired::Removed };
                    out.push(Output::Send { connection, message });
                }
            }
        }
    }

    /// Attempts of an agent that its sidecar should know of and does not.
    fn missing(
        &self,
        namespace: &Namespace,
        agent: &AgentId,
        listed: &BTreeMap<TaskId, &Listed>,
        seen: Option<AssignNumber>,
    ) -> Vec<Arc<TaskRecord>> {
        if mutant::is(Mutant::NoReoffer) {
            return Vec::new();
        }
        let Some(space) = self.state.space(namespace) else { return Vec::new() };
        let Some(entry) = space.agent_entry(agent) else { return Vec::new() };
        let unknown = entry.slots.iter().filter(|(task, slot)| {
            let known = listed.get(task).is_some_and(|l| l.token.attempt == slot.attempt);
            let due = match (slot.offer, seen) {
                (_, None) | (Offer::Decided | Offer::Reflected, Some(_)) => true,
                (Offer::Sent(number), Some(seen)) => number <= seen,
            };
            !known && due && !self.is_undecided(&Key::Task(namespace.clone(), **task))
        });
        unknown.filter_map(|(task, _)| space.task(*task).cloned()).collect()
    }

    fn reconcile_listed(
        &mut self,
        namespace: &Namespace,
        connection: Connection,
        listed: &Listed,
        release: bool,
        out: &mut Vec<Output>,
    ) {
        let token = listed.token;
        if let Some(over) = self.committed_verdict(namespace, token) {
            // The welcome has said so already.
            if release {
                let revision = self.revision();
                if !listed.finished {
                    let grace = self.state.settings().cancel_grace;
                    let message = ToSidecar::Stop { token, reason: StopReason::Superseded, grace };
                    out.push(Output::Send { connection, message });
                }
                out.push(Output::Send { connection, message: ToSidecar::ResultAck { token, release: over, revision } });
            }
            return;
        }
        if self.is_undecided(&Key::Task(namespace.clone(), token.task)) {
            return;
        }
        let Some(task) = self.state.space(namespace).and_then(|s| s.task(token.task)).cloned() else { return };
        let Some(run) = task.run() else { return };
        self.set_offer(namespace, &run.agent, task.id, Offer::Reflected);
        if task.cancel.is_some() && !listed.finished {
            let grace = self.state.settings().cancel_grace;
            let message = ToSidecar::Stop { token, reason: StopReason::Requested, grace };
            out.push(Output::Send { connection, message });
        }
        if let (Some(asked), Some(answer)) = (listed.input, &run.answer)
            && answer.number == asked
        {
            let message = ToSidecar::Answer { token, number: asked, body: answer.body.clone() };
            out.push(Output::Send { connection, message });
        }
    }
}
