//! Liveness (I8): the control plane and the first sidecar are well, the rest may stay broken; what
//! those two can do by themselves is to move.

use hive_core::id::{AgentId, TaskId};
use hive_core::record::{Desired, DisconnectPolicy, Phase, TaskRecord};
use std::collections::BTreeSet;

use crate::options::Doom;
use crate::world::{HEAL, World};

/// The agent that can do everything, at the first sidecar.
pub(crate) const CORE: &str = "a0-0";
/// Both have found each other by then: keepalives, silences and the longest back-off are over.
const SETTLED: u64 = 75_000;
/// A pending task that the core has room for waits no longer.
const PATIENCE: u64 = 30_000;

impl World {
    /// All that the core can do is done.
    pub(crate) fn core_is_over(&mut self) -> bool {
        self.watch_waits();
        let core = &self.sides[0];
        let quiet = core.programs.values().all(|p| p.end.is_some())
            && core.session.as_ref().is_some_and(|session| session.unreleased().next().is_none());
        let mut open = Vec::new();
        for (id, entry) in &self.ledger.tasks {
            let answered = entry.accepted || entry.refused;
            let task = self.store.task(*id);
            let ended = !entry.created || entry.ended.is_some();
            if !answered || !ended && !task.is_some_and(|task| self.is_hostage(task)) {
                let stored = task.map(|t| (t.attempt, t.agent.clone(), crate::show::phase(&t.phase)));
                open.push(format!("{id} accepted {} stored {stored:?}", entry.accepted));
            }
        }
        if quiet && open.is_empty() && self.control.flying.is_none() && self.store.open {
            self.compare_view();
            return true;
        }
        if self.now > self.healed_at + HEAL {
            let kept: Vec<_> = core.session.iter().flat_map(hive_sidecar::session::Session::unreleased).collect();
            self.fail(format!(
                "I8: a core is healed for {} s and this does not move:\n    {}\n    the core keeps {kept:?}",
                HEAL / 1000,
                open.join("\n    ")
            ));
        }
        false
    }

    /// A pending task must not wait while the core has room for it.
    fn watch_waits(&mut self) {
        let cluster = self.cluster();
        let core = AgentId::parse(CORE).expect("a name");
        let running = self.store.tasks().filter(|t| t.run().is_some_and(|run| run.agent == core)).count();
        let has_room = self
            .store
            .agent(&core)
            .is_some_and(|a| a.desired == Desired::Active && !a.lost && running < a.spec.slots as usize);
        if !has_room || self.now < self.healed_at + SETTLED {
            return self.waits.clear();
        }
        let ready = |t: &&std::sync::Arc<TaskRecord>| matches!(t.phase, Phase::Pending { not_before, .. } if not_before <= cluster);
        let ready: BTreeSet<TaskId> = self.store.tasks().filter(ready).map(|task| task.id).collect();
        self.waits.retain(|id, _| ready.contains(id));
        for id in ready {
            let since = *self.waits.entry(id).or_insert(self.now);
            if self.now > since + PATIENCE {
                return self.fail(format!("I8: {id} is pending for {} s and the core has room", PATIENCE / 1000));
            }
        }
    }

    /// Its attempt is with a sidecar that is broken for good, and by its policy nobody may take it away.
    fn is_hostage(&self, task: &TaskRecord) -> bool {
        let Some(run) = task.run() else { return false };
        let host = self.store.agent(&run.agent).and_then(|agent| agent.host.clone());
        let Some(side) = host.and_then(|host| self.sides.iter().position(|side| side.name == host.to_string())) else {
            return task.spec.disconnect == DisconnectPolicy::Wait;
        };
        match self.doom(side) {
            Doom::Well | Doom::Struck => false,
            Doom::Sick => true,
            Doom::Dead | Doom::Still | Doom::Cut(..) => task.spec.disconnect == DisconnectPolicy::Wait,
        }
    }
}
