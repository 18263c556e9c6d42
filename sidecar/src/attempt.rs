//! One attempt of one task as the sidecar's parts hand it to each other.
//!
//! Plain data only: who runs it is for [`crate::runtime`], what is kept of it for the journal.

use std::fmt;
use std::time::Duration;

use hive_proto::{sidecar_v1, v1};
use uuid::Uuid;

/// The fencing token: a task and the number of its assignment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptKey {
    /// UUID of the task.
    pub task: [u8; 16],
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

/// Why a token or a reference names no attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The task is not a UUID.
    #[error("the task id is not a UUID")]
    Task,
    /// The attempt is not a number from 1.
    #[error("the attempt is not a number from 1")]
    Attempt,
}

impl AttemptKey {
    /// Reads a token as [`fmt::Display`] writes it: `<uuid>/<attempt>`.
    ///
    /// # Errors
    /// Says which half is malformed.
    pub fn parse(token: &str) -> Result<Self, KeyError> {
        let (task, attempt) = token.split_once('/').ok_or(KeyError::Attempt)?;
        Self::from_parts(task, attempt)
    }

    /// Name of the attempt's folder: no separator, so it is one path component.
    #[must_use]
    pub fn dir_name(&self) -> String {
        format!("{}-{}", self.task_id(), self.attempt)
    }

    /// Reads a folder's name back.
    ///
    /// # Errors
    /// Says which half is malformed.
    pub fn from_dir_name(name: &str) -> Result<Self, KeyError> {
        let (task, attempt) = name.rsplit_once('-').ok_or(KeyError::Attempt)?;
        Self::from_parts(task, attempt)
    }

    /// The task's id in its hyphenated form.
    #[must_use]
    pub fn task_id(&self) -> String {
        Uuid::from_bytes(self.task).to_string()
    }

    fn from_parts(task: &str, attempt: &str) -> Result<Self, KeyError> {
        let task = Uuid::try_parse(task).map_err(|_| KeyError::Task)?.into_bytes();
        match attempt.parse() {
            Ok(attempt) if attempt > 0 => Ok(Self { task, attempt }),
            _ => Err(KeyError::Attempt),
        }
    }
}

impl fmt::Display for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Uuid::from_bytes(self.task), self.attempt)
    }
}

impl fmt::Debug for AttemptKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<&sidecar_v1::AttemptRef> for AttemptKey {
    type Error = KeyError;

    fn try_from(from: &sidecar_v1::AttemptRef) -> Result<Self, KeyError> {
        let task = <[u8; 16]>::try_from(from.task_id.as_ref()).map_err(|_| KeyError::Task)?;
        if from.attempt == 0 { Err(KeyError::Attempt) } else { Ok(Self { task, attempt: from.attempt }) }
    }
}

impl From<AttemptKey> for sidecar_v1::AttemptRef {
    fn from(key: AttemptKey) -> Self {
        Self { task_id: key.task.to_vec().into(), attempt: key.attempt }
    }
}

/// Work for an agent.
#[derive(Clone, Debug, PartialEq)]
pub struct StartAttempt {
    /// Which.
    pub key: AttemptKey,
    /// Capabilities the task asks for; the first one names the work.
    pub capabilities: Vec<String>,
    /// What the agent gets.
    pub payload: v1::Payload,
    /// Longest run, time waiting for input not counted.
    pub timeout: Duration,
    /// Time between TERM and KILL when it must end.
    pub grace: Duration,
}

/// How an attempt ended, as observed.
#[derive(Clone, Debug, PartialEq)]
pub struct AttemptEnd {
    /// How.
    pub outcome: sidecar_v1::Outcome,
    /// The result, when it succeeded; at most [`RESULT_LIMIT`] bytes.
    pub payload: Option<v1::Payload>,
    /// Why, when it failed.
    pub reason: sidecar_v1::FailureReason,
    /// Text for people, at most [`MESSAGE_LIMIT`] bytes.
    pub message: String,
    /// Exit code, when a program exited.
    pub exit_code: Option<i32>,
    /// Signal number, when a signal ended a program.
    pub signal: Option<i32>,
    /// Trying again may help.
    pub retryable: bool,
    /// When it started, wall clock in ms since the Unix epoch; the end's when it never did.
    pub started_ms: u64,
    /// When it ended, likewise.
    pub ended_ms: u64,
}

impl AttemptEnd {
    /// A failure without exit status. Cuts `message` to its limit.
    #[must_use]
    pub fn failed(
        reason: sidecar_v1::FailureReason,
        message: &str,
        retryable: bool,
        started_ms: u64,
        ended_ms: u64,
    ) -> Self {
        Self {
            outcome: sidecar_v1::Outcome::Failed,
            payload: None,
            reason,
            message: cut(message, MESSAGE_LIMIT).to_owned(),
            exit_code: None,
            signal: None,
            retryable,
            started_ms,
            ended_ms,
        }
    }
}

/// Largest result, in bytes.
pub const RESULT_LIMIT: usize = 256 * 1024;

/// Longest text for people, in bytes.
pub const MESSAGE_LIMIT: usize = 1024;

/// The longest beginning of `text` that fits `limit` bytes and ends between characters.
#[must_use]
pub fn cut(text: &str, limit: usize) -> &str {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_every_form() {
        let key = AttemptKey { task: [7; 16], attempt: 12 };
        assert_eq!(AttemptKey::parse(&key.to_string()), Ok(key));
        assert_eq!(AttemptKey::from_dir_name(&key.dir_name()), Ok(key));
        assert_eq!(AttemptKey::try_from(&sidecar_v1::AttemptRef::from(key)), Ok(key));
    }

    #[test]
    fn malformed_keys_are_refused() {
        assert_eq!(AttemptKey::parse("x/1"), Err(KeyError::Task));
        assert_eq!(AttemptKey::parse("01890a5d-ac96-774b-bcce-b302099a8057/0"), Err(KeyError::Attempt));
        assert_eq!(AttemptKey::parse("01890a5d-ac96-774b-bcce-b302099a8057"), Err(KeyError::Attempt));
        let short = sidecar_v1::AttemptRef { task_id: vec![1].into(), attempt: 1 };
        assert_eq!(AttemptKey::try_from(&short), Err(KeyError::Task));
    }

    #[test]
    fn a_cut_ends_between_characters() {
        assert_eq!(cut("aé", 2), "a");
        assert_eq!(cut("aé", 3), "aé");
    }
}
