//! Tasks as bytes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_core::id::{AgentId, Attempt, Generation, Incarnation, MoveNumber, TaskId};
use hive_core::record::{
    Answer, Body, Digest, DisconnectPolicy, End, Failure, Phase, Priority, Question, Requirement, RetryPolicy, Run,
    TaskRecord, TaskSpec,
};
use hive_core::time::Time;
use hive_proto::store_v1::{self as pb, task_record};
use hive_proto::v1;

use super::BadField;
use super::agent::{labels_in, labels_out};
use crate::api::reason::{cause_in, cause_out};

pub(super) fn encode(r: &TaskRecord) -> pb::TaskRecord {
    pb::TaskRecord {
        spec: Some(spec_out(&r.spec)),
        create_time: r.created.0,
        attempt: r.attempt.0,
        failures: r.failures,
        questions: r.questions,
        cancel_time: r.cancel.map(|t| t.0),
        agent: r.agent.as_ref().map(ToString::to_string).unwrap_or_default(),
        failure: r.failure.as_ref().map(|f| pb::Failure {
            cause: cause_out(f.cause) as u32,
            message: f.message.to_string(),
            exit_code: f.exit_code,
            signal: f.signal,
        }),
        phase: Some(match &r.phase {
            Phase::Pending { not_before, since } => {
                task_record::Phase::Pending(pb::Pending { not_before: not_before.0, since: since.0 })
            }
            Phase::Assigned(run) => task_record::Phase::Assigned(run_out(run)),
            Phase::InputRequired(run, question) => task_record::Phase::Waiting(pb::Waiting {
                run: Some(run_out(run)),
                number: question.number,
                prompt: Some(body_out(&question.prompt)),
                ask_time: question.asked.0,
            }),
            Phase::Ended { at, end, reported } => task_record::Phase::Ended(ended_out(*at, end, *reported)),
        }),
    }
}

fn ended_out(at: Time, end: &End, reported: bool) -> pb::Ended {
    let (state, result, cause) = match end {
        End::Succeeded(body) => (v1::TaskState::Succeeded, Some(body_out(body)), 0),
        End::Failed => (v1::TaskState::Failed, None, 0),
        End::Cancelled(cause) => (v1::TaskState::Cancelled, None, cause_out(*cause) as u32),
        End::Expired => (v1::TaskState::Expired, None, 0),
    };
    pb::Ended { time: at.0, reported, state: state as u32, result, cause }
}

fn ended_in(r: pb::Ended) -> Result<Phase, BadField> {
    let end = match i32::try_from(r.state).ok().and_then(|s| v1::TaskState::try_from(s).ok()) {
        Some(v1::TaskState::Succeeded) => End::Succeeded(body_in(r.result.ok_or(BadField("result"))?)),
        Some(v1::TaskState::Failed) => End::Failed,
        Some(v1::TaskState::Cancelled) => End::Cancelled(cause_in(r.cause).ok_or(BadField("cause"))?),
        Some(v1::TaskState::Expired) => End::Expired,
        _ => return Err(BadField("state")),
    };
    Ok(Phase::Ended { at: Time(r.time), end, reported: r.reported })
}

fn spec_out(s: &TaskSpec) -> pb::TaskSpec {
    pb::TaskSpec {
        capabilities: s.requirement.capabilities.iter().map(ToString::to_string).collect(),
        agent_labels: labels_out(&s.requirement.labels),
        pool: s.requirement.pool.as_deref().unwrap_or_default().to_owned(),
        capability: s.capability.to_string(),
        priority: s.priority as u32,
        payload: Some(body_out(&s.payload)),
        labels: labels_out(&s.labels),
        max_failures: s.retry.max_failures,
        base_delay: ms(s.retry.base_delay),
        max_delay: ms(s.retry.max_delay),
        attempt_timeout: ms(s.attempt_timeout),
        queue_timeout: ms(s.queue_timeout),
        input_timeout: ms(s.input_timeout),
        disconnect: s.disconnect as u32,
        digest: Bytes::copy_from_slice(&s.digest),
    }
}

fn spec_in(s: pb::TaskSpec) -> Result<TaskSpec, BadField> {
    Ok(TaskSpec {
        requirement: Requirement {
            capabilities: s.capabilities.into_iter().map(Arc::from).collect(),
            labels: labels_in(s.agent_labels),
            pool: (!s.pool.is_empty()).then(|| s.pool.into()),
        },
        capability: s.capability.into(),
        priority: match s.priority {
            0 => Priority::Low,
            1 => Priority::Normal,
            2 => Priority::High,
            3 => Priority::Critical,
            _ => return Err(BadField("priority")),
        },
        payload: body_in(s.payload.ok_or(BadField("payload"))?),
        labels: labels_in(s.labels),
        retry: RetryPolicy {
            max_failures: s.max_failures,
            base_delay: Duration::from_millis(s.base_delay),
            max_delay: Duration::from_millis(s.max_delay),
        },
        attempt_timeout: Duration::from_millis(s.attempt_timeout),
        queue_timeout: Duration::from_millis(s.queue_timeout),
        input_timeout: Duration::from_millis(s.input_timeout),
        disconnect: match s.disconnect {
            0 => DisconnectPolicy::Replace,
            1 => DisconnectPolicy::Stop,
            2 => DisconnectPolicy::Wait,
            _ => return Err(BadField("disconnect")),
        },
        digest: digest(&s.digest)?,
    })
}

fn run_out(run: &Run) -> pb::Run {
    pb::Run {
        agent: run.agent.to_string(),
        moved: run.incarnation.moved.0,
        generation: run.incarnation.generation.0,
        since: run.since.0,
        assign_time: run.assigned.0,
        start_time: run.started.map(|t| t.0),
        waited: ms(run.waited),
        answer: run.answer.as_ref().map(|a| pb::Answer {
            number: a.number,
            body: Some(body_out(&a.body)),
            request: Bytes::copy_from_slice(&a.request),
        }),
    }
}

fn run_in(run: pb::Run) -> Result<Run, BadField> {
    let answer = |a: pb::Answer| {
        let body = body_in(a.body.ok_or(BadField("answer"))?);
        Ok(Answer { number: a.number, body, request: digest(&a.request)? })
    };
    Ok(Run {
        agent: AgentId::parse(&run.agent).map_err(|_| BadField("run.agent"))?,
        incarnation: Incarnation { moved: MoveNumber(run.moved), generation: Generation(run.generation) },
        since: Time(run.since),
        assigned: Time(run.assign_time),
        started: run.start_time.map(Time),
        waited: Duration::from_millis(run.waited),
        answer: run.answer.map(answer).transpose()?,
    })
}

fn body_out(body: &Body) -> pb::Body {
    pb::Body { content_type: body.content_type.to_string(), size: body.size, data: body.inline.clone() }
}

fn body_in(body: pb::Body) -> Body {
    Body { content_type: body.content_type.into(), size: body.size, inline: body.data }
}

fn digest(bytes: &[u8]) -> Result<Digest, BadField> {
    Digest::try_from(bytes).map_err(|_| BadField("digest"))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn decode(id: TaskId, r: pb::TaskRecord) -> Result<TaskRecord, BadField> {
    let failure = |f: pb::Failure| {
        Ok(Failure {
            cause: cause_in(f.cause).ok_or(BadField("failure"))?,
            message: f.message.into(),
            exit_code: f.exit_code,
            signal: f.signal,
        })
    };
    Ok(TaskRecord {
        id,
        spec: Arc::new(spec_in(r.spec.ok_or(BadField("spec"))?)?),
        created: Time(r.create_time),
        attempt: Attempt(r.attempt),
        failures: r.failures,
        questions: r.questions,
        cancel: r.cancel_time.map(Time),
        agent: match r.agent.as_str() {
            "" => None,
            agent => Some(AgentId::parse(agent).map_err(|_| BadField("agent"))?),
        },
        failure: r.failure.map(failure).transpose()?,
        phase: match r.phase.ok_or(BadField("phase"))? {
            task_record::Phase::Pending(p) => Phase::Pending { not_before: Time(p.not_before), since: Time(p.since) },
            task_record::Phase::Assigned(run) => Phase::Assigned(run_in(run)?),
            task_record::Phase::Waiting(w) => {
                let prompt = body_in(w.prompt.ok_or(BadField("prompt"))?);
                let question = Question { number: w.number, prompt, asked: Time(w.ask_time) };
                Phase::InputRequired(run_in(w.run.ok_or(BadField("run"))?)?, question)
            }
            task_record::Phase::Ended(ended) => ended_in(ended)?,
        },
    })
}
