//! A task as its handler sees it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hive_proto::agent_v1 as wire;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::outcome::text_within;
use crate::{PAYLOAD_LIMIT, Payload, PayloadError};

/// One attempt at a task. Cheap to clone; clones are the same attempt.
#[derive(Debug, Clone)]
pub struct Task {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    token: String,
    id: String,
    attempt: u32,
    capabilities: Vec<String>,
    payload: Payload,
    attempt_timeout: Option<Duration>,
    cancel: CancellationToken,
    questions: AtomicU32,
    link: Link,
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The attempt is to end.
    #[error("cancelled while waiting for an answer")]
    Cancelled,
    /// The question is larger than 256 KiB.
    #[error("the question has {bytes} bytes, the limit is {PAYLOAD_LIMIT}")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// 32 questions of this attempt are open already.
    #[error("too many questions are open")]
    TooMany,
    /// The agent is no longer served.
    #[error("the agent stopped while waiting for an answer")]
    Stopped,
}

/// A question on its way to the session.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) token: String,
    pub(crate) number: u32,
    pub(crate) prompt: Payload,
    pub(crate) reply: Reply,
}

/// Where its answer goes.
pub(crate) type Reply = oneshot::Sender<Result<Payload, AskError>>;

/// A task's way to the session.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) questions: mpsc::Sender<Asked>,
    pub(crate) board: Arc<Board>,
}

/// Last progress per attempt: later words replace earlier ones, so writing never waits.
#[derive(Debug, Default)]
pub(crate) struct Board {
    latest: Mutex<BTreeMap<String, wire::Progress>>,
    pub(crate) written: Notify,
    /// Everything said, in a sandbox only.
    recorded: Option<Mutex<Vec<wire::Progress>>>,
}

impl Board {
    pub(crate) fn recording() -> Self {
        Self { recorded: Some(Mutex::default()), ..Self::default() }
    }

    fn write(&self, progress: wire::Progress) {
        if let Some(recorded) = &self.recorded {
            recorded.lock().unwrap_or_else(PoisonError::into_inner).push(progress.clone());
        }
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).insert(progress.token.clone(), progress);
        self.written.notify_one();
    }

    pub(crate) fn take(&self) -> BTreeMap<String, wire::Progress> {
        std::mem::take(&mut *self.latest.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn recorded(&self) -> Vec<wire::Progress> {
        let Some(recorded) = &self.recorded else { return Vec::new() };
        std::mem::take(&mut *recorded.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Task {
    pub(crate) fn new(assign: wire::Assign, cancel: CancellationToken, link: Link) -> Self {
        Self {
            inner: Arc::new(Inner {
                token: assign.token,
                id: assign.task_id,
                attempt: assign.attempt,
                capabilities: assign.capabilities,
                payload: assign.payload.unwrap_or_default().into(),
                attempt_timeout: assign.attempt_timeout.and_then(|d| d.try_into().ok()),
                cancel,
                questions: AtomicU32::new(0),
                link,
            }),
        }
    }

    /// The task's id, a UUID. The same for every attempt.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The attempt's token: unique and opaque. Hand it to outside systems that can fence by it.
    pub fn token(&self) -> &str {
        &self.inner.token
    }

    /// Number of the attempt, from 1; always grows.
    pub fn attempt(&self) -> u32 {
        self.inner.attempt
    }

    /// The capability that names the work; empty if the task has none.
    pub fn capability(&self) -> &str {
        self.inner.capabilities.first().map_or("", String::as_str)
    }

    /// All capabilities the task asks for.
    pub fn capabilities(&self) -> &[String] {
        &self.inner.capabilities
    }

    /// What to work on.
    pub fn payload(&self) -> &Payload {
        &self.inner.payload
    }

    /// The payload as text.
    pub fn text(&self) -> Result<&str, PayloadError> {
        self.inner.payload.as_text()
    }

    /// The payload read as JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        self.inner.payload.as_json()
    }

    /// Longest run of the attempt; the sidecar ends it after this. Waiting for input doesn't count.
    pub fn attempt_timeout(&self) -> Option<Duration> {
        self.inner.attempt_timeout
    }

    /// Says how far the work is: `fraction` from 0 to 1 and a text of at most 1 KiB. Never waits;
    /// words that come faster than they can be told replace each other.
    pub fn progress(&self, fraction: impl Into<Option<f64>>, message: impl Into<String>) {
        self.inner.link.board.write(wire::Progress {
            token: self.inner.token.clone(),
            fraction: fraction.into().filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0)),
            message: text_within(message.into()),
        });
    }

    /// Asks the client and waits for the answer. The slot stays taken and the attempt's timeout
    /// stands still meanwhile. Questions are put one after the other, also one whose future was
    /// dropped: it can't be taken back.
    pub async fn ask(&self, prompt: impl Into<Payload>) -> Result<Payload, AskError> {
        let prompt = prompt.into();
        if prompt.data().len() > PAYLOAD_LIMIT {
            return Err(AskError::TooLarge { bytes: prompt.data().len() });
        }
        let number = self.inner.questions.fetch_add(1, Ordering::Relaxed) + 1;
        let (reply, answer) = oneshot::channel();
        let asked = Asked { token: self.inner.token.clone(), number, prompt, reply };
        self.inner.link.questions.send(asked).await.map_err(|_| AskError::Stopped)?;
        tokio::select! {
            answer = answer => answer.unwrap_or(Err(AskError::Stopped)),
            () = self.cancelled() => Err(AskError::Cancelled),
        }
    }

    /// Done as soon as the attempt is to end. Stop then and return an error, within the grace.
    pub async fn cancelled(&self) {
        self.inner.cancel.cancelled().await;
    }

    /// The attempt is to end.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancel.is_cancelled()
    }

    /// A token that is cancelled when the attempt is to end, for code that takes one.
    pub fn cancellation(&self) -> CancellationToken {
        self.inner.cancel.clone()
    }
}
