//! What a decision costs and a pending task weighs, in a process of its own.
//!
//! For each fleet: the time of one step that gives one task to the one agent with a free slot (message
//! in, match, decide, apply, index), with very many tasks pending; and resident bytes per pending task
//! with a payload of 256 B. `distinct` fleets have a label of its own on every agent.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_core::command::{Command, Delivered, Outcome};
use hive_core::id::{
    AgentId, AssignNumber, AttemptId, BootId, ConnectionNumber, Generation, LeaderEpoch, Namespace, SidecarId, TaskId,
};
use hive_core::leader::{CallId, Connection, Credit, Declared, FromSidecar, Hello, Input, Leader, Output, ToSidecar};
use hive_core::record::{AgentSpec, Body, RetryPolicy, Runtime, TaskSpec};
use hive_core::settings::Settings;
use hive_core::state::State;
use hive_core::time::Time;

const HOSTED: usize = 100;
const KINDS: usize = 8;

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0) * 1024
}

struct Fleet {
    leader: Leader,
    namespace: Namespace,
    now: Time,
    out: Vec<Output>,
    /// Who got what, and under which number of which stream.
    running: Vec<(Connection, AgentId, AttemptId, AssignNumber)>,
}

impl Fleet {
    fn step(&mut self, input: Input) {
        self.leader.step(self.now, input, &mut || 0, &mut self.out);
    }

    fn settle(&mut self) {
        loop {
            let flew = self.leader.take_transaction(self.now, &mut self.out).is_some();
            if flew {
                self.step(Input::Committed);
            }
            for output in self.out.drain(..) {
                let Output::Send { connection, message: ToSidecar::Assign(assignment) } = output else { continue };
                let Some(run) = assignment.task.run() else { continue };
                self.running.push((connection, run.agent.clone(), assignment.task.token(), assignment.number));
            }
            if !flew {
                return;
            }
        }
    }

    fn submit(&mut self, number: usize) {
        let payload = Bytes::from(vec![7u8; 256]);
        let spec = TaskSpec {
            requirement: hive_core::record::Requirement {
                capabilities: [Arc::from(format!("kind-{}", number % KINDS))].into(),
                ..Default::default()
            },
            capability: Arc::from("kind"),
            priority: Default::default(),
            payload: Body::split(Arc::from("text/plain"), payload).0,
            labels: Default::default(),
            retry: RetryPolicy {
                max_failures: 3,
                base_delay: Duration::from_secs(1),
                max_delay: Duration::from_secs(60),
            },
            attempt_timeout: Duration::from_secs(600),
            queue_timeout: Duration::from_secs(86_400),
            input_timeout: Duration::from_secs(86_400),
            disconnect: Default::default(),
            digest: [0; 16],
        };
        let id = TaskId::new(self.now, number as u128);
        let (call, namespace) = (CallId(number as u64), self.namespace.clone());
        self.step(Input::Call { call, namespace, command: Command::Submit { id, spec: Arc::new(spec), blob: None } });
    }

    fn host(&mut self, number: usize, agents: usize, distinct: bool) {
        let declared = |n: usize| {
            let n = number * HOSTED + n;
            let labels = distinct.then(|| (Arc::from("node"), Arc::from(n.to_string()))).into_iter().collect();
            let capabilities = [Arc::from(format!("kind-{}", n % KINDS)), Arc::from("any")].into();
            let (pool, runtime) = (Arc::from("default"), Runtime::Command);
            let spec = AgentSpec { pool, capabilities, labels, slots: 1, runtime };
            let agent = AgentId::parse(&format!("a{n}")).expect("a name");
            Declared { spec, digest: [1; 16], credit: Credit { agent, free: 1, ready: true }, removed: false }
        };
        let hello = Hello {
            namespace: self.namespace.clone(),
            sidecar: SidecarId::parse(&format!("s{number}")).expect("a name"),
            boot: BootId(number as u128),
            generation: Generation(0),
            connection: ConnectionNumber(1),
            agents: (0..agents).map(declared).collect(),
            attempts: Vec::new(),
        };
        let (connection, leader) = (Connection(number as u64), self.leader.epoch());
        self.step(Input::Frame { connection, leader, messages: vec![FromSidecar::Hello(Box::new(hello))] });
        self.settle();
    }

    fn frame(&mut self, connection: Connection, message: FromSidecar) {
        let leader = self.leader.epoch();
        self.step(Input::Frame { connection, leader, messages: vec![message] });
    }
}

fn fleet(pending: usize, agents: usize, distinct: bool) -> (Decision, f64) {
    let namespace = Namespace::parse("default").expect("a name");
    let settings = Settings { max_pending: u64::MAX, ..Settings::default() };
    let now = Time(1_700_000_000_000);
    let state = State::new(settings, [namespace.clone()]);
    let leader = Leader::new(LeaderEpoch::default(), state, 0, now);
    let mut fleet = Fleet { leader, namespace, now, out: Vec::new(), running: Vec::new() };
    let before = resident();
    for number in 0..pending + agents {
        fleet.submit(number);
        if number % 64 == 0 {
            fleet.settle();
        }
    }
    fleet.settle();
    let bytes = resident().saturating_sub(before) as f64 / (pending + agents) as f64;
    for number in 0..agents.div_ceil(HOSTED) {
        fleet.host(number, HOSTED.min(agents - number * HOSTED), distinct);
    }
    let mut times = Vec::new();
    for at in 0..20_000.min(agents * 20) {
        // Another agent each time, far from the last one.
        let (connection, agent, token, seen) = fleet.running.swap_remove(at * 7919 % fleet.running.len());
        let outcome = Outcome::Succeeded(Delivered::default());
        fleet.frame(connection, FromSidecar::Result { token, outcome });
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
