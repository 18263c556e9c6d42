//! The program as a process: flags, faults, ready file, signals, exit codes.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt as _;

use super::child::{output, program};
use super::support::{PREFACE, eventually, say, within};

async fn ready(file: &Path) -> serde_json::Value {
    eventually("the ready file", || async { serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok() }).await
}

async fn exit(child: &mut Child) -> ExitStatus {
    let status = eventually("the exit", || std::future::ready(child.try_wait().expect("child"))).await;
    let mut log = String::new();
    child.stderr.take().map(|mut err| err.read_to_string(&mut log));
    println!("{log}");
    status
}

fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("pid");
    kill_process(pid, signal).expect("signal");
}

/// Starts the program on free ports and waits until it serves.
async fn started(home: &Path, more: &[&str]) -> (Child, serde_json::Value) {
    let file = home.join("ready.json");
    let own = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0", "--ready-file", file.to_str().expect("path")];
    let child = program(&[&own, more].concat(), home);
    (child, ready(&file).await)
}

#[test]
fn all_faults_are_printed_at_once_and_exit_2() {
    let home = tempfile::tempdir().expect("folder");
    let ended = output(&["--listen", "somewhere", "--ops-listen", "0.0.0.0:1", "--log-format", "xml"], home.path());
    let err = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{err}");
    for line in [
        "the configuration has 3 faults",
        "listen = \"somewhere\" (--listen): must be an address",
        "ops_listen = \"0.0.0.0:1\" (--ops-listen): is reachable from other machines",
        "log.format = \"xml\" (--log-format): must be text or json",
    ] {
        assert!(err.contains(line), "{line}: {err}");
    }
}

#[test]
fn config_print_shows_what_was_given_and_by_whom() {
    let home = tempfile::tempdir().expect("folder");
    let printed = |args: &[&str]| {
        let ended = output(args, home.path());
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        String::from_utf8_lossy(&ended.stdout).into_owned()
    };
    let given = printed(&["config", "print", "--listen", "127.0.0.1:9"]);
    assert!(given.contains("listen = \"127.0.0.1:9\" # --listen"), "{given}");
    assert!(!given.contains("[limits]"), "{given}");
    let all = printed(&["config", "print", "--effective"]);
    assert!(all.contains("message_bytes = \"4MiB\" # default"), "{all}");
}

#[test]
fn a_taken_port_is_named() {
    let home = tempfile::tempdir().expect("folder");
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("address").to_string();
    for (flag, other, setting) in [("--listen", "--ops-listen", "listen"), ("--ops-listen", "--listen", "ops_listen")] {
        let ended = output(&[flag, &address, other, "127.0.0.1:0"], home.path());
        let err = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{err}");
        assert!(err.contains(&format!("{setting}: cannot listen on {address}, another process does")), "{err}");
    }
}

#[tokio::test]
async fn sigterm_stops_in_order() {
    let home = tempfile::tempdir().expect("folder");
    let (mut child, ready) = started(home.path(), &[]).await;
    assert_eq!(ready["pid"], child.id());
    signal(&child, Signal::TERM);
    assert!(exit(&mut child).await.success());
}

#[tokio::test]
async fn the_end_of_standard_input_stops_in_order() {
    let home = tempfile::tempdir().expect("folder");
    let (mut child, _) = started(home.path(), &["--stop-on-stdin-eof"]).await;
    drop(child.stdin.take());
    assert!(exit(&mut child).await.success());
}

#[tokio::test]
async fn a_second_signal_stops_at_once() {
    let home = tempfile::tempdir().expect("folder");
    let (mut child, ready) = started(home.path(), &[]).await;
    let address = ready["listen"].as_str().expect("address");
    // A connection that never leaves would hold the drain for 30 s.
    let mut silent = within("connect", tokio::net::TcpStream::connect(address)).await.expect("connect");
    silent.write_all(PREFACE).await.expect("write");
    eventually("the connection's place", || async {
        let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let page = say(ready["ops_listen"].as_str()?.parse().ok()?, request).await;
        page.contains("hive_connections{port=\"main\"} 1").then_some(())
    })
    .await;
    signal(&child, Signal::INT);
    eventually("the drain", || async { tokio::net::TcpStream::connect(address).await.err() }).await;
    assert!(child.try_wait().expect("child").is_none(), "the drain was not held");
    signal(&child, Signal::INT);
    let status = tokio::time::timeout(Duration::from_secs(10), exit(&mut child)).await.expect("at once");
    assert_eq!(status.code(), Some(1));
}

#[tokio::test]
async fn a_tls_client_is_named_in_the_log_and_insecure_is_loud() {
    let home = tempfile::tempdir().expect("folder");
    let more = ["--listen", "0.0.0.0:0", "--insecure", "--log-format", "json"];
    let file = home.path().join("ready.json");
    let own = ["--ops-listen", "127.0.0.1:0", "--ready-file", file.to_str().expect("path")];
    let mut child = program(&[&own[..], &more].concat(), home.path());
    let port =
        ready(&file).await["listen"].as_str().and_then(|a| a.rsplit(':').next()?.parse::<u16>().ok()).expect("port");
    say(([127, 0, 0, 1], port).into(), &[0x16, 0x03, 0x01, 0x00]).await;
    signal(&child, Signal::TERM);
    let mut lines = BufReader::new(child.stderr.take().expect("log")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("INSECURE") && line.contains("\"level\":\"WARN\"")));
    assert!(lines.any(|line| line.contains("speaks TLS to this plain-text port")));
    assert!(exit(&mut child).await.success());
}
