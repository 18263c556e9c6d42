//! Starts that must fail: who holds the folder or the port is named, and nothing is reset.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use hive_sdk::client::TaskSpec;
use hive_sdk::proto::AgentPhase;

use super::{serves, submission, submit, unwanted};
use crate::harness::{AgentDef, LONG, Port, Proc, Rig, SIDECAR, soon};
use crate::programs::Gate;

/// Runs a program that must end by itself, and gives its exit code and what it said.
async fn ends(rig: &Rig, command: Command) -> (i32, String) {
    let log = rig.path().join("second.log");
    let _absent = fs::remove_file(&log);
    let mut process = Proc::start("second", command, &log);
    let status = process.wait(LONG).await;
    (status.code().unwrap_or(-1), process.log())
}

/// A control plane that must end with code 1: what it said.
async fn fails(rig: &Rig, command: Command) -> String {
    let (code, said) = ends(rig, command).await;
    assert_eq!(code, 1, "{said}");
    said
}

/// The rig's own command, but on other ports.
fn elsewhere(rig: &Rig, ports: &[Port; 2]) -> Command {
    let mut command = rig.control_plane_command();
    // Flags win over the environment; a flag may come once.
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let envs: Vec<_> = command.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
    let own = command.get_program().to_owned();
    command = Command::new(own);
    for (name, value) in envs {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let listen = args.iter().position(|arg| arg == "--listen").expect("--listen");
    let ops = args.iter().position(|arg| arg == "--ops-listen").expect("--ops-listen");
    let ready = args.iter().position(|arg| arg == "--ready-file").expect("--ready-file");
    for (nth, arg) in args.into_iter().enumerate() {
        match nth {
            _ if nth == listen + 1 => command.arg(ports[0].address().to_string()),
            _ if nth == ops + 1 => command.arg(ports[1].address().to_string()),
            _ if nth == ready + 1 => command.arg(rig.path().join("second.ready")),
            _ => command.arg(arg),
        };
    }
    command
}

#[tokio::test]
async fn a_second_server_on_the_same_folder_or_port_says_who_is_first() {
    let mut rig = Rig::new().await;
    let said = fails(&rig, elsewhere(&rig, &[Port::reserve(), Port::reserve()])).await;
    let lock = rig.data().join("LOCK");
    let pid = format!("pid {}", rig.control_plane().pid());
    assert!(said.contains(&lock.display().to_string()) && said.contains(&pid) && said.contains("--data"), "{said}");
    serves(&rig).await;

    // Its own ports, all of it taken: the address is named, and the setting.
    let said = fails(&rig, rig.control_plane_command()).await;
    let address = rig.endpoint().replace("http://", "");
    assert!(
        said.contains("listen: cannot listen on") && said.contains(&address) && said.contains("another process"),
        "{said}"
    );
    serves(&rig).await;

    let ports = [Port::reserve(), Port::reserve()];
    let _taken = TcpListener::bind(ports[1].address()).expect("bind");
    let said = fails(&rig, elsewhere(&rig, &ports)).await;
    assert!(said.contains("ops_listen: cannot listen on") && said.contains(&ports[1].address().to_string()), "{said}");
    serves(&rig).await;
}

/// Everything in a folder, byte by byte, but for the lock.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).expect("list").map(|entry| entry.expect("an entry"));
    let mut all: Vec<_> = entries
        .map(|entry| (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).unwrap_or_default()))
        .filter(|(name, _)| name != "LOCK")
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn a_foreign_folder_is_left_as_it_is() {
    let rig = Rig::folder(&[]);
    fs::create_dir(rig.data()).expect("a folder");
    fs::write(rig.data().join("thesis.txt"), "years of work").expect("a file");
    let before = content(&rig.data());
    let said = fails(&rig, rig.control_plane_command()).await;
    assert!(
        said.contains("is not a Hive data folder") && said.contains("thesis.txt") && said.contains("--data"),
        "{said}"
    );
    assert_eq!(content(&rig.data()), before);
    assert!(!rig.data().join("LOCK").exists());
}

/// A file, what is said of it, and what was done to it.
type Damage<'a> = (&'a str, &'a str, Box<dyn Fn(&Path) + 'a>);

#[tokio::test]
async fn a_newer_or_damaged_folder_is_never_reset() {
    let mut rig = Rig::new().await;
    let kept = submit(&rig, submission(unwanted())).await.expect("a task").id;
    rig.control_plane().terminate(LONG).await;
    let identity = fs::read_to_string(rig.data().join("HIVE")).expect("the identity");

    let damage: [Damage<'_>; 4] = [
        (
            "HIVE",
            "has format 99",
            Box::new(|path| fs::write(path, identity.replace("format 1", "format 99")).expect("write")),
        ),
        (
            "HIVE",
            "is damaged",
            Box::new(|path| fs::write(path, identity.replace("generation 1", "generation 2")).expect("write")),
        ),
        (
            "store.db",
            "is damaged",
            Box::new(|path| fs::File::options().write(true).open(path).and_then(|f| f.set_len(5_000)).expect("cut")),
        ),
        ("store.db", "store.db is missing", Box::new(|path| fs::remove_file(path).expect("remove"))),
    ];
    for (file, expected, change) in damage {
        let path = rig.data().join(file);
        let whole = fs::read(&path).expect("read");
        change(&path);
        let before = content(&rig.data());
        let said = fails(&rig, rig.control_plane_command()).await;
        assert!(said.contains(expected) && said.contains(&rig.data().display().to_string()), "{expected}: {said}");
        assert_eq!(content(&rig.data()), before, "{expected}");
        fs::write(&path, whole).expect("put back");
    }
    rig.start_control_plane().await;
    rig.client().get(kept.parse().expect("an id")).await.expect("the task of before");
    serves(&rig).await;
}

#[tokio::test]
async fn a_sidecar_that_cannot_start_says_why() {
    let mut rig = Rig::new().await;
    let agents =
        |count: usize| (0..count).map(|n| AgentDef::script(&format!("a{n}"), &["x"], "cat")).collect::<Vec<_>>();
    rig.declare_sidecar("many", &agents(65));
    let (code, said) = ends(&rig, rig.sidecar_command("many")).await;
    assert!(code == 2 && said.contains("has 65 entries; at most 64"), "{code}: {said}");

    rig.declare_sidecar("long", &[AgentDef::demo(&"a".repeat(63))]);
    let mut command = Command::new(SIDECAR);
    rig.mark(&mut command);
    let deep = rig.path().join("d".repeat(40));
    command.args(["--id", "long", "--config"]).arg(rig.path().join("long/sidecar.toml"));
    command.args(["--server", &rig.endpoint(), "--socket-dir"]).arg(deep);
    let (code, said) = ends(&rig, command).await;
    assert!(code == 2 && said.contains("must be shorter than 108 bytes"), "{code}: {said}");

    // One sidecar to a state folder; the first goes on.
    rig.sidecar("s1", &agents(1)).await;
    let (code, said) = ends(&rig, rig.sidecar_command("s1")).await;
    assert!(code == 1 && said.contains("s1/state"), "{code}: {said}");
    let id = rig.submit(TaskSpec::new("x").payload("y")).await.id();
    rig.result(id).await;
}

/// Sidecars meet a control plane whose data folder was emptied under them.
#[tokio::test]
async fn an_emptied_folder_is_another_cluster_to_sidecars() {
    let mut rig = Rig::new().await;
    let gate = Gate::new(rig.path());
    rig.sidecar("idle", &[AgentDef::script("idle", &["idle"], "cat")]).await;
    rig.sidecar("busy", &[gate.agent("busy")]).await;
    let id = rig.submit(TaskSpec::new("idle").payload("before")).await.id();
    assert_eq!(rig.result(id).await.1, "before");
    let held = rig.submit(TaskSpec::new("gated")).await.id();
    gate.begun(1).await;
    // Its epoch is well above that of a new folder.
    for _ in 0..3 {
        rig.crash_control_plane().await;
    }
    rig.phase("idle", AgentPhase::Ready).await;
    rig.control_plane().kill9();
    let kept = rig.path().join("kept");
    fs::rename(rig.data(), &kept).expect("put the folder aside");
    rig.start_control_plane().await;
    // Who holds nothing begins anew.
    let id = rig.submit(TaskSpec::new("idle").payload("after")).await.id();
    assert_eq!(rig.result(id).await.1, "after");
    // Who does keeps it and says so.
    soon("the busy one is refused", || rig.sidecar_process("busy").log().contains("OTHER_CLUSTER")).await;
    gate.open();
    rig.control_plane().kill9();
    fs::remove_dir_all(rig.data()).expect("remove the new folder");
    fs::rename(&kept, rig.data()).expect("put the old one back");
    rig.start_control_plane().await;
    let (task, text) = rig.result(held).await;
    assert_eq!((text.as_str(), task.attempt, gate.runs()), ("busy 1\n", 1, 1));
}
