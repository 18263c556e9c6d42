//! The results of a job, read back from the store once all tasks are terminal, and written as one
//! JSON object per task.

use std::collections::HashMap;
use std::time::Duration;

use hive_proto::v1;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::manifest::{Entry, Manifest};
use super::submit::labels;
use crate::connect::Client;
use crate::failure::Failure;
use crate::output::printable;
use crate::verbs::task::{reason_name, state_name};

/// Few enough for a page of results of ordinary size to stay below the largest message.
const PAGE: i32 = 200;

/// One line of `results.jsonl`.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) task_id: String,
    pub(crate) capability: String,
    pub(crate) input: Input,
    pub(crate) state: String,
    pub(crate) attempts: u32,
    pub(crate) agent: String,
    pub(crate) output: Value,
}

/// What the task was about.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Input {
    pub(crate) path: String,
}

/// Reads every task of the job from the store, in the order of the manifest.
pub(crate) async fn read(client: &Client, manifest: &Manifest) -> Result<Vec<Row>, Failure> {
    let client = client.with_deadline(Duration::from_secs(60));
    let mut tasks = listed(&client, manifest).await;
    let mut rows = Vec::with_capacity(manifest.entries.len());
    for entry in &manifest.entries {
        let id = entry.task_id.to_string();
        let task = match tasks.remove(&id) {
            Some(task) => task,
            None => single(&client, id).await?,
        };
        rows.push(row(entry, &task));
    }
    Ok(rows)
}

/// By pages. What a page that fails leaves out is read one by one.
async fn listed(client: &Client, manifest: &Manifest) -> HashMap<String, v1::Task> {
    let mut tasks = HashMap::with_capacity(manifest.entries.len());
    let mut page_token = String::new();
    loop {
        let request = v1::ListTasksRequest {
            namespace: client.namespace.clone(),
            filter: Some(v1::TaskFilter { labels: labels(manifest.job), ..Default::default() }),
            page_size: PAGE,
            page_token,
            view: v1::TaskView::Full.into(),
        };
        let answer = client.attempt(request, |mut s, r| async move { s.tasks.list_tasks(r).await }, true).await;
        let Ok(page) = answer else { return tasks };
        tasks.extend(page.tasks.into_iter().map(|task| (task.id.clone(), task)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return tasks;
        }
    }
}

async fn single(client: &Client, id: String) -> Result<v1::Task, Failure> {
    let what = format!("cannot read the result of task {id}");
    let request = v1::GetTaskRequest {
        namespace: client.namespace.clone(),
        task_id: id,
        view: v1::TaskView::Full.into(),
        ..Default::default()
    };
    let response = client
        .call(&what, request, |mut s, r| async move { s.tasks.get_task(r).await })
        .await
        .map_err(|failure| failure.next("run it again; if its records are gone by now, with --fresh"))?;
    response.task.ok_or_else(|| Failure::error(what, "the answer holds no task"))
}

fn row(entry: &Entry, task: &v1::Task) -> Row {
    Row {
        task_id: task.id.clone(),
        capability: entry.capability.clone(),
        input: Input { path: entry.path.clone() },
        state: state_name(task.state()).to_owned(),
        attempts: task.attempt,
        agent: task.agent_id.clone(),
        output: output(task),
    }
}

/// The result; JSON as JSON, text as text. For a task without one, why.
fn output(task: &v1::Task) -> Value {
    if task.state() != v1::TaskState::Succeeded {
        let failure = task.failure.clone().unwrap_or_default();
        return json!({ "error": printable(&failure.message), "reason": reason_name(task.reason()) });
    }
    let data = task.result.as_ref().map(|result| result.data.clone()).unwrap_or_default();
    serde_json::from_slice(&data).unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&data).into_owned()))
}

/// All rows as lines.
pub(crate) fn lines(rows: &[Row]) -> Result<Vec<u8>, serde_json::Error> {
    let mut text = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut text, row)?;
        text.push(b'\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn entry() -> Entry {
        Entry { task_id: Uuid::from_u128(1), capability: "wc".into(), path: "a%FF".into(), path_encoded: true }
    }

    #[test]
    fn a_row_has_exactly_seven_members() {
        let task = v1::Task {
            id: Uuid::from_u128(1).to_string(),
            state: v1::TaskState::Succeeded.into(),
            attempt: 2,
            agent_id: "sdk-1".into(),
            result: Some(v1::Payload { data: bytes::Bytes::from_static(b"{\"lines\":1}\n"), ..Default::default() }),
            ..Default::default()
        };
        let text = String::from_utf8(lines(&[row(&entry(), &task)]).unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"task_id\":\"00000000-0000-0000-0000-000000000001\",\"capability\":\"wc\",\
             \"input\":{\"path\":\"a%FF\"},\"state\":\"SUCCEEDED\",\"attempts\":2,\"agent\":\"sdk-1\",\
             \"output\":{\"lines\":1}}\n"
        );
    }

    #[test]
    fn a_failure_says_why() {
        let task = v1::Task {
            state: v1::TaskState::Failed.into(),
            reason: v1::TaskReason::AgentError.into(),
            failure: Some(v1::TaskFailure { message: "no such file".into(), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(row(&entry(), &task).output, json!({"error": "no such file", "reason": "AGENT_ERROR"}));
    }

    #[test]
    fn text_stays_text() {
        let task = v1::Task {
            state: v1::TaskState::Succeeded.into(),
            result: Some(v1::Payload { data: bytes::Bytes::from_static(b"hello\xff"), ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(output(&task), json!("hello\u{fffd}"));
    }
}
