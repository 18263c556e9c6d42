//! A refused batch is as if it had never been; a decision holds only while its ground does.

use std::sync::Arc;

use hive_core::command::{Command, Context};
use hive_core::id::{AgentId, SidecarId, TaskId};
use hive_core::leader::{CallError, Connection, Input};
use hive_core::record::{AgentSpec, Body, Key, RetryPolicy, Runtime, TaskSpec};
use hive_core::rules;
use hive_core::settings::Settings;

use crate::sidecar::Sidecar;
use crate::world::{StoreRefusal, World};

fn sidecar(id: &str, boot: u128, agent: &str) -> Sidecar {
    let mut sidecar = Sidecar::new(id, boot);
    let capabilities = [Arc::from("wc")].into();
    let (pool, labels) = (Arc::from("default"), Default::default());
    let spec = AgentSpec { pool, capabilities, labels, slots: 2, runtime: Runtime::Command };
    sidecar.agents.insert(AgentId::parse(agent).unwrap(), spec);
    sidecar
}

fn submit(world: &mut World, number: u128) -> TaskId {
    let id = TaskId::new(world.now, number);
    let spec = TaskSpec {
        requirement: Default::default(),
        capability: Arc::from("wc"),
        priority: Default::default(),
        payload: Body::default(),
        labels: Default::default(),
        retry: RetryPolicy { max_failures: 3, base_delay: Default::default(), max_delay: Default::default() },
        attempt_timeout: std::time::Duration::from_secs(60),
        queue_timeout: std::time::Duration::from_secs(60),
        input_timeout: std::time::Duration::from_secs(60),
        disconnect: Default::default(),
        digest: [0; 16],
    };
    world.call(Command::Submit { id, spec: Arc::new(spec), blob: None });
    id
}

fn dial(world: &mut World, sidecar: &mut Sidecar, connection: u64) {
    let leader = world.leader.epoch();
    let hello = sidecar.dial(Connection(connection), leader, world.now);
    world.step(Input::Frame { connection: Connection(connection), leader, messages: vec![hello] });
}

/// Records as they stand, decided or not.
fn records(world: &World) -> Vec<Option<hive_core::record::Record>> {
    world.committed.keys().map(|key| world.leader.state().get(key)).collect()
}

#[test]
fn two_refused_batches_leave_the_records_that_are_committed() {
    let mut world = World::new(Settings::default(), 1);
    let mut s1 = sidecar("s1", 1, "a1");
    dial(&mut world, &mut s1, 1);
    let first = submit(&mut world, 1);
    world.settle();
    let before = records(&world);
    world.answers.clear();

    world.call(Command::Cancel(first));
    let second = submit(&mut world, 2);
    assert!(world.take_off());
    world.call(Command::Cancel(second));
    world.call(Command::RemoveAgent { id: AgentId::parse("a1").unwrap(), force: true });
    world.refuse(StoreRefusal::Unavailable);

    assert_eq!(records(&world), before);
    assert!(world.leader.state().get(&Key::Task(world.ns.clone(), second)).is_none());
    assert_eq!(world.answers.len(), 4);
    assert!(world.answers.iter().all(|(_, answer)| matches!(answer, Err(CallError::Refused(_)))));
    // Nothing is left to commit, and the next decision finds the old state.
    assert!(!world.take_off());
    world.call(Command::Cancel(first));
    world.settle();
    assert!(world.task(first).unwrap().cancel.is_some());
}

#[test]
fn a_hello_whose_generation_was_not_minted_is_not_welcomed() {
    let mut world = World::new(Settings { batch_ops: 5, ..Settings::default() }, 1);
    let mut s1 = sidecar("s1", 1, "a1");
    // The batch is full after the generation: hosting and welcome wait for the next one.
    submit(&mut world, 1);
    dial(&mut world, &mut s1, 1);
    assert!(world.take_off());
    world.refuse(StoreRefusal::NoSpace);
    world.settle();
    assert!(world.leader.view().agent(&world.ns, &AgentId::parse("a1").unwrap()).is_none());
    assert_eq!(world.leader.sessions(), 0);
    dial(&mut world, &mut s1, 2);
    world.settle();
    assert_eq!(world.leader.sessions(), 1);
}

#[test]
fn a_stream_that_changes_its_name_leaves_no_session_behind() {
    let mut world = World::new(Settings::default(), 1);
    let (mut s1, mut s2) = (sidecar("s1", 1, "a1"), sidecar("s2", 2, "a2"));
    dial(&mut world, &mut s1, 1);
    world.settle();
    dial(&mut world, &mut s2, 1);
    world.settle();
    assert_eq!(world.leader.sessions(), 1);
    let free = |agent: &str| {
        let (_, entry) = world.leader.view().agent(&world.ns, &AgentId::parse(agent).unwrap()).unwrap();
        entry.room()
    };
    assert_eq!((free("a1"), free("a2")), (0, 2));
    assert!(SidecarId::parse("s1").is_ok_and(|id| world.committed.contains_key(&Key::Sidecar(world.ns.clone(), id))));
}

#[test]
fn an_agent_that_was_heard_meanwhile_is_not_lost() {
    let mut world = World::new(Settings::default(), 1);
    let mut s1 = sidecar("s1", 1, "a1");
    dial(&mut world, &mut s1, 1);
    world.settle();
    let changes = |world: &World| {
        let ctx = Context { namespace: &world.ns, now: world.now, random: 0 };
        let command = Command::LoseAgent(AgentId::parse("a1").unwrap());
        rules::decide(world.leader.state(), command, &ctx).unwrap().changes.len()
    };
    assert_eq!(changes(&world), 0);
    world.step(Input::Hangup(Connection(1)));
    assert_eq!(changes(&world), 1);
}
