//! A leader with a fleet and a queue, driven by hand: no clock, no socket, no store.

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

/// Agents of one sidecar.
const HOSTED: usize = 100;
/// Of tasks; every agent does one of them.
pub const KINDS: usize = 8;

pub struct Fleet {
    pub leader: Leader,
    pub namespace: Namespace,
    now: Time,
    out: Vec<Output>,
    /// Who got what, and under which number of which stream.
    pub running: Vec<(Connection, AgentId, AttemptId, AssignNumber)>,
}

impl Fleet {
    /// Nobody there, nothing to do.
    pub fn empty() -> Self {
        let namespace = Namespace::parse("default").expect("a name");
        let settings = Settings { max_pending: u64::MAX, ..Settings::default() };
        let now = Time(1_700_000_000_000);
        let state = State::new(settings, [namespace.clone()]);
        let leader = Leader::new(LeaderEpoch::default(), state, 0, now);
        Self { leader, namespace, now, out: Vec::new(), running: Vec::new() }
    }

    /// Takes in so many tasks.
    pub fn queue(&mut self, tasks: usize) {
        for number in 0..tasks {
            self.submit(number);
            if number % 64 == 0 {
                self.settle();
            }
        }
        self.settle();
    }

    /// Hosts so many agents; each is given a task if there is one for it.
    pub fn join(&mut self, agents: usize, distinct: bool) {
        for number in 0..agents.div_ceil(HOSTED) {
            self.host(number, HOSTED.min(agents - number * HOSTED), distinct);
        }
    }

    /// Ends a running task, another agent's each time, far from the last one; whose it was, and under
    /// which number it was given.
    pub fn end(&mut self, at: usize) -> (Connection, AgentId, AssignNumber) {
        let (connection, agent, token, seen) = self.running.swap_remove(at * 7919 % self.running.len());
        let outcome = Outcome::Succeeded(Delivered::default());
        self.frame(connection, FromSidecar::Result { token, outcome });
        (connection, agent, seen)
    }

    pub fn step(&mut self, input: Input) {
        self.leader.step(self.now, input, &mut || 0, &mut self.out);
    }

    pub fn settle(&mut self) {
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

    pub fn submit(&mut self, number: usize) {
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

    pub fn frame(&mut self, connection: Connection, message: FromSidecar) {
        let leader = self.leader.epoch();
        self.step(Input::Frame { connection, leader, messages: vec![message] });
    }
}
