//! How a handler says that it failed.

use std::error::Error;
use std::fmt;

/// Why a handler has no output, and whether another try may help.
///
/// Every error type turns into one by `?` (not retryable, causes included):
///
/// ```
/// use hive_sdk::Failure;
/// fn parse(text: &str) -> Result<u32, Failure> {
///     if text == "later" {
///         return Err(Failure::retryable("not there yet"));
///     }
///     Ok(text.parse()?)
/// }
/// assert_eq!(parse("x").unwrap_err().message(), "invalid digit found in string");
/// assert!(parse("later").unwrap_err().is_retryable());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    message: String,
    retryable: bool,
}

// Not an `Error` itself, so that `From` can be written for all errors.
impl Failure {
    /// A failure that another try will not mend. What goes past 1 KiB of the message is cut off.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: format!("{message:#}"), retryable: false }
    }

    /// A failure that another try may mend; it counts against the task's retry policy.
    pub fn retryable(message: impl fmt::Display) -> Self {
        Self { message: format!("{message:#}"), retryable: true }
    }

    /// Text for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Another try may help.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message = format!("{message}: {cause}");
            source = cause.source();
        }
        Self { message, retryable: false }
    }
}
