//! What a task is given and what it gives back: bytes with a media type.

use std::str::Utf8Error;

use bytes::Bytes;
use hive_proto::v1;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Most bytes a payload, a result, a question or an answer may have.
pub const PAYLOAD_LIMIT: usize = 256 * 1024;

/// What a handler gives back; the same as a [`Payload`].
///
/// ```
/// use hive_sdk::Output;
/// assert_eq!(Output::text("two words").content_type(), "text/plain; charset=utf-8");
/// ```
pub type Output = Payload;

/// Opaque bytes with a media type, at most 256 KiB. Cheap to clone.
///
/// ```
/// use hive_sdk::Payload;
/// let payload = Payload::json(&vec![1, 2])?;
/// assert_eq!(payload.as_text()?, "[1,2]");
/// assert_eq!(payload.as_json::<Vec<u8>>()?, [1, 2]);
/// # Ok::<(), hive_sdk::PayloadError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Payload {
    data: Bytes,
    content_type: String,
}

/// Why a payload is not what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// The bytes are not UTF-8.
    #[error("the payload is not UTF-8 text")]
    NotText(#[source] Utf8Error),
    /// The bytes are not JSON, or not of the shape asked for.
    #[error("the payload is not the JSON expected")]
    NotJson(#[source] serde_json::Error),
    /// The value can't be written as JSON.
    #[error("the value can't be written as JSON")]
    Unwritable(#[source] serde_json::Error),
}

impl Payload {
    /// Text, as `text/plain; charset=utf-8`.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes(text.into(), "text/plain; charset=utf-8")
    }

    /// A value as JSON, as `application/json`. Fails for what JSON can't say, such as a map whose
    /// keys aren't strings.
    pub fn json<T: Serialize + ?Sized>(value: &T) -> Result<Self, PayloadError> {
        let data = serde_json::to_vec(value).map_err(PayloadError::Unwritable)?;
        Ok(Self::bytes(data, "application/json"))
    }

    /// Bytes with a media type of your own, at most 127 bytes long; empty means unknown.
    pub fn bytes(data: impl Into<Bytes>, content_type: impl Into<String>) -> Self {
        Self { data: data.into(), content_type: content_type.into() }
    }

    /// Nothing at all.
    pub fn empty() -> Self {
        Self::default()
    }

    /// The bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// The media type; empty means unknown.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// The bytes as text.
    pub fn as_text(&self) -> Result<&str, PayloadError> {
        std::str::from_utf8(&self.data).map_err(PayloadError::NotText)
    }

    /// The bytes read as JSON.
    pub fn as_json<T: DeserializeOwned>(&self) -> Result<T, PayloadError> {
        serde_json::from_slice(&self.data).map_err(PayloadError::NotJson)
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<v1::Payload> for Payload {
    fn from(wire: v1::Payload) -> Self {
        Self { data: wire.data, content_type: wire.content_type }
    }
}

impl From<Payload> for v1::Payload {
    fn from(payload: Payload) -> Self {
        Self { data: payload.data, content_type: payload.content_type }
    }
}
