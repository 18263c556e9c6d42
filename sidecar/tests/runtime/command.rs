//! Programs run once per attempt.

use std::time::Duration;

use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_sidecar::attempt::{AttemptEnd, RESULT_LIMIT};
use hive_sidecar::config::{AgentConfig, RuntimeKind};
use hive_sidecar::output::{Stream, Tail};
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};

use crate::rig::{Rig, eventually, gone, key, kill, process_in, processes, work};

pub(crate) fn sh(script: &str) -> AgentConfig {
    AgentConfig::new("a", RuntimeKind::Command, &["sum"], &["/bin/sh", "-c", &braces(script)])
}

/// A script's own braces, for the template.
fn braces(script: &str) -> String {
    script.replace('{', "{{").replace('}', "}}")
}

async fn end_of(script: &str) -> AttemptEnd {
    Rig::new(sh(script)).run(work(1, b"")).await
}

fn result(end: &AttemptEnd) -> &[u8] {
    assert_eq!(end.outcome, Outcome::Succeeded, "{end:?}");
    &end.payload.as_ref().expect("a result").data
}

pub(crate) async fn success_brings_stdout_back() {
    let mut rig = Rig::new(sh("cat; echo noise >&2"));
    rig.until_agent(true, "").await;
    rig.send(RuntimeCommand::Start(work(1, b"hello"))).await;
    let started_ms = rig.started(key(1)).await;
    let end = rig.ended(key(1)).await;
    assert_eq!(result(&end), b"hello");
    assert_eq!(end.payload.as_ref().map(|p| p.content_type.as_str()), Some("text/plain; charset=utf-8"));
    assert_eq!((end.started_ms, end.exit_code), (started_ms, Some(0)));
    assert!(end.ended_ms >= started_ms);
    let mut agent = sh("echo '{}'");
    agent.result_content_type = Some("application/json".into());
    let told = Rig::new(agent).run(work(1, b"")).await;
    assert_eq!(told.payload.map(|p| p.content_type).as_deref(), Some("application/json"));
    let binary = Rig::new(sh("cat")).run(work(2, &[0xff, 0])).await;
    assert_eq!(binary.payload.map(|p| p.content_type).as_deref(), Some("application/octet-stream"));
}

pub(crate) async fn placeholders_and_environment_reach_the_program() {
    let script = r#"printf '%s|' "$0" "$1" "$HIVE_TASK_ID" "$HIVE_ATTEMPT" "$HIVE_ATTEMPT_TOKEN" "$HIVE_AGENT_ID" "$HIVE_CAPABILITY" "$MINE" "${HIVE_SECRET-unset}"; cat "$2" "$HIVE_PAYLOAD_FILE""#;
    let mut agent = AgentConfig::new("a", RuntimeKind::Command, &["sum"], &["/bin/sh", "-c"]);
    agent.argv.extend([braces(script), "{capability}".into(), "{task_id}/{attempt}".into(), "{payload_file}".into()]);
    agent.env.insert("MINE".into(), "x".into());
    let end = Rig::new(agent).run(work(1, b"P")).await;
    let task = key(1).task_id();
    let wanted = format!("sum|{task}/1|{task}|1|{task}/1|a|sum|x|unset|PP");
    assert_eq!(String::from_utf8_lossy(result(&end)), wanted);
}

pub(crate) async fn exit_codes_are_told_truthfully() {
    let end = end_of("echo out; echo because >&2; exit 3").await;
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, FailureReason::ExitCode));
    assert_eq!((end.exit_code, end.signal, end.retryable), (Some(3), None, false));
    assert_eq!((end.message.as_str(), end.payload), ("because", None));
    let again = end_of("exit 75").await;
    assert_eq!((again.reason, again.exit_code, again.retryable), (FailureReason::ExitCode, Some(75), true));
}

pub(crate) async fn a_signal_is_told_truthfully() {
    let end = end_of("kill -SEGV $$").await;
    assert_eq!((end.outcome, end.reason), (Outcome::Failed, FailureReason::Signal));
    assert_eq!((end.exit_code, end.signal, end.retryable), (None, Some(11), false));
}

pub(crate) async fn a_large_payload_passes_through() {
    let payload: Vec<u8> = (0..RESULT_LIMIT).map(|n| u8::try_from(n % 251).expect("small")).collect();
    let end = Rig::new(sh("cat")).run(work(1, &payload)).await;
    assert_eq!(result(&end), payload);
}

pub(crate) async fn a_missing_program_fails_to_start() {
    for program in ["/nowhere/program", "no-such-program-anywhere"] {
        let agent = AgentConfig::new("a", RuntimeKind::Command, &["sum"], &[program]);
        let end = Rig::new(agent).run(work(1, b"")).await;
        assert_eq!((end.reason, end.retryable), (FailureReason::StartFailed, false));
        assert!(end.message.contains(program) && end.message.contains("No such file"), "{}", end.message);
    }
    let agent = AgentConfig::new("a", RuntimeKind::Command, &["sum"], &["/etc/passwd"]);
    let end = Rig::new(agent).run(work(1, b"")).await;
    assert!(end.message.contains("Permission denied"), "{}", end.message);
    let mut agent = sh("true");
    agent.cwd = Some("/nowhere".into());
    let end = Rig::new(agent).run(work(1, b"")).await;
    assert!(end.message.contains("working directory /nowhere"), "{}", end.message);
}

pub(crate) async fn a_result_too_large_fails() {
    let end = end_of("head -c 262145 /dev/zero").await;
    assert_eq!((end.reason, end.retryable, end.exit_code), (FailureReason::ResultTooLarge, false, Some(0)));
    assert!(end.message.contains("262145"), "{}", end.message);
    assert_eq!(result(&end_of("head -c 262144 /dev/zero").await).len(), RESULT_LIMIT);
}

pub(crate) async fn output_past_the_limit_is_counted_and_cut() {
    let mut agent = sh("head -c 5000000 /dev/zero >&2; echo done");
    agent.output_limit = 100_000;
    let mut rig = Rig::new(agent);
    assert_eq!(result(&rig.run(work(1, b"")).await), b"done\n");
    rig.send(RuntimeCommand::Forget { key: key(1) }).await;
    eventually("the payload's removal", || (!rig.attempt_dir(key(1)).join("payload").exists()).then_some(())).await;
    let mut tail = Tail::open(&rig.dirs.state_dir, key(1), Stream::Stderr).expect("reads").expect("known");
    let (mut bytes, mut cut) = (0, false);
    while let Some(chunk) = tail.next(true).await.expect("reads") {
        assert!(chunk.data.len() <= 16 * 1024);
        assert_eq!(chunk.offset, bytes);
        bytes += chunk.data.len() as u64;
        cut |= chunk.truncated;
    }
    assert_eq!((bytes, cut), (100_000, true));
    assert!(Tail::open(&rig.dirs.state_dir, key(9), Stream::Stdout).expect("reads").is_none());
}

pub(crate) async fn a_timeout_ends_the_group() {
    let mut rig = Rig::new(sh("sleep 1000 & echo $! > pid; wait"));
    let mut start = work(1, b"");
    start.timeout = Duration::from_millis(500);
    rig.send(RuntimeCommand::Start(start)).await;
    rig.started(key(1)).await;
    let child = process_in(rig.attempt_dir(key(1)).join("work/pid")).await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.reason, end.retryable), (Outcome::Failed, FailureReason::Timeout, true));
    assert_eq!(end.signal, Some(15), "TERM comes first");
    assert!(!child.is_alive());
}

pub(crate) async fn cancel_lets_the_program_end_gracefully() {
    // The shell dies of TERM at once; its child has the grace to write.
    let script =
        "(trap 'sleep 0.2; echo saved > saved; exit' TERM; echo ready > ready; while :; do sleep 0.05; done) & wait";
    let mut rig = Rig::new(sh(script));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let dir = rig.attempt_dir(key(1)).join("work");
    eventually("readiness", || dir.join("ready").exists().then_some(())).await;
    rig.send(RuntimeCommand::Cancel { key: key(1), grace: Duration::from_secs(20) }).await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.reason), (Outcome::Cancelled, FailureReason::Unspecified));
    assert!(dir.join("saved").exists());
}

pub(crate) async fn cancel_kills_what_ignores_term_with_all_its_children() {
    let script = "trap '' TERM; (trap '' TERM; echo $$ > outer; sh -c 'echo $$ > pid; while :; do sleep 0.05; done') & wait; sleep 1000";
    let mut rig = Rig::new(sh(script));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let grandchild = process_in(rig.attempt_dir(key(1)).join("work/pid")).await;
    let (shim, program) = processes(&rig.attempt_dir(key(1))).await;
    rig.send(RuntimeCommand::Cancel { key: key(1), grace: Duration::from_secs(30) }).await;
    // A later, shorter grace counts.
    rig.send(RuntimeCommand::Cancel { key: key(1), grace: Duration::from_millis(100) }).await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.signal), (Outcome::Cancelled, Some(9)));
    for process in [shim, program, grandchild] {
        gone(&process).await;
    }
}

pub(crate) async fn strays_of_a_normal_end_are_killed() {
    let mut rig = Rig::new(sh("sleep 1000 & echo $! > pid; echo done"));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let end = rig.ended(key(1)).await;
    assert_eq!(result(&end), b"done\n");
    let pid = std::fs::read_to_string(rig.attempt_dir(key(1)).join("work/pid")).expect("written");
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists());
}

pub(crate) async fn what_left_the_group_is_found() {
    let script = "setsid sh -c 'echo $$ > pid; exec sleep 1000' & while [ ! -s pid ]; do sleep 0.01; done; echo done";
    let mut rig = Rig::new(sh(script));
    let end = rig.run(work(1, b"")).await;
    assert_eq!(result(&end), b"done\n");
    let pid = std::fs::read_to_string(rig.attempt_dir(key(1)).join("work/pid")).expect("written");
    assert!(!std::path::Path::new(&format!("/proc/{}", pid.trim())).exists());
}

pub(crate) async fn a_killed_shim_ends_the_attempt_and_its_program() {
    let mut rig = Rig::new(sh("setsid sh -c 'echo $$ > pid; exec sleep 1000' & sleep 1000"));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    let started_ms = rig.started(key(1)).await;
    let (shim, program) = processes(&rig.attempt_dir(key(1))).await;
    let far = process_in(rig.attempt_dir(key(1)).join("work/pid")).await;
    kill(&shim);
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.reason, end.retryable), (Outcome::Failed, FailureReason::AgentLost, true));
    assert_eq!(end.started_ms, started_ms);
    assert!(!program.is_alive() && !far.is_alive());
}

pub(crate) async fn memory_is_limited() {
    // Soft from the first instruction on, hard a moment later.
    let script = "ulimit -v; while [ $(ulimit -Hv) = unlimited ]; do sleep 0.01; done; ulimit -Hv; dd if=/dev/zero of=/dev/null bs=512M count=1";
    let mut agent = sh(script);
    agent.memory_limit = Some(256 << 20);
    let mut rig = Rig::new(agent);
    let end = rig.run(work(1, b"")).await;
    assert_eq!((end.reason, end.exit_code), (FailureReason::ExitCode, Some(1)));
    assert!(end.message.contains("memory exhausted"), "{}", end.message);
    let mut tail = Tail::open(&rig.dirs.state_dir, key(1), Stream::Stdout).expect("reads").expect("known");
    assert_eq!(tail.next(true).await.expect("reads").expect("output").data, "262144\n262144\n");
}

pub(crate) async fn slots_are_never_exceeded() {
    let mut agent = sh("echo here > here; sleep 1000");
    agent.slots = 2;
    let mut rig = Rig::new(agent);
    for n in 1..=3 {
        rig.send(RuntimeCommand::Start(work(n, b""))).await;
    }
    let mut started = 0;
    while started < 2 {
        match rig.attempt_event().await {
            RuntimeEvent::Started { .. } => started += 1,
            RuntimeEvent::Ended { key: ended, end, .. } => {
                assert_eq!((ended, end.reason, end.retryable), (key(3), FailureReason::StartFailed, true));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(!rig.attempt_dir(key(3)).exists());
    rig.send(RuntimeCommand::Shutdown { deadline: Duration::ZERO }).await;
}

pub(crate) async fn output_is_followed_while_it_comes() {
    let mut rig = Rig::new(sh("echo one; while [ ! -e go ]; do sleep 0.01; done; echo two"));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let mut tail = Tail::open(&rig.dirs.state_dir, key(1), Stream::Stdout).expect("reads").expect("known");
    let first = tail.next(true).await.expect("reads").expect("a line");
    assert_eq!((&first.data[..], first.offset), (&b"one\n"[..], 0));
    assert_eq!(tail.next(false).await.expect("reads"), None);
    std::fs::write(rig.attempt_dir(key(1)).join("work/go"), "").expect("written");
    let second = tail.next(true).await.expect("reads").expect("a line");
    assert_eq!((&second.data[..], second.offset), (&b"two\n"[..], 4));
    assert_eq!(tail.next(true).await.expect("reads"), None);
    rig.ended(key(1)).await;
}

pub(crate) async fn a_shutdown_ends_what_runs() {
    let mut rig = Rig::new(sh("echo $$ > pid; exec sleep 1000"));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let program = process_in(rig.attempt_dir(key(1)).join("work/pid")).await;
    rig.send(RuntimeCommand::Shutdown { deadline: Duration::from_millis(50) }).await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.reason, end.retryable), (Outcome::Failed, FailureReason::AgentLost, true));
    assert!(!program.is_alive());
    tokio::time::timeout(crate::rig::DEADLINE, rig.commands.closed()).await.expect("the runtime ends");
}

pub(crate) async fn a_drain_is_said_and_undone() {
    let mut rig = Rig::new(sh("true"));
    rig.until_agent(true, "").await;
    rig.send(RuntimeCommand::Drain { remove: false }).await;
    rig.until_agent(false, "draining").await;
    rig.send(RuntimeCommand::Activate).await;
    rig.until_agent(true, "").await;
}
