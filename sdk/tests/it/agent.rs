use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hive_proto::agent_v1::Outcome;
use hive_sdk::agent::Error;
use hive_sdk::local::{SandboxSidecar, Work};
use hive_sdk::{Agent, Failure, Output, PAYLOAD_LIMIT, Task};
use tokio::sync::{Barrier, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::soon;

fn serve<F, Fut>(socket: &Path, handler: F) -> JoinHandle<Result<(), Error>>
where
    F: Fn(Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Output, Failure>> + Send + 'static,
{
    tokio::spawn(Agent::at(socket).without_signals().serve(handler))
}

async fn sandbox() -> SandboxSidecar {
    SandboxSidecar::start(4).await.expect("a sandbox")
}

async fn drained(sidecar: &SandboxSidecar, serving: JoinHandle<Result<(), Error>>) {
    sidecar.drain().await;
    soon("the end", serving).await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_result_is_kept_until_it_is_acknowledged() {
    let sidecar = sandbox().await;
    let serving = serve(sidecar.socket(), |task: Task| async move { Ok(Output::text(task.token())) });
    sidecar.hold_acks(true);
    soon("an agent", sidecar.assign(Work::new("t1", "x"))).await;
    soon("the result", sidecar.result("t1")).await;
    sidecar.cut().await;
    let hello = soon("another stream", sidecar.until(|seen| seen.hellos.get(1).cloned())).await;
    assert_eq!((hello.running.len(), hello.finished), (0, vec!["t1".to_owned()]));
    soon("the result again", sidecar.until(|seen| (seen.results.len() == 2).then_some(()))).await;
    sidecar.hold_acks(false);
    sidecar.cut().await;
    soon("the result once more", sidecar.until(|seen| (seen.results.len() == 3).then_some(()))).await;
    sidecar.cut().await;
    let hello = soon("a last stream", sidecar.until(|seen| seen.hellos.get(3).cloned())).await;
    assert!(hello.finished.is_empty(), "an acknowledged result is forgotten");
    soon("readiness", sidecar.until(|seen| seen.ready)).await;
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn a_handler_goes_on_while_the_sidecar_restarts() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    let sidecar = SandboxSidecar::start_at(&socket, 1).await.expect("a sandbox");
    let go = Arc::new(Notify::new());
    let gate = go.clone();
    let serving = serve(&socket, move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            Ok(Output::text("done"))
        }
    });
    soon("an agent", sidecar.assign(Work::new("t1", "x"))).await;
    drop(sidecar);
    let sidecar = SandboxSidecar::start_at(&socket, 1).await.expect("a second sandbox");
    sidecar.knows("t1");
    let hello = soon("the agent again", sidecar.until(|seen| seen.hellos.first().cloned())).await;
    assert_eq!(hello.running, ["t1"]);
    go.notify_one();
    assert_eq!(soon("the result", sidecar.result("t1")).await.outcome(), Outcome::Succeeded);
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn work_a_sidecar_does_not_know_is_stopped_without_a_result() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    let sidecar = SandboxSidecar::start_at(&socket, 1).await.expect("a sandbox");
    let serving = serve(&socket, |task: Task| async move {
        task.cancelled().await;
        Err(Failure::new("told to stop"))
    });
    soon("an agent", sidecar.assign(Work::new("t1", "x"))).await;
    drop(sidecar);
    let sidecar = SandboxSidecar::start_at(&socket, 1).await.expect("a second sandbox");
    soon("the agent again", sidecar.until(|seen| seen.ready)).await;
    drained(&sidecar, serving).await;
    assert!(sidecar.seen().results.is_empty());
}

#[tokio::test]
async fn a_cancel_is_told_and_a_deaf_handler_is_dropped() {
    let sidecar = sandbox().await;
    let serving = serve(sidecar.socket(), |task: Task| async move {
        if task.text()? == "deaf" {
            std::future::pending::<()>().await;
        }
        task.cancelled().await;
        Err(Failure::new("told to stop"))
    });
    soon("an agent", sidecar.assign(Work::new("listens", "x"))).await;
    sidecar.assign(Work::new("deaf", "deaf")).await;
    sidecar.cancel("listens", Duration::from_secs(60)).await;
    sidecar.cancel("deaf", Duration::from_millis(20)).await;
    for token in ["listens", "deaf"] {
        assert_eq!(soon(token, sidecar.result(token)).await.outcome(), Outcome::Cancelled);
    }
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn a_panic_and_a_result_too_large_are_failures_and_the_agent_goes_on() {
    let sidecar = sandbox().await;
    let serving = serve(sidecar.socket(), |task: Task| {
        if task.token() == "panics" {
            panic!("before the first await");
        }
        async move { Ok(Output::bytes(vec![b'x'; task.text()?.parse()?], "")) }
    });
    soon("an agent", sidecar.assign(Work::new("panics", "x"))).await;
    let result = soon("a failure", sidecar.result("panics")).await;
    assert_eq!(result.message, "the handler panicked: before the first await");
    assert_eq!((result.outcome(), result.retryable), (Outcome::Failed, false));

    sidecar.assign(Work::new("over", (PAYLOAD_LIMIT + 1).to_string())).await;
    let result = soon("a failure", sidecar.result("over")).await;
    assert_eq!(result.outcome(), Outcome::Failed);
    assert!(result.message.contains("262145 bytes, the limit is 262144"), "{}", result.message);

    sidecar.assign(Work::new("limit", PAYLOAD_LIMIT.to_string())).await;
    assert_eq!(soon("a result", sidecar.result("limit")).await.outcome(), Outcome::Succeeded);
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn questions_and_progress_reach_the_sidecar_and_answers_the_handler() {
    let sidecar = sandbox().await;
    let serving = serve(sidecar.socket(), |task: Task| async move {
        task.progress(0.5, "half way");
        let first = task.ask("colour?").await?;
        let second = task.ask("sure?").await?;
        Ok(Output::text(format!("{} {}", first.as_text()?, second.as_text()?)))
    });
    soon("an agent", sidecar.assign(Work::new("t1", "x"))).await;
    soon("progress", sidecar.until(|seen| seen.progress.iter().find(|p| p.message == "half way").cloned())).await;
    for (number, answer) in [(1, "red"), (2, "yes")] {
        soon("a question", sidecar.until(|seen| seen.questions.iter().find(|q| q.number == number).cloned())).await;
        sidecar.answer("t1", number, answer).await;
    }
    assert_eq!(soon("the result", sidecar.result("t1")).await.payload.expect("an output").data, "red yes");
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn handlers_run_side_by_side() {
    let sidecar = sandbox().await;
    let all_here = Arc::new(Barrier::new(4));
    let serving = serve(sidecar.socket(), move |_| {
        let all_here = all_here.clone();
        async move {
            all_here.wait().await;
            Ok(Output::empty())
        }
    });
    for token in ["a", "b", "c", "d"] {
        soon("an agent", sidecar.assign(Work::new(token, "x"))).await;
    }
    for token in ["a", "b", "c", "d"] {
        soon("a result", sidecar.result(token)).await;
    }
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn a_handler_that_blocks_its_runtime_still_has_a_heartbeat() {
    let sidecar = sandbox().await;
    let agent = Agent::at(sidecar.socket()).without_signals();
    let (release, gate) = std::sync::mpsc::sync_channel::<()>(1);
    let gate = Arc::new(std::sync::Mutex::new(gate));
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(agent.serve(move |_| {
            let gate = gate.clone();
            async move {
                gate.lock().expect("one handler").recv()?;
                Ok(Output::empty())
            }
        }))
    });
    soon("an agent", sidecar.assign(Work::new("t1", "x"))).await;
    let before = sidecar.seen().heartbeats;
    soon("heartbeats", sidecar.until(|seen| (seen.heartbeats >= before + 3).then_some(()))).await;
    assert!(sidecar.seen().results.is_empty(), "the handler still blocks");
    release.send(()).expect("the handler waits");
    soon("the result", sidecar.result("t1")).await;
    sidecar.drain().await;
    let ended = tokio::task::spawn_blocking(move || serving.join());
    soon("the end", ended).await.expect("joined").expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn an_agent_may_start_before_its_sidecar_but_not_wait_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("agent.sock");
    let agent = Agent::at(&socket).without_signals().first_connect(Duration::from_millis(200));
    let error = soon("the end", agent.serve(|_| async { Ok(Output::empty()) })).await.expect_err("nobody is there");
    assert!(matches!(error, Error::NoSidecar { .. }));
    assert!(error.to_string().contains("agent.sock") && error.to_string().contains("No such file"), "{error}");

    let serving = serve(&socket, |_| async { Ok(Output::empty()) });
    let sidecar = SandboxSidecar::start_at(&socket, 1).await.expect("a sandbox");
    soon("the agent", sidecar.assign(Work::new("t1", "x"))).await;
    soon("the result", sidecar.result("t1")).await;
    drained(&sidecar, serving).await;
}

#[tokio::test]
async fn told_to_stop_it_finishes_what_runs() {
    let sidecar = sandbox().await;
    let (stop, go) = (CancellationToken::new(), Arc::new(Notify::new()));
    let gate = go.clone();
    let agent = Agent::at(sidecar.socket()).without_signals().stop_on(stop.clone());
    let serving = tokio::spawn(agent.serve(move |_| {
        let gate = gate.clone();
        async move {
            gate.notified().await;
            Ok(Output::empty())
        }
    }));
    soon("an agent", sidecar.assign(Work::new("t1", "x"))).await;
    stop.cancel();
    soon("not ready", sidecar.until(|seen| (seen.ready == Some(false)).then_some(()))).await;
    go.notify_one();
    soon("the result", sidecar.result("t1")).await;
    soon("the end", serving).await.expect("no panic").expect("a clean end");
}

#[tokio::test]
async fn a_second_process_at_the_same_socket_replaces_the_first() {
    let sidecar = sandbox().await;
    let first = serve(sidecar.socket(), |_| async { Ok(Output::text("first")) });
    soon("the first", sidecar.until(|seen| seen.ready)).await;
    let second = serve(sidecar.socket(), |_| async { Ok(Output::text("second")) });
    let error = soon("the first's end", first).await.expect("no panic").expect_err("replaced");
    assert!(matches!(error, Error::Replaced { .. }), "{error}");
    soon("the second", sidecar.until(|seen| (seen.hellos.len() == 2 && seen.ready == Some(true)).then_some(()))).await;
    drained(&sidecar, second).await;
}

#[tokio::test]
async fn a_refusal_is_final() {
    let sidecar = sandbox().await;
    let serving = serve(sidecar.socket(), |_| async { Ok(Output::empty()) });
    soon("an agent", sidecar.until(|seen| seen.ready)).await;
    sidecar.end_stream(tonic::Status::permission_denied("not you")).await;
    let error = soon("the end", serving).await.expect("no panic").expect_err("refused");
    assert_eq!(error.to_string(), "the sidecar refused the session: not you");
}
