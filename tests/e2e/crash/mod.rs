//! Promises 1, 2 and 3 under kill -9 of the control plane: 100 times at random moments, under load,
//! on the same data. Judged by what the clients wrote down and by what the agents wrote down, never
//! by what the control plane says of itself.

mod clients;
mod verdict;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{AgentDef, LONG, Rig, Rng, eventually, now, seed, spawn};
use clients::Ledger;
use watcher::Watcher;

const ROUNDS: u64 = 100;
const SIDECARS: u32 = 4;
const CLIENTS: u64 = 4;

fn rounds() -> u64 {
    std::env::var("E2E_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(ROUNDS)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_kills_lose_nothing_and_double_nothing() {
    let begun = now();
    let seed = seed();
    // Nothing here may count as an agent's loss: what is shown is that kills of the control plane
    // alone restart nothing.
    let mut rig = Rig::with(&[("session.lost", "60s")]).await;
    let mut lists = Vec::new();
    for number in 1..=SIDECARS {
        let list = rig.path().join(format!("ran-{number}"));
        let script = r#"echo "$HIVE_TASK_ID $HIVE_ATTEMPT" >> "$LIST"; sleep 0.1; cat"#;
        let agents = [
            AgentDef::logging(&format!("sdk-{number}"), &["sdk"], &list).slots(16),
            AgentDef::script(&format!("cmd-{number}"), &["cmd"], script).slots(3).env("LIST", list.to_str().unwrap()),
        ];
        rig.sidecar(&format!("sidecar-{number}"), &agents).await;
        lists.push(list);
    }

    let ledger = Arc::new(Ledger::default());
    let stop = Arc::new(AtomicBool::new(false));
    let watcher = Watcher::start(rig.client());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| spawn(clients::submit(rig.endpoint(), seed ^ number, ledger.clone(), stop.clone())))
        .collect();

    let mut rng = Rng(seed);
    let (mut kills, mut early) = (0, 0);
    while kills < rounds() {
        // Half of the kills come once work moves again, half wherever it may be.
        if rng.within(0, 1) == 0 {
            let before = watcher.ended();
            let moved = eventually("work moves after a kill", LONG, || {
                let after = watcher.ended();
                async move { if after > before { Ok(()) } else { Err(format!("{after} tasks have ended")) } }
            });
            moved.await;
        }
        tokio::time::sleep(rng.millis(0, 500)).await;
        rig.control_plane().kill9();
        kills += 1;
        // Some die again while they start.
        while kills < rounds() && rng.within(0, 4) == 0 {
            rig.launch_control_plane();
            tokio::time::sleep(rng.millis(0, 120)).await;
            rig.control_plane().kill9();
            kills += 1;
            early += 1;
        }
        rig.start_control_plane().await;
    }

    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client");
    }
    verdict::settle(&rig, &ledger).await;
    let told = watcher.finish(&ledger).await;
    let found = verdict::judge(&rig, &ledger, &told, &lists).await;
    println!(
        "rounds {kills} ({early} during a start), {:.1} s, seed {seed}: {found}",
        now().duration_since(begun).as_secs_f64()
    );
    found.assert_clean();
    assert!(found.tasks as u64 > 5 * kills, "too little load to mean anything: {found}");
}
