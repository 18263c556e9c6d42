//! What a decision costs and a pending task weighs, in a process of its own.
//!
//! For each fleet: the time of one step that gives one task to the one agent with a free slot (message
//! in, match, decide, apply, index), with very many tasks pending; and resident bytes per pending task
//! with a payload of 256 B. `distinct` fleets have a label of its own on every agent.

use hive_core::leader::{Credit, FromSidecar};

use crate::fleet::Fleet;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024
}

fn fleet(pending: usize, agents: usize, distinct: bool) -> (Decision, f64) {
    let mut fleet = Fleet::empty();
    let before = resident();
    fleet.queue(pending + agents);
    let bytes = resident().saturating_sub(before) as f64 / (pending + agents) as f64;
    fleet.join(agents, distinct);
    let mut times = Vec::new();
    for at in 0..20_000.min(agents * 20) {
        let (connection, agent, seen) = fleet.end(at);
        fleet.settle();
        let agents = vec![Credit { agent, free: 1, ready: true }];
        let started = std::time::Instant::now();
        fleet.frame(connection, FromSidecar::Credit { seen, agents });
        times.push((started.elapsed()).as_nanos());
        fleet.settle();
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 100] as f64 / 1000.0;
    (Decision { agents, distinct, p50_us: at(50), p99_us: at(99), times: times.len() as u64 }, bytes)
}

/// The cost of a decision in one fleet, in microseconds.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
pub struct Decision {
    pub agents: usize,
    pub distinct: bool,
    pub p50_us: f64,
    pub p99_us: f64,
    pub times: u64,
}

#[derive(Debug, serde::Deserialize, serde::Serialize)]
pub struct Found {
    pub decisions: Vec<Decision>,
    pub bytes_per_task: f64,
}

/// Prints what was found, as JSON.
pub fn measure(pending: usize) {
    let mut found = Found { decisions: Vec::new(), bytes_per_task: 0.0 };
    for (agents, distinct) in [(100, false), (10_000, false), (100_000, false), (10_000, true)] {
        let (decision, bytes) = fleet(pending, agents, distinct);
        found.decisions.push(decision);
        // Later fleets live in memory that earlier ones gave back to the allocator, not to the system.
        found.bytes_per_task = found.bytes_per_task.max(bytes);
    }
    println!("{}", serde_json::to_string(&found).expect("written"));
}
