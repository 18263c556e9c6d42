//! `hive demo-agent`: an agent that links the SDK. It can `wc` a file, and `echo` for trying things
//! out: echo gives back its payload, unless that is a JSON object with one of these members.
//!
//! * `sleep_ms`: works that long and tells its progress; a cancel ends it.
//! * `ask`: asks that question and gives back the answer.
//! * `fail`: fails with that text; with `"retryable": true` another try may help.

use std::fs::File;
use std::time::Duration;

use hive_sdk::{Agent, Output, Task};
use serde::{Deserialize, Serialize};

use super::input::FileInput;
use super::{language, wc};
use crate::failure::Failure;
use crate::tasks;

/// Result of `wc`.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Counted {
    #[serde(flatten)]
    pub(crate) count: wc::Count,
    pub(crate) language: String,
}

/// Serves until the sidecar lets go.
pub(crate) async fn run() -> Result<(), Failure> {
    let fail = |e: hive_sdk::agent::Error| {
        Failure::error("the agent stopped", e).next("it is started by a sidecar; try `hive dev`")
    };
    Agent::from_env().map_err(fail)?.serve(handle).await.map_err(fail)
}

async fn handle(task: Task) -> Result<Output, hive_sdk::Failure> {
    match task.capability() {
        "wc" => count(task.json()?).await,
        "echo" => echo(&task).await,
        other => Err(hive_sdk::Failure::new(format!("no capability {other:?}: this agent knows wc and echo"))),
    }
}

async fn count(input: FileInput) -> Result<Output, hive_sdk::Failure> {
    let path = input.file();
    let counted = tasks::blocking(move || {
        let (count, head) = wc::count(File::open(&path)?)?;
        let language = language::of(&path, &head).to_owned();
        Ok::<_, std::io::Error>(Counted { count, language })
    });
    let counted = counted.await?.map_err(|e| hive_sdk::Failure::new(format!("wc of {}: {e}", input.path)))?;
    Ok(Output::json(&counted)?)
}

/// What echo may be asked to do first.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wish {
    sleep_ms: u64,
    ask: Option<String>,
    fail: Option<String>,
    retryable: bool,
}

async fn echo(task: &Task) -> Result<Output, hive_sdk::Failure> {
    let wish: Wish = task.json().unwrap_or_default();
    let steps = wish.sleep_ms.div_ceil(100);
    for step in 0..steps {
        let part = Duration::from_millis((wish.sleep_ms - step * 100).min(100));
        if tokio::time::timeout(part, task.cancelled()).await.is_ok() {
            return Err(hive_sdk::Failure::new("cancelled"));
        }
        if step % 10 == 9 {
            #[expect(clippy::cast_precision_loss, reason = "a share of progress, for people")]
            task.progress((step + 1) as f64 / steps as f64, "sleeping");
        }
    }
    if let Some(why) = wish.fail {
        return Err(if wish.retryable { hive_sdk::Failure::retryable(why) } else { hive_sdk::Failure::new(why) });
    }
    match wish.ask {
        Some(question) => Ok(task.ask(question).await?),
        None => Ok(task.payload().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hive_sdk::local::Case;

    #[tokio::test]
    async fn wc_counts_and_names_the_language() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.rs"), "fn main() {}\n").unwrap();
        let payload = serde_json::json!({"path": "a.rs", "root": dir.path()}).to_string();
        let ended = Case::new(payload).capability("wc").run(handle).await;
        assert_eq!(
            ended.output().unwrap().as_json::<serde_json::Value>().unwrap(),
            serde_json::json!({"lines": 1, "words": 3, "bytes": 13, "language": "Rust"})
        );
    }

    #[tokio::test]
    async fn what_is_not_there_fails_and_says_so() {
        let ended = Case::new(r#"{"path": "/absent"}"#).capability("wc").run(handle).await;
        assert!(ended.failure().unwrap().message().contains("/absent"));
        let ended = Case::new("not json").capability("wc").run(handle).await;
        assert!(ended.failure().is_some());
        let ended = Case::new("x").capability("fly").run(handle).await;
        assert!(ended.failure().unwrap().message().contains("fly"));
    }

    #[tokio::test]
    async fn echo_does_as_it_is_asked() {
        let ended = Case::new("hello").capability("echo").run(handle).await;
        assert_eq!(ended.output().unwrap().as_text().unwrap(), "hello");
        let ended = Case::new(r#"{"ask": "Go on?"}"#).capability("echo").answer("yes").run(handle).await;
        assert_eq!(ended.output().unwrap().as_text().unwrap(), "yes");
        let ended = Case::new(r#"{"fail": "no", "retryable": true}"#).capability("echo").run(handle).await;
        assert!(ended.failure().unwrap().is_retryable());
    }

    #[tokio::test]
    async fn a_cancel_ends_the_sleep() {
        let case = Case::new(r#"{"sleep_ms": 600000}"#).capability("echo").cancel_after(Duration::from_millis(50));
        let ended = tokio::time::timeout(Duration::from_secs(20), case.run(handle)).await.expect("in time");
        assert!(ended.output().is_none());
    }
}
