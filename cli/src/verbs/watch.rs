//! `watch`: follows one task or all that match, across lost connections and resyncs.

use std::collections::HashMap;

use hive_proto::v1;
use v1::TaskEventKind as Kind;

use super::{Context, task};
use crate::args::Watch;
use crate::connect::Backoff;
use crate::failure::{Exit, Failure};
use crate::output::{self, Format};

/// `hive watch`.
pub(super) async fn run(cx: &Context, args: Watch) -> Result<(), Failure> {
    match args.id {
        Some(id) => one(cx, &id).await,
        None => all(cx, args.filter.into(), args.changes_only).await,
    }
}

async fn one(cx: &Context, id: &str) -> Result<(), Failure> {
    let what = format!("cannot watch task {id}");
    let mut printer = Printer::new(cx.format, true);
    let mut backoff = Backoff::new();
    loop {
        let request = v1::WatchTaskRequest {
            namespace: cx.client.namespace.clone(),
            task_id: id.to_owned(),
            view: v1::TaskView::Basic.into(),
        };
        let mut events = cx.client.open(&what, request, |mut s, r| async move { s.tasks.watch_task(r).await }).await?;
        loop {
            match events.message().await {
                Ok(Some(response)) => {
                    backoff.reset();
                    let event = response.event.unwrap_or_default();
                    printer.print(&event)?;
                    let ended = event.task.as_ref().is_some_and(|t| task::is_terminal(t.state()));
                    if ended || event.kind() == Kind::Deleted {
                        return Ok(());
                    }
                }
                Ok(None) => break,
                Err(status) => {
                    reconnect(cx, &what, &status)?;
                    break;
                }
            }
        }
        printer.again();
        tokio::time::sleep(backoff.step()).await;
    }
}

async fn all(cx: &Context, filter: v1::TaskFilter, changes_only: bool) -> Result<(), Failure> {
    let what = "cannot watch tasks";
    let mut printer = Printer::new(cx.format, !changes_only);
    let mut skip_snapshot = changes_only;
    let mut backoff = Backoff::new();
    loop {
        let request = v1::WatchTasksRequest {
            namespace: cx.client.namespace.clone(),
            filter: Some(filter.clone()),
            skip_snapshot,
        };
        let mut events = cx.client.open(what, request, |mut s, r| async move { s.tasks.watch_tasks(r).await }).await?;
        // After a gap the snapshot holds what was missed.
        skip_snapshot = false;
        loop {
            match events.message().await {
                Ok(Some(response)) => {
                    backoff.reset();
                    printer.print(&response.event.unwrap_or_default())?;
                }
                Ok(None) => break,
                Err(status) => {
                    reconnect(cx, what, &status)?;
                    break;
                }
            }
        }
        printer.again();
        tokio::time::sleep(backoff.step()).await;
    }
}

/// Ends the watch for a failure that opening it again can't help.
fn reconnect(cx: &Context, what: &str, status: &tonic::Status) -> Result<(), Failure> {
    let failure = Failure::call(what, &cx.client.server, status);
    match (failure.exit, status.code()) {
        (Exit::Unreachable, _) | (_, tonic::Code::Aborted | tonic::Code::Cancelled | tonic::Code::Unknown) => {
            output::say("connection lost; connecting again");
            Ok(())
        }
        _ => Err(failure),
    }
}

/// Prints events; across reconnects only what is new to the reader.
struct Printer {
    format: Format,
    /// What the reader has seen last of each task that may still change.
    seen: HashMap<String, (i32, u32)>,
    /// The snapshot that is coming is the first one.
    fresh: bool,
    headed: bool,
}

impl Printer {
    fn new(format: Format, fresh: bool) -> Self {
        Self { format, seen: HashMap::new(), fresh, headed: false }
    }

    fn again(&mut self) {
        self.fresh = false;
    }

    /// Whether an event says something that the reader does not know.
    fn is_news(&mut self, event: &v1::TaskEvent) -> bool {
        let Some(task) = &event.task else { return false };
        let stands = (task.state, task.attempt);
        let known = if task::is_terminal(task.state()) {
            self.seen.remove(&task.id)
        } else {
            self.seen.insert(task.id.clone(), stands)
        };
        match event.kind() {
            Kind::Snapshot if !self.fresh => known.map_or(!task::is_terminal(task.state()), |known| known != stands),
            _ => true,
        }
    }

    fn print(&mut self, event: &v1::TaskEvent) -> Result<(), Failure> {
        let news = self.is_news(event);
        if self.format == Format::Json {
            return output::json_line("hive.v1.TaskEvent", event);
        }
        let Some(task) = event.task.as_ref().filter(|_| news) else { return Ok(()) };
        if self.format == Format::Name {
            return output::line(&task.id);
        }
        if !self.headed {
            self.headed = true;
            output::line(&columns(["ID", "STATE", "ATTEMPT", "AGENT", "CAPABILITY", "REASON"].map(str::to_owned)))?;
        }
        let state = if event.kind() == Kind::Deleted { "(deleted)" } else { task::state_name(task.state()) };
        output::line(&columns([
            task.id.clone(),
            state.to_owned(),
            task.attempt.to_string(),
            output::printable(&task.agent_id),
            output::printable(&task.spec.as_ref().map(|s| s.capabilities.join(",")).unwrap_or_default()),
            task::reason_name(task.reason()).to_owned(),
        ]))
    }
}

/// Fixed widths: a stream can't look ahead.
fn columns([id, state, attempt, agent, capability, reason]: [String; 6]) -> String {
    format!("{id:36}  {state:14}  {attempt:7}  {agent:12}  {capability:10}  {reason}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, id: &str, state: v1::TaskState) -> v1::TaskEvent {
        let task = v1::Task { id: id.into(), state: state.into(), ..Default::default() };
        v1::TaskEvent { kind: kind.into(), task: Some(task), revision: None }
    }

    #[test]
    fn a_second_snapshot_tells_only_what_was_missed() {
        use v1::TaskState::{Pending, Running, Succeeded};
        let mut printer = Printer::new(Format::Table, true);
        assert!(printer.is_news(&event(Kind::Snapshot, "a", Succeeded)));
        assert!(printer.is_news(&event(Kind::Snapshot, "b", Pending)));
        assert!(printer.is_news(&event(Kind::Snapshot, "c", Pending)));
        printer.again();
        assert!(!printer.is_news(&event(Kind::Snapshot, "a", Succeeded)), "seen before the gap");
        assert!(printer.is_news(&event(Kind::Snapshot, "b", Succeeded)), "ended in the gap");
        assert!(!printer.is_news(&event(Kind::Snapshot, "c", Pending)), "unchanged");
        assert!(printer.is_news(&event(Kind::Snapshot, "d", Running)), "new");
        assert!(printer.is_news(&event(Kind::Changed, "c", Running)));
    }
}
