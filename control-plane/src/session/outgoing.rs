//! From the leader's messages to `hive.sidecar.v1`, with the bodies that are stored apart.

use std::sync::Arc;

use futures_util::Stream;
use hive_core::command::{Release, StopReason};
use hive_core::id::{AttemptId, LeaderEpoch, Namespace, Revision, TaskId};
use hive_core::leader::{Assignment, CloseCause, ToSidecar, Welcome};
use hive_core::record::{BlobKey, BlobPart, Body, Desired, DisconnectPolicy};
use hive_core::rejection::Rejection;
use hive_proto::sidecar_v1::control_message::Kind;
use hive_proto::{sidecar_v1 as pb, v1};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::api::check;
use crate::api::error::Reason;
use crate::api::refusal;
use crate::driver::Down;
use crate::store::{Store, codec};

/// Frames as they leave. The stream ends by goaway when the server stops, so that no sidecar takes
/// a stop for a crash.
pub(super) fn frames<S: Store>(
    namespace: Namespace,
    down: mpsc::Receiver<Down>,
    store: Arc<S>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<pb::SessionResponse, Status>> + Send {
    futures_util::stream::unfold(Some(Writer { namespace, down, store, stop }), |writer| async move {
        let mut writer = writer?;
        let next = tokio::select! {
            next = writer.down.recv() => next,
            () = writer.stop.cancelled() => {
                let goaway = pb::Goaway { reason: "the server is stopping".into(), retry_after: None };
                let message = pb::ControlMessage { kind: Some(Kind::Goaway(goaway)) };
                return Some((Ok(pb::SessionResponse { leader: None, messages: vec![message] }), None));
            }
        };
        match next {
            None => Some((Err(Reason::SessionStale.status("the session was cut: it read too slowly")), None)),
            Some(Down::Close(CloseCause::Goodbye)) => None,
            Some(Down::Close(cause)) => Some((Err(close(cause)), None)),
            Some(Down::Raw(message)) => {
                Some((Ok(pb::SessionResponse { leader: None, messages: vec![*message] }), Some(writer)))
            }
            Some(Down::Broken(status)) => Some((Err(*status), None)),
            Some(Down::Frame { leader, messages }) => {
                let frame = writer.frame(leader, messages).await;
                let then = frame.is_ok().then_some(writer);
                Some((frame, then))
            }
        }
    })
}

struct Writer<S> {
    down: mpsc::Receiver<Down>,
    store: Arc<S>,
    stop: CancellationToken,
    namespace: Namespace,
}

impl<S: Store> Writer<S> {
    async fn frame(&self, leader: LeaderEpoch, messages: Vec<ToSidecar>) -> Result<pb::SessionResponse, Status> {
        let mut frame = pb::SessionResponse {
            leader: Some(pb::LeaderEpoch { cluster_generation: leader.cluster_generation, number: leader.number }),
            messages: Vec::with_capacity(messages.len()),
        };
        for message in messages {
            let kind = self.message(message).await?;
            frame.messages.push(pb::ControlMessage { kind: Some(kind) });
        }
        Ok(frame)
    }

    async fn message(&self, message: ToSidecar) -> Result<Kind, Status> {
        Ok(match message {
            ToSidecar::Welcome(welcome) => Kind::Welcome(welcome_out(*welcome)),
            ToSidecar::Assign(assignment) => Kind::Assign(self.assign(*assignment).await?),
            ToSidecar::ResultAck { token, release, revision } => Kind::ResultAck(pb::ResultAck {
                attempt: Some(attempt(token)),
                release: Some(release_out(release, revision)),
            }),
            ToSidecar::Stop { token, reason, grace } => Kind::Cancel(pb::Cancel {
                attempt: Some(attempt(token)),
                reason: match reason {
                    StopReason::Requested => pb::CancelReason::Requested,
                    StopReason::Superseded => pb::CancelReason::Superseded,
                    StopReason::Timeout => pb::CancelReason::Timeout,
                    StopReason::AgentRemoved => pb::CancelReason::AgentRemoved,
                }
                .into(),
                grace: Some(check::duration_out(grace)),
            }),
            ToSidecar::Answer { token, number, body } => {
                let input = self.body(token.task, BlobPart::Answer(number), body).await?;
                Kind::Input(pb::Input { attempt: Some(attempt(token)), number, input: Some(input) })
            }
            ToSidecar::Desire { agent, desired } => Kind::Drain(drain(agent.as_str(), desired)),
            ToSidecar::BeatAck { number, interval } => Kind::HeartbeatAck(pb::HeartbeatAck {
                beat: number,
                beat_interval: Some(check::duration_out(interval)),
            }),
            ToSidecar::Resync => Kind::Resync(pb::Resync {}),
        })
    }

    async fn assign(&self, assignment: Assignment) -> Result<pb::Assign, Status> {
        let task = assignment.task;
        let Some(run) = task.run() else { return Err(Reason::Internal.status("an assignment without a run")) };
        let spec = &task.spec;
        let others = spec.requirement.capabilities.iter().filter(|c| **c != spec.capability);
        Ok(pb::Assign {
            number: assignment.number.0,
            attempt: Some(attempt(task.token())),
            agent_id: run.agent.to_string(),
            capabilities: std::iter::once(&spec.capability).chain(others).map(ToString::to_string).collect(),
            payload: Some(self.body(task.id, BlobPart::Payload, spec.payload.clone()).await?),
            attempt_timeout: Some(check::duration_out(spec.attempt_timeout)),
            cancel_grace: Some(check::duration_out(assignment.grace)),
            disconnect_policy: match spec.disconnect {
                DisconnectPolicy::Replace => v1::DisconnectPolicy::Replace,
                DisconnectPolicy::Stop => v1::DisconnectPolicy::Stop,
                DisconnectPolicy::Wait => v1::DisconnectPolicy::Wait,
            }
            .into(),
            revision: Some(check::revision(assignment.revision)),
            move_number: run.incarnation.moved.0,
            generation: run.incarnation.generation.0,
            inputs_asked: task.questions,
        })
    }

    /// A body that can't be read ends the session: the sidecar comes back and is offered it again.
    async fn body(&self, task: TaskId, part: BlobPart, body: Body) -> Result<v1::Payload, Status> {
        let content_type = body.content_type.to_string();
        if let Some(data) = body.inline {
            return Ok(v1::Payload { data, content_type });
        }
        if body.size == 0 {
            return Ok(v1::Payload { data: Default::default(), content_type });
        }
        let key = codec::blob_key(&BlobKey { namespace: self.namespace.clone(), task, part });
        match self.store.blob(&key).await {
            Ok(Some(data)) => Ok(v1::Payload { data, content_type }),
            // Retention or a later question has taken it away: the task has moved on.
            Ok(None) => Err(Reason::SessionStale.status("the body of a message is gone; say hello again")),
            Err(error) => Err(Reason::StoreUnavailable.status(format!("the body of a message can't be read: {error}"))),
        }
    }
}

fn attempt(token: AttemptId) -> pb::AttemptRef {
    pb::AttemptRef { task_id: bytes::Bytes::copy_from_slice(&token.task.0), attempt: token.attempt.0 }
}

fn release_out(release: Release, revision: Revision) -> pb::Release {
    let kind = match release {
        Release::Committed => pb::ReleaseKind::Committed,
        Release::Superseded => pb::ReleaseKind::Superseded,
        Release::Gone => pb::ReleaseKind::Gone,
    };
    pb::Release { kind: kind.into(), revision: Some(check::revision(revision)) }
}

fn drain(agent: &str, desired: Desired) -> pb::Drain {
    pb::Drain { agent_id: agent.to_owned(), desired_state: check::desired_out(desired).into() }
}

fn welcome_out(welcome: Welcome) -> pb::Welcome {
    let revision = welcome.revision;
    pb::Welcome {
        generation: welcome.generation.0,
        connection: welcome.connection.0,
        beat_interval: Some(check::duration_out(welcome.beat)),
        beat_jitter_permille: welcome.jitter_permille,
        kill_after: Some(check::duration_out(welcome.kill_after)),
        verdicts: welcome
            .verdicts
            .into_iter()
            .map(|verdict| pb::AttemptVerdict {
                attempt: Some(attempt(verdict.token)),
                verdict: match verdict.over {
                    None => pb::Verdict::Keep,
                    Some(_) => pb::Verdict::Stop,
                }
                .into(),
                release: verdict.over.map(|release| release_out(release, revision)),
            })
            .collect(),
        agents: welcome.agents.into_iter().map(|(id, desired)| drain(id.as_str(), desired)).collect(),
        replicas: Vec::new(),
        capability_flags: Vec::new(),
    }
}

fn close(cause: CloseCause) -> Status {
    match cause {
        CloseCause::Rejected(rejection @ Rejection::SidecarFenced(_)) => {
            Reason::SidecarFenced.status(rejection.to_string())
        }
        CloseCause::Rejected(rejection) => refusal::rejection(&rejection),
        CloseCause::SessionStale => Reason::SessionStale.status("a later session of this sidecar exists"),
        CloseCause::StoreFailed => Reason::StoreUnavailable.status("the store could not take the hello"),
        CloseCause::Goodbye => Status::ok("goodbye"),
    }
}
