//! One run: hosts, work and faults by one seed; then everything heals and must come to rest.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::fault::Fault;
use crate::hosts::{self, settings};
use crate::lab::{Lab, Stats};
use crate::rng::{Digest, Rng};
use crate::wire::PLANE;

/// Granularity of virtual time.
const TICK_MS: u64 = 10;
/// Virtual time from the last fault's end to rest, at most (I8). Dead connections are found by their
/// keepalive within 15 s, and dials back off to 10 s.
const HEAL_MS: u64 = 120_000;

/// Waits are shorter than in production, so that a run sees many of them.
const SETTINGS: &[(&str, &str)] = &[
    ("session.beat", "1s"),
    ("session.lost", "6s"),
    ("session.kill", "3s"),
    ("session.kill_margin", "1s"),
    ("session.receipt", "1s"),
    ("task.backoff", "200ms"),
    ("task.backoff_cap", "1s"),
    ("task.cancel_grace", "1s"),
    ("task.max_failures", "20"),
    ("shutdown.drain", "2s"),
    ("watch.bookmark", "5s"),
];

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) digest: Digest,
    pub(crate) stats: Stats,
    pub(crate) tasks: usize,
    pub(crate) accepted: usize,
    pub(crate) faults: usize,
    pub(crate) virtual_ms: u64,
    pub(crate) heal_ms: u64,
}

/// Runs a seed. The error tells the faults and the story.
pub(crate) fn run(seed: u64) -> Result<Report, String> {
    let lab = Lab::new(seed);
    let mut rng = Rng::new(seed);
    let folder = tempfile::Builder::new().prefix("hive-net-").tempdir().map_err(|error| error.to_string())?;
    let path: Arc<Path> = folder.path().into();
    let sidecars: Vec<String> = (0..rng.between(1, 3)).map(|n| format!("s{n}")).collect();
    let clients: Vec<String> = (0..rng.between(1, 2)).map(|n| format!("c{n}")).collect();
    let chaos = rng.between(5_000, 20_000);
    let mut faults: Vec<Fault> = Vec::new();
    for _ in 0..rng.between(2, 7) {
        let fault = Fault::draw(&mut rng, chaos, &sidecars, &clients);
        if !faults.iter().any(|other| other.bars(&fault)) {
            faults.push(fault);
        }
    }

    let mut sim = hosts::simulation(seed, TICK_MS).build();
    let stop: Arc<Mutex<CancellationToken>> = Arc::default();
    let (of_host, of_lab) = (Arc::clone(&stop), Arc::clone(&lab));
    sim.host(PLANE, move || {
        let token = CancellationToken::new();
        *of_host.lock().expect("the token") = token.clone();
        hosts::control_plane(Arc::clone(&of_lab), settings(SETTINGS), token)
    });
    for name in &sidecars {
        let slots = u32::try_from(rng.between(1, 3)).unwrap_or(1);
        let (lab, name, path) = (Arc::clone(&lab), name.clone(), Arc::clone(&path));
        sim.host(name.clone(), move || hosts::sidecar(Arc::clone(&lab), name.clone(), Arc::clone(&path), slots));
    }
    let watcher = Arc::clone(&lab);
    sim.host("watcher", move || {
        let client = Client::new(Arc::clone(&watcher), "watcher");
        async move {
            client.watch().await;
            Ok(())
        }
    });
    for name in &clients {
        let mut client = Client::new_later(Arc::clone(&lab), name);
        let count = rng.between(3, 10);
        sim.client(name.clone(), async move {
            client.connect();
            let mut accepted = Vec::new();
            for _ in 0..count {
                let pause = client.rng.skewed(1, chaos / count * 2);
                tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                if let Some(id) = client.submit().await {
                    accepted.push(id);
                    if client.rng.chance(150) {
                        client.cancel(id).await;
                    }
                }
            }
            for id in accepted {
                client.wait(id).await;
            }
            Ok(())
        });
    }

    let mut pending: Vec<(u64, bool, usize)> =
        faults.iter().enumerate().flat_map(|(n, fault)| [(fault.from, true, n), (fault.to, false, n)]).collect();
    pending.sort_unstable();
    let healed = faults.iter().map(|fault| fault.to).max().unwrap_or(0).max(chaos);
    let mut pending = pending.into_iter().peekable();
    let ended = loop {
        let at = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        while let Some((_, begins, n)) = pending.next_if(|(due, ..)| *due <= at) {
            let fault = &faults[n];
            lab.tell(at, || format!("{} {:?}", if begins { "-->" } else { "<--" }, fault.kind));
            if begins {
                lab.book().trouble += 1;
                fault.begin(&mut sim, &lab, &mut || stop.lock().expect("the token").cancel());
            } else {
                lab.book().trouble -= 1;
                fault.end(&mut sim, &lab);
            }
        }
        let done = match sim.step() {
            Ok(done) => done,
            Err(error) => break Err(format!("a host failed: {error}")),
        };
        if !lab.book().faults.is_empty() {
            break Ok(at);
        }
        if done && at >= healed && pending.peek().is_none() && lab.settled() {
            break Ok(at);
        }
        if at > healed + HEAL_MS {
            break Err(format!("I8: not at rest {} s after the last fault", HEAL_MS / 1_000));
        }
    };
    match &ended {
        Ok(_) => lab.judge(),
        Err(fault) => lab.book().faults.push(fault.clone()),
    }
    // Hosts write into the book also while they are taken down.
    drop(sim);
    let book = lab.book();
    if book.faults.is_empty() {
        let virtual_ms = ended.unwrap_or_default();
        Ok(Report {
            digest: book.digest.unwrap_or(Digest(0)),
            stats: book.stats,
            tasks: book.tasks.len(),
            accepted: book.tasks.values().filter(|entry| entry.accepted).count(),
            faults: faults.len(),
            virtual_ms,
            heal_ms: virtual_ms.saturating_sub(healed),
        })
    } else {
        let open: Vec<String> =
            lab.tasks().values().filter(|task| !task.is_ended()).map(|task| format!("{task:?}")).collect();
        let story = book.story.join("\n  ");
        Err(format!(
            "seed {seed}:\n  {}\nopen tasks\n  {}\nstory\n  {story}",
            book.faults.join("\n  "),
            open.join("\n  ")
        ))
    }
}
