//! Promises 1, 2 and 3 under kill -9 at random moments, under load, on the same data: the control
//! plane alone 100 times, then any process of the fleet. Judged by what the clients wrote down and
//! by what the agents wrote down, never by what the control plane says of itself.

mod clients;
mod verdict;
mod watcher;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use hive_sdk::client::{TaskId, TaskSpec};
use rustix::process::Signal;

use crate::harness::{AgentDef, LONG, LOSES, Rig, Rng, eventually, now, seed, signal, spawn};
use clients::{Entry, Ledger};
use verdict::{Found, Strictness};
use watcher::Watcher;

const ROUNDS: u64 = 100;
const CHAOS_ROUNDS: u64 = 60;
const SIDECARS: u64 = 4;
const CLIENTS: u64 = 4;

/// A number of rounds, or the one in `E2E_ROUNDS`.
fn rounds(default: u64) -> u64 {
    std::env::var("E2E_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A fleet under load, and everything that is written down about it.
struct Bench {
    rig: Rig,
    lists: Vec<PathBuf>,
    ledger: Arc<Ledger>,
    watcher: Watcher,
    clients: Vec<tokio::task::JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    begun: Instant,
}

impl Bench {
    async fn start(seed: u64, settings: &[(&str, &str)]) -> Self {
        let begun = now();
        let mut rig = Rig::with(settings).await;
        let mut lists = Vec::new();
        for number in 1..=SIDECARS {
            let list = rig.path().join(format!("ran-{number}"));
            let script = r#"echo "$HIVE_TASK_ID $HIVE_ATTEMPT" >> "$LIST"; sleep 0.1; cat"#;
            let command = AgentDef::script(&format!("cmd-{number}"), &["cmd"], script);
            let agents = [
                AgentDef::logging(&format!("sdk-{number}"), &["sdk"], &list).slots(16),
                command.slots(3).env("LIST", list.to_str().unwrap()),
            ];
            rig.sidecar(&format!("sidecar-{number}"), &agents).await;
            lists.push(list);
        }
        let (ledger, stop) = (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)));
        let watcher = Watcher::start(rig.client());
        let clients = (0..CLIENTS)
            .map(|number| spawn(clients::submit(rig.endpoint(), seed ^ number, ledger.clone(), stop.clone())))
            .collect();
        Self { rig, lists, ledger, watcher, clients, stop, begun }
    }

    /// A random moment: half of the time after work has moved again, half wherever it may be.
    async fn moment(&self, rng: &mut Rng) {
        if rng.within(0, 1) == 0 {
            let before = self.watcher.ended();
            let moved = eventually("work moves after a kill", LONG, || {
                let after = self.watcher.ended();
                async move { if after > before { Ok(()) } else { Err(format!("{after} tasks have ended")) } }
            });
            moved.await;
        }
        tokio::time::sleep(rng.millis(0, 500)).await;
    }

    /// Ends the load and judges.
    async fn judge(self, strictness: Strictness, what: &str) -> Found {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client");
        }
        verdict::settle(&self.rig, &self.ledger).await;
        let told = self.watcher.finish(&self.ledger).await;
        let found = verdict::judge(&self.rig, &self.ledger, &told, &self.lists, strictness).await;
        println!("{what}, {:.1} s: {found}", now().duration_since(self.begun).as_secs_f64());
        found.assert_clean();
        found
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kills_lose_nothing_and_double_nothing() {
    let seed = seed();
    let mut bench = Bench::start(seed, &[]).await;
    let mut rng = Rng(seed);
    let (mut kills, mut early) = (0, 0);
    let rounds = rounds(ROUNDS);
    while kills < rounds {
        bench.moment(&mut rng).await;
        bench.rig.control_plane().kill9();
        kills += 1;
        // Some die again while they start.
        while kills < rounds && rng.within(0, 4) == 0 {
            bench.rig.launch_control_plane();
            tokio::time::sleep(rng.millis(0, 120)).await;
            bench.rig.control_plane().kill9();
            kills += 1;
            early += 1;
        }
        bench.rig.start_control_plane().await;
    }
    let what = format!("rounds {kills} ({early} during a start), seed {seed}");
    let found = bench.judge(Strictness::NothingRestarted, &what).await;
    assert!(found.tasks as u64 > 5 * kills, "too little load to mean anything: {found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_process_killed_at_any_time_loses_nothing_and_doubles_nothing() {
    let seed = seed();
    // An agent's end counts as a failure of what it ran; here it is no reason to give a task up.
    let mut bench = Bench::start(seed, &[("task.max_failures", "1000"), LOSES[0]]).await;
    let mut rng = Rng(seed);
    let mut kills = [0; 3];
    for _ in 0..rounds(CHAOS_ROUNDS) {
        bench.moment(&mut rng).await;
        let number = rng.within(1, SIDECARS);
        let which = rng.within(0, 2) as usize;
        match which {
            0 => bench.rig.crash_control_plane().await,
            1 => {
                let id = format!("sidecar-{number}");
                bench.rig.sidecar_process(&id).kill9();
                tokio::time::sleep(rng.millis(0, 200)).await;
                bench.rig.start_sidecar(&id);
            }
            _ => {
                let Some(pid) = bench.rig.agent_process(&format!("sdk-{number}")) else { continue };
                signal(pid, Signal::KILL);
            }
        }
        kills[which] += 1;
    }
    let [control_plane, sidecars, agents] = kills;
    let what = format!("kills: control plane {control_plane}, sidecars {sidecars}, agents {agents}; seed {seed}");
    let found = bench.judge(Strictness::OncePerAttempt, &what).await;
    assert!(found.tasks as u64 > 5 * CHAOS_ROUNDS.min(rounds(CHAOS_ROUNDS)), "too little load: {found}");
}

/// A judge that never condemns proves nothing.
#[tokio::test]
async fn the_judge_finds_what_is_planted() {
    let mut rig = Rig::new().await;
    let list = rig.path().join("ran");
    rig.sidecar("sidecar-1", &[AgentDef::logging("sdk-1", &["sdk"], &list)]).await;
    let ledger = Ledger::default();
    let client = rig.client();
    let submitted = async |payload: &str, noted: &str| {
        let id = client.submit(TaskSpec::new("sdk").payload(payload)).await.expect("submit").id();
        let task = rig.ended(id).await;
        ledger.write(id, |entry| {
            *entry = Entry { payload: noted.to_owned(), accepted: true, calls: 1, first: Some(task) };
        });
        id
    };
    submitted("good", "good").await;
    let wrong = submitted("one thing", "another").await;
    let twice = submitted("twice", "twice").await;
    let changed = submitted("changed", "changed").await;
    ledger.write(changed, |entry| entry.first.as_mut().expect("its end").agent_id = "another".to_owned());
    let absent = client.new_task_id();
    ledger.write(absent, |entry| entry.accepted = true);
    let mut text = std::fs::read_to_string(&list).expect("the list");
    text.push_str(&format!("{twice} 1\n{changed} 2\n"));
    std::fs::write(&list, text).expect("write the list");

    let found = verdict::judge(&rig, &ledger, &Default::default(), &[list], Strictness::NothingRestarted).await;
    let names = |list: &[String], id: TaskId| list.iter().any(|fault| fault.starts_with(&id.to_string()));
    assert!(found.lost.len() == 2 && names(&found.lost, wrong) && names(&found.lost, absent), "{found:?}");
    assert!(names(&found.doubled, twice) && names(&found.doubled, changed), "{found:?}");
    assert!(found.restarted.len() == 1 && names(&found.restarted, changed), "{found:?}");
}
