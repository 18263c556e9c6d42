//! The judge: a pure function of a history. It knows nothing of Hive but its promises.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Call, History, Op, Outcome, Run, View};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Accepted, and without the one end it should have.
    Lost,
    /// Ended twice, changed after its end, begun twice under one attempt, or nobody's.
    Doubled,
    /// Begun again although nothing was done to its agent.
    Restarted,
    /// Any other promise: an accepted task that was not found, a revision or an attempt that went
    /// back, a refusal that had an effect.
    Broken,
}

/// A promise not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) kind: Kind,
    /// When it was begun or seen, to find the fault it belongs to.
    pub(crate) at: u64,
    pub(crate) what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}

struct Judge {
    found: Vec<Finding>,
}

impl Judge {
    fn find(&mut self, kind: Kind, at: u64, what: String) {
        self.found.push(Finding { kind, at, what });
    }
}

/// All that is wrong with a history.
pub(crate) fn judge(history: &History) -> Vec<Finding> {
    let mut judge = Judge { found: Vec::new() };
    let views = views(history);
    let runs = runs(&history.runs);
    ends(&mut judge, history, &views, &runs);
    forwards(&mut judge, &views);
    begun_once(&mut judge, &runs);
    restarts(&mut judge, history);
    reads(&mut judge, history);
    refusals(&mut judge, history);
    revisions(&mut judge, history);
    judge.found.sort_by_key(|finding| (finding.at, finding.kind));
    judge.found
}

/// A view that was asked for at the first time and told at the second.
type Seen<'a> = (u64, u64, &'a View);

fn told(op: &Op) -> Option<&View> {
    if let Outcome::Told(view) = &op.outcome { Some(view) } else { None }
}

/// Everything anybody was told of each task.
fn views(history: &History) -> BTreeMap<&str, Vec<Seen<'_>>> {
    let mut all: BTreeMap<&str, Vec<Seen<'_>>> = BTreeMap::new();
    for op in &history.ops {
        if let Some(view) = told(op) {
            all.entry(&op.task).or_default().push((op.invoked, op.returned, view));
        }
    }
    for (at, view) in &history.watched {
        // What a watch tells may be old: when it was asked for is not known.
        all.entry(&view.task).or_default().push((0, *at, view));
    }
    for view in &history.listed {
        all.entry(&view.task).or_default().push((u64::MAX, u64::MAX, view));
    }
    all
}

fn runs(all: &[Run]) -> BTreeMap<(&str, u32), Vec<&Run>> {
    let mut by_attempt: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for run in all {
        by_attempt.entry((run.task.as_str(), run.attempt)).or_default().push(run);
    }
    by_attempt
}

/// Each accepted task has one end, the one asked for, and somebody worked for it.
fn ends(
    judge: &mut Judge,
    history: &History,
    views: &BTreeMap<&str, Vec<Seen<'_>>>,
    runs: &BTreeMap<(&str, u32), Vec<&Run>>,
) {
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    let mut cancelled: BTreeMap<&str, u64> = BTreeMap::new();
    for op in &history.ops {
        match op.call {
            Call::Submit if told(op).is_some() => drop(accepted.entry(&op.task).or_insert(op.returned)),
            Call::Cancel => drop(cancelled.insert(&op.task, op.invoked)),
            _ => {}
        }
    }
    let mut listed: BTreeMap<&str, Vec<&View>> = BTreeMap::new();
    for view in &history.listed {
        listed.entry(&view.task).or_default().push(view);
    }
    for (task, stored) in &listed {
        if stored.len() > 1 {
            judge.find(Kind::Doubled, u64::MAX, format!("{task}: {} tasks have this id", stored.len()));
        }
        if !history.offered.contains_key(*task) {
            judge.find(Kind::Doubled, u64::MAX, format!("{task}: nobody offered it"));
        }
    }
    for (task, at) in &accepted {
        let seen = views.get(task).map_or(&[][..], Vec::as_slice);
        let any_end = seen.iter().rev().find(|(_, _, view)| view.end.is_some()).map(|(_, _, view)| *view);
        let last = match listed.get(task).and_then(|stored| stored.first()) {
            Some(view) => Some(*view),
            None if history.forgets => any_end,
            None => None,
        };
        let Some(last) = last else {
            judge.find(Kind::Lost, *at, format!("{task}: accepted, and not in the store"));
            continue;
        };
        let Some(end) = &last.end else {
            judge.find(Kind::Lost, *at, format!("{task}: accepted, and has not ended: {last:?}"));
            continue;
        };
        let succeeded = end.state == "SUCCEEDED";
        let cancel = end.state == "CANCELLED" && cancelled.contains_key(task);
        let result = end.result.as_ref().is_none_or(|result| Some(result) == history.offered.get(*task));
        if !(cancel || succeeded && result) {
            judge.find(Kind::Lost, *at, format!("{task}: not the end it should have: {last:?}"));
        }
        if succeeded && !runs.contains_key(&(*task, last.attempt)) {
            judge.find(Kind::Doubled, *at, format!("{task}: no agent has begun attempt {}", last.attempt));
        }
    }
}

/// An end is the end, and what was told later is never older.
fn forwards(judge: &mut Judge, views: &BTreeMap<&str, Vec<Seen<'_>>>) {
    for (task, seen) in views {
        let mut ends = seen.iter().filter_map(|(_, at, view)| Some((at, view, view.end.as_ref()?)));
        if let Some((_, first_view, first)) = ends.next() {
            for (at, view, end) in ends {
                if !end.agrees(first) || view.attempt != first_view.attempt {
                    judge.find(Kind::Doubled, *at, format!("{task}: two ends: {first_view:?} and {view:?}"));
                    break;
                }
            }
        }
        let ended = seen.iter().filter(|(_, _, view)| view.end.is_some()).map(|(_, told, _)| *told).min();
        if let Some(ended) = ended
            && let Some((_, at, view)) = seen.iter().find(|(asked, _, view)| *asked > ended && view.end.is_none())
        {
            judge.find(Kind::Doubled, *at, format!("{task}: open after its end: {view:?}"));
        }
        for (_, told, earlier) in seen {
            if let Some((_, at, later)) =
                seen.iter().find(|(asked, _, later)| asked > told && later.attempt < earlier.attempt)
            {
                let what = format!("{task}: attempt {} after {}", later.attempt, earlier.attempt);
                judge.find(Kind::Broken, *at, what);
                break;
            }
        }
    }
}

fn begun_once(judge: &mut Judge, runs: &BTreeMap<(&str, u32), Vec<&Run>>) {
    for ((task, attempt), begun) in runs.iter().filter(|(_, begun)| begun.len() > 1) {
        let agents: Vec<_> = begun.iter().map(|run| run.agent.as_str()).collect();
        let what = format!("{task}: attempt {attempt} was begun {} times: {}", begun.len(), agents.join(", "));
        judge.find(Kind::Doubled, begun[1].begun, what);
    }
}

/// A later attempt needs a reason: something that befell the agent of the one before.
fn restarts(judge: &mut Judge, history: &History) {
    let mut by_task: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for run in &history.runs {
        by_task.entry(&run.task).or_default().push(run);
    }
    for (task, mut runs) in by_task {
        runs.sort_by_key(|run| (run.attempt, run.begun));
        for pair in runs.windows(2) {
            let [before, after] = pair else { continue };
            if before.attempt == after.attempt {
                continue;
            }
            let (from, to) = (before.begun.min(after.begun), before.begun.max(after.begun));
            let excused = history
                .excuses
                .iter()
                .any(|excuse| excuse.agents.contains(&before.agent) && excuse.from <= to && excuse.to >= from);
            if !excused {
                let what = format!(
                    "{task}: attempt {} at {} was followed by attempt {} at {}, and nothing was done to the first",
                    before.attempt, before.agent, after.attempt, after.agent
                );
                judge.find(Kind::Restarted, after.begun, what);
            }
        }
    }
}

/// What was accepted is there for whoever asks afterwards.
fn reads(judge: &mut Judge, history: &History) {
    let mut accepted: BTreeMap<&str, u64> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.call == Call::Submit && told(op).is_some()) {
        let first = accepted.entry(&op.task).or_insert(op.returned);
        *first = (*first).min(op.returned);
    }
    for op in history.ops.iter().filter(|op| op.outcome == Outcome::Absent && !history.forgets) {
        if accepted.get(op.task.as_str()).is_some_and(|at| *at < op.invoked) {
            judge.find(Kind::Broken, op.returned, format!("{}: accepted, and then not found", op.task));
        }
    }
}

/// A task every offer of which was refused does not exist.
fn refusals(judge: &mut Judge, history: &History) {
    let mut only_refused: BTreeMap<&str, (bool, u64)> = BTreeMap::new();
    for op in history.ops.iter().filter(|op| op.call == Call::Submit) {
        let entry = only_refused.entry(&op.task).or_insert((true, op.returned));
        entry.0 &= matches!(op.outcome, Outcome::Refused(_));
    }
    for view in &history.listed {
        if let Some((true, at)) = only_refused.get(view.task.as_str()) {
            judge.find(Kind::Broken, *at, format!("{}: refused, and stored all the same", view.task));
        }
    }
}

/// Whoever asks after an answer is answered at its revision or a later one.
fn revisions(judge: &mut Judge, history: &History) {
    let mut answered: Vec<_> = history.ops.iter().filter_map(|op| Some((op, told(op)?))).collect();
    answered.sort_by_key(|(op, _)| op.invoked);
    let mut returned = answered.clone();
    returned.sort_by_key(|(op, _)| op.returned);
    let (mut known, mut newest) = (0, (0, 0));
    for (op, view) in answered {
        while known < returned.len() && returned[known].0.returned < op.invoked {
            newest = newest.max(returned[known].1.revision);
            known += 1;
        }
        if view.revision < newest {
            let what = format!("{}: told at revision {:?} after {newest:?}", op.task, view.revision);
            judge.find(Kind::Broken, op.returned, what);
            // One line says it; all others would follow from it.
            break;
        }
    }
}
