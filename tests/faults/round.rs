//! One round: faults are done, last, are mended; then new work must move, and everything that was
//! accepted before must end.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hive_sdk::Client;
use hive_sdk::proto::AgentPhase;

use crate::act::{self, Active};
use crate::agent::only;
use crate::checker::{Finding, Kind as Promise};
use crate::clients::Caller;
use crate::fault::{Fault, Kind, Place};
use crate::fleet::{Fleet, Size, sidecar_id};
use crate::harness::{LONG, MIB, Rng, eventually, now, spawn, uptime_us};
use crate::history::{Excuse, Outcome};
use crate::recorder::Fared;
use crate::tools::Tools;

/// The control plane's memory never passes it, under whatever load the lab makes.
pub(crate) const MOST_MEMORY: u64 = 512 * MIB;
/// Nor does it write more than this to its log in a round, whatever peers do.
const MOST_LOGGED: u64 = MIB;
/// A call over a new connection may take so long under a flood.
const FRESH: Duration = Duration::from_secs(5);

/// What a round was, and what it showed.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) faults: Vec<&'static Fault>,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// From the mending to the first and to the last of the agents concerned having done new work.
    pub(crate) first_ms: f64,
    pub(crate) last_ms: f64,
    /// Of one core, while the faults lasted.
    pub(crate) cpu_percent: f64,
    pub(crate) peak: u64,
    pub(crate) fared: Fared,
    pub(crate) found: Vec<Finding>,
}

pub(crate) async fn run(
    fleet: &mut Fleet,
    faults: &[&'static Fault],
    thorough: bool,
    rng: &mut Rng,
    tools: &Tools,
) -> Round {
    let from = uptime_us();
    fleet.peak.take_recent();
    let logged = fleet.logged();
    let quiet = faults.iter().all(|fault| keeps_contact(fault));
    if quiet {
        // What an earlier round did must not be put down to this one.
        fleet.all_ready().await;
    }
    let lasts = faults.iter().map(|fault| fault.lasts(thorough, |low, high| rng.within(low, high))).max();
    let lasts = lasts.unwrap_or_default();
    if fleet.size == Size::Disk && faults.iter().any(|fault| fault.kind == Kind::ControlPlaneDiskNoReserve) {
        grow_old(fleet).await;
    }
    let held = if thorough { hold_work(fleet, lasts).await } else { Vec::new() };

    let mut actives = Vec::new();
    for fault in faults {
        actives.push(act::begin(fault, fleet, rng, tools).await);
    }
    let pid = fleet.rig.control_plane().pid();
    let (begun, cpu) = (now(), cpu_ms(pid));
    // Without a descriptor there are no new connections.
    let dials = quiet && faults.iter().all(|fault| fault.kind != Kind::ControlPlaneDescriptors);
    let fresh = dials.then(|| spawn(fresh_calls(fleet.rig.endpoint(), fleet.caller.clone(), begun + lasts)));
    let contact = quiet.then(|| spawn(out_of_contact(fleet.rig.client_within(FRESH), begun + lasts)));
    tokio::time::sleep(lasts).await;
    let lasted = now().duration_since(begun);
    let cpu_percent = (cpu_ms(pid) - cpu).max(0.0) / lasted.as_secs_f64().max(0.001) / 10.0;
    let mended_us = uptime_us();
    let fared = fleet.recorder.fared(from, mended_us);
    let mended = now();
    let mut excused = BTreeSet::new();
    for active in &mut actives {
        excused.extend(act::heal(active, fleet, lasted + Duration::from_millis(500)).await);
    }
    let mut round = Round {
        faults: faults.to_vec(),
        from,
        to: 0,
        first_ms: 0.0,
        last_ms: 0.0,
        cpu_percent: if lasted > Duration::from_millis(300) { cpu_percent } else { 0.0 },
        peak: 0,
        fared,
        found: Vec::new(),
    };
    recover(fleet, &actives, mended, &mut round).await;
    // What was running when the first of them struck may end in the next round's time.
    fleet.recorder.excuse(Excuse { agents: excused, from, to: uptime_us() });
    for task in fleet.settle(mended_us, LONG).await {
        round.broke(format!("{task}: accepted before the mending, and has not ended {LONG:?} after it"));
        fleet.recorder.write_off(&task);
    }
    for work in held {
        if !work.await.unwrap_or(false) {
            round.broke("work that ran all through the fault did not end".to_owned());
        }
    }
    if quiet && fared.failed > 0 {
        round.broke(format!("{} of {} calls failed", fared.failed, fared.failed + fared.told));
    }
    if let Some(contact) = contact
        && let Ok(gone) = contact.await
        && !gone.is_empty()
    {
        round.broke(format!("agents went out of contact: {gone:?}"));
    }
    if let Some(fresh) = fresh
        && let Ok(Some(failure)) = fresh.await
    {
        round.broke(format!("a call over a new connection: {failure}"));
    }
    still_there(fleet, &mut round);
    let logged = fleet.logged() - logged;
    if logged > MOST_LOGGED {
        round.broke(format!("the control plane wrote {} KiB to its log", logged >> 10));
    }
    round.peak = fleet.peak.take_recent();
    if round.peak > MOST_MEMORY {
        round.broke(format!("the control plane had {} MiB", round.peak / MIB));
    }
    round.to = uptime_us();
    round
}

impl Round {
    fn broke(&mut self, what: String) {
        self.found.push(Finding { kind: Promise::Broken, at: self.from, what });
    }
}

/// Under these nobody may lose contact, and no call may fail.
fn keeps_contact(fault: &Fault) -> bool {
    fault.place == Place::Port
        || matches!(fault.kind, Kind::ControlPlaneDescriptors | Kind::ClockForward | Kind::ClockBack)
}

/// Agents seen SUSPECT or LOST until then.
async fn out_of_contact(client: Client, until: std::time::Instant) -> BTreeSet<String> {
    let mut gone = BTreeSet::new();
    while now() < until {
        let agents: Vec<_> = client.list_agents("", false).try_collect().await.unwrap_or_default();
        let out = agents.iter().filter(|agent| matches!(agent.phase(), AgentPhase::Suspect | AgentPhase::Lost));
        gone.extend(out.map(|agent| agent.id.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    gone
}

/// Waits until there are ended tasks old enough for retention to delete.
async fn grow_old(fleet: &Fleet) {
    let old = fleet.begun + 75_000_000;
    while uptime_us() < old {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Tasks that run all through the fault: they begin now, and end a little after the mending.
async fn hold_work(fleet: &Fleet, lasts: Duration) -> Vec<tokio::task::JoinHandle<bool>> {
    let sleep_ms = lasts.as_millis() as u64 + 1_000;
    if sleep_ms < 3_000 {
        return Vec::new();
    }
    let mut held = Vec::new();
    for _ in 0..4 {
        let id = fleet.caller.accepted("sdk", sleep_ms, &fleet.stop).await.expect("nobody has told it to stop");
        eventually("it is given to an agent", LONG, || async {
            let told = fleet.caller.get(&id).await;
            if matches!(&told, Outcome::Told(view) if view.attempt > 0) { Ok(()) } else { Err(told) }
        })
        .await;
        let (caller, stop) = (fleet.caller.clone(), fleet.stop.clone());
        held.push(spawn(async move { caller.wait(&id, &stop).await }));
    }
    held
}

/// Calls, each over a connection of its own, until then; the first failure.
async fn fresh_calls(endpoint: String, caller: Caller, until: std::time::Instant) -> Option<String> {
    while now() < until {
        let since = now();
        let caller = caller.anew(&endpoint);
        let (id, payload) = caller.new_task(0);
        let mut told = false;
        while !told && now().duration_since(since) < FRESH {
            told = matches!(caller.submit(&id, &payload, "sdk").await, Outcome::Told(_));
        }
        if !told {
            return Some(format!("not answered within {FRESH:?}"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    None
}

/// New work for each agent concerned, until all have done it.
async fn recover(fleet: &Fleet, actives: &[Active], mended: std::time::Instant, round: &mut Round) {
    let probes: BTreeSet<&String> = actives.iter().flat_map(|active| &active.probes).collect();
    let mut all = tokio::task::JoinSet::new();
    for agent in probes {
        let (caller, stop, capability) = (fleet.caller.clone(), fleet.stop.clone(), only(agent));
        let agent = agent.clone();
        all.spawn(async move {
            let done = caller.work(&capability, 0, &stop).await;
            (agent, done, now())
        });
    }
    let limit = act::patience(fleet.size);
    let (mut first, mut last) = (f64::MAX, 0.0_f64);
    loop {
        match tokio::time::timeout_at((mended + limit).into(), all.join_next()).await {
            Ok(Some(Ok((_, true, at)))) => {
                let ms = at.duration_since(mended).as_secs_f64() * 1_000.0;
                (first, last) = (first.min(ms), last.max(ms));
            }
            Ok(Some(other)) => round.broke(format!("new work was not done: {other:?}")),
            Ok(None) => break,
            Err(_) => {
                round.broke(format!("{} agents have done no new work {limit:?} after the mending", all.len()));
                break;
            }
        }
    }
    (round.first_ms, round.last_ms) = (first.min(last), last);
}

/// Nothing has ended that was not told to.
fn still_there(fleet: &mut Fleet, round: &mut Round) {
    if let Some(status) = fleet.rig.control_plane().ended() {
        round.broke(format!("the control plane ended by itself: {status}"));
    }
    for number in 1..=fleet.sidecars() {
        if let Some(status) = fleet.rig.sidecar_process(&sidecar_id(number)).ended() {
            round.broke(format!("sidecar-{number} ended by itself: {status}"));
            fleet.rig.start_sidecar(&sidecar_id(number));
        }
    }
}

/// Time a process has spent on a processor.
fn cpu_ms(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = text.rsplit_once(')') else { return 0.0 };
    let fields: Vec<f64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    // utime and stime, in ticks of 10 ms.
    fields.get(11).zip(fields.get(12)).map_or(0.0, |(user, system)| (user + system) * 10.0)
}
