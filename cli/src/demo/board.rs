//! Where every task of a job stands, as the watch tells it. Pure: no clock, no printing.

use std::collections::{BTreeMap, HashMap};

use hive_proto::v1::TaskState;

use crate::verbs::task::is_terminal;

/// What the watch said of one task.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) id: String,
    pub(crate) state: TaskState,
    pub(crate) agent: String,
    pub(crate) attempt: u32,
}

/// Sums over a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Not yet submitted, or waiting for an agent.
    pub(crate) queued: usize,
    /// With an agent.
    pub(crate) running: usize,
    pub(crate) succeeded: usize,
    /// FAILED, CANCELLED or EXPIRED.
    pub(crate) failed: usize,
    /// Attempts beyond each task's first.
    pub(crate) retried: u64,
}

impl Counts {
    pub(crate) fn done(&self) -> usize {
        self.succeeded + self.failed
    }
}

/// What one agent did and does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) done: usize,
    pub(crate) running: usize,
}

#[derive(Clone, Debug)]
struct Standing {
    state: TaskState,
    agent: String,
    attempt: u32,
}

/// The state of a job.
#[derive(Debug)]
pub(crate) struct Board {
    tasks: HashMap<String, Option<Standing>>,
    counts: Counts,
    agents: BTreeMap<String, Share>,
}

impl Board {
    /// A job of these tasks, none of which was heard of.
    pub(crate) fn new(ids: impl Iterator<Item = String>) -> Self {
        let tasks: HashMap<_, _> = ids.map(|id| (id, None)).collect();
        let counts = Counts { queued: tasks.len(), ..Default::default() };
        Self { tasks, counts, agents: BTreeMap::new() }
    }

    /// Makes an agent appear before its first task.
    pub(crate) fn introduce(&mut self, agent: &str) {
        self.agents.entry(agent.to_owned()).or_default();
    }

    /// Takes note; true if something moved. What is not of this job, or older than what is known,
    /// changes nothing.
    pub(crate) fn apply(&mut self, report: Report) -> bool {
        let Some(known) = self.tasks.get_mut(&report.id) else { return false };
        if let Some(known) = known {
            let same = known.state == report.state && known.attempt == report.attempt && known.agent == report.agent;
            if same || is_terminal(known.state) || report.attempt < known.attempt {
                return false;
            }
        }
        let next = Standing { state: report.state, agent: report.agent, attempt: report.attempt };
        let before = known.replace(next.clone());
        self.count(before.as_ref(), false);
        self.count(Some(&next), true);
        true
    }

    fn count(&mut self, standing: Option<&Standing>, add: bool) {
        let step = |n: &mut usize| *n = if add { *n + 1 } else { n.saturating_sub(1) };
        let Some(standing) = standing else { return step(&mut self.counts.queued) };
        let retries = u64::from(standing.attempt.saturating_sub(1));
        self.counts.retried =
            if add { self.counts.retried + retries } else { self.counts.retried.saturating_sub(retries) };
        let share = self.agents.entry(standing.agent.clone());
        match standing.state {
            TaskState::Unspecified | TaskState::Pending => step(&mut self.counts.queued),
            TaskState::Assigned | TaskState::Running | TaskState::InputRequired => {
                step(&mut self.counts.running);
                step(&mut share.or_default().running);
            }
            TaskState::Succeeded => {
                step(&mut self.counts.succeeded);
                step(&mut share.or_default().done);
            }
            TaskState::Failed | TaskState::Cancelled | TaskState::Expired => {
                step(&mut self.counts.failed);
                if !standing.agent.is_empty() {
                    step(&mut share.or_default().done);
                }
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn total(&self) -> usize {
        self.tasks.len()
    }

    pub(crate) fn is_done(&self) -> bool {
        self.counts.done() == self.tasks.len()
    }

    /// Whether the control plane has the task, as far as is known.
    pub(crate) fn is_known(&self, id: &str) -> bool {
        matches!(self.tasks.get(id), Some(Some(_)))
    }

    pub(crate) fn agents(&self) -> &BTreeMap<String, Share> {
        &self.agents
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::{Assigned, Failed, Pending, Running, Succeeded};

    fn board() -> Board {
        Board::new(["a", "b", "c"].into_iter().map(str::to_owned))
    }

    fn report(id: &str, state: TaskState, agent: &str, attempt: u32) -> Report {
        Report { id: id.into(), state, agent: agent.into(), attempt }
    }

    #[test]
    fn sums_follow_every_move() {
        let mut board = board();
        assert_eq!(board.counts(), Counts { queued: 3, ..Default::default() });
        assert!(board.apply(report("a", Pending, "", 0)));
        assert!(board.apply(report("a", Assigned, "x", 1)));
        assert!(board.apply(report("a", Running, "x", 1)));
        assert!(board.apply(report("b", Assigned, "x", 1)));
        assert_eq!(board.counts(), Counts { queued: 1, running: 2, ..Default::default() });
        assert_eq!(board.agents()["x"], Share { done: 0, running: 2 });
        assert!(board.apply(report("a", Succeeded, "x", 1)));
        assert!(board.apply(report("b", Pending, "x", 1)));
        assert!(board.apply(report("b", Assigned, "y", 2)));
        assert!(board.apply(report("b", Failed, "y", 2)));
        assert_eq!(board.counts(), Counts { queued: 1, running: 0, succeeded: 1, failed: 1, retried: 1 });
        assert_eq!(board.agents()["x"], Share { done: 1, running: 0 });
        assert_eq!(board.agents()["y"], Share { done: 1, running: 0 });
        assert!(!board.is_done());
        assert!(board.apply(report("c", Succeeded, "x", 1)));
        assert!(board.is_done());
    }

    #[test]
    fn a_second_snapshot_changes_nothing() {
        let mut board = board();
        board.apply(report("a", Succeeded, "x", 2));
        let before = board.counts();
        assert!(!board.apply(report("a", Succeeded, "x", 2)));
        assert!(!board.apply(report("a", Running, "x", 1)), "older");
        assert!(!board.apply(report("stranger", Running, "x", 1)));
        assert_eq!(board.counts(), before);
        assert!(board.is_known("a") && !board.is_known("b") && !board.is_known("stranger"));
    }
}
