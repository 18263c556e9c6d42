//! What a sidecar finds after its own crash.

use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_sidecar::runtime::RuntimeCommand;
use hive_sidecar::shim::files::{self, Identity};

use crate::command::sh;
use crate::rig::{Rig, eventually, gone, key, kill, process_in, processes, work};

const WAITS: &str = "echo $$ > pid; while [ ! -e go ]; do sleep 0.01; done; echo done; exit $(cat go)";

pub(crate) async fn a_running_attempt_is_adopted() {
    let mut rig = Rig::new(sh(WAITS));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    let started_ms = rig.started(key(1)).await;
    let mut rig = rig.crash(&[key(1)], async |_| {}).await;
    assert_eq!(rig.started(key(1)).await, started_ms);
    rig.until_agent(true, "").await;
    std::fs::write(rig.attempt_dir(key(1)).join("work/go"), "7").expect("written");
    let end = rig.ended(key(1)).await;
    assert_eq!((end.reason, end.exit_code, end.started_ms), (FailureReason::ExitCode, Some(7), started_ms));
}

pub(crate) async fn a_finished_attempt_is_read() {
    let mut rig = Rig::new(sh(WAITS));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    let started_ms = rig.started(key(1)).await;
    let dir = rig.attempt_dir(key(1));
    let mut rig = rig
        .crash(&[key(1)], async |_| {
            std::fs::write(dir.join("work/go"), "0").expect("written");
            eventually("the exit record", || dir.join(files::EXIT).exists().then_some(())).await;
        })
        .await;
    let end = rig.ended(key(1)).await;
    assert_eq!((end.outcome, end.started_ms), (Outcome::Succeeded, started_ms));
    assert_eq!(end.payload.map(|p| p.data).as_deref(), Some(&b"done\n"[..]));
    rig.until_agent(true, "").await;
}

pub(crate) async fn a_vanished_attempt_is_lost_and_its_program_ended() {
    let mut rig = Rig::new(sh(WAITS));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let dir = rig.attempt_dir(key(1));
    let (shim, program) = processes(&dir).await;
    let inner = process_in(dir.join("work/pid")).await;
    let mut rig = rig
        .crash(&[key(1), key(2)], async |_| {
            kill(&shim);
            gone(&shim).await;
            assert!(program.is_alive());
        })
        .await;
    // Of the second one there was never a folder.
    let mut lost = [rig.attempt_event().await, rig.attempt_event().await];
    lost.sort_by_key(|event| format!("{event:?}"));
    let wanted = [key(1), key(2)].map(|key| hive_sidecar::runtime::RuntimeEvent::Lost { agent: "a".into(), key });
    assert_eq!(lost, wanted);
    rig.until_agent(true, "").await;
    assert!(!program.is_alive() && !inner.is_alive());
}

pub(crate) async fn a_late_shim_starts_nothing() {
    let rig = Rig::new(sh("echo ran > ran"));
    let dir = rig.attempt_dir(key(1));
    let (place, shim) = (dir.clone(), rig.dirs.shim.clone());
    let mut rig = rig
        .crash(&[key(1)], async move |_| {
            // As if the old sidecar had died between laying down the spec and the shim's first word.
            std::fs::create_dir_all(&place).expect("made");
            let spec =
                r#"{"argv":["/bin/sh","-c","echo ran > ran"],"env":{},"output_limit":10,"rotate":false,"grace_ms":0}"#;
            std::fs::write(place.join(files::SPEC), spec).expect("written");
        })
        .await;
    rig.lost(key(1)).await;
    let late = tokio::process::Command::new(&shim[0]).args(&shim[1..]).arg(&dir).status().await.expect("runs");
    assert!(late.success());
    assert!(!dir.join("ran").exists());
    assert!(std::fs::read_to_string(dir.join(files::EXIT)).expect("a record").contains("\"void\":true"));
}

pub(crate) async fn a_reused_pid_fools_nobody() {
    let rig = Rig::new(sh("true"));
    let dir = rig.attempt_dir(key(1));
    // This test's own number, but the start of another process.
    let pid = i32::try_from(std::process::id()).expect("a pid");
    let mut other = Identity::of(pid).expect("alive");
    other.start -= 1;
    let mut rig = rig
        .crash(&[key(1)], async |_| {
            std::fs::create_dir_all(&dir).expect("made");
            files::write(&dir, files::SHIM, &other).expect("written");
            let started = files::Started { program: other.clone(), started_ms: 1 };
            files::write(&dir, files::STARTED, &started).expect("written");
        })
        .await;
    rig.lost(key(1)).await;
    rig.until_agent(true, "").await;
}

pub(crate) async fn a_run_in_no_journal_is_ended() {
    let mut rig = Rig::new(sh(WAITS));
    rig.send(RuntimeCommand::Start(work(1, b""))).await;
    rig.started(key(1)).await;
    let (shim, program) = processes(&rig.attempt_dir(key(1))).await;
    let mut rig = rig.crash(&[], async |_| {}).await;
    rig.until_agent(true, "").await;
    gone(&program).await;
    gone(&shim).await;
}
