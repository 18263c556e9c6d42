//! `hive.v1.TaskReason` and the rules' causes, one to one. Stored records use the same numbers.

use hive_core::record::Cause;
use hive_proto::v1::TaskReason;

/// The wire's name of a cause.
#[must_use]
pub fn cause_out(cause: Cause) -> TaskReason {
    match cause {
        Cause::ExitCode => TaskReason::ExitCode,
        Cause::Signal => TaskReason::Signal,
        Cause::Timeout => TaskReason::Timeout,
        Cause::AgentLost => TaskReason::AgentLost,
        Cause::AgentRemoved => TaskReason::AgentRemoved,
        Cause::AgentError => TaskReason::AgentError,
        Cause::ResultTooLarge => TaskReason::ResultTooLarge,
        Cause::StartFailed => TaskReason::StartFailed,
        Cause::CancelRequested => TaskReason::CancelRequested,
        Cause::Unconfirmed => TaskReason::Unconfirmed,
        Cause::QueueDeadline => TaskReason::QueueDeadline,
        Cause::InputTimeout => TaskReason::InputTimeout,
        Cause::Declined => TaskReason::Declined,
    }
}

/// The cause of a wire number; none if it is unknown or unspecified.
#[must_use]
pub fn cause_in(reason: u32) -> Option<Cause> {
    Some(match TaskReason::try_from(i32::try_from(reason).ok()?).ok()? {
        TaskReason::Unspecified => return None,
        TaskReason::ExitCode => Cause::ExitCode,
        TaskReason::Signal => Cause::Signal,
        TaskReason::Timeout => Cause::Timeout,
        TaskReason::AgentLost => Cause::AgentLost,
        TaskReason::AgentRemoved => Cause::AgentRemoved,
        TaskReason::AgentError => Cause::AgentError,
        TaskReason::ResultTooLarge => Cause::ResultTooLarge,
        TaskReason::StartFailed => Cause::StartFailed,
        TaskReason::CancelRequested => Cause::CancelRequested,
        TaskReason::Unconfirmed => Cause::Unconfirmed,
        TaskReason::QueueDeadline => Cause::QueueDeadline,
        TaskReason::InputTimeout => Cause::InputTimeout,
        TaskReason::Declined => Cause::Declined,
    })
}
