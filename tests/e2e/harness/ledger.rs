//! The agent that keeps a list of what it ran, and the reading of such lists.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use hive_sdk::{Agent, Output, Task};
use serde_json::Value;

/// Path of the list.
pub(crate) const LOG: &str = "E2E_AGENT_LOG";
/// This module's entry as the test runner names it.
pub(crate) const ENTRY: &str = "harness::ledger::agent_process";

/// Not a test: where the agent's process begins.
#[test]
fn agent_process() {
    let Ok(log) = std::env::var(LOG) else { return };
    serve(move |task: Task| {
        let log = log.clone();
        async move {
            write(Path::new(&log), task.id(), task.attempt());
            work(&task).await
        }
    });
}

/// Is an agent until its sidecar goes.
pub(crate) fn serve<F, Fut>(handle: F)
where
    F: Fn(Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Output, hive_sdk::Failure>> + Send + 'static,
{
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let served = runtime.block_on(async { Agent::from_env().expect("started by a sidecar").serve(handle).await });
    if let Err(error) = served {
        eprintln!("the agent stopped: {error:?}");
        std::process::exit(1);
    }
}

/// One write to a file opened for appending is not torn by others.
fn write(log: &Path, task: &str, attempt: u32) {
    let mut file = std::fs::File::options().create(true).append(true).open(log).expect("open the list");
    file.write_all(format!("{task} {attempt}\n").as_bytes()).expect("write the list");
}

/// Sleeps for as long as the payload says and gives it back.
pub(crate) async fn work(task: &Task) -> Result<Output, hive_sdk::Failure> {
    let wish: Value = task.json().unwrap_or_default();
    if let Some(ms) = wish["sleep_ms"].as_u64()
        && tokio::time::timeout(Duration::from_millis(ms), task.cancelled()).await.is_ok()
    {
        return Err(hive_sdk::Failure::new("cancelled"));
    }
    Ok(task.payload().clone())
}

/// How often each (task, attempt) was begun, by the lists of all agents.
pub(crate) fn executions(lists: &[&Path]) -> BTreeMap<(String, u32), u32> {
    let mut begun = BTreeMap::new();
    for list in lists {
        for line in std::fs::read_to_string(list).unwrap_or_default().lines() {
            let (task, attempt) = line.split_once(' ').unwrap_or_else(|| panic!("a torn line: {line:?}"));
            *begun.entry((task.to_owned(), attempt.parse().expect("an attempt"))).or_default() += 1;
        }
    }
    begun
}
