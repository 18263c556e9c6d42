//! What each kind of watch reads and hears.

use hive_core::leader::{TaskSoft, View};
use hive_core::record::{Key, Record, TaskRecord};

use super::*;

impl Source for OneTask {
    type Item = v1::Task;

    async fn page(&mut self) -> Result<Option<Vec<Sent<v1::Task>>>, Refusal> {
        let Some((record, soft, at)) = &self.first else { return Ok(None) };
        let snapshot = (Told::Snapshot(convert::task(&self.namespace, record, soft, self.full)), *at);
        // Asked for once more when the snapshot has been told; what it said is kept for later.
        match std::mem::replace(&mut self.told, true) {
            false => Ok(Some(vec![snapshot])),
            true => Ok(None),
        }
    }

    async fn hear(&mut self, event: &Event) -> Result<Vec<Sent<v1::Task>>, Refusal> {
        let key = Key::Task(self.namespace.clone(), self.id);
        let mut told = Vec::new();
        for (found, record, at, committed) in about(event, &self.namespace) {
            if *found != key || (committed && at <= self.at()) {
                continue;
            }
            if committed && record.is_none() {
                told.push((Told::Deleted(deleted_task(&self.namespace, self.id)), at));
                self.over = true;
                continue;
            }
            let (ns, id, now) = (self.namespace.clone(), self.id, self.handle.now());
            let Ok(now_at) = self.handle.read(move |view| find(view, &ns, id, now)).await? else { continue };
            told.push((Told::Changed(convert::task(&self.namespace, &now_at.0, &now_at.1, self.full)), now_at.2));
            self.over = now_at.0.is_ended();
            self.first = Some(now_at);
        }
        Ok(told)
    }

    fn at(&self) -> Revision {
        self.first.as_ref().map(|(_, _, at)| *at).unwrap_or_default()
    }

    fn is_over(&self) -> bool {
        self.over || self.first.as_ref().is_some_and(|(task, ..)| task.is_ended())
    }
}

impl AllTasks {
    /// The page that showed an id has shown everything up to its revision, and so has whatever was
    /// told of it since.
    fn shown(&self, id: TaskId, at: Revision) -> bool {
        let page = self.pages.iter().find(|(down_to, _)| down_to.is_none_or(|down_to| id >= down_to));
        let read_at = page.map_or(self.since, |(_, read_at)| *read_at);
        at <= read_at || self.ahead.get(&id).is_some_and(|ahead| at <= *ahead)
    }

    fn committed(&mut self, at: Revision, changes: &[(Key, Option<Record>)]) -> Vec<Sent<Waiting>> {
        let mut told = Vec::new();
        self.ahead.retain(|_, ahead| *ahead >= at);
        for (key, record) in changes {
            let Key::Task(ns, id) = key else { continue };
            if *ns != self.namespace || self.shown(*id, at) {
                continue;
            }
            let at = at.max(self.at);
            let Some(Record::Task(task)) = record else {
                told.push((Told::Deleted(Waiting::Deleted(*id)), at));
                self.at = at;
                continue;
            };
            let soft = Default::default();
            // Also the change by which a task stops matching: whoever saw it must hear it.
            let matched = self.filter.matches(task, &soft);
            let followed = self.followed.remove(id);
            if matched || followed {
                if matched && self.filter.is_narrow() && !task.is_ended() {
                    self.followed.insert(*id);
                }
                told.push((Told::Changed(Waiting::Task(Arc::clone(task), soft)), at));
            }
            self.at = at;
        }
        told
    }

    /// What is softly known is read, all of an event's at once.
    async fn touched(&mut self, at: Revision, keys: &[Key]) -> Result<Vec<Sent<Waiting>>, Refusal> {
        let ours = |key: &Key| match key {
            Key::Task(ns, id) if *ns == self.namespace => Some(*id),
            _ => None,
        };
        let ids: Vec<TaskId> = keys.iter().filter_map(ours).collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (ns, now) = (self.namespace.clone(), self.handle.now());
        let read = move |view: &View<'_>| ids.into_iter().filter_map(|id| find(view, &ns, id, now).ok()).collect();
        let read: Vec<(Arc<TaskRecord>, TaskSoft, Revision)> = self.handle.read(read).await?;
        // A touch from before the snapshot is told after it.
        let at = at.max(self.at);
        self.at = at;
        let mut told = Vec::new();
        for (task, soft, read_at) in read {
            if !self.filter.matches(&task, &soft) {
                continue;
            }
            // What is read may be ahead of what was heard. It is told under the revision heard, or
            // what is still to be heard of others would look old.
            if read_at > at {
                self.ahead.insert(task.id, read_at);
            }
            told.push((Told::Changed(Waiting::Task(task, soft)), at));
        }
        Ok(told)
    }
}

impl Source for AllTasks {
    type Item = Waiting;

    async fn page(&mut self) -> Result<Option<Vec<Sent<Waiting>>>, Refusal> {
        let Next::From(below) = &self.next else { return Ok(None) };
        let (ns, below, filter) = (self.namespace.clone(), *below, self.filter.clone());
        let read = move |view: &View<'_>| {
            let (tasks, next) =
                view.tasks(&ns, below, LOOK, PAGE, |task| filter.matches(task, &view.task_soft(&ns, task)));
            let living: Vec<_> = tasks.iter().filter(|task| !task.is_ended()).map(|task| task.id).collect();
            let show = |task: Arc<_>| {
                let soft = view.task_soft(&ns, &task);
                Waiting::Task(task, soft)
            };
            let tasks: Vec<_> = tasks.into_iter().map(show).collect();
            (tasks, living, next, view.revision())
        };
        let (tasks, living, next, at) = self.handle.read(read).await?;
        if self.pages.is_empty() {
            // What happens while later pages are read is told after them, under its own revisions.
            self.at = at;
        }
        self.pages.push((next, at));
        self.next = next.map_or(Next::Done, |id| Next::From(Some(id)));
        if self.filter.is_narrow() {
            // Ids of what was told; a filter that takes all never stops matching.
            self.followed.extend(living);
        }
        Ok(Some(tasks.into_iter().map(|task| (Told::Snapshot(task), at)).collect()))
    }

    async fn hear(&mut self, event: &Event) -> Result<Vec<Sent<Waiting>>, Refusal> {
        match event {
            Event::Committed { revision, changes } => Ok(self.committed(*revision, changes)),
            Event::Touched { .. } if self.filter.is_of_the_ended() => Ok(Vec::new()),
            Event::Touched { revision, keys } => self.touched(*revision, keys).await,
        }
    }

    fn at(&self) -> Revision {
        self.at
    }
}

impl Source for AllAgents {
    type Item = v1::Agent;

    async fn page(&mut self) -> Result<Option<Vec<Sent<v1::Agent>>>, Refusal> {
        let Some(after) = self.after.take() else { return Ok(None) };
        let ns = self.namespace.clone();
        let read = move |view: &View<'_>| {
            let ids: Vec<AgentId> = view.agents_after(&ns, after.as_ref()).take(PAGE).collect();
            let agents: Vec<v1::Agent> = ids.iter().filter_map(|id| agent_shown(view, &ns, id)).collect();
            (ids.into_iter().next_back(), agents, view.revision())
        };
        let (last, agents, at) = self.handle.read(read).await?;
        if self.first {
            // As with tasks.
            (self.first, self.at) = (false, at);
        }
        self.after = last.map(Some);
        Ok(Some(agents.into_iter().map(|agent| (Told::Snapshot(agent), at)).collect()))
    }

    async fn hear(&mut self, event: &Event) -> Result<Vec<Sent<v1::Agent>>, Refusal> {
        let mut told = Vec::new();
        let namespace = self.namespace.clone();
        for (key, _, at, _) in about(event, &namespace) {
            // A change of a task moves an agent's slots, but watchers of agents hear of agents only.
            let Key::Agent(_, id) = key else { continue };
            let at = at.max(self.at);
            let (ns, of) = (namespace.clone(), id.clone());
            let shown = self.handle.read(move |view| agent_shown(view, &ns, &of)).await?;
            told.push(match shown {
                Some(agent) => (Told::Changed(agent), at),
                None => {
                    let (id, namespace) = (id.to_string(), namespace.to_string());
                    (Told::Deleted(v1::Agent { id, namespace, ..Default::default() }), at)
                }
            });
            self.at = at;
        }
        Ok(told)
    }

    fn at(&self) -> Revision {
        self.at
    }
}
