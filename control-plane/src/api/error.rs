//! The one table of refusals: reason, canonical code, what it means and what to do.
//!
//! Handlers pick a reason; the text beside it may change, the reason and the code may not.

use std::fmt::Write as _;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "hive";

/// Details travel base64-encoded in one header, which proxies cap at 8 KiB; with base64 this
/// stays below 4 KiB.
const DETAILS_LIMIT: usize = 3_000;
/// Texts longer than this are cut: they travel in a header as well.
const TEXT_LIMIT: usize = 500;

struct Row {
    name: &'static str,
    code: Code,
    means: &'static str,
    remedy: &'static str,
}

macro_rules! reasons {
    ($($variant:ident = $name:literal, $code:ident, $means:literal, $remedy:literal;)*) => {
        /// Why a call was refused. `google.rpc.ErrorInfo.reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $(#[doc = $means] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];

            const fn row(self) -> Row {
                match self {
                    $(Self::$variant => Row { name: $name, code: Code::$code, means: $means, remedy: $remedy },)*
                }
            }
        }
    };
}

reasons! {
    InvalidField = "INVALID_FIELD", InvalidArgument,
        "A field of the request is missing, malformed or beyond its limit; the field violations name each.",
        "Correct the fields named.";
    MessageMalformed = "MESSAGE_MALFORMED", InvalidArgument,
        "The request is not a message of the type the method takes.",
        "Build the client from the same `.proto` files; reflection shows them.";
    MessageTooLarge = "MESSAGE_TOO_LARGE", ResourceExhausted,
        "The request is larger than a message may be (4 MiB unless configured).",
        "Send less at once; a payload is at most 256 KiB.";
    MethodUnknown = "METHOD_UNKNOWN", Unimplemented,
        "This port does not serve the method.",
        "Check the name and the port; `grpcurl list` shows what is served.";
    NamespaceNotFound = "NAMESPACE_NOT_FOUND", NotFound,
        "The namespace is not configured.",
        "Use a configured one (`default` exists), or add it to `namespaces`.";
    TaskNotFound = "TASK_NOT_FOUND", NotFound,
        "No task of this id is kept; it never existed, or ended and retention removed it.",
        "Check id and namespace.";
    AgentNotFound = "AGENT_NOT_FOUND", NotFound,
        "No agent of this id is known in the namespace.",
        "Check id and namespace with `hive agents`.";
    LogsNotFound = "LOGS_NOT_FOUND", NotFound,
        "The task has not run yet, or its output is not kept any more.",
        "Ask again once it runs; output lives with the sidecar that ran it.";
    TaskIdReused = "TASK_ID_REUSED", AlreadyExists,
        "Another task has this id.",
        "Make a new id for a new task; resend the same body for the same task.";
    TaskIdTooOld = "TASK_ID_TOO_OLD", FailedPrecondition,
        "The id's time lies before what is remembered, so nobody can tell whether the task is new. Metadata `cluster_time_ms` is the cluster's time.",
        "Correct the clock by that time and make a new id.";
    TaskIdInFuture = "TASK_ID_IN_FUTURE", FailedPrecondition,
        "The id's time lies more than 60 s ahead of the cluster's, which metadata `cluster_time_ms` tells.",
        "Correct the clock by that time and make a new id.";
    TaskTerminal = "TASK_TERMINAL", FailedPrecondition,
        "The task has ended, and an ended task never changes.",
        "Read its result; submit a new task if more is needed.";
    InputNotRequired = "INPUT_NOT_REQUIRED", FailedPrecondition,
        "The task does not wait for input.",
        "Watch it and answer when its state is INPUT_REQUIRED.";
    InputNumberStale = "INPUT_NUMBER_STALE", FailedPrecondition,
        "The answer is to a question that is no longer the current one.",
        "Read the task and answer its current question.";
    RequestIdReused = "REQUEST_ID_REUSED", InvalidArgument,
        "This request id was used with another body.",
        "Make a new request id for a new request.";
    AgentExists = "AGENT_EXISTS", AlreadyExists,
        "An agent of this id is registered with other properties.",
        "Use UpdateAgent, or another id.";
    AgentRemoved = "AGENT_REMOVED", FailedPrecondition,
        "The agent has been removed.",
        "Bring it back with RemoveAgent and undo (`hive remove --undo`), or use another id.";
    AgentIdInUse = "AGENT_ID_IN_USE", AlreadyExists,
        "Another running host has this id and is still in contact.",
        "Stop the other one or choose another id; after its contact is lost the id is free.";
    SessionStale = "SESSION_STALE", Aborted,
        "A newer connection of the same sidecar has taken over.",
        "Nothing: the newer connection goes on.";
    SidecarFenced = "SIDECAR_FENCED", PermissionDenied,
        "The sidecar's identity has been replaced by another host's.",
        "The sidecar exits; start it again with its own data folder.";
    IdentityInvalid = "IDENTITY_INVALID", Unauthenticated,
        "The client's certificate is of the CA trusted here, but names nobody: it must hold exactly one URI, a SPIFFE id.",
        "Have it issued anew, such as by `hive certs`; docs/tls.md says how names look.";
    IdentityNotAllowed = "IDENTITY_NOT_ALLOWED", PermissionDenied,
        "The name in the client's certificate does not allow this: a sidecar speaks for itself alone, and clients for no sidecar.",
        "Use the certificate issued for this sidecar or client; docs/tls.md says how names look.";
    OtherCluster = "OTHER_CLUSTER", FailedPrecondition,
        "The sidecar holds attempts of another cluster; the control plane was started on another or an emptied data folder.",
        "Put the old data folder back; or, to give that work up, stop the sidecar and remove its state folder.";
    PageTokenInvalid = "PAGE_TOKEN_INVALID", InvalidArgument,
        "The page token was not given out for this list.",
        "Begin again without a token.";
    RevisionTooNew = "REVISION_TOO_NEW", Unavailable,
        "This replica has not reached the revision asked for.",
        "Retry after the delay given.";
    PendingLimit = "PENDING_LIMIT", ResourceExhausted,
        "The namespace has as many unfinished tasks as it may.",
        "Retry after the delay given, when some have ended.";
    StoreLowSpace = "STORE_LOW_SPACE", ResourceExhausted,
        "The store is short of disk space and takes no new tasks; running ones go on.",
        "Free disk space, or lower retention; retry after the delay given.";
    TooManyWatches = "TOO_MANY_WATCHES", ResourceExhausted,
        "As many watches are open as may be.",
        "Share one watch, or retry after the delay given.";
    Overloaded = "OVERLOADED", ResourceExhausted,
        "More calls wait than may; this one was not begun.",
        "Retry after the delay given.";
    StoreUnavailable = "STORE_UNAVAILABLE", Unavailable,
        "The store cannot be written now; nothing was changed.",
        "Retry after the delay given.";
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unavailable,
        "The change was sent to the store and nobody knows yet whether it landed.",
        "Retry the same call: ids make it take effect once.";
    ShuttingDown = "SHUTTING_DOWN", Unavailable,
        "This server is stopping.",
        "Retry, at another replica if there is one.";
    NoSuccessor = "NO_SUCCESSOR", FailedPrecondition,
        "There is no other replica to hand the lead to.",
        "Start another replica first.";
    LeaderEpochStale = "LEADER_EPOCH_STALE", Aborted,
        "The lead has changed since the epoch the call was made under.",
        "Read the status and decide again.";
    SidecarUnreachable = "SIDECAR_UNREACHABLE", Unavailable,
        "The sidecar that holds what was asked for is not connected.",
        "Retry after the delay given; `hive agents` shows its contact.";
    Deadline = "DEADLINE", DeadlineExceeded,
        "The call took longer than its deadline; a change may still have happened.",
        "Read the state, or retry the same call: ids make it take effect once.";
    Internal = "INTERNAL", Internal,
        "A fault in the server; its log has the cause.",
        "Report it.";
}

impl Reason {
    /// The stable name, in upper case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.row().name
    }

    /// The canonical code.
    #[must_use]
    pub const fn code(self) -> Code {
        self.row().code
    }

    /// What it means, for people.
    #[must_use]
    pub const fn means(self) -> &'static str {
        self.row().means
    }

    /// What the caller can do.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        self.row().remedy
    }

    /// A refusal with nothing but a message.
    #[must_use]
    pub fn status(self, message: impl Into<String>) -> Status {
        status(self, message, &[], &[], None)
    }

    /// A refusal that says when to retry.
    #[must_use]
    pub fn retry_after(self, message: impl Into<String>, after: Duration) -> Status {
        status(self, message, &[], &[], Some(after))
    }
}

/// A refusal because of one field.
#[must_use]
pub fn invalid(field: &str, description: impl Into<String>) -> Status {
    invalid_fields(&[(field.to_owned(), description.into())])
}

/// A refusal because of several fields; the message names the first.
#[must_use]
pub fn invalid_fields(violations: &[(String, String)]) -> Status {
    let message = match violations {
        [] => "the request is invalid".to_owned(),
        [(field, description)] => format!("{field}: {description}"),
        [(field, description), others @ ..] => format!("{field}: {description} (and {} more)", others.len()),
    };
    status(Reason::InvalidField, message, &[], violations, None)
}

/// Builds a refusal. `metadata` and `violations` (field, description) that would make the details
/// too large for a header are cut, from the end.
#[must_use]
pub fn status(
    reason: Reason,
    message: impl Into<String>,
    metadata: &[(&str, String)],
    violations: &[(String, String)],
    retry_after: Option<Duration>,
) -> Status {
    let message = cut(&message.into());
    let mut shown = violations.len();
    let mut noted = metadata.len();
    loop {
        let mut details = ErrorDetails::new();
        let notes = metadata[..noted].iter().map(|(key, value)| ((*key).to_owned(), cut(value)));
        details.set_error_info(reason.as_str(), DOMAIN, notes.collect::<std::collections::HashMap<_, _>>());
        if retry_after.is_some() {
            details.set_retry_info(retry_after);
        }
        for (field, description) in &violations[..shown] {
            details.add_bad_request_violation(cut(field), cut(description));
        }
        if shown < violations.len() {
            details.add_bad_request_violation("", format!("and {} more", violations.len() - shown));
        }
        let status = Status::with_error_details(reason.code(), message.clone(), details);
        if status.details().len() <= DETAILS_LIMIT || (shown == 0 && noted == 0) {
            return status;
        }
        if shown > 0 { shown -= shown.div_ceil(8) } else { noted -= 1 }
    }
}

fn cut(text: &str) -> String {
    if text.len() <= TEXT_LIMIT {
        return text.to_owned();
    }
    let mut end = TEXT_LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// Name of a canonical code as the specification spells it.
#[must_use]
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The table as a page for people.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Errors\n\nEvery refusal carries a canonical gRPC code and a `google.rpc.ErrorInfo` with domain `hive` and one of\n\
         the reasons below. Reasons and codes are stable; texts are not. Bad input adds `google.rpc.BadRequest`\n\
         with a violation per field; where waiting helps, `google.rpc.RetryInfo` says how long. UNAVAILABLE means:\n\
         retry as it is. ABORTED: read again, then decide. FAILED_PRECONDITION: change the state first.\n\n\
         Written from `control-plane/src/api/error.rs`; `UPDATE=1 cargo test -p hive-control-plane api::error` rewrites it.\n\n\
         | reason | code | means | what to do |\n|---|---|---|---|\n",
    );
    for reason in Reason::ALL {
        let Row { name, code, means, remedy } = reason.row();
        let _ = writeln!(page, "| `{name}` | {} | {means} | {remedy} |", code_name(code));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_equals_the_table() {
        crate::testing::same_as_file("docs/errors.md", &page());
    }

    #[test]
    fn names_are_unique_and_upper_snake() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')));
    }

    #[test]
    fn a_refusal_carries_reason_metadata_and_delay() {
        let after = Duration::from_millis(1_500);
        let refusal =
            status(Reason::TaskIdTooOld, "too old", &[("cluster_time_ms", "17".to_owned())], &[], Some(after));
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        let details = refusal.get_error_details();
        let info = details.error_info().expect("info");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("TASK_ID_TOO_OLD", "hive"));
        assert_eq!(info.metadata["cluster_time_ms"], "17");
        assert_eq!(details.retry_info().and_then(|retry| retry.retry_delay), Some(after));
        assert!(details.bad_request().is_none());
    }

    #[test]
    fn fields_are_named() {
        let refusal = invalid("task.payload", "must be at most 262144 bytes long");
        assert_eq!(refusal.code(), Code::InvalidArgument);
        let details = refusal.get_error_details();
        assert_eq!(details.bad_request().expect("fields").field_violations[0].field, "task.payload");
    }

    #[test]
    fn details_fit_a_header_whatever_is_put_in() {
        let many: Vec<_> = (0..5_000).map(|n| (format!("labels[{n}]"), "ü".repeat(900))).collect();
        let notes: Vec<_> = (0..40).map(|_| ("key", "x".repeat(2_000))).collect();
        for refusal in [
            invalid_fields(&many),
            status(Reason::Overloaded, "x".repeat(9_000), &notes, &many, Some(Duration::from_secs(1))),
        ] {
            assert!(refusal.details().len() <= DETAILS_LIMIT, "{}", refusal.details().len());
            assert!(refusal.message().len() <= TEXT_LIMIT + 4);
            assert!(refusal.get_error_details().error_info().is_some());
        }
    }
}
