//! Nonsense from every side: each case gives the documented reason, and the server lives on and
//! serves the next call.

mod bulk;
mod disk;
mod fenced;
mod fields;
mod folder;
mod identity;
mod ids;
mod nonsense;
mod peer;
mod port;
mod questions;
mod slow;
mod states;

use std::collections::BTreeMap;
use std::fmt::Debug;

use hive_sdk::proto::{self as v1, SubmitTaskRequest, TaskSpec};
use tonic::{Code, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::harness::Rig;

/// The table of docs/errors.md: reason and code.
fn documented() -> BTreeMap<&'static str, &'static str> {
    let rows = include_str!("../../../docs/errors.md").lines().filter_map(|line| line.strip_prefix("| `"));
    let rows = rows
        .filter_map(|row| row.split_once("` | ").and_then(|(reason, rest)| Some((reason, rest.split_once(' ')?.0))));
    rows.collect()
}

/// `InvalidArgument` as the table spells it.
fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// The status carries this reason, under the code the documentation gives it.
#[track_caller]
fn explained(status: &Status, reason: &str) -> ErrorDetails {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{reason} expected, no ErrorInfo in {status:?}"));
    assert_eq!((info.domain.as_str(), info.reason.as_str()), ("hive", reason), "{status:?}");
    let code = documented().get(reason).copied().unwrap_or_else(|| panic!("{reason} is not documented"));
    assert_eq!(code_name(status.code()), code, "{reason}");
    details
}

/// The call was refused for this reason.
#[track_caller]
fn refused<T: Debug>(answer: Result<T, Status>, reason: &str) -> ErrorDetails {
    match answer {
        Ok(answer) => panic!("{reason} expected, answered {answer:?}"),
        Err(status) => explained(&status, reason),
    }
}

/// The call was refused because of this field.
#[track_caller]
fn refused_field<T: Debug>(answer: Result<T, Status>, field: &str) {
    let details = refused(answer, "INVALID_FIELD");
    let fields: Vec<_> = details.bad_request().into_iter().flat_map(|bad| &bad.field_violations).collect();
    assert!(fields.iter().any(|violation| violation.field == field), "{field} expected in {fields:?}");
}

/// The refusal says when to try again.
#[track_caller]
fn waits(details: &ErrorDetails) {
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "no RetryInfo in {details:?}");
}

/// A task that nobody can run: it stays PENDING.
fn unwanted() -> TaskSpec {
    TaskSpec { capabilities: vec!["nobody-has-this".to_owned()], ..Default::default() }
}

fn submission(spec: TaskSpec) -> SubmitTaskRequest {
    SubmitTaskRequest { spec: Some(spec), ..Default::default() }
}

/// Submits, past the SDK's own checks and retries.
async fn submit(rig: &Rig, request: SubmitTaskRequest) -> Result<v1::Task, Status> {
    let answer = rig.client().tasks().submit_task(request).await?;
    Ok(answer.into_inner().task.expect("a task"))
}

/// The server serves a call that writes and one that reads.
async fn serves(rig: &Rig) {
    let task = submit(rig, submission(unwanted())).await.expect("a submission after the nonsense");
    let request = v1::GetTaskRequest { task_id: task.id.clone(), ..Default::default() };
    let read =
        rig.client().tasks().get_task(request).await.map(Response::into_inner).expect("a read after the nonsense");
    assert_eq!(read.task.expect("a task").id, task.id);
}
