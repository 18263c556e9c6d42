//! From the leader's messages to `hive.sidecar.v1`, with the bodies that are stored apart.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
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
    cluster: Arc<str>,
    down: mpsc::Receiver<Down>,
    store: Arc<S>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<pb::SessionResponse, Status>> + Send {
    let writer =
        Writer { namespace, cluster, down, store, stop, leader: LeaderEpoch::default(), waiting: VecDeque::new() };
    futures_util::stream::unfold(Some(writer), |writer| async move {
        let mut writer = writer?;
        match writer.next().await {
            Next::Frame(frame) => Some((Ok(frame), Some(writer))),
            Next::Last(frame) => Some((Ok(frame), None)),
            Next::Broken(status) => Some((Err(status), None)),
            Next::End => None,
        }
    })
}

/// Bytes after which a frame is full: a sidecar takes 4 MiB, the last body may add 256 KiB.
const FRAME: usize = 1 << 20;

struct Writer<S> {
    down: mpsc::Receiver<Down>,
    store: Arc<S>,
    stop: CancellationToken,
    namespace: Namespace,
    cluster: Arc<str>,
    /// Who spoke last.
    leader: LeaderEpoch,
    /// Messages of the driver that did not fit into the last frame.
    waiting: VecDeque<ToSidecar>,
}

enum Next {
    Frame(pb::SessionResponse),
    Last(pb::SessionResponse),
    Broken(Status),
    End,
}

impl<S: Store> Writer<S> {
    async fn next(&mut self) -> Next {
        while self.waiting.is_empty() {
            let down = tokio::select! {
                // What waits is offered again to the sidecar's next stream.
                biased;
                () = self.stop.cancelled() => None,
                down = self.down.recv() => down,
            };
            match down {
                // Also when the driver, stopping too, has let go of the stream first.
                None if self.stop.is_cancelled() => {
                    let goaway = pb::Goaway { reason: "the server is stopping".into(), retry_after: None };
                    return Next::Last(self.spoken(Kind::Goaway(goaway)));
                }
                None => return Next::Broken(Reason::SessionStale.status("the session was cut: it read too slowly")),
                Some(Down::Close(CloseCause::Goodbye)) => return Next::End,
                Some(Down::Close(cause)) => return Next::Broken(close(cause)),
                Some(Down::Broken(status)) => return Next::Broken(*status),
                Some(Down::TailLogs(ask)) => return Next::Frame(self.spoken(Kind::TailLogs(*ask))),
                Some(Down::Frame { leader, messages }) => {
                    self.leader = leader;
                    self.waiting = messages.into();
                }
            }
        }
        match self.frame().await {
            Ok(frame) => Next::Frame(frame),
            Err(status) => Next::Broken(status),
        }
    }

    /// As many of the waiting messages as fit, with their bodies.
    async fn frame(&mut self) -> Result<pb::SessionResponse, Status> {
        let (mut messages, mut blobs, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < FRAME
            && let Some(message) = self.waiting.pop_front()
        {
            bytes += SMALL;
            if let Some((task, part)) = blob(&message) {
                let key = codec::blob_key(&BlobKey { namespace: self.namespace.clone(), task, part });
                let blob = self.store.blob(&key).await.map_err(|error| {
                    Reason::StoreUnavailable.status(format!("the body of a message can't be read: {error}"))
                })?;
                bytes += blob.as_ref().map_or(0, Bytes::len);
                blobs.push(blob);
            }
            messages.push(message);
        }
        let mut blobs = blobs.into_iter();
        let mut frame = frame(self.leader, messages, |_, _| blobs.next().flatten())?;
        for message in &mut frame.messages {
            if let Some(Kind::Welcome(welcome)) = &mut message.kind {
                welcome.cluster_id = self.cluster.to_string();
            }
        }
        Ok(frame)
    }

    /// A message of the edge's own.
    fn spoken(&self, kind: Kind) -> pb::SessionResponse {
        pb::SessionResponse {
            leader: Some(epoch(self.leader)),
            messages: vec![pb::ControlMessage { kind: Some(kind) }],
        }
    }
}

/// Most bytes of a message without a stored body, roughly.
const SMALL: usize = 2 << 10;

fn epoch(leader: LeaderEpoch) -> pb::LeaderEpoch {
    pb::LeaderEpoch { cluster_generation: leader.cluster_generation, number: leader.number }
}

/// Writes a frame. `fetch` reads the bodies that are stored apart, in the order of the messages.
///
/// # Errors
/// A body is gone: the stream has to end. The sidecar comes back and is offered it again.
pub fn frame(
    leader: LeaderEpoch,
    messages: Vec<ToSidecar>,
    mut fetch: impl FnMut(TaskId, BlobPart) -> Option<Bytes>,
) -> Result<pb::SessionResponse, Status> {
    let mut frame = pb::SessionResponse { leader: Some(epoch(leader)), messages: Vec::with_capacity(messages.len()) };
    for message in messages {
        let stored = blob(&message).map(|(task, part)| fetch(task, part).ok_or_else(gone)).transpose()?;
        frame.messages.push(pb::ControlMessage { kind: Some(kind(message, stored)?) });
    }
    Ok(frame)
}

/// Retention or a later question has taken it away: the task has moved on.
fn gone() -> Status {
    Reason::SessionStale.status("the body of a message is gone; say hello again")
}

/// The body that a message needs and the store holds.
fn blob(message: &ToSidecar) -> Option<(TaskId, BlobPart)> {
    match message {
        ToSidecar::Assign(assignment) => {
            let task = &assignment.task;
            task.spec.payload.is_blob().then_some((task.id, BlobPart::Payload))
        }
        ToSidecar::Answer { token, number, body } => body.is_blob().then_some((token.task, BlobPart::Answer(*number))),
        _ => None,
    }
}

fn kind(message: ToSidecar, stored: Option<Bytes>) -> Result<Kind, Status> {
    Ok(match message {
        ToSidecar::Welcome(welcome) => Kind::Welcome(welcome_out(*welcome)),
        ToSidecar::Assign(assignment) => Kind::Assign(assign(*assignment, stored)?),
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
            Kind::Input(pb::Input { attempt: Some(attempt(token)), number, input: Some(payload(body, stored)) })
        }
        ToSidecar::Desire { agent, desired } => Kind::Drain(drain(agent.as_str(), desired)),
        ToSidecar::BeatAck { number, interval } => {
            Kind::HeartbeatAck(pb::HeartbeatAck { beat: number, beat_interval: Some(check::duration_out(interval)) })
        }
        ToSidecar::Resync => Kind::Resync(pb::Resync {}),
    })
}

fn assign(assignment: Assignment, stored: Option<Bytes>) -> Result<pb::Assign, Status> {
    let task = assignment.task;
    let Some(run) = task.run() else { return Err(Reason::Internal.status("an assignment without a run")) };
    let spec = &task.spec;
    let others = spec.requirement.capabilities.iter().filter(|c| **c != spec.capability);
    Ok(pb::Assign {
        number: assignment.number.0,
        attempt: Some(attempt(task.token())),
        agent_id: run.agent.to_string(),
        capabilities: std::iter::once(&spec.capability).chain(others).map(ToString::to_string).collect(),
        payload: Some(payload(spec.payload.clone(), stored)),
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

/// A body with its bytes, inline or as stored apart.
fn payload(body: Body, stored: Option<Bytes>) -> v1::Payload {
    v1::Payload { data: body.inline.or(stored).unwrap_or_default(), content_type: body.content_type.to_string() }
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
        in_use: welcome
            .in_use
            .into_iter()
            .map(|(agent, host)| pb::AgentInUse { agent_id: agent.to_string(), sidecar_id: host.to_string() })
            .collect(),
        cluster_id: String::new(),
    }
}

/// How a stream ends for this cause.
#[must_use]
pub fn close(cause: CloseCause) -> Status {
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

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::store::{CommitError, Health, Loaded, OpenError, ReadError, Transaction};

    /// Never asked.
    struct NoStore;

    impl Store for NoStore {
        async fn acquire(&self) -> Result<Loaded, OpenError> {
            Err(OpenError::Stopped)
        }

        async fn commit(&self, _: Transaction) -> Result<Revision, CommitError> {
            Err(CommitError::Unknown("there is none".into()))
        }

        async fn blob(&self, _: &[u8]) -> Result<Option<Bytes>, ReadError> {
            Ok(None)
        }

        fn health(&self) -> Health {
            Health { free_bytes: 0, store_bytes: 0, shedding: false, ballast_released: false, open: true }
        }
    }

    #[tokio::test]
    async fn a_stop_is_a_goaway_also_when_the_driver_has_let_go_first() {
        // Which of the two is seen first is a matter of chance.
        for _ in 0..64 {
            let (down, from_driver) = mpsc::channel(1);
            let stop = CancellationToken::new();
            let namespace = Namespace::parse("default").expect("a name");
            let mut frames = Box::pin(frames(namespace, "c".into(), from_driver, Arc::new(NoStore), stop.clone()));
            stop.cancel();
            drop(down);
            let frame = frames.next().await.expect("a last word").expect("not a failure");
            assert!(matches!(frame.messages[0].kind, Some(Kind::Goaway(_))));
            assert!(frames.next().await.is_none());
        }
    }
}
