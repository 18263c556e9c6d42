//! The example agents, as processes.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use hive_proto::agent_v1::Outcome;
use hive_sdk::local::{SandboxSidecar, Work};

use crate::soon;

fn example(name: &str) -> Command {
    let test = std::env::current_exe().expect("a path");
    let folder: PathBuf = test.ancestors().nth(2).expect("the target folder").join("examples");
    let program = folder.join(name);
    assert!(program.exists(), "{} is missing: cargo build -p hive-sdk --examples", program.display());
    let mut command = Command::new(program);
    command.env_remove("HIVE_AGENT_SOCKET").stderr(Stdio::piped());
    command
}

/// The process, ended when the test is.
struct Agent(Option<std::process::Child>);

impl Agent {
    fn start(name: &str, sidecar: &SandboxSidecar) -> Self {
        let spawned = example(name).env("HIVE_AGENT_SOCKET", sidecar.socket()).spawn();
        Self(Some(spawned.expect("it starts")))
    }

    fn terminate(&self) {
        let child = self.0.as_ref().expect("it runs");
        let sent = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    async fn end(mut self) -> Output {
        let child = self.0.take().expect("it runs");
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        soon("the process's end", ended).await.expect("no panic").expect("waited for")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[tokio::test]
async fn the_word_counter_counts_and_is_drained() {
    let sidecar = SandboxSidecar::start(2).await.expect("a sandbox");
    let agent = Agent::start("word_count_agent", &sidecar);
    soon("the agent", sidecar.assign(Work::new("t1", "a rose is a rose"))).await;
    assert_eq!(soon("the result", sidecar.result("t1")).await.payload.expect("an output").data, "5 words");
    sidecar.drain().await;
    assert!(agent.end().await.status.success());
}

#[tokio::test]
async fn the_painter_asks_paints_and_stops_on_a_signal() {
    let sidecar = SandboxSidecar::start(2).await.expect("a sandbox");
    let agent = Agent::start("ask_agent", &sidecar);
    soon("the agent", sidecar.assign(Work::new("fence", "the fence"))).await;
    sidecar.assign(Work::new("door", "the door")).await;
    let asked =
        |token: &'static str| sidecar.until(move |seen| seen.questions.iter().find(|q| q.token == token).cloned());
    soon("a question", asked("door")).await;
    sidecar.cancel("door", Duration::from_secs(10)).await;
    assert_eq!(soon("the door's end", sidecar.result("door")).await.outcome(), Outcome::Cancelled);
    soon("a question", asked("fence")).await;
    agent.terminate();
    sidecar.answer("fence", 1, "white").await;
    let result = soon("the fence", sidecar.result("fence")).await;
    assert_eq!(result.payload.expect("an output").data, "the fence is white now");
    assert!(sidecar.seen().progress.iter().any(|p| p.fraction.is_some_and(|f| f > 0.0)));
    assert!(agent.end().await.status.success());
}

#[tokio::test]
async fn without_a_socket_an_agent_says_what_to_do() {
    let output = example("word_count_agent").output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("Error: HIVE_AGENT_SOCKET is not set: "), "{text}");
}
