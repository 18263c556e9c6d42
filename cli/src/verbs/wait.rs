//! `wait`: until tasks have ended.

use std::time::{Duration, Instant};

use hive_proto::v1;

use super::{Context, submit, task};
use crate::args::Wait;
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};

/// Longest single call; a lost connection is noticed and repeated.
const ROUND: Duration = Duration::from_secs(30);

/// `hive wait`.
pub(super) async fn run(cx: &Context, args: Wait) -> Result<(), Failure> {
    let until = args.timeout.map(|timeout| clock::now() + timeout);
    let mut ended = Vec::with_capacity(args.ids.len());
    for id in &args.ids {
        let task = until_terminal(cx, id, until).await?;
        match cx.format {
            Format::Json => output::json_line("hive.v1.Task", &task)?,
            Format::Name => output::line(&task.id)?,
            Format::Table => {}
        }
        ended.push(task);
    }
    if cx.format == Format::Table {
        output::line(&task::table(&ended))?;
    }
    verdict(&ended)
}

/// Waits for one task to end.
pub(super) async fn until_terminal(cx: &Context, id: &str, until: Option<Instant>) -> Result<v1::Task, Failure> {
    let what = format!("cannot wait for task {id}");
    loop {
        let left = until.map_or(ROUND, |until| until.saturating_duration_since(clock::now()).min(ROUND));
        let request = v1::WaitTaskRequest {
            namespace: cx.client.namespace.clone(),
            task_id: id.to_owned(),
            timeout: Some(submit::proto(left)),
            view: v1::TaskView::Full.into(),
        };
        // The server answers at the end of its timeout; the margin is for the way.
        let client = cx.client.with_deadline(left + Duration::from_secs(10));
        let response = client.call(&what, request, |mut s, r| async move { s.tasks.wait_task(r).await }).await?;
        if response.done {
            return response.task.ok_or_else(|| Failure::error(what, "the answer holds no task"));
        }
        if until.is_some_and(|until| clock::now() >= until) {
            let task = response.task.unwrap_or_default();
            let wanted = task.spec.as_ref().and_then(|spec| spec.capabilities.first());
            let next = match (task.state(), wanted) {
                (v1::TaskState::Pending, Some(capability)) => {
                    format!("see which agents could take it with `hive agents -c {capability}`")
                }
                _ => format!("follow it with `hive watch {id}`"),
            };
            let why = format!("time ran out; it is {}", task::state_name(task.state()));
            return Err(Failure::new(Exit::Timeout, what, why).next(next));
        }
    }
}

/// Whether all succeeded, as an exit code.
pub(super) fn verdict(tasks: &[v1::Task]) -> Result<(), Failure> {
    let failed: Vec<_> = tasks.iter().filter(|task| task.state() != v1::TaskState::Succeeded).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let why = first.failure.as_ref().map(|f| last_line(&f.message)).unwrap_or_default();
    let what = match failed.len() {
        1 => format!("task {} ended {}", first.id, task::state_name(first.state())),
        n => format!("{n} of {} tasks did not succeed", tasks.len()),
    };
    Err(Failure::new(Exit::TaskFailed, what, why).next(format!("see `hive get {0}` and `hive logs {0}`", first.id)))
}

/// The end of what a task said of its failure, which `hive get` shows in full.
fn last_line(message: &str) -> String {
    const MOST: usize = 300;
    let line = output::printable(message.trim_end().lines().next_back().unwrap_or_default());
    let over = line.chars().count().saturating_sub(MOST);
    if over == 0 { line } else { format!("…{}", line.chars().skip(over).collect::<String>()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_by_its_last_line() {
        assert_eq!(last_line("Traceback\n  at x\nKeyError: 'a'\n"), "KeyError: 'a'");
        assert_eq!(last_line(&"x".repeat(5_000)).chars().count(), 301);
        assert_eq!(last_line(""), "");
    }

    #[test]
    fn only_success_is_success() {
        let task = |state: v1::TaskState| v1::Task { id: "x".into(), state: state.into(), ..Default::default() };
        assert!(verdict(&[task(v1::TaskState::Succeeded)]).is_ok());
        for state in [v1::TaskState::Failed, v1::TaskState::Cancelled, v1::TaskState::Expired] {
            let failure = verdict(&[task(v1::TaskState::Succeeded), task(state)]).unwrap_err();
            assert_eq!(failure.exit, Exit::TaskFailed);
        }
    }
}
