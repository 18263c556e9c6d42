//! `hive demo`: a job over a folder whose results are checked against other people's programs, and
//! which survives whatever is killed in its middle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::dev::{Owner, left, pid};
use crate::harness::{Rng, eventually, seed, signal};

/// Long enough for a job on a busy machine.
const JOB: Duration = Duration::from_secs(150);

/// A folder with `count` files of several kinds, below folders that are skipped too.
fn folder(count: usize) -> TempDir {
    let dir = tempfile::Builder::new().prefix("hive-e2e-").tempdir().unwrap();
    let root = dir.path().join("input");
    for sub in ["a/b", ".git", "target", "names"] {
        std::fs::create_dir_all(root.join(sub)).unwrap();
    }
    for number in 0..count {
        let (name, text) = match number % 4 {
            0 => (format!("a/{number}.txt"), format!("line {number}\nTODO: more of it\n").repeat(number % 7)),
            1 => (format!("a/b/{number}.sh"), format!("#!/bin/sh\necho {number} # FIXME\n")),
            2 => (format!("names/with space {number}"), "no newline at the end".to_owned()),
            _ => (format!("{number}.json"), format!("{{\"number\": {number}}}\n")),
        };
        std::fs::write(root.join(name), text).unwrap();
    }
    std::fs::write(root.join("a/broken.json"), "{").unwrap();
    std::fs::write(root.join("empty"), "").unwrap();
    std::fs::write(root.join(".git/skipped"), "x").unwrap();
    std::fs::write(root.join("target/skipped"), "x").unwrap();
    dir
}

const ARGS: &[&str] = &["demo", "--dir", "input", "--data", "out"];

fn rows(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("out/results.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// What a program of the system says of a file of the input.
fn says(dir: &Path, program: &str, args: &[&str], file: &str) -> String {
    let output =
        Command::new(program).args(args).arg(file).current_dir(dir.join("input")).env("LC_ALL", "C").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How often each task was handed back unstarted, by the sidecars' logs: a sidecar that stops takes
/// nothing new.
fn declined(dir: &Path) -> BTreeMap<String, u64> {
    let mut declined = BTreeMap::new();
    for entry in std::fs::read_dir(dir.join("out/fleet/logs")).unwrap().flatten() {
        let log = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in log.lines().filter(|line| line.contains("declined an assignment")) {
            let token = line.split_once("attempt=").unwrap().1;
            *declined.entry(token.split_once('/').unwrap().0.to_owned()).or_default() += 1;
        }
    }
    declined
}

/// Complete, each task once, and right by `wc`, `sha256sum` and `grep`; unless something was killed
/// that runs work, no task was begun twice.
fn check(dir: &Path, begun_once: bool) {
    let declined = declined(dir);
    let rows = rows(dir);
    let found = says(dir, "find", &[".", "-type", "f", "-not", "-path", "*/.git/*", "-not", "-path"], "*/target/*");
    let files: BTreeSet<_> = found.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    let mut seen = BTreeMap::new();
    let ids: BTreeSet<_> = rows.iter().map(|row| row["task_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), rows.len(), "a task id twice");
    for row in &rows {
        let (path, capability) = (row["input"]["path"].as_str().unwrap(), row["capability"].as_str().unwrap());
        assert!(files.contains(path), "{path} is none of the files");
        assert!(seen.insert((path.to_owned(), capability.to_owned()), row).is_none(), "{path} {capability} twice");
        assert_eq!(row["state"], "SUCCEEDED", "{row}");
        if begun_once {
            let declined = declined.get(row["task_id"].as_str().unwrap()).copied().unwrap_or(0);
            assert_eq!(row["attempts"], 1 + declined, "{row}");
        }
        let output = &row["output"];
        match capability {
            "wc" => {
                let text = says(dir, "wc", &["-l", "-w", "-c"], path);
                let counts: Vec<u64> = text.split_whitespace().take(3).map(|n| n.parse().unwrap()).collect();
                let ours = ["lines", "words", "bytes"].map(|name| output[name].as_u64().unwrap());
                assert_eq!(counts, ours, "{path}");
            }
            "sha256" => {
                let text = says(dir, "sha256sum", &["-b"], path);
                assert_eq!(text.split_whitespace().next(), output["sha256"].as_str(), "{path}");
            }
            "todo" => {
                let text = says(dir, "grep", &["-aowE", "TODO|FIXME|XXX|HACK"], path);
                assert_eq!(Some(text.lines().count() as u64), output["markers"].as_u64(), "{path}");
            }
            "syntax" => {
                let verdict = output["verdict"].as_str().unwrap();
                assert!(path != "a/broken.json" || verdict != "ok", "{path}: {verdict}");
            }
            other => panic!("no capability of ours: {other}"),
        }
    }
    assert_eq!(seen.len(), files.len() * 4, "every file with every capability");
}

/// Tasks done, by the lines of progress.
fn done(log: &str) -> usize {
    let mut counts = log.lines().filter_map(|line| line.split_once(" done: ")?.0.rsplit(' ').nth(2)?.parse().ok());
    counts.next_back().unwrap_or(0)
}

/// Waits until some tasks, and not all, are done.
async fn midway(demo: &mut Owner, at_least: usize) {
    let process = &mut demo.process;
    eventually("the job is on its way", JOB, || {
        let log = process.log();
        let ended = process.ended();
        assert!(ended.is_none(), "it ended early: {ended:?}\n{log}");
        let done = done(&log);
        async move { if done >= at_least { Ok(()) } else { Err(done) } }
    })
    .await;
}

async fn finish(demo: &mut Owner) {
    let status = demo.process.wait(JOB).await;
    assert!(status.success(), "{status:?}");
    eventually("nothing is left", JOB, || {
        let left = left(&demo.dir.path().join("out"));
        async move { if left.is_empty() { Ok(()) } else { Err(left) } }
    })
    .await;
}

#[tokio::test]
async fn ctrl_c_and_again_finishes_the_same_job() {
    let dir = folder(150);
    let mut demo = Owner::start_in(dir, ARGS);
    midway(&mut demo, 20).await;
    demo.process.signal(Signal::INT);
    let status = demo.process.wait(JOB).await;
    assert_eq!(status.code(), Some(1), "an unfinished job is no success");
    assert!(demo.process.log().contains("run the same command again"));
    let manifest = std::fs::read_to_string(demo.dir.path().join("out").join("manifest.jsonl"));
    let planned = manifest.map(|text| text.lines().count() - 1);
    let dir = std::mem::replace(&mut demo.dir, tempfile::tempdir().unwrap());
    let mut demo = Owner::start_in(dir, ARGS);
    finish(&mut demo).await;
    assert!(demo.process.log().contains("resuming the unfinished job"));
    check(demo.dir.path(), true);
    if let Ok(planned) = planned {
        assert_eq!(rows(demo.dir.path()).len(), planned);
    }
}

#[tokio::test]
async fn any_one_process_may_die_in_the_middle() {
    let mut rng = Rng(seed());
    let mut demo = Owner::start_in(folder(200), ARGS);
    let ready = demo.ready().await;
    midway(&mut demo, 10).await;
    signal(pid(&ready["control_plane"]), Signal::KILL);
    let so_far = done(&demo.process.log());
    midway(&mut demo, so_far + 30).await;
    signal(pid(&ready["sidecars"][usize::try_from(rng.within(0, 1)).unwrap()]), Signal::KILL);
    let so_far = done(&demo.process.log());
    midway(&mut demo, so_far + 30).await;
    let agents: Vec<_> = demo.processes().into_iter().filter(|(_, line)| line.ends_with("demo-agent")).collect();
    signal(agents.first().expect("an agent").0, Signal::KILL);
    finish(&mut demo).await;
    check(demo.dir.path(), false);
    let log = demo.process.log();
    assert!(log.contains("control-plane") && log.contains("was killed by signal 9"), "what died is shown");
}
