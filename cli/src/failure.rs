//! What a person is told when a command fails: what, why and the next command, with an exit code
//! that scripts can rely on. Leaves printing to `lib.rs`.

use std::fmt;
use std::io;

use tonic::Code;
use tonic_types::StatusExt as _;

/// Exit codes of `hive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Anything that has no code of its own.
    Error = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// No such task, agent or log.
    NotFound = 3,
    /// Time ran out.
    Timeout = 4,
    /// No control plane answered.
    Unreachable = 5,
    /// `wait`: a task ended otherwise than SUCCEEDED.
    TaskFailed = 6,
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// What could not be done; one line.
    pub(crate) what: String,
    /// Why; may be empty.
    pub(crate) why: String,
    /// What to type next; may be empty.
    pub(crate) next: String,
    /// Whoever read our output went away: nothing to say.
    pub(crate) quiet: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), next: String::new(), quiet: false }
    }

    pub(crate) fn error(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(Exit::Error, what, why.to_string())
    }

    pub(crate) fn usage(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::new(Exit::Usage, what, why.to_string())
    }

    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// A failure to write to standard output.
    pub(crate) fn output(error: &io::Error) -> Self {
        let mut failure = Self::error("cannot write to standard output", error);
        failure.quiet = error.kind() == io::ErrorKind::BrokenPipe;
        failure
    }

    /// A call's failure.
    pub(crate) fn call(what: &str, server: &str, status: &tonic::Status) -> Self {
        let details = status.get_error_details();
        let reason = details.error_info().map(|info| info.reason.clone()).unwrap_or_default();
        let mut why = status.message().to_owned();
        if why.is_empty() {
            status.code().description().clone_into(&mut why);
        }
        if let Some(bad) = details.bad_request() {
            // The message of a single fault is that fault.
            for violation in bad.field_violations.iter().filter(|v| !status.message().contains(&v.description)) {
                why.push_str(&format!("\n  {}: {}", violation.field, violation.description));
            }
        }
        let explained = hive_proto::tls::explain(status);
        if let Some(words) = &explained {
            why.clone_from(words);
        } else if let Some(link) = chain(status) {
            why = format!("{why}: {link}");
        }
        if !reason.is_empty() {
            why = format!("{why} [{reason}]");
        }
        let reached = !reason.is_empty();
        let exit = match status.code() {
            Code::NotFound => Exit::NotFound,
            Code::DeadlineExceeded => Exit::Timeout,
            Code::Unavailable => Exit::Unreachable,
            Code::Unknown if is_transport(status) => Exit::Unreachable,
            _ => Exit::Error,
        };
        // Most sentences end with the task they are about.
        let id = what.rsplit(' ').next().filter(|word| word.parse::<uuid::Uuid>().is_ok()).unwrap_or("ID");
        let next = match (exit, reason.as_str()) {
            (_, "TASK_NOT_FOUND") => "see what there is with `hive list`".to_owned(),
            (_, "AGENT_NOT_FOUND") => "see what there is with `hive agents`".to_owned(),
            (_, "TASK_TERMINAL") => format!("see how it ended with `hive get {id}`"),
            (_, "LOGS_NOT_FOUND") => format!("see whether it was ever assigned with `hive get {id}`"),
            (_, "AGENT_REMOVED") => "bring it back with `hive remove --undo`".to_owned(),
            (_, "NAMESPACE_NOT_FOUND") => "name one of the server's `namespaces` with --namespace".to_owned(),
            (_, "METHOD_UNKNOWN") => {
                format!("is {server} the port for health and metrics? name the one for clients with --server")
            }
            (_, "SHUTTING_DOWN") => "repeat it once the control plane is up again".to_owned(),
            (_, "TASK_ID_TOO_OLD" | "TASK_ID_IN_FUTURE") => {
                "compare this machine's clock with `hive status`".to_owned()
            }
            (_, "IDENTITY_INVALID" | "IDENTITY_NOT_ALLOWED") => {
                "name a client's certificate with --cert and --key; `hive certs client` makes one".to_owned()
            }
            _ if explained.is_some() => {
                format!("check --ca, --cert and --key against {server}; `hive certs --help` says how they are made")
            }
            (Exit::Unreachable, _) if !reached => format!(
                "is a control plane running at {server}? start one with `hive dev`, or name another with --server"
            ),
            (Exit::Timeout, _) => "see how the control plane stands with `hive status`".to_owned(),
            _ => String::new(),
        };
        Self { exit, what: what.to_owned(), why, next, quiet: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if !self.why.is_empty() {
            write!(f, ": {}", self.why)?;
        }
        if !self.next.is_empty() {
            write!(f, "\n  next: {}", self.next)?;
        }
        Ok(())
    }
}

/// Whether the status was made on this side because the connection failed, before or in the middle
/// of an answer. Hive's own refusals always have details and, coming off the wire, never a source.
pub(crate) fn is_transport(status: &tonic::Status) -> bool {
    let broken = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled);
    std::error::Error::source(status).is_some() || (broken && status.details().is_empty())
}

/// The innermost cause of a transport failure; the outer ones say "transport error" only.
fn chain(status: &tonic::Status) -> Option<String> {
    let mut source = std::error::Error::source(status)?;
    while let Some(inner) = source.source() {
        source = inner;
    }
    let text = source.to_string();
    (!status.message().contains(&text)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn codes_become_exit_codes() {
        for (code, exit) in [
            (Code::NotFound, Exit::NotFound),
            (Code::DeadlineExceeded, Exit::Timeout),
            (Code::Unavailable, Exit::Unreachable),
            (Code::InvalidArgument, Exit::Error),
        ] {
            let status = tonic::Status::new(code, "text");
            assert_eq!(Failure::call("cannot do it", "http://h:1", &status).exit, exit, "{code:?}");
        }
    }

    #[test]
    fn says_what_why_and_next() {
        let mut details = ErrorDetails::new();
        details.set_error_info("TASK_NOT_FOUND", "hive", [("task_id".to_owned(), "x".to_owned())]);
        details.add_bad_request_violation("task_id", "not a UUID");
        let status = tonic::Status::with_error_details(Code::NotFound, "no such task", details);
        let text = Failure::call("cannot get task x", "http://h:1", &status).to_string();
        assert_eq!(
            text,
            "error: cannot get task x: no such task\n  task_id: not a UUID [TASK_NOT_FOUND]\n  \
             next: see what there is with `hive list`"
        );
    }

    #[test]
    fn one_fault_is_told_once_and_a_hint_names_the_task() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let mut details = ErrorDetails::new();
        details.set_error_info("TASK_TERMINAL", "hive", [("k".to_owned(), "v".to_owned())]);
        details.add_bad_request_violation("task_id", "must be a UUID");
        let status = tonic::Status::with_error_details(Code::InvalidArgument, "task_id: must be a UUID", details);
        assert_eq!(
            Failure::call(&format!("cannot cancel task {id}"), "http://h:1", &status).to_string(),
            format!(
                "error: cannot cancel task {id}: task_id: must be a UUID [TASK_TERMINAL]\n  \
                 next: see how it ended with `hive get {id}`"
            )
        );
    }

    #[test]
    fn an_unreachable_server_names_hive_dev() {
        let status = tonic::Status::unavailable("tcp connect error");
        let text = Failure::call("cannot list tasks", "http://127.0.0.1:7070", &status).to_string();
        assert!(text.contains("start one with `hive dev`"), "{text}");
    }
}
