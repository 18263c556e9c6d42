//! The bound on waiting holds for every kind of agent, whoever else could do the urgent work.

use std::sync::Arc;

use hive_core::command::{Command, Delivered, Outcome};
use hive_core::id::{AgentId, TaskId};
use hive_core::leader::{Connection, FromSidecar, Input, ToSidecar};
use hive_core::record::{AgentSpec, Body, Priority, Requirement, RetryPolicy, Runtime, TaskSpec};
use hive_core::settings::Settings;

use crate::sidecar::{Held, Sidecar};
use crate::world::World;

fn spec(capability: &str, priority: Priority, pool: Option<&str>) -> Arc<TaskSpec> {
    let day = std::time::Duration::from_secs(86_400);
    Arc::new(TaskSpec {
        requirement: Requirement {
            capabilities: [Arc::from(capability)].into(),
            labels: Default::default(),
            pool: pool.map(Arc::from),
        },
        capability: Arc::from(capability),
        priority,
        payload: Body::default(),
        labels: Default::default(),
        retry: RetryPolicy { max_failures: 3, base_delay: day, max_delay: day },
        attempt_timeout: day,
        queue_timeout: day,
        input_timeout: day,
        disconnect: Default::default(),
        digest: [0; 16],
    })
}

struct Pair {
    world: World,
    sidecar: Sidecar,
    connection: Connection,
    given: Vec<(AgentId, TaskId)>,
}

impl Pair {
    /// Agent `a1` can do `wc`; `a2` can do `wc` and `sum`.
    fn new() -> Self {
        let mut sidecar = Sidecar::new("s1", 1);
        for (id, capabilities) in [("a1", vec!["wc"]), ("a2", vec!["wc", "sum"])] {
            let capabilities = capabilities.into_iter().map(Arc::from).collect();
            let (pool, labels) = (Arc::from("default"), Default::default());
            let spec = AgentSpec { pool, capabilities, labels, slots: 1, runtime: Runtime::Command };
            sidecar.agents.insert(AgentId::parse(id).unwrap(), spec);
        }
        let world = World::new(Settings::default(), 1);
        Self { world, sidecar, connection: Connection(1), given: Vec::new() }
    }

    fn submit(&mut self, number: u128, capability: &str, priority: Priority) -> TaskId {
        self.submit_to(None, number, capability, priority)
    }

    fn submit_to(&mut self, pool: Option<&str>, number: u128, capability: &str, priority: Priority) -> TaskId {
        let id = TaskId::new(self.world.now, number);
        self.world.call(Command::Submit { id, spec: spec(capability, priority, pool), blob: None });
        id
    }

    fn send(&mut self, messages: Vec<FromSidecar>) {
        let (connection, leader) = (self.connection, self.world.leader.epoch());
        self.world.step(Input::Frame { connection, leader, messages });
        loop {
            self.world.settle();
            let down = std::mem::take(&mut self.world.down);
            if down.is_empty() {
                return;
            }
            let mut replies = Vec::new();
            for (_, message) in down {
                if let ToSidecar::Assign(assignment) = &message {
                    let run = assignment.task.run().unwrap();
                    self.given.push((run.agent.clone(), assignment.task.id));
                }
                replies.extend(self.sidecar.hear(message, leader, self.world.now));
            }
            self.world.step(Input::Frame { connection, leader, messages: replies });
        }
    }

    /// Both agents end what they have, in one frame: both are free when the next match is made.
    fn round(&mut self) {
        let mut messages = Vec::new();
        for (token, work) in &mut self.sidecar.journal {
            let outcome = Outcome::Succeeded(Delivered::default());
            work.held = Held::Finished(outcome.clone());
            messages.push(FromSidecar::Result { token: *token, outcome });
        }
        messages.push(self.sidecar.credit());
        self.send(messages);
    }
}

#[test]
fn work_that_others_could_do_does_not_starve_what_only_one_kind_can() {
    let mut pair = Pair::new();
    let (leader, now) = (pair.world.leader.epoch(), pair.world.now);
    let hello = pair.sidecar.dial(pair.connection, leader, now);
    pair.send(vec![hello]);
    // The first kind goes first, so that from then on the second kind was used longer ago.
    pair.submit(0, "wc", Priority::Critical);
    pair.round();
    pair.round();
    for number in 1..100 {
        pair.submit(number, "wc", Priority::Critical);
    }
    let low = pair.submit(1000, "sum", Priority::Low);
    pair.send(Vec::new());
    for _ in 0..20 {
        pair.round();
    }
    let second = AgentId::parse("a2").unwrap();
    let theirs: Vec<TaskId> = pair.given.iter().filter(|(agent, _)| *agent == second).map(|(_, id)| *id).collect();
    let at = theirs.iter().position(|id| *id == low);
    assert!(at.is_some_and(|at| at < 16), "served as number {at:?} of {}", theirs.len());
}

#[test]
fn a_kind_of_task_that_comes_and_goes_does_not_set_back_those_who_wait() {
    let mut pair = Pair::new();
    for number in 0..100 {
        pair.submit(number, "wc", Priority::Critical);
    }
    let low = pair.submit(1000, "wc", Priority::Low);
    pair.world.settle();
    let (leader, now) = (pair.world.leader.epoch(), pair.world.now);
    let hello = pair.sidecar.dial(pair.connection, leader, now);
    pair.send(vec![hello]);
    for number in 0..30 {
        // Another class of the same priority empties again and again.
        let other = pair.submit_to(Some("default"), 2000 + number, "wc", Priority::Low);
        pair.world.call(Command::Cancel(other));
        pair.round();
    }
    let at = pair.given.iter().position(|(_, id)| *id == low);
    assert!(at.is_some_and(|at| at < 34), "served as number {at:?} of {}", pair.given.len());
}
