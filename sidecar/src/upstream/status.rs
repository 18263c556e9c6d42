//! What a status says to the session.

use hive_proto::google_rpc;
use prost::Message;
use tonic::Status;

use crate::session::LinkEnd;

/// `google.rpc.ErrorInfo`, as far as it is read here.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
}

/// The stable reason in a status's details, if it is one of ours.
pub(super) fn reason(status: &Status) -> Option<String> {
    let details = google_rpc::Status::decode(status.details()).ok()?.details;
    let info = details.iter().find(|any| any.type_url.ends_with("/google.rpc.ErrorInfo"))?;
    let info = ErrorInfo::decode(info.value.as_slice()).ok()?;
    (info.domain == "hive").then_some(info.reason)
}

/// What the end of a stream means.
#[must_use]
pub fn meaning(status: &Status) -> LinkEnd {
    match reason(status).as_deref() {
        Some("SIDECAR_FENCED") => LinkEnd::Fenced,
        Some("AGENT_ID_IN_USE" | "SESSION_STALE" | "OTHER_CLUSTER") => LinkEnd::Occupied,
        _ => LinkEnd::Broken,
    }
}
