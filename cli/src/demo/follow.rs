//! Follows the job's tasks by a watch, for ever: one that ends, falls silent or asks for a resync is
//! opened again, and its snapshot holds what was missed. Looks at the fleet's agents now and then.

use std::collections::BTreeMap;
use std::time::Duration;

use hive_proto::v1;
use tokio::sync::mpsc;

use super::board::Report;
use crate::connect::{Backoff, Client};

/// Bookmarks come every 30 s; one missed means that the watch is dead.
const SILENCE: Duration = Duration::from_secs(45);

/// Between two looks at the agents.
const LOOK: Duration = Duration::from_millis(500);

/// What is told.
#[derive(Debug)]
pub(crate) enum News {
    /// A task of the job stands so.
    Task(Report),
    /// All that the control plane has of the job was told.
    Synced,
    /// An agent is in this phase.
    Agent(String, v1::AgentPhase),
}

/// Follows the tasks that carry `labels` until nobody listens any more.
pub(crate) async fn tasks(client: Client, labels: BTreeMap<String, String>, news: mpsc::Sender<News>) {
    let mut backoff = Backoff::new();
    while !news.is_closed() {
        let request = v1::WatchTasksRequest {
            namespace: client.namespace.clone(),
            filter: Some(v1::TaskFilter { labels: labels.clone(), ..Default::default() }),
            skip_snapshot: false,
        };
        let opened = client.attempt(request, |mut s, r| async move { s.tasks.watch_tasks(r).await }, false).await;
        if let Ok(mut events) = opened {
            while let Ok(Ok(Some(response))) = tokio::time::timeout(SILENCE, events.message()).await {
                backoff.reset();
                let event = response.event.unwrap_or_default();
                let item = match (event.kind(), event.task) {
                    (v1::TaskEventKind::Sync, _) => News::Synced,
                    (v1::TaskEventKind::Snapshot | v1::TaskEventKind::Changed, Some(task)) => News::Task(Report {
                        state: task.state(),
                        id: task.id,
                        agent: task.agent_id,
                        attempt: task.attempt,
                    }),
                    _ => continue,
                };
                if news.send(item).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(backoff.step()).await;
    }
}

/// Looks at all agents again and again, until nobody listens any more. Not a watch: that an agent's
/// process is down is soft, and an agent may be back before anything of it is committed.
pub(crate) async fn agents(client: Client, news: mpsc::Sender<News>) {
    while !news.is_closed() {
        let mut page_token = String::new();
        loop {
            let request = v1::ListAgentsRequest {
                namespace: client.namespace.clone(),
                page_size: 1_000,
                page_token,
                ..Default::default()
            };
            let answer = client.attempt(request, |mut s, r| async move { s.agents.list_agents(r).await }, true).await;
            let Ok(page) = answer else { break };
            for agent in page.agents {
                if news.send(News::Agent(agent.id.clone(), agent.phase())).await.is_err() {
                    return;
                }
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}
