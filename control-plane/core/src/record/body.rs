//! Opaque bytes: payloads, results, questions and answers.
//!
//! Up to 1 KiB they travel inside the record; larger ones are stored under a key of their own and
//! never enter the rules.

use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Namespace, TaskId};

/// Bytes with a media type, by value or by reference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// Media type; empty means unknown.
    pub content_type: Arc<str>,
    /// Size in bytes.
    pub size: u32,
    /// The bytes, unless they are stored as a blob.
    pub inline: Option<Bytes>,
}

impl Body {
    /// Largest body kept inside a record, in bytes.
    pub const INLINE_LIMIT: usize = 1024;

    /// Splits bytes into what the record keeps and what must be stored beside it.
    #[must_use]
    pub fn split(content_type: Arc<str>, data: Bytes) -> (Self, Option<Bytes>) {
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        if data.len() <= Self::INLINE_LIMIT {
            (Self { content_type, size, inline: Some(data) }, None)
        } else {
            (Self { content_type, size, inline: None }, Some(data))
        }
    }

    /// The bytes are stored as a blob.
    #[must_use]
    pub fn is_blob(&self) -> bool {
        self.inline.is_none() && self.size > 0
    }
}

/// Which of a task's bodies a blob is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobPart {
    /// What the task was given.
    Payload,
    /// What it gave back.
    Result,
    /// Its question with this number.
    Question(u32),
    /// The answer to that question.
    Answer(u32),
}

/// Where a blob is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobKey {
    /// Namespace of the task.
    pub namespace: Namespace,
    /// The task.
    pub task: TaskId,
    /// Which body.
    pub part: BlobPart,
}
