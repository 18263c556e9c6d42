//! `get`, `list`, `cancel`, and how a task is shown.

use std::time::Duration;

use hive_proto::v1;

use super::Context;
use crate::args::{List, Page, TaskId, TaskIds};
use crate::failure::{Exit, Failure};
use crate::output::{self, Format, printable};

const PAGE_CAP: u32 = 1_000;

/// A state's short name, such as `SUCCEEDED`.
pub(crate) fn state_name(state: v1::TaskState) -> &'static str {
    short(state.as_str_name(), "TASK_STATE_")
}

/// A reason's short name; empty when there is none.
pub(crate) fn reason_name(reason: v1::TaskReason) -> &'static str {
    match reason {
        v1::TaskReason::Unspecified => "",
        other => short(other.as_str_name(), "TASK_REASON_"),
    }
}

pub(crate) fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

/// Whether nothing more can happen to a task.
pub(crate) fn is_terminal(state: v1::TaskState) -> bool {
    use v1::TaskState::{Cancelled, Expired, Failed, Succeeded};
    matches!(state, Succeeded | Failed | Cancelled | Expired)
}

/// `hive get`.
pub(super) async fn get(cx: &Context, args: TaskId) -> Result<(), Failure> {
    show(cx, &read(cx, &args.id).await?)
}

pub(super) async fn read(cx: &Context, id: &str) -> Result<v1::Task, Failure> {
    let request = v1::GetTaskRequest {
        namespace: cx.client.namespace.clone(),
        task_id: id.to_owned(),
        view: v1::TaskView::Full.into(),
        ..Default::default()
    };
    let what = format!("cannot get task {id}");
    let response = cx.client.call(&what, request, |mut s, r| async move { s.tasks.get_task(r).await }).await?;
    response.task.ok_or_else(|| Failure::error(what, "the answer holds no task"))
}

/// Shows one task in full.
pub(super) fn show(cx: &Context, task: &v1::Task) -> Result<(), Failure> {
    match cx.format {
        Format::Json => output::json("hive.v1.Task", task),
        Format::Name => output::line(&task.id),
        Format::Table => output::line(&detail(task)),
    }
}

/// `hive list`.
pub(super) async fn list(cx: &Context, args: List) -> Result<(), Failure> {
    let filter = v1::TaskFilter::from(args.filter);
    let mut all = v1::ListTasksResponse::default();
    let mut pages = Pages::new(&args.page);
    while let Some((page_size, page_token)) = pages.next(all.tasks.len()) {
        let request = v1::ListTasksRequest {
            namespace: cx.client.namespace.clone(),
            filter: Some(filter.clone()),
            page_size,
            page_token,
            view: if args.full { v1::TaskView::Full } else { v1::TaskView::Basic }.into(),
        };
        let response =
            cx.client.call("cannot list tasks", request, |mut s, r| async move { s.tasks.list_tasks(r).await }).await?;
        pages.token = Some(response.next_page_token.clone());
        all.tasks.extend(response.tasks);
        all.revision = all.revision.or(response.revision);
        all.next_page_token = response.next_page_token;
    }
    match cx.format {
        Format::Json => output::json("hive.v1.ListTasksResponse", &all)?,
        Format::Name => all.tasks.iter().try_for_each(|task| output::line(&task.id))?,
        Format::Table if all.tasks.is_empty() => output::say("no tasks match"),
        Format::Table => output::line(&table(&all.tasks))?,
    }
    more(cx, &all.next_page_token);
    Ok(())
}

/// Walks the pages of a list up to a number of rows.
pub(super) struct Pages {
    limit: Option<u32>,
    /// Of the page to come; `None` once the last one was read.
    pub(super) token: Option<String>,
    first: bool,
}

impl Pages {
    pub(super) fn new(page: &Page) -> Self {
        Self { limit: (!page.all).then_some(page.limit), token: Some(page.page_token.clone()), first: true }
    }

    /// Size and token of the page to read next, with `have` rows read so far.
    pub(super) fn next(&mut self, have: usize) -> Option<(i32, String)> {
        let token = self.token.take()?;
        if token.is_empty() && !self.first {
            return None;
        }
        self.first = false;
        let have = u32::try_from(have).unwrap_or(u32::MAX);
        let left = self.limit.map_or(PAGE_CAP, |limit| limit.saturating_sub(have)).min(PAGE_CAP);
        (left > 0).then(|| (i32::try_from(left).unwrap_or(i32::MAX), token))
    }
}

/// Says how to get the rows after these.
pub(super) fn more(cx: &Context, token: &str) {
    if !token.is_empty() && cx.format != Format::Json {
        output::say(&format!("there is more: add --all, or --page-token {token}"));
    }
}

/// `hive cancel`: a task that can't be cancelled does not save those after it.
pub(super) async fn cancel(cx: &Context, args: TaskIds) -> Result<(), Failure> {
    let mut refused: Option<Failure> = None;
    for id in args.ids {
        let request = v1::CancelTaskRequest { namespace: cx.client.namespace.clone(), task_id: id.clone() };
        let what = format!("cannot cancel task {id}");
        let task = match cx.client.call(&what, request, |mut s, r| async move { s.tasks.cancel_task(r).await }).await {
            Ok(response) => response.task.unwrap_or_default(),
            // Nobody to ask: the others would fare no better.
            Err(failure) if matches!(failure.exit, Exit::Unreachable | Exit::Timeout) => return Err(failure),
            Err(failure) => {
                if let Some(earlier) = refused.replace(failure) {
                    output::say(&earlier.to_string());
                }
                continue;
            }
        };
        match cx.format {
            Format::Json => output::json_line("hive.v1.Task", &task)?,
            Format::Name => output::line(&task.id)?,
            Format::Table => output::line(&format!("{}  {}", task.id, state_word(&task)))?,
        }
    }
    refused.map_or(Ok(()), Err)
}

fn state_word(task: &v1::Task) -> String {
    let name = state_name(task.state());
    if task.cancel_requested && !is_terminal(task.state()) { format!("{name} (cancelling)") } else { name.to_owned() }
}

/// Tasks as rows.
pub(super) fn table(tasks: &[v1::Task]) -> String {
    let rows: Vec<_> = tasks.iter().map(row).collect();
    output::table(&["ID", "CAPABILITY", "STATE", "REASON", "ATTEMPT", "AGENT", "TOOK"], &rows)
}

/// A task as one row.
pub(super) fn row(task: &v1::Task) -> Vec<String> {
    let spec = task.spec.clone().unwrap_or_default();
    vec![
        task.id.clone(),
        spec.capabilities.join(","),
        state_word(task),
        reason_name(task.reason()).to_owned(),
        task.attempt.to_string(),
        task.agent_id.clone(),
        between(task.create_time, task.end_time).map(human).unwrap_or_default(),
    ]
}

/// Time between two stamps, if both are there and in order.
pub(crate) fn between(from: Option<prost_types::Timestamp>, to: Option<prost_types::Timestamp>) -> Option<Duration> {
    let nanos = |t: prost_types::Timestamp| i128::from(t.seconds) * 1_000_000_000 + i128::from(t.nanos);
    let difference = nanos(to?) - nanos(from?);
    u64::try_from(difference).ok().map(Duration::from_nanos)
}

/// A duration for people.
pub(crate) fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Everything about one task, a line each.
fn detail(task: &v1::Task) -> String {
    let spec = task.spec.clone().unwrap_or_default();
    let labels = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(" ")
    };
    let mut lines: Vec<(&str, String)> = vec![
        ("id", task.id.clone()),
        ("namespace", task.namespace.clone()),
        ("capability", spec.capabilities.join(",")),
        ("state", state_word(task)),
        ("reason", reason_name(task.reason()).to_owned()),
        ("attempt", task.attempt.to_string()),
        ("failures", task.failures.to_string()),
        ("agent", task.agent_id.clone()),
        ("labels", labels(&spec.labels)),
        ("agent labels", labels(&spec.agent_labels)),
        ("pool", spec.pool.clone()),
        ("created", task.create_time.map(|t| t.to_string()).unwrap_or_default()),
        ("not before", task.not_before_time.map(|t| t.to_string()).unwrap_or_default()),
        ("started", task.start_time.map(|t| t.to_string()).unwrap_or_default()),
        ("ended", task.end_time.map(|t| t.to_string()).unwrap_or_default()),
        ("payload", spec.payload.as_ref().map(text).unwrap_or_default()),
        ("result", task.result.as_ref().map(text).unwrap_or_default()),
    ];
    if let Some(progress) = &task.progress {
        let share = progress.fraction.map(|f| format!("{:.0} % ", f * 100.0)).unwrap_or_default();
        lines.push(("progress", format!("{share}{}", printable(&progress.message))));
    }
    if let Some(failure) = &task.failure {
        let code = failure.exit_code.map(|c| format!(" exit code {c}")).unwrap_or_default();
        let signal = failure.signal.map(|s| format!(" signal {s}")).unwrap_or_default();
        let reason = reason_name(failure.reason());
        // What has no words of its own says its signal only.
        let said = if failure.message == signal.trim() { String::new() } else { printable_lines(&failure.message) };
        lines.push(("last failure", format!("{reason}{code}{signal} {said}")));
    }
    if let Some(question) = &task.input_request {
        let prompt = question.prompt.as_ref().map(text).unwrap_or_default();
        lines.push(("question", format!("#{} {prompt}", question.number)));
        lines.push(("answer it", format!("hive input {} --payload …", task.id)));
    }
    lines.retain(|(_, value)| !value.trim().is_empty());
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let indent = format!("\n{:width$}  ", "");
    let value = |value: &str| value.trim().replace('\n', &indent);
    lines.iter().map(|(name, text)| format!("{name:width$}  {}", value(text))).collect::<Vec<_>>().join("\n")
}

/// Text of several lines for people: lines and tabs stay, other control characters do not.
fn printable_lines(text: &str) -> String {
    let line = |line: &str| line.split('\t').map(printable).collect::<Vec<_>>().join("\t");
    text.trim_end().lines().map(line).collect::<Vec<_>>().join("\n")
}

/// A payload for people: its text, or how big it is.
pub(super) fn text(payload: &v1::Payload) -> String {
    const MOST: usize = 4_096;
    match std::str::from_utf8(&payload.data) {
        Ok(text) if text.len() <= MOST => printable_lines(text),
        _ => {
            let kind = if payload.content_type.is_empty() { "bytes" } else { &payload.content_type };
            format!("{} bytes ({}); see -o json", payload.data.len(), printable(kind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: u32, all: bool) -> Page {
        Page { limit, all, page_token: String::new() }
    }

    #[test]
    fn pages_end_with_the_last_token_or_the_limit() {
        let mut pages = Pages::new(&page(1_500, false));
        assert_eq!(pages.next(0), Some((1_000, String::new())));
        pages.token = Some("t".into());
        assert_eq!(pages.next(1_000), Some((500, "t".into())));
        pages.token = Some("u".into());
        assert_eq!(pages.next(1_500), None);

        let mut pages = Pages::new(&page(50, true));
        assert_eq!(pages.next(0), Some((1_000, String::new())));
        pages.token = Some(String::new());
        assert_eq!(pages.next(3), None);
    }

    #[test]
    fn names_are_short() {
        assert_eq!(state_name(v1::TaskState::InputRequired), "INPUT_REQUIRED");
        assert_eq!(reason_name(v1::TaskReason::Unspecified), "");
        assert_eq!(reason_name(v1::TaskReason::ExitCode), "EXIT_CODE");
    }

    #[test]
    fn detail_leaves_out_what_is_absent() {
        let task = v1::Task { id: "x".into(), state: v1::TaskState::Pending.into(), ..Default::default() };
        assert_eq!(detail(&task), "id        x\nstate     PENDING\nattempt   0\nfailures  0");
    }

    #[test]
    fn detail_keeps_lines_but_nothing_that_drives_a_terminal() {
        let result = v1::Payload { data: "a\tb\n\x1b[2Jc\n".into(), ..Default::default() };
        let failure = v1::TaskFailure { signal: Some(9), message: "signal 9".into(), ..Default::default() };
        let task = v1::Task { result: Some(result), failure: Some(failure), ..Default::default() };
        let shown = detail(&task);
        assert!(shown.contains("result        a\tb\n              \u{fffd}[2Jc\nlast failure"), "{shown}");
        assert_eq!(shown.matches("signal 9").count(), 1, "{shown}");
    }

    #[test]
    fn durations_for_people() {
        let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!(between(at(1, 0), at(2, 500_000_000)).map(human), Some("1.5 s".into()));
        assert_eq!(between(at(2, 0), at(1, 0)), None);
        assert_eq!(human(Duration::from_secs(3_700)), "1 h 1 min");
    }
}
