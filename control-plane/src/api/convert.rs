//! Records as messages.

use hive_core::id::{Incarnation, Namespace};
use hive_core::leader::{TaskSoft, View};
use hive_core::record::{
    AgentRecord, Body, Cause, Depth, Desired, DisconnectPolicy, End, Failure, Labels, Phase, Priority, Runtime,
    TaskRecord, TaskSpec,
};
use hive_core::state::{AgentEntry, Contact};
use hive_proto::v1;

use super::check::{desired_out, duration_out, time_out};
use super::reason::cause_out;

fn labels(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// A body without its bytes where they are stored apart; the caller fetches them if they are wanted.
fn body(body: &Body, full: bool) -> v1::Payload {
    let data = if full { body.inline.clone().unwrap_or_default() } else { Default::default() };
    v1::Payload { data, content_type: body.content_type.to_string() }
}

fn spec(spec: &TaskSpec, full: bool) -> v1::TaskSpec {
    let others = spec.requirement.capabilities.iter().filter(|c| **c != spec.capability);
    v1::TaskSpec {
        capabilities: std::iter::once(&spec.capability).chain(others).map(ToString::to_string).collect(),
        agent_labels: labels(&spec.requirement.labels),
        pool: spec.requirement.pool.as_deref().unwrap_or_default().to_owned(),
        priority: match spec.priority {
            Priority::Low => v1::Priority::Low,
            Priority::Normal => v1::Priority::Normal,
            Priority::High => v1::Priority::High,
            Priority::Critical => v1::Priority::Critical,
        }
        .into(),
        payload: Some(body(&spec.payload, full)),
        labels: labels(&spec.labels),
        retry: Some(v1::RetryPolicy {
            max_failures: spec.retry.max_failures,
            base_delay: Some(duration_out(spec.retry.base_delay)),
            max_delay: Some(duration_out(spec.retry.max_delay)),
        }),
        attempt_timeout: Some(duration_out(spec.attempt_timeout)),
        queue_timeout: Some(duration_out(spec.queue_timeout)),
        input_timeout: Some(duration_out(spec.input_timeout)),
        disconnect_policy: match spec.disconnect {
            DisconnectPolicy::Replace => v1::DisconnectPolicy::Replace,
            DisconnectPolicy::Stop => v1::DisconnectPolicy::Stop,
            DisconnectPolicy::Wait => v1::DisconnectPolicy::Wait,
        }
        .into(),
    }
}

/// The state shown, and why.
fn state(task: &TaskRecord, soft: &TaskSoft) -> (v1::TaskState, Option<Cause>) {
    let failed = task.failure.as_ref().map(|f| f.cause);
    match &task.phase {
        Phase::Pending { .. } => (v1::TaskState::Pending, failed),
        Phase::Assigned(run) if run.started.is_some() || soft.started.is_some() => (v1::TaskState::Running, None),
        Phase::Assigned(_) => (v1::TaskState::Assigned, None),
        Phase::InputRequired(..) => (v1::TaskState::InputRequired, None),
        Phase::Ended { end, .. } => match end {
            End::Succeeded(_) => (v1::TaskState::Succeeded, None),
            End::Failed => (v1::TaskState::Failed, failed),
            End::Cancelled(cause) => (v1::TaskState::Cancelled, Some(*cause)),
            End::Expired => (v1::TaskState::Expired, Some(Cause::QueueDeadline)),
        },
    }
}

fn failure(failure: &Failure) -> v1::TaskFailure {
    v1::TaskFailure {
        reason: cause_out(failure.cause).into(),
        message: failure.message.to_string(),
        exit_code: failure.exit_code,
        signal: failure.signal,
    }
}

/// The state of a record alone, for filters.
pub(super) fn task_state(task: &TaskRecord, soft: &TaskSoft) -> v1::TaskState {
    state(task, soft).0
}

pub(super) fn task(namespace: &Namespace, task: &TaskRecord, soft: &TaskSoft, full: bool) -> v1::Task {
    let (state, cause) = state(task, soft);
    let run = task.run();
    let (not_before, ended, result) = match &task.phase {
        Phase::Pending { not_before, .. } => ((not_before.0 > 0).then_some(*not_before), None, None),
        Phase::Ended { at, end: End::Succeeded(result), .. } => (None, Some(*at), Some(body(result, full))),
        Phase::Ended { at, .. } => (None, Some(*at), None),
        Phase::Assigned(_) | Phase::InputRequired(..) => (None, None, None),
    };
    let question = match &task.phase {
        Phase::InputRequired(_, question) => Some(v1::InputRequest {
            number: question.number,
            prompt: Some(body(&question.prompt, true)),
            deadline: Some(time_out(question.asked + task.spec.input_timeout)),
        }),
        _ => None,
    };
    v1::Task {
        id: task.id.to_string(),
        namespace: namespace.to_string(),
        spec: Some(spec(&task.spec, full)),
        state: state.into(),
        reason: cause.map(cause_out).unwrap_or_default().into(),
        attempt: task.attempt.0,
        failures: task.failures,
        agent_id: task.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        cancel_requested: task.cancel.is_some(),
        create_time: Some(time_out(task.created)),
        not_before_time: not_before.map(time_out),
        assign_time: run.map(|run| time_out(run.assigned)),
        start_time: run.and_then(|run| run.started.or(soft.started)).map(time_out),
        end_time: ended.map(time_out),
        result,
        failure: task.failure.as_ref().map(failure),
        input_request: question,
        progress: soft.progress.as_ref().map(|progress| v1::TaskProgress {
            fraction: progress.fraction,
            message: progress.message.to_string(),
            time: Some(time_out(progress.time)),
        }),
    }
}

/// What can be said of an agent: the one place where desired state, depth and contact meet.
pub(crate) fn phase(agent: &AgentRecord, entry: &AgentEntry) -> v1::AgentPhase {
    let idle = entry.slots.is_empty();
    match (agent.desired, agent.depth, entry.soft.contact) {
        (Desired::Removed, _, _) if idle => v1::AgentPhase::Gone,
        _ if agent.lost => v1::AgentPhase::Lost,
        _ if agent.host.is_none() => v1::AgentPhase::Registered,
        (_, Depth::Archived | Depth::Stopped, _) => v1::AgentPhase::Asleep,
        (_, Depth::FallingAsleep, _) => v1::AgentPhase::FallingAsleep,
        (_, Depth::Waking, _) => v1::AgentPhase::Waking,
        (_, Depth::Awake, Contact::Suspect | Contact::Unknown) => v1::AgentPhase::Suspect,
        (Desired::Drained, Depth::Awake, Contact::Connected) if idle => v1::AgentPhase::Drained,
        (Desired::Drained | Desired::Removed, Depth::Awake, Contact::Connected) => v1::AgentPhase::Draining,
        (Desired::Active, Depth::Awake, Contact::Connected) if entry.soft.ready => v1::AgentPhase::Ready,
        (Desired::Active, Depth::Awake, Contact::Connected) => v1::AgentPhase::NotReady,
    }
}

pub(super) fn agent(
    namespace: &Namespace,
    agent: &AgentRecord,
    entry: &AgentEntry,
    incarnation: Incarnation,
) -> v1::Agent {
    let spec = &agent.spec;
    v1::Agent {
        id: agent.id.to_string(),
        namespace: namespace.to_string(),
        spec: Some(v1::AgentSpec {
            pool: spec.pool.to_string(),
            capabilities: spec.capabilities.iter().map(ToString::to_string).collect(),
            labels: labels(&spec.labels),
            slots: spec.slots,
            runtime: match spec.runtime {
                Runtime::Unknown => v1::Runtime::Unspecified,
                Runtime::Process => v1::Runtime::Process,
                Runtime::Command => v1::Runtime::Command,
                Runtime::Container => v1::Runtime::Container,
                Runtime::Attached => v1::Runtime::Attached,
            }
            .into(),
        }),
        desired_state: desired_out(agent.desired).into(),
        phase: phase(agent, entry).into(),
        sidecar_id: agent.host.as_ref().map(ToString::to_string).unwrap_or_default(),
        move_number: incarnation.moved.0,
        generation: incarnation.generation.0,
        assigned: u32::try_from(entry.slots.len()).unwrap_or(u32::MAX),
        free_slots: (entry.soft.contact == Contact::Connected).then_some(entry.room()),
        contact_time: entry.soft.heard.map(time_out),
        create_time: Some(time_out(agent.created)),
        update_time: Some(time_out(agent.updated)),
    }
}

/// Every phase an agent can be shown in.
pub(crate) const AGENT_PHASES: [v1::AgentPhase; 11] = [
    v1::AgentPhase::Registered,
    v1::AgentPhase::Ready,
    v1::AgentPhase::NotReady,
    v1::AgentPhase::Draining,
    v1::AgentPhase::Drained,
    v1::AgentPhase::Asleep,
    v1::AgentPhase::FallingAsleep,
    v1::AgentPhase::Waking,
    v1::AgentPhase::Suspect,
    v1::AgentPhase::Lost,
    v1::AgentPhase::Gone,
];

/// A phase's name in metrics.
pub(crate) fn phase_name(phase: v1::AgentPhase) -> &'static str {
    match phase {
        v1::AgentPhase::Unspecified => "unknown",
        v1::AgentPhase::Registered => "registered",
        v1::AgentPhase::Ready => "ready",
        v1::AgentPhase::NotReady => "not_ready",
        v1::AgentPhase::Draining => "draining",
        v1::AgentPhase::Drained => "drained",
        v1::AgentPhase::Asleep => "asleep",
        v1::AgentPhase::FallingAsleep => "falling_asleep",
        v1::AgentPhase::Waking => "waking",
        v1::AgentPhase::Suspect => "suspect",
        v1::AgentPhase::Lost => "lost",
        v1::AgentPhase::Gone => "gone",
    }
}

/// An agent as a view shows it.
pub(super) fn agent_of(view: &View<'_>, ns: &Namespace, id: &hive_core::id::AgentId) -> Option<v1::Agent> {
    let (record, entry) = view.agent(ns, id)?;
    Some(agent(ns, &record, &entry, view.incarnation(ns, &record)))
}
