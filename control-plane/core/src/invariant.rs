//! What must hold in every state, checked by recomputation. Run after every step of every test.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::id::{AgentId, TaskId};
use crate::record::{Phase, TaskRecord};
use crate::state::{Counts, Space, State};
use crate::time::Time;

/// Checks a state on its own.
///
/// # Errors
/// All violations found, a line each.
pub fn check(state: &State) -> Result<(), String> {
    let mut faults = String::new();
    for (namespace, space) in state.spaces() {
        for fault in check_space(space, state.clock) {
            let _infallible = writeln!(faults, "{namespace}: {fault}");
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn check_space(space: &Space, clock: Time) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |holds: bool, what: &dyn Fn() -> String| {
        if !holds {
            faults.push(what());
        }
    };
    let mut counts = Counts::default();
    let mut ready = BTreeSet::new();
    let mut delayed = BTreeSet::new();
    let mut ended = BTreeSet::new();
    let mut slots: BTreeMap<&AgentId, BTreeSet<TaskId>> = BTreeMap::new();
    let timed: BTreeSet<TaskId> = space.timers.iter().map(|(_, id)| *id).collect();
    for (id, task) in &space.tasks {
        expect(*id == task.id, &|| format!("task {id} is stored under another key"));
        *counts.slot(&task.phase) += 1;
        match &task.phase {
            Phase::Pending { not_before, .. } if *not_before > clock => {
                delayed.insert((*not_before, *id));
            }
            Phase::Pending { .. } => {
                ready.insert((task.created, *id));
            }
            Phase::Assigned(run) | Phase::InputRequired(run, _) => {
                slots.entry(&run.agent).or_default().insert(*id);
                expect(task.attempt.0 > 0, &|| format!("task {id} runs without an attempt"));
                expect(task.agent.as_ref() == Some(&run.agent), &|| format!("task {id} names two agents"));
            }
            Phase::Ended { at, .. } => {
                ended.insert((*at, *id));
                expect(task.cancel.is_none(), &|| format!("task {id} has ended and awaits a cancel"));
            }
        }
        expect(task.is_ended() || timed.contains(id), &|| format!("task {id} has no deadline"));
    }
    expect(counts == space.counts, &|| format!("counts are {:?}, should be {counts:?}", space.counts));
    expect(delayed == space.delayed, &|| "the delayed tasks differ".into());
    expect(ended == space.ended, &|| "the ended tasks differ".into());
    let bytes: u64 = space.tasks.values().filter(|t| t.is_ended()).map(|t| t.retained_bytes()).sum();
    expect(bytes == space.ended_bytes, &|| format!("{} bytes retained, should be {bytes}", space.ended_bytes));
    let living = space.tasks.values().filter(|t| !t.is_ended()).count();
    expect(space.timers.len() == living, &|| format!("{} timers for {living} living tasks", space.timers.len()));

    let mut free = BTreeSet::new();
    for (id, entry) in &space.agents {
        let theirs: BTreeSet<TaskId> = entry.slots.keys().copied().collect();
        let should = slots.remove(id).unwrap_or_default();
        expect(theirs == should, &|| format!("agent {id} holds {theirs:?}, should be {should:?}"));
        if entry.room() > 0 {
            free.insert(id.clone());
        }
        for (task, slot) in &entry.slots {
            let attempt = space.task(*task).map(|t| t.attempt);
            expect(attempt == Some(slot.attempt), &|| format!("agent {id} has an old attempt of {task}"));
        }
        let Some(record) = &entry.record else {
            expect(!entry.slots.is_empty(), &|| format!("agent {id} is a ghost"));
            continue;
        };
        let hosted = record.host.as_ref().is_none_or(|host| space.hosted(host).any(|agent| agent == id));
        expect(hosted, &|| format!("agent {id} is missing at its host"));
    }
    expect(slots.is_empty(), &|| format!("slots without an agent: {slots:?}"));
    let hosted: usize = space.hosts.values().map(BTreeSet::len).sum();
    let hosting = space.agents.values().filter(|e| e.record.as_ref().is_some_and(|r| r.host.is_some())).count();
    expect(hosted == hosting, &|| format!("{hosted} hosted agents, should be {hosting}"));
    let census = space.demand.census();
    expect(census.0 == ready, &|| format!("ready are {:?}, should be {ready:?}", census.0));
    expect(census.1 == free, &|| format!("free are {:?}, should be {free:?}", census.1));
    faults
}

/// Checks what one record may become: attempts only grow, ended tasks stay as they ended.
///
/// # Errors
/// The violation.
pub fn check_succession(before: &TaskRecord, after: &TaskRecord) -> Result<(), String> {
    let id = before.id;
    if after.attempt < before.attempt || after.failures < before.failures || after.questions < before.questions {
        return Err(format!("task {id} went back: {before:?} -> {after:?}"));
    }
    if before.is_ended() && before != after {
        return Err(format!("task {id} changed after its end: {before:?} -> {after:?}"));
    }
    if before.spec != after.spec {
        return Err(format!("task {id} became another task"));
    }
    // One transaction may hold several steps, so the attempt may grow by more than one.
    if after.run().is_some() && before.run().is_none() && after.attempt <= before.attempt {
        return Err(format!("task {id} was assigned without a new attempt"));
    }
    Ok(())
}
