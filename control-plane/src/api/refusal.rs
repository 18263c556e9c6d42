//! The rules' refusals as API errors, one to one.

use std::time::Duration;

use hive_core::leader::StoreRefusal;
use hive_core::rejection::Rejection;
use tonic::Status;

use super::error::{Reason, invalid, status};
use crate::driver::Refusal;

/// Wait before a call is worth repeating.
const SOON: Duration = Duration::from_millis(500);
/// The same where something has to be freed first.
const LATER: Duration = Duration::from_secs(5);

pub(crate) fn rejection(rejection: &Rejection) -> Status {
    let text = rejection.to_string();
    match rejection {
        Rejection::NamespaceNotFound => Reason::NamespaceNotFound.status(text),
        Rejection::TaskNotFound(_) => Reason::TaskNotFound.status(text),
        Rejection::TaskIdTooOld { floor, cluster_time } => status(
            Reason::TaskIdTooOld,
            text,
            &[("cluster_time_ms", cluster_time.0.to_string()), ("floor_ms", floor.0.to_string())],
            &[],
            None,
        ),
        Rejection::TaskIdInFuture { cluster_time } => {
            let metadata = [("cluster_time_ms", cluster_time.0.to_string())];
            status(Reason::TaskIdInFuture, text, &metadata, &[], None)
        }
        Rejection::TaskIdReused(_) => Reason::TaskIdReused.status(text),
        Rejection::PendingLimit { .. } => Reason::PendingLimit.retry_after(text, LATER),
        Rejection::TaskTerminal(_) => Reason::TaskTerminal.status(text),
        Rejection::InputNotRequired(_) => Reason::InputNotRequired.status(text),
        Rejection::InputNumberStale { open, .. } => {
            status(Reason::InputNumberStale, text, &[("open", open.to_string())], &[], None)
        }
        Rejection::RequestIdReused => Reason::RequestIdReused.status(text),
        Rejection::AgentNotFound(_) => Reason::AgentNotFound.status(text),
        Rejection::AgentExists(_) => Reason::AgentExists.status(text),
        Rejection::AgentRemoved(_) => Reason::AgentRemoved.status(text),
        Rejection::AgentIdInUse { .. } | Rejection::SidecarIdInUse(_) => Reason::AgentIdInUse.retry_after(text, LATER),
        Rejection::SidecarFenced(_) => Reason::SidecarFenced.status(text),
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal {
            Refusal::Rejected(why) => rejection(&why),
            Refusal::Store(StoreRefusal::NoSpace) => Reason::StoreLowSpace.retry_after(text, LATER),
            Refusal::Store(StoreRefusal::TooLarge) => invalid("", text),
            Refusal::Store(StoreRefusal::Unavailable) => Reason::StoreUnavailable.retry_after(text, SOON),
            Refusal::Overloaded => Reason::Overloaded.retry_after(text, SOON),
            Refusal::Stopping => Reason::OutcomeUnknown.retry_after(text, SOON),
        }
    }
}
