//! Who waits and who is free, indexed so that a match costs the same in any fleet.
//!
//! Waiting tasks are grouped into *classes* (one per distinct requirement), agents into *profiles*
//! (one per distinct pool, capabilities and labels). Which class fits which profile is worked out
//! once, when either appears; after that nothing scans agents or the backlog.
//!
//! Order: the most urgent priority first, but a priority with a waiting task is passed over at most
//! [`PATIENCE`] times in a row per profile; within a priority the longest waiting task first; of the
//! free agents the least loaded, then the one used longest ago.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::slab::Slab;
use crate::id::{AgentId, TaskId};
use crate::record::{AgentSpec, Capabilities, Labels, Priority, Requirement};
use crate::time::Time;

/// Dispatches a waiting priority lets others have before it is served: with four priorities every
/// waiting one gets at least 1 of 16.
const PATIENCE: u8 = 12;
/// Classes without tasks kept for the next task of their kind.
const IDLE_CLASSES: usize = 1024;

/// Place in a queue: acceptance, then id.
pub(crate) type QueueKey = (Time, TaskId);
/// Place among free agents: share of slots used in thousandths, last use, id.
pub(crate) type LoadKey = (u32, u64, AgentId);

#[derive(Clone, Debug)]
struct Class {
    requirement: Arc<Requirement>,
    ready: [BTreeSet<QueueKey>; 4],
    /// Tasks that hold the class, ready or delayed.
    tasks: usize,
    profiles: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ProfileKey {
    pool: Arc<str>,
    capabilities: Capabilities,
    labels: Labels,
}

#[derive(Clone, Debug)]
struct Profile {
    key: Arc<ProfileKey>,
    agents: usize,
    free: BTreeSet<LoadKey>,
    classes: Vec<u32>,
    /// Classes with a ready task, by priority.
    waiting: [BTreeSet<u32>; 4],
    /// Dispatches each waiting priority has let pass.
    passed: [u8; 4],
}

/// A task and an agent that fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The task.
    pub task: TaskId,
    /// The agent.
    pub agent: AgentId,
    profile: u32,
    priority: Priority,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    classes: Slab<Class>,
    class_ids: BTreeMap<Arc<Requirement>, u32>,
    idle: usize,
    profiles: Slab<Profile>,
    profile_ids: BTreeMap<Arc<ProfileKey>, u32>,
    /// Profiles with both a free agent and a ready task.
    matchable: BTreeSet<u32>,
}

fn fits(requirement: &Requirement, profile: &ProfileKey) -> bool {
    requirement.pool.as_ref().is_none_or(|pool| *pool == profile.pool)
        && requirement.capabilities.is_subset(&profile.capabilities)
        && requirement.labels.iter().all(|(key, value)| profile.labels.get(key) == Some(value))
}

impl Demand {
    /// A pending task appears; it becomes ready at once or later.
    pub(crate) fn hold(&mut self, requirement: &Requirement) -> u32 {
        let id = match self.class_ids.get(requirement) {
            Some(id) => *id,
            None => self.new_class(requirement),
        };
        if let Some(class) = self.classes.get_mut(id) {
            if class.tasks == 0 {
                self.idle -= 1;
            }
            class.tasks += 1;
        }
        id
    }

    /// A pending task goes.
    pub(crate) fn release(&mut self, requirement: &Requirement) {
        let Some(id) = self.class_ids.get(requirement) else { return };
        if let Some(class) = self.classes.get_mut(*id) {
            class.tasks -= 1;
            if class.tasks == 0 {
                self.idle += 1;
            }
        }
        if self.idle > IDLE_CLASSES {
            self.sweep();
        }
    }

    fn new_class(&mut self, requirement: &Requirement) -> u32 {
        let requirement = Arc::new(requirement.clone());
        let profiles: Vec<u32> =
            self.profiles.iter().filter(|(_, p)| fits(&requirement, &p.key)).map(|(id, _)| id).collect();
        let class = Class { requirement: requirement.clone(), ready: Default::default(), tasks: 0, profiles };
        let id = self.classes.insert(class);
        self.class_ids.insert(requirement, id);
        self.idle += 1;
        let Some(class) = self.classes.get(id) else { return id };
        for profile in &class.profiles {
            if let Some(profile) = self.profiles.get_mut(*profile) {
                profile.classes.push(id);
            }
        }
        id
    }

    fn sweep(&mut self) {
        let empty: Vec<u32> = self.classes.iter().filter(|(_, c)| c.tasks == 0).map(|(id, _)| id).collect();
        for id in empty {
            let Some(class) = self.classes.remove(id) else { continue };
            self.class_ids.remove(&class.requirement);
            for profile in class.profiles {
                if let Some(profile) = self.profiles.get_mut(profile) {
                    profile.classes.retain(|c| *c != id);
                }
            }
        }
        self.idle = 0;
    }

    /// A held task may be dispatched from now on.
    pub(crate) fn enqueue(&mut self, requirement: &Requirement, priority: Priority, key: QueueKey) {
        let Some(id) = self.class_ids.get(requirement).copied() else { return };
        let Some(class) = self.classes.get_mut(id) else { return };
        let queue = &mut class.ready[priority.index()];
        let first = queue.is_empty();
        queue.insert(key);
        if first {
            for profile_id in &class.profiles {
                if let Some(profile) = self.profiles.get_mut(*profile_id) {
                    profile.waiting[priority.index()].insert(id);
                    if !profile.free.is_empty() {
                        self.matchable.insert(*profile_id);
                    }
                }
            }
        }
    }

    /// A task is not to be dispatched any more; false if it was not ready.
    pub(crate) fn dequeue(&mut self, requirement: &Requirement, priority: Priority, key: &QueueKey) -> bool {
        let Some(id) = self.class_ids.get(requirement).copied() else { return false };
        let Some(class) = self.classes.get_mut(id) else { return false };
        let queue = &mut class.ready[priority.index()];
        if !queue.remove(key) {
            return false;
        }
        if queue.is_empty() {
            for profile_id in &class.profiles {
                if let Some(profile) = self.profiles.get_mut(*profile_id) {
                    profile.waiting[priority.index()].remove(&id);
                    if profile.waiting[priority.index()].is_empty() {
                        profile.passed[priority.index()] = 0;
                    }
                    if profile.waiting.iter().all(BTreeSet::is_empty) {
                        self.matchable.remove(profile_id);
                    }
                }
            }
        }
        true
    }

    /// An agent of this kind appears.
    pub(crate) fn join(&mut self, spec: &AgentSpec) -> u32 {
        let key = ProfileKey {
            pool: spec.pool.clone(),
            capabilities: spec.capabilities.clone(),
            labels: spec.labels.clone(),
        };
        let id = match self.profile_ids.get(&key) {
            Some(id) => *id,
            None => self.new_profile(key),
        };
        if let Some(profile) = self.profiles.get_mut(id) {
            profile.agents += 1;
        }
        id
    }

    fn new_profile(&mut self, key: ProfileKey) -> u32 {
        let key = Arc::new(key);
        let mut profile = Profile {
            key: key.clone(),
            agents: 0,
            free: BTreeSet::new(),
            classes: Vec::new(),
            waiting: Default::default(),
            passed: [0; 4],
        };
        for (id, class) in self.classes.iter().filter(|(_, c)| fits(&c.requirement, &key)) {
            profile.classes.push(id);
            for priority in Priority::ALL {
                if !class.ready[priority.index()].is_empty() {
                    profile.waiting[priority.index()].insert(id);
                }
            }
        }
        let classes = profile.classes.clone();
        let id = self.profiles.insert(profile);
        self.profile_ids.insert(key, id);
        for class in classes {
            if let Some(class) = self.classes.get_mut(class) {
                class.profiles.push(id);
            }
        }
        id
    }

    /// An agent of this kind goes.
    pub(crate) fn leave(&mut self, id: u32) {
        let Some(profile) = self.profiles.get_mut(id) else { return };
        profile.agents -= 1;
        if profile.agents > 0 {
            return;
        }
        self.matchable.remove(&id);
        if let Some(profile) = self.profiles.remove(id) {
            self.profile_ids.remove(&profile.key);
            for class in profile.classes {
                if let Some(class) = self.classes.get_mut(class) {
                    class.profiles.retain(|p| *p != id);
                }
            }
        }
    }

    /// An agent has room.
    pub(crate) fn list(&mut self, id: u32, key: LoadKey) {
        let Some(profile) = self.profiles.get_mut(id) else { return };
        profile.free.insert(key);
        if profile.waiting.iter().any(|w| !w.is_empty()) {
            self.matchable.insert(id);
        }
    }

    /// An agent has no room any more, or another load.
    pub(crate) fn unlist(&mut self, id: u32, key: &LoadKey) {
        let Some(profile) = self.profiles.get_mut(id) else { return };
        profile.free.remove(key);
        if profile.free.is_empty() {
            self.matchable.remove(&id);
        }
    }

    /// The next task to dispatch, with the agent to get it.
    #[must_use]
    pub fn next(&self) -> Option<Match> {
        let profile_id = *self.matchable.first()?;
        let profile = self.profiles.get(profile_id)?;
        let priority = profile.next_priority()?;
        let (class, (_, task)) = profile.waiting[priority.index()]
            .iter()
            .filter_map(|id| self.classes.get(*id)?.ready[priority.index()].first().map(|key| (*id, *key)))
            .min_by_key(|(_, key)| *key)?;
        // Agents of other kinds help out, unless another priority is due there.
        let helps = |id: u32, other: &Profile| {
            id == profile_id
                || (other.waiting[priority.index()].contains(&class) && other.next_priority() == Some(priority))
        };
        let ((_, _, agent), profile) = self
            .matchable
            .iter()
            .take(8)
            .filter_map(|id| self.profiles.get(*id).map(|profile| (*id, profile)))
            .filter(|(id, other)| helps(*id, other))
            .filter_map(|(id, other)| other.free.first().map(|agent| (agent, id)))
            .min()?;
        Some(Match { task, agent: agent.clone(), profile, priority })
    }

    /// A match was dispatched: the other waiting priorities of that profile have let one pass.
    pub(crate) fn served(&mut self, matched: &Match) {
        let Some(profile) = self.profiles.get_mut(matched.profile) else { return };
        for priority in Priority::ALL {
            let at = priority.index();
            if priority == matched.priority || profile.waiting[at].is_empty() {
                profile.passed[at] = 0;
            } else {
                profile.passed[at] = profile.passed[at].saturating_add(1);
            }
        }
    }

    /// An agent that could take such a task exists, free or not.
    #[must_use]
    pub fn anyone_fits(&self, requirement: &Requirement) -> bool {
        self.profiles.iter().any(|(_, p)| fits(requirement, &p.key))
    }

    /// Ready tasks and free agents, for the invariants.
    pub(crate) fn census(&self) -> (BTreeSet<QueueKey>, BTreeSet<AgentId>) {
        let ready = self.classes.iter().flat_map(|(_, c)| c.ready.iter().flatten().copied()).collect();
        let free = self.profiles.iter().flat_map(|(_, p)| p.free.iter().map(|(_, _, id)| id.clone())).collect();
        (ready, free)
    }
}

impl Profile {
    fn next_priority(&self) -> Option<Priority> {
        let waiting = |p: &Priority| !self.waiting[p.index()].is_empty();
        Priority::ALL
            .into_iter()
            .filter(|p| waiting(p) && self.passed[p.index()] >= PATIENCE)
            .max_by_key(|p| self.passed[p.index()])
            .or_else(|| Priority::ALL.into_iter().find(waiting))
    }
}
