//! Submits a job's tasks in batches, under the ids of its manifest: a call may be repeated as often
//! as it takes, each task is accepted once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hive_proto::{google_rpc, v1};
use prost::Message as _;
use tonic::Code;
use tonic_types::pb;
use uuid::Uuid;

use super::manifest::{Entry, Manifest};
use crate::connect::{Backoff, Client};
use crate::failure::Failure;

/// The server's cap.
const BATCH: usize = 100;
/// Longest run of one attempt: no check of a single file should take longer.
const ATTEMPT_TIMEOUT: prost_types::Duration = prost_types::Duration { seconds: 120, nanos: 0 };

/// Labels of every task of a job.
pub(crate) fn labels(job: Uuid) -> BTreeMap<String, String> {
    BTreeMap::from([("demo-job".to_owned(), job.to_string())])
}

/// The task of an entry; the same entry always gives the same bytes.
fn request(manifest: &Manifest, entry: &Entry) -> Result<v1::SubmitTaskRequest, Failure> {
    let data = serde_json::to_vec(&manifest.input(entry)).map_err(|e| Failure::error("cannot write a payload", e))?;
    Ok(v1::SubmitTaskRequest {
        namespace: String::new(),
        task_id: entry.task_id.to_string(),
        spec: Some(v1::TaskSpec {
            capabilities: vec![entry.capability.clone()],
            payload: Some(v1::Payload { data: data.into(), content_type: "application/json".to_owned() }),
            labels: labels(manifest.job),
            attempt_timeout: Some(ATTEMPT_TIMEOUT),
            ..Default::default()
        }),
    })
}

/// Submits the tasks with these places in the manifest. Ends when all are accepted, or at a refusal
/// that repeating can't mend.
pub(crate) async fn run(client: Client, manifest: Arc<Manifest>, places: Vec<usize>) -> Result<(), Failure> {
    for chunk in places.chunks(BATCH) {
        let entries = chunk.iter().filter_map(|place| manifest.entries.get(*place));
        let mut left = entries.map(|entry| request(&manifest, entry)).collect::<Result<Vec<_>, _>>()?;
        let mut backoff = Backoff::new();
        while !left.is_empty() {
            let call = v1::SubmitTasksRequest { namespace: client.namespace.clone(), tasks: left.clone() };
            let answer = client.attempt(call, |mut s, r| async move { s.tasks.submit_tasks(r).await }, true).await;
            let mut wait = Duration::ZERO;
            match answer {
                Ok(response) if response.results.len() != left.len() => {
                    return Err(Failure::error("cannot submit the job", "the answer does not fit the batch"));
                }
                Ok(response) => {
                    let mut again = Vec::new();
                    for (item, result) in left.into_iter().zip(response.results) {
                        if let Some(v1::submit_task_result::Result::Error(status)) = result.result {
                            wait = wait.max(refusal(&status, &item.task_id)?);
                            again.push(item);
                        }
                    }
                    left = again;
                    if left.is_empty() {
                        break;
                    }
                }
                Err(status) if is_passing(status.code()) || crate::failure::is_transport(&status) => {}
                Err(status) => return Err(Failure::call("cannot submit the job", &client.server, &status)),
            }
            tokio::time::sleep(wait.max(backoff.step())).await;
        }
    }
    Ok(())
}

fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Cancelled
    )
}

/// How long to wait before an item is offered again; fails if that can't help.
fn refusal(status: &google_rpc::Status, id: &str) -> Result<Duration, Failure> {
    let detail = |name: &str| status.details.iter().find(|any| any.type_url.ends_with(name));
    let reason = detail("google.rpc.ErrorInfo")
        .and_then(|any| pb::ErrorInfo::decode(any.value.as_slice()).ok())
        .map(|info| info.reason)
        .unwrap_or_default();
    let asked = detail("google.rpc.RetryInfo")
        .and_then(|any| pb::RetryInfo::decode(any.value.as_slice()).ok())
        .and_then(|info| info.retry_delay)
        .and_then(|delay| Duration::try_from(delay).ok());
    if let Some(asked) = asked {
        return Ok(asked.min(Duration::from_secs(60)));
    }
    if is_passing(Code::from_i32(status.code)) {
        return Ok(Duration::ZERO);
    }
    let failure = Failure::error(format!("task {id} was refused"), format!("{} [{reason}]", status.message));
    Err(match reason.as_str() {
        "TASK_ID_TOO_OLD" => failure.next("the job is too old to be resumed; start over with `hive demo --fresh`"),
        "TASK_ID_REUSED" => failure.next("the job was begun by another version; start over with `hive demo --fresh`"),
        _ => failure,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: Code, details: Vec<(&str, Vec<u8>)>) -> google_rpc::Status {
        google_rpc::Status {
            code: code as i32,
            message: "text".into(),
            details: details
                .into_iter()
                .map(|(name, value)| prost_types::Any { type_url: format!("type.googleapis.com/{name}"), value })
                .collect(),
        }
    }

    #[test]
    fn refusals_with_retry_info_wait_and_others_end_the_job() {
        let delay = Some(prost_types::Duration { seconds: 2, nanos: 0 });
        let retry = pb::RetryInfo { retry_delay: delay }.encode_to_vec();
        let full = status(Code::ResourceExhausted, vec![("google.rpc.RetryInfo", retry)]);
        assert_eq!(refusal(&full, "x").unwrap(), Duration::from_secs(2));
        assert_eq!(refusal(&status(Code::Unavailable, vec![]), "x").unwrap(), Duration::ZERO);
        let info = pb::ErrorInfo { reason: "TASK_ID_TOO_OLD".into(), ..Default::default() }.encode_to_vec();
        let old = status(Code::FailedPrecondition, vec![("google.rpc.ErrorInfo", info)]);
        assert!(refusal(&old, "x").unwrap_err().to_string().contains("--fresh"));
    }
}
