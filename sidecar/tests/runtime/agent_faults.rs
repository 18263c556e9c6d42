//! Agents that crash, hang, fall silent or talk nonsense.

use std::time::Duration;

use hive_proto::agent_v1::{self, Outcome, session_request::Kind};
use hive_proto::sidecar_v1::{FailureReason, Outcome as End};
use hive_proto::v1;
use hive_sidecar::output::{Stream, Tail};
use hive_sidecar::runtime::RuntimeCommand;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Code;

use crate::agent::{Fake, config};
use crate::rig::{Rig, gone, key, kill, processes, work};

pub(crate) async fn a_crash_ends_attempts_and_restarts_the_process() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    fake.assigned().await;
    rig.started(key(1)).await;
    let (_, program) = processes(&rig.process_dir()).await;
    kill(&program);
    // Where it was connected from is not the process itself here.
    drop(fake);
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.reason, end.retryable), (End::Failed, FailureReason::AgentLost, true));
    assert!(end.message.contains("signal 9"), "{}", end.message);
    let mut fake = Fake::ready(&mut rig).await;
    rig.send(RuntimeCommand::Start(work(2, b""))).await;
    assert_eq!(fake.assigned().await.token, key(2).to_string());
}

pub(crate) async fn last_words_of_a_dead_process_are_heard() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    fake.assigned().await;
    rig.started(key(1)).await;
    let (shim, program) = processes(&rig.process_dir()).await;
    kill(&program);
    gone(&shim).await;
    fake.result(&key(1).to_string(), Outcome::Succeeded, b"done").await;
    assert_eq!(rig.ended(key(1)).await.outcome, End::Succeeded);
    fake.end().await;
}

pub(crate) async fn a_killed_shim_costs_its_agent_too() {
    let mut agent = config();
    agent.argv[2] = "setsid sleep 1000 & echo $HIVE_AGENT_ID $HIVE_AGENT_SOCKET; exec sleep 1000".to_owned();
    let mut rig = Rig::new(agent);
    let mut fake = Fake::ready(&mut rig).await;
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    fake.assigned().await;
    rig.started(key(1)).await;
    let (shim, program) = processes(&rig.process_dir()).await;
    kill(&shim);
    drop(fake);
    assert_eq!(rig.ended(key(1)).await.reason, FailureReason::AgentLost);
    assert!(!program.is_alive());
    Fake::ready(&mut rig).await;
    let (_, second) = processes(&rig.process_dir()).await;

    // The same while no sidecar is there to see it.
    let dir = rig.process_dir();
    let mut rig = rig
        .crash(&[key(2)], async |_| {
            let (shim, _) = processes(&dir).await;
            kill(&shim);
            gone(&shim).await;
            assert!(second.is_alive());
        })
        .await;
    rig.lost(key(2)).await;
    gone(&second).await;
    Fake::ready(&mut rig).await;
    let output = std::fs::read_to_string(rig.process_dir().join("stdout.0")).expect("kept");
    let line = format!("p {}\n", rig.dirs.socket_dir.join("p.sock").display());
    assert_eq!(output, line.repeat(output.lines().count()), "appended to across restarts");
}

pub(crate) async fn restarts_stop_after_a_while() {
    let mut agent = config();
    agent.argv = ["/bin/sh", "-c", "exit 9"].map(str::to_owned).to_vec();
    agent.restart.base = Duration::from_millis(1);
    let mut rig = Rig::new(agent);
    rig.until_agent(false, "exit code 9; starts again").await;
    rig.until_agent(false, "not started again after 8 restarts").await;
    // An operator's word counts again.
    rig.send(RuntimeCommand::Activate).await;
    rig.until_agent(false, "exit code 9; starts again").await;
    let mut missing = config();
    missing.argv = vec!["/nowhere/agent".into()];
    Rig::new(missing).until_agent(false, "/nowhere/agent: No such file").await;
}

pub(crate) async fn an_attempt_that_does_not_end_costs_the_process() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    rig.send(RuntimeCommand::Start(work(2, b""))).await;
    fake.assigned().await;
    rig.started(key(2)).await;
    let mut start = work(1, b"");
    start.timeout = Duration::from_millis(200);
    start.grace = Duration::from_millis(200);
    rig.send(RuntimeCommand::Start(start)).await;
    fake.assigned().await;
    rig.started(key(1)).await;
    fake.cancelled(&key(1).to_string()).await;
    let (_, program) = processes(&rig.process_dir()).await;
    gone(&program).await;
    drop(fake);
    let end = rig.ended(key(1)).await;
    assert_eq!((end.reason, end.retryable), (FailureReason::Timeout, true));
    let end = rig.ended(key(2)).await;
    assert_eq!((end.reason, end.retryable), (FailureReason::AgentLost, true));
    assert!(end.message.contains(&key(1).to_string()), "{}", end.message);
}

pub(crate) async fn time_waiting_for_input_does_not_count() {
    let mut rig = Rig::new(config());
    let mut fake = Fake::ready(&mut rig).await;
    // The other one's timeout is the clock of this test.
    for (n, timeout) in [(2, 3_500), (1, 2_500)] {
        let mut start = work(n, b"");
        start.timeout = Duration::from_millis(timeout);
        rig.send(RuntimeCommand::Start(start)).await;
        fake.assigned().await;
        rig.started(key(n)).await;
    }
    let asked = agent_v1::InputRequired { token: key(1).to_string(), number: 1, prompt: None };
    fake.say(Kind::InputRequired(asked)).await;
    rig.attempt_event().await;
    fake.cancelled(&key(2).to_string()).await;
    rig.send(RuntimeCommand::Input { key: key(1), local_number: 1, input: v1::Payload::default() }).await;
    assert!(matches!(fake.heard().await, agent_v1::session_response::Kind::Input(_)));
    fake.cancelled(&key(1).to_string()).await;
}

pub(crate) async fn an_agent_that_never_speaks_is_restarted() {
    let mut agent = config();
    agent.start_timeout = Duration::from_millis(300);
    let mut rig = Rig::new(agent);
    let (_, program) = processes(&rig.process_dir()).await;
    rig.until_agent(false, "not heard").await;
    gone(&program).await;
    rig.until_agent(false, "starts again").await;
}

pub(crate) async fn a_silent_stream_is_ended() {
    let mut rig = Rig::beating(config(), Some(Duration::from_millis(200)));
    let fake = Fake::ready(&mut rig).await;
    assert_eq!(fake.end().await, Code::DeadlineExceeded);
    rig.until_agent(false, "not connected").await;
}

pub(crate) async fn garbage_gets_a_clear_status() {
    let mut rig = Rig::new(config());
    drop(Fake::ready(&mut rig).await);
    // Not even HTTP: the server hangs up and serves on.
    let mut raw = tokio::net::UnixStream::connect(rig.dirs.socket_dir.join("p.sock")).await.expect("connects");
    raw.write_all(&[0x5a; 4096]).await.expect("written");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(crate::rig::DEADLINE, raw.read_to_end(&mut answer)).await.expect("hung up");

    let (_to, mut from) = Fake::open(&rig, Kind::Heartbeat(agent_v1::Heartbeat {})).await.expect("a stream");
    assert_eq!(from.message().await.expect_err("refused").code(), Code::InvalidArgument);

    let fake = Fake::connect(&rig, &[], &[]).await;
    fake.to.send(agent_v1::SessionRequest { kind: None }).await.expect("sent");
    assert_eq!(fake.end().await, Code::InvalidArgument);

    let fake = Fake::connect(&rig, &[], &[]).await;
    fake.result(&key(1).to_string(), Outcome::Succeeded, &vec![0; 5 << 20]).await;
    assert_eq!(fake.end().await, Code::OutOfRange);

    // Unknown tokens and wild values are ignored; what is too large fails its attempt.
    let mut fake = Fake::ready(&mut rig).await;
    for token in ["", "x", &key(9).to_string()] {
        let progress = agent_v1::Progress { token: token.into(), fraction: Some(f64::NAN), message: String::new() };
        fake.say(Kind::Progress(progress)).await;
        let asked = agent_v1::InputRequired { token: token.into(), number: 1, prompt: None };
        fake.say(Kind::InputRequired(asked)).await;
    }
    for (n, outcome, size, reason) in [
        (1, Outcome::Succeeded, 256 * 1024 + 1, FailureReason::ResultTooLarge),
        (2, Outcome::Unspecified, 0, FailureReason::AgentError),
        (3, Outcome::Cancelled, 0, FailureReason::AgentError),
    ] {
        rig.send(RuntimeCommand::Start(work(n, b""))).await;
        fake.assigned().await;
        rig.started(key(n)).await;
        fake.result(&key(n).to_string(), outcome, &vec![0; size]).await;
        assert_eq!(rig.ended(key(n)).await.reason, reason);
    }
    // What the process itself printed is kept, and an attempt's part of it found.
    let mut tail = Tail::open(&rig.dirs.state_dir, key(1), Stream::Stdout).expect("reads").expect("known");
    assert_eq!(tail.next(true).await.expect("reads"), None);
}

pub(crate) async fn a_socket_in_use_is_not_taken() {
    let mut rig = Rig::new(config());
    let socket = rig.dirs.socket_dir.join("p.sock");
    rig.until_agent(false, "starting").await;
    crate::rig::eventually("a socket", || socket.exists().then_some(())).await;
    assert!(matches!(hive_sidecar::local::bind(&socket), Err(hive_sidecar::local::BindError::InUse(_))));
    let long = rig.dirs.socket_dir.join("x".repeat(108));
    assert!(matches!(hive_sidecar::local::bind(&long), Err(hive_sidecar::local::BindError::TooLong(_))));
    // What a dead sidecar left is replaced.
    let stale = rig.dirs.socket_dir.join("q.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("binds"));
    assert!(hive_sidecar::local::bind(&stale).is_ok());
    Fake::ready(&mut rig).await;
}

pub(crate) async fn waiting_work_is_given_back_when_nobody_takes_it() {
    let mut agent = config();
    agent.start_timeout = Duration::from_millis(300);
    let mut rig = Rig::new(agent);
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.reason, end.retryable), (FailureReason::StartFailed, true));
    // Cancelled before it was handed over: it never ran.
    rig.send(RuntimeCommand::Start(work(2, b""))).await;
    rig.send(RuntimeCommand::Cancel { key: key(2), grace: Duration::ZERO }).await;
    assert_eq!(rig.ended(key(2)).await.outcome, End::Cancelled);
}
