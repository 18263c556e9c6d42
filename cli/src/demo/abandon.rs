//! Ends what is left of a job that was given up with `--fresh`: its tasks were accepted, and would
//! be done before the new ones.

use futures_util::StreamExt as _;
use hive_proto::v1;
use uuid::Uuid;

use super::submit::labels;
use crate::connect::Client;

/// Cancels under way at a time.
const AT_ONCE: usize = 16;

/// Asks for every unfinished task of the job to end. Best effort: one that is done anyway does no
/// harm.
pub(crate) async fn run(client: Client, job: Uuid) {
    use v1::TaskState::{Assigned, InputRequired, Pending, Running};
    let mut page_token = String::new();
    loop {
        let request = v1::ListTasksRequest {
            namespace: client.namespace.clone(),
            filter: Some(v1::TaskFilter {
                states: [Pending, Assigned, Running, InputRequired].map(Into::into).to_vec(),
                labels: labels(job),
                ..Default::default()
            }),
            page_size: 500,
            page_token,
            view: v1::TaskView::Basic.into(),
        };
        let answer = client.attempt(request, |mut s, r| async move { s.tasks.list_tasks(r).await }, true).await;
        let Ok(page) = answer else { return };
        let cancels = page.tasks.into_iter().map(|task| cancel(&client, task.id));
        futures_util::stream::iter(cancels).buffer_unordered(AT_ONCE).collect::<()>().await;
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return;
        }
    }
}

async fn cancel(client: &Client, task_id: String) {
    let request = v1::CancelTaskRequest { namespace: client.namespace.clone(), task_id };
    let _ = client.attempt(request, |mut s, r| async move { s.tasks.cancel_task(r).await }, true).await;
}
