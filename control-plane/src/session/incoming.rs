//! From `hive.sidecar.v1` to the leader's messages; every bound is checked here.

use std::sync::Arc;

use hive_core::command::Outcome;
use hive_core::id::{
    AgentId, AssignNumber, Attempt, AttemptId, BootId, ConnectionNumber, Generation, LeaderEpoch, Namespace, SidecarId,
    TaskId,
};
use hive_core::leader::{Beat, Credit, Declared, FromSidecar, Hello, Listed};
use hive_core::record::{Cause, Failure};
use hive_proto::sidecar_v1 as pb;
use hive_proto::sidecar_v1::sidecar_message::Kind;
use tonic::Status;

use crate::api::check::{self, Limits};
use crate::api::error::invalid;

/// Agents one sidecar may host.
const MOST_AGENTS: usize = 1_000;
/// Attempts one message may list.
const MOST_ATTEMPTS: usize = 100_000;
/// Messages one frame may hold.
const MOST_MESSAGES: usize = 10_000;

/// Reads a frame: the leader it answers to, and its messages in order.
///
/// # Errors
/// A message is malformed or over a limit: the stream has to end.
pub fn frame(frame: pb::SessionRequest, limits: &Limits) -> Result<(LeaderEpoch, Vec<FromSidecar>), Status> {
    at_most("messages", frame.messages.len(), MOST_MESSAGES)?;
    let leader = frame.leader.unwrap_or_default();
    let leader = LeaderEpoch { cluster_generation: leader.cluster_generation, number: leader.number };
    let mut messages = Vec::with_capacity(frame.messages.len());
    for message in frame.messages {
        let kind = message.kind.ok_or_else(|| invalid("messages.kind", "is missing or unknown"))?;
        messages.push(read(kind, limits)?);
    }
    Ok((leader, messages))
}

fn at_most(field: &str, found: usize, most: usize) -> Result<(), Status> {
    if found <= most {
        Ok(())
    } else {
        Err(invalid(field, format!("holds {found} entries, at most {most} are allowed")))
    }
}

fn read(kind: Kind, limits: &Limits) -> Result<FromSidecar, Status> {
    Ok(match kind {
        Kind::Hello(hello) => FromSidecar::Hello(Box::new(read_hello(hello, limits)?)),
        Kind::Credit(credit) => FromSidecar::Credit {
            seen: AssignNumber(credit.assigns_seen),
            agents: read_credits("credit.agents", credit.agents)?,
        },
        Kind::Receipt(receipt) => FromSidecar::Receipt(AssignNumber(receipt.assigns_seen)),
        Kind::Started(started) => FromSidecar::Started(token("started.attempt", started.attempt)?),
        Kind::Heartbeat(beat) => {
            let mut attempts = read_running("heartbeat.running", beat.running)?;
            attempts.extend(read_finished("heartbeat.finished", beat.finished)?);
            FromSidecar::Beat(Box::new(Beat {
                number: beat.beat,
                seen: AssignNumber(beat.assigns_seen),
                agents: read_credits("heartbeat.agents", beat.agents)?,
                attempts,
            }))
        }
        Kind::Progress(progress) => FromSidecar::Progress {
            token: token("progress.attempt", progress.attempt)?,
            fraction: progress.fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0)),
            message: text(&progress.message),
        },
        Kind::Declined(declined) => FromSidecar::Declined(token("declined.attempt", declined.attempt)?),
        Kind::AttemptLost(lost) => FromSidecar::AttemptLost(token("attempt_lost.attempt", lost.attempt)?),
        Kind::InputRequired(asked) => FromSidecar::InputRequired {
            token: token("input_required.attempt", asked.attempt)?,
            number: asked.number,
            prompt: check::body("input_required.prompt", asked.prompt, limits)?,
        },
        Kind::Result(result) => FromSidecar::Result {
            token: token("result.attempt", result.attempt.clone())?,
            outcome: read_outcome(result, limits)?,
        },
        Kind::Goodbye(_) => FromSidecar::Goodbye,
    })
}

fn read_hello(hello: pb::Hello, limits: &Limits) -> Result<Hello, Status> {
    at_most("hello.agents", hello.agents.len(), MOST_AGENTS)?;
    let boot = <[u8; 16]>::try_from(&hello.boot_id[..]).map_err(|_| invalid("hello.boot_id", "must be 16 bytes"))?;
    let mut agents = Vec::with_capacity(hello.agents.len());
    for agent in hello.agents {
        let id = agent_id("hello.agents.agent_id", &agent.agent_id)?;
        let spec = agent.spec.unwrap_or_default();
        let digest = check::digest(&spec);
        let spec = check::agent_spec("hello.agents.spec", spec, limits)?;
        let free = agent.free_slots.min(spec.slots);
        let removed = agent.removed;
        agents.push(Declared { spec, digest, credit: Credit { agent: id, free, ready: agent.ready }, removed });
    }
    let mut seen = std::collections::BTreeSet::new();
    if let Some(twice) = agents.iter().find(|declared| !seen.insert(declared.credit.agent.clone())) {
        return Err(invalid("hello.agents.agent_id", format!("{} is declared twice", twice.credit.agent)));
    }
    let mut attempts = read_running("hello.running", hello.running)?;
    attempts.extend(read_finished("hello.finished", hello.finished)?);
    let namespace = if hello.namespace.is_empty() { "default" } else { &hello.namespace };
    Ok(Hello {
        namespace: Namespace::parse(namespace).map_err(|e| invalid("hello.namespace", e.to_string()))?,
        sidecar: SidecarId::parse(&hello.sidecar_id).map_err(|e| invalid("hello.sidecar_id", e.to_string()))?,
        boot: BootId(u128::from_be_bytes(boot)),
        generation: Generation(hello.generation),
        connection: ConnectionNumber(hello.connection),
        agents,
        attempts,
    })
}

fn agent_id(field: &str, id: &str) -> Result<AgentId, Status> {
    AgentId::parse(id).map_err(|e| invalid(field, e.to_string()))
}

fn token(field: &str, attempt: Option<pb::AttemptRef>) -> Result<AttemptId, Status> {
    let attempt = attempt.ok_or_else(|| invalid(field, "is missing"))?;
    let bytes = <[u8; 16]>::try_from(&attempt.task_id[..]).map_err(|_| invalid(field, "task_id must be 16 bytes"))?;
    let task = TaskId::from_bytes(bytes).map_err(|e| invalid(field, e.to_string()))?;
    Ok(AttemptId { task, attempt: Attempt(attempt.attempt) })
}

fn read_credits(field: &str, credits: Vec<pb::AgentCredit>) -> Result<Vec<Credit>, Status> {
    at_most(field, credits.len(), MOST_AGENTS)?;
    let read = |credit: pb::AgentCredit| {
        Ok(Credit { agent: agent_id(field, &credit.agent_id)?, free: credit.free_slots, ready: credit.ready })
    };
    credits.into_iter().map(read).collect()
}

fn read_running(field: &str, running: Vec<pb::RunningAttempt>) -> Result<Vec<Listed>, Status> {
    at_most(field, running.len(), MOST_ATTEMPTS)?;
    let read = |running: pb::RunningAttempt| {
        Ok(Listed {
            token: token(field, running.attempt)?,
            agent: agent_id(field, &running.agent_id)?,
            started: running.start_time.map(check::time),
            finished: false,
            input: (running.input_number > 0).then_some(running.input_number),
        })
    };
    running.into_iter().map(read).collect()
}

fn read_finished(field: &str, finished: Vec<pb::FinishedAttempt>) -> Result<Vec<Listed>, Status> {
    at_most(field, finished.len(), MOST_ATTEMPTS)?;
    let read = |finished: pb::FinishedAttempt| {
        Ok(Listed {
            token: token(field, finished.attempt)?,
            agent: agent_id(field, &finished.agent_id)?,
            started: None,
            finished: true,
            input: None,
        })
    };
    finished.into_iter().map(read).collect()
}

fn read_outcome(result: pb::Result, limits: &Limits) -> Result<Outcome, Status> {
    let outcome = result.outcome();
    let reason = result.reason();
    Ok(match outcome {
        pb::Outcome::Unspecified => return Err(invalid("result.outcome", "is missing or unknown")),
        // A result over the limit is the attempt's failure, not the session's: the others go on.
        pb::Outcome::Succeeded if result.payload.as_ref().is_some_and(|p| p.data.len() > limits.payload) => {
            let failure = Failure { message: text(&result.message), ..Failure::of(Cause::ResultTooLarge) };
            Outcome::Failed { failure, retryable: false }
        }
        pb::Outcome::Succeeded => Outcome::Succeeded(check::body("result.payload", result.payload, limits)?),
        pb::Outcome::Cancelled => Outcome::Cancelled,
        pb::Outcome::Failed => Outcome::Failed {
            failure: Failure {
                cause: match reason {
                    pb::FailureReason::ExitCode => Cause::ExitCode,
                    pb::FailureReason::Signal => Cause::Signal,
                    pb::FailureReason::Timeout => Cause::Timeout,
                    pb::FailureReason::AgentError | pb::FailureReason::Unspecified => Cause::AgentError,
                    pb::FailureReason::ResultTooLarge => Cause::ResultTooLarge,
                    pb::FailureReason::StartFailed => Cause::StartFailed,
                    pb::FailureReason::AgentLost => Cause::AgentLost,
                },
                message: text(&result.message),
                exit_code: result.exit_code,
                signal: result.signal,
            },
            retryable: result.retryable || matches!(reason, pb::FailureReason::Timeout | pb::FailureReason::AgentLost),
        },
    })
}

/// Texts for people are cut at 1 KiB, not refused.
fn text(text: &str) -> Arc<str> {
    Arc::from(check::cut(text, 1024))
}
