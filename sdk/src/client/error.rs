//! Why a call failed, and whether trying again may help.

use std::collections::HashMap;
use std::error::Error as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call failed. [`Error::reason`] is stable, the text is for people.
#[derive(Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The endpoint can't be one.
    #[error("{endpoint} is not an endpoint ({cause}): expected something like http://127.0.0.1:7070")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What is wrong with it.
        cause: String,
    },
    /// No answer from Hive: nobody listens there, or the connection broke.
    #[error(
        "cannot reach Hive at {endpoint} ({cause}): check that the control plane runs there \
         (`hive dev` starts one on this machine), or name another endpoint"
    )]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// What the connection met.
        cause: String,
    },
    /// Hive answered, and refused.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The call's deadline passed; whether it took effect is unknown.
    #[error("{call} did not finish within {limit:?}")]
    Deadline {
        /// The call.
        call: &'static str,
        /// Its deadline, retries included.
        limit: Duration,
        /// What the last try met, if it met anything.
        #[source]
        last: Option<Box<Error>>,
    },
    /// An answer lacks what it must have: another version, or not Hive.
    #[error("the answer to {call} lacks {what}")]
    Answer {
        /// The call.
        call: &'static str,
        /// What is missing.
        what: &'static str,
    },
}

/// The text and its causes: `main` shows an error by `Debug`, and people should read what to do.
impl std::fmt::Debug for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

/// A refusal, with its details.
#[derive(Debug, Clone)]
pub struct Refusal {
    status: Status,
    reason: String,
    metadata: HashMap<String, String>,
    violations: Vec<Violation>,
    retry_after: Option<Duration>,
}

/// One fault in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// Path of the field, such as `spec.capabilities`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl std::error::Error for Refusal {}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.status.message())?;
        if self.reason.is_empty() {
            write!(f, " ({:?})", self.status.code())?;
        } else {
            write!(f, " ({})", self.reason)?;
        }
        for violation in &self.violations {
            write!(f, "; {}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl Refusal {
    /// The answer as it came.
    pub fn status(&self) -> &Status {
        &self.status
    }
}

impl Error {
    pub(crate) fn from_status(endpoint: &str, status: Status) -> Self {
        // What tonic makes of a broken connection has a source or no details; Hive's own
        // refusals always have details and, coming off the wire, never a source.
        let broken = status.source().is_some() || (status.code() == Code::Unavailable && status.details().is_empty());
        if broken && status.code() != Code::DeadlineExceeded {
            let cause = status.source().map_or_else(|| status.message().to_owned(), root_cause);
            return Self::Unreachable { endpoint: endpoint.to_owned(), cause };
        }
        Self::refused(status)
    }

    pub(crate) fn refused(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == "hive");
        let violations = details.bad_request().map_or_else(Vec::new, |bad| {
            let all = bad.field_violations.iter();
            all.map(|v| Violation { field: v.field.clone(), description: v.description.clone() }).collect()
        });
        Self::Refused(Box::new(Refusal {
            reason: info.map_or_else(String::new, |info| info.reason.clone()),
            metadata: info.map_or_else(HashMap::new, |info| info.metadata.clone()),
            violations,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            status,
        }))
    }

    fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The stable reason Hive gave, such as `TASK_NOT_FOUND`; `docs/errors.md` lists them.
    pub fn reason(&self) -> Option<&str> {
        self.refusal().map(|refusal| refusal.reason.as_str()).filter(|reason| !reason.is_empty())
    }

    /// The canonical code; for failures of this side, the one that fits.
    pub fn code(&self) -> Code {
        match self {
            Self::Endpoint { .. } => Code::InvalidArgument,
            Self::Unreachable { .. } => Code::Unavailable,
            Self::Refused(refusal) => refusal.status.code(),
            Self::Deadline { .. } => Code::DeadlineExceeded,
            Self::Answer { .. } => Code::Internal,
        }
    }

    /// The same call may succeed later. A submission is repeated with the same task id.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => {
                matches!(refusal.status.code(), Code::Unavailable | Code::ResourceExhausted | Code::Aborted)
            }
            Self::Deadline { last, .. } => last.as_ref().is_none_or(|last| last.is_retryable()),
            Self::Endpoint { .. } | Self::Answer { .. } => false,
        }
    }

    /// How long the server wants the next try to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(|refusal| refusal.retry_after)
    }

    /// What is wrong with the request, field by field.
    pub fn violations(&self) -> &[Violation] {
        self.refusal().map_or(&[], |refusal| &refusal.violations)
    }

    /// A value that belongs to the reason, such as `cluster_time_ms`.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.refusal().and_then(|refusal| refusal.metadata.get(key)).map(String::as_str)
    }
}

/// What a TLS failure means; otherwise the innermost cause: of "transport error: tcp connect error: connection refused" the last part.
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    if let Some(words) = hive_proto::tls::explain(error) {
        return words;
    }
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn details_become_typed() {
        let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "hive", HashMap::new());
        details.set_retry_info(Some(Duration::from_secs(3)));
        details.add_bad_request_violation("spec.payload", "too large");
        let error = Error::from_status("e", Status::with_error_details(Code::ResourceExhausted, "full", details));
        assert_eq!(error.reason(), Some("QUEUE_FULL"));
        assert!(error.is_retryable());
        assert_eq!(error.retry_after(), Some(Duration::from_secs(3)));
        assert_eq!(error.violations()[0].field, "spec.payload");
        assert_eq!(error.to_string(), "full (QUEUE_FULL); spec.payload: too large");
    }

    #[test]
    fn reasons_of_other_domains_are_not_ours() {
        let details = ErrorDetails::with_error_info("X", "elsewhere", HashMap::new());
        let error = Error::from_status("e", Status::with_error_details(Code::NotFound, "no", details));
        assert_eq!((error.reason(), error.is_retryable()), (None, false));
    }

    #[test]
    fn an_unavailable_without_details_is_not_hive_speaking() {
        let error = Error::from_status("http://x", Status::unavailable("proxy says no"));
        assert!(matches!(&error, Error::Unreachable { cause, .. } if cause == "proxy says no"));
    }
}
