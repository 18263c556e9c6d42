//! `submit` and `input`: what a client gives.

use std::time::Duration;

use hive_proto::v1;

use super::{Context, payload, task, wait};
use crate::args::{Input, Submit};
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};

/// `hive submit`.
pub(super) async fn run(cx: &Context, args: Submit) -> Result<(), Failure> {
    let (waits, timeout) = (args.wait, args.timeout);
    let request = request(cx, args)?;
    let id = request.task_id.clone();
    let response = cx
        .client
        .call("cannot submit the task", request, |mut s, r| async move { s.tasks.submit_task(r).await })
        .await
        .map_err(|failure| unknown_outcome(failure, &id))?;
    let accepted = response.task.unwrap_or_default();
    if response.duplicate {
        output::say(&format!("task {} was accepted before", accepted.id));
    }
    if !waits {
        return match cx.format {
            Format::Json => output::json("hive.v1.Task", &accepted),
            Format::Name | Format::Table => output::line(&accepted.id),
        };
    }
    if cx.format == Format::Table {
        output::say(&format!("submitted {}", accepted.id));
    }
    let until = timeout.map(|timeout| clock::now() + timeout);
    let ended = wait::until_terminal(cx, &accepted.id, until).await?;
    task::show(cx, &ended)?;
    wait::verdict(std::slice::from_ref(&ended))
}

/// After a timeout or a lost connection the task may have been accepted: say how to find out.
fn unknown_outcome(failure: Failure, id: &str) -> Failure {
    match failure.exit {
        Exit::Timeout | Exit::Unreachable => {
            let next = if failure.next.is_empty() { String::new() } else { format!("{}; ", failure.next) };
            failure.next(format!("{next}then repeat it with --id {id}: it is accepted once"))
        }
        _ => failure,
    }
}

fn request(cx: &Context, args: Submit) -> Result<v1::SubmitTaskRequest, Failure> {
    let retry = args.max_failures.map(|max_failures| v1::RetryPolicy { max_failures, ..Default::default() });
    let policy = args.on_disconnect.map_or(v1::DisconnectPolicy::Unspecified, Into::into);
    Ok(v1::SubmitTaskRequest {
        namespace: cx.client.namespace.clone(),
        task_id: args.id.unwrap_or_else(clock::new_id).to_string(),
        spec: Some(v1::TaskSpec {
            capabilities: args.capability,
            agent_labels: args.agent_label.into_iter().collect(),
            pool: args.pool,
            priority: v1::Priority::from(args.priority).into(),
            payload: payload::read(&args.payload)?,
            labels: args.label.into_iter().collect(),
            retry,
            attempt_timeout: args.attempt_timeout.map(proto),
            queue_timeout: args.queue_timeout.map(proto),
            input_timeout: args.input_timeout.map(proto),
            disconnect_policy: policy.into(),
        }),
    })
}

/// As the wire has it.
pub(super) fn proto(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// `hive input`.
pub(super) async fn input(cx: &Context, args: Input) -> Result<(), Failure> {
    let answer = match payload::read(&args.payload)? {
        Some(answer) => answer,
        None => {
            let task = task::read(cx, &args.id).await?;
            let Some(question) = task.input_request else {
                return Err(Failure::error(
                    format!("task {} asks nothing", args.id),
                    format!("it is {}", task::state_name(task.state())),
                )
                .next(format!("follow it with `hive watch {}`", args.id)));
            };
            let prompt = question.prompt.as_ref().map(task::text).unwrap_or_default();
            output::say(&format!("question {}: {prompt}", question.number));
            payload::payload(payload::stdin()?, args.payload.content_type.as_deref())?
        }
    };
    let request = v1::ProvideInputRequest {
        namespace: cx.client.namespace.clone(),
        task_id: args.id.clone(),
        number: args.number,
        input: Some(answer),
        request_id: clock::new_id().to_string(),
    };
    let what = format!("cannot give input to task {}", args.id);
    let response = cx.client.call(&what, request, |mut s, r| async move { s.tasks.provide_input(r).await }).await?;
    let task = response.task.unwrap_or_default();
    match cx.format {
        Format::Json => output::json("hive.v1.Task", &task),
        Format::Name => output::line(&task.id),
        Format::Table => output::line(&format!("{}  {}", task.id, task::state_name(task.state()))),
    }
}
