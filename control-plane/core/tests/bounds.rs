//! What one batch may hold, and what a store that refuses everything may cost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hive_core::command::Command;
use hive_core::id::{AgentId, Attempt, AttemptId, LeaderEpoch, TaskId};
use hive_core::leader::{Beat, Connection, FromSidecar, Input, Listed, ToSidecar};
use hive_core::record::{AgentSpec, Body, Phase, Record, RetryPolicy, Runtime, TaskSpec};
use hive_core::settings::Settings;

use crate::sidecar::Sidecar;
use crate::world::{StoreRefusal, World};

/// What the stores take in one transaction.
const MAX_OPS: usize = 128;
const MAX_BYTES: usize = (1 << 20) + (480 << 10);

fn sidecar(boot: u128, agents: usize, slots: u32) -> Sidecar {
    let mut sidecar = Sidecar::new("s1", boot);
    for n in 0..agents {
        let capabilities = [Arc::from("wc")].into();
        let (pool, labels) = (Arc::from("default"), Default::default());
        let spec = AgentSpec { pool, capabilities, labels, slots, runtime: Runtime::Command };
        sidecar.agents.insert(AgentId::parse(&format!("a{n}")).unwrap(), spec);
    }
    sidecar
}

fn sidecar_of(id: &str, boot: u128, agent: &str) -> Sidecar {
    let mut sidecar = sidecar(boot, 1, 1);
    sidecar.id = hive_core::id::SidecarId::parse(id).unwrap();
    let spec = sidecar.agents.pop_first().unwrap().1;
    sidecar.agents.insert(AgentId::parse(agent).unwrap(), spec);
    sidecar
}

fn submit(world: &mut World, number: u128, labels: usize) -> TaskId {
    let id = TaskId::new(world.now, number);
    let labels: BTreeMap<Arc<str>, Arc<str>> =
        (0..labels).map(|n| (Arc::from(format!("{n:0>63}")), Arc::from("v".repeat(253)))).collect();
    let spec = TaskSpec {
        requirement: Default::default(),
        capability: Arc::from("wc"),
        priority: Default::default(),
        payload: Body::default(),
        labels,
        retry: RetryPolicy { max_failures: 3, base_delay: Default::default(), max_delay: Default::default() },
        attempt_timeout: Duration::from_secs(600),
        queue_timeout: Duration::from_secs(600),
        input_timeout: Duration::from_secs(600),
        disconnect: Default::default(),
        digest: [0; 16],
    };
    world.call(Command::Submit { id, spec: Arc::new(spec), blob: None });
    id
}

fn dial(world: &mut World, sidecar: &mut Sidecar, connection: u64) {
    let leader: LeaderEpoch = world.leader.epoch();
    let hello = sidecar.dial(Connection(connection), leader, world.now);
    world.step(Input::Frame { connection: Connection(connection), leader, messages: vec![hello] });
}

/// Bytes of the texts in a batch: less than what is written.
fn texts(records: &[(hive_core::record::Key, Option<Record>)]) -> usize {
    let labels = |labels: &BTreeMap<Arc<str>, Arc<str>>| labels.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>();
    records
        .iter()
        .map(|(_, record)| match record {
            Some(Record::Task(task)) => labels(&task.spec.labels),
            Some(Record::Agent(agent)) => labels(&agent.spec.labels),
            _ => 0,
        })
        .sum()
}

/// Commits all there is, as a store does that keeps its limits.
fn settle_within_limits(world: &mut World) {
    for _ in 0..10_000 {
        if !world.take_off() && world.flying.is_none() {
            return;
        }
        let flying = world.flying.as_ref().unwrap();
        let ops = flying.records.len() + flying.blobs.len();
        assert!(ops <= MAX_OPS, "{ops} operations in one transaction");
        let bytes = texts(&flying.records);
        assert!(bytes <= MAX_BYTES, "{bytes} bytes in one transaction");
        world.land();
    }
    panic!("the leader never comes to rest");
}

fn welcomed(world: &World) -> bool {
    world.down.iter().any(|(_, message)| matches!(message, ToSidecar::Welcome(_)))
}

#[test]
fn a_host_that_lost_very_many_attempts_is_let_in_again() {
    let mut world = World::new(Settings::default(), 1);
    world.now = world.now + Duration::from_secs(60);
    dial(&mut world, &mut sidecar(1, 3, 100), 1);
    for number in 0..300 {
        submit(&mut world, number, 0);
    }
    settle_within_limits(&mut world);
    assert_eq!(world.tasks().filter(|task| task.run().is_some()).count(), 300);
    // Its journal is gone and with it everything it ran.
    world.step(Input::Hangup(Connection(1)));
    world.now = world.now + Duration::from_secs(20);
    world.down.clear();
    let leader = world.leader.epoch();
    let mut hello = sidecar(2, 3, 100).dial(Connection(2), leader, world.now);
    if let FromSidecar::Hello(hello) = &mut hello {
        let token = AttemptId { task: TaskId::new(world.now, 999), attempt: Attempt(1) };
        let agent = AgentId::parse("a0").unwrap();
        hello.attempts.push(Listed { token, agent, started: None, finished: true, input: None });
    }
    world.step(Input::Frame { connection: Connection(2), leader, messages: vec![hello] });
    settle_within_limits(&mut world);
    assert!(welcomed(&world), "closed: {:?}", world.closed);
    assert!(world.tasks().all(|task| task.failures == 1), "each attempt was lost once");
    assert_eq!(world.leader.stats().results_refused, 1, "counted when told, not each time the welcome is resumed");
}

#[test]
fn tasks_with_long_labels_fit_their_transaction() {
    let mut world = World::new(Settings::default(), 1);
    for number in 0..200 {
        submit(&mut world, number, 64);
        settle_within_limits(&mut world);
    }
    // All of them are dispatched at once.
    dial(&mut world, &mut sidecar(1, 2, 100), 1);
    settle_within_limits(&mut world);
    assert!(world.tasks().all(|task| matches!(task.phase, Phase::Assigned(_))));
}

#[test]
fn a_host_is_not_lost_before_it_has_stopped_what_it_was_told_to_stop() {
    // A beat a second for the whole fleet: with forty sidecars each beats every 40 s.
    let mut settings = Settings::default();
    settings.liveness.beats_per_second = 1;
    let mut world = World::new(settings, 1);
    let mut fleet: Vec<Sidecar> = (0..40).map(|n| sidecar_of(&format!("s{n}"), n, &format!("a{n}"))).collect();
    for (n, sidecar) in fleet.iter_mut().enumerate() {
        dial(&mut world, sidecar, n as u64 + 1);
        world.settle();
    }
    let told = world.down.iter().rev().find_map(|(_, message)| match message {
        ToSidecar::Welcome(welcome) => Some(welcome.kill_after),
        _ => None,
    });
    let told = told.unwrap();
    assert!(told > Duration::from_secs(100), "{told:?}");
    let last = AgentId::parse("a39").unwrap();
    let lost =
        |world: &World| world.committed.values().any(|r| matches!(r, Record::Agent(a) if a.id == last && a.lost));
    // All of them are cut off, so the fleet looks small; then the leader changes.
    for take_over in [false, true] {
        if take_over {
            world.take_over(true);
        } else {
            (1..=40).for_each(|n| world.step(Input::Hangup(Connection(n))));
        }
        let cut = world.now;
        while world.now < cut + told - Duration::from_secs(1) {
            world.now = world.now + Duration::from_secs(1);
            world.step(Input::Tick);
            world.settle();
            assert!(!lost(&world), "lost after {:?}, may run for {told:?}", world.now.since(cut));
        }
        if !take_over {
            continue;
        }
        for _ in 0..200 {
            world.now = world.now + Duration::from_secs(1);
            world.step(Input::Tick);
            world.settle();
        }
        assert!(lost(&world), "and then it is");
    }
}

#[test]
fn the_pace_is_not_slowed_below_what_was_told_of_silence() {
    let mut settings = Settings::default();
    settings.liveness.beats_per_second = 1;
    let mut world = World::new(settings, 1);
    let mut first = sidecar_of("first", 100, "first");
    dial(&mut world, &mut first, 100);
    world.settle();
    for n in 0..40 {
        dial(&mut world, &mut sidecar_of(&format!("s{n}"), n, &format!("a{n}")), n as u64 + 1);
        world.settle();
    }
    let pace = |world: &mut World, first: &mut Sidecar| {
        world.down.clear();
        let beat = Beat { number: 1, seen: Default::default(), agents: Vec::new(), attempts: Vec::new() };
        let leader = world.leader.epoch();
        let messages = vec![FromSidecar::Beat(Box::new(beat))];
        world.step(Input::Frame { connection: Connection(100), leader, messages });
        let interval = world.down.iter().find_map(|(_, message)| match message {
            ToSidecar::BeatAck { interval, .. } => Some(*interval),
            _ => None,
        });
        let resync = world.down.iter().any(|(_, message)| matches!(message, ToSidecar::Resync));
        if resync {
            world.down.clear();
            let hello = first.hello(world.now);
            world.step(Input::Frame { connection: Connection(100), leader, messages: vec![hello] });
            world.settle();
        }
        (interval.unwrap(), resync)
    };
    // Welcomed while it was alone: it stops its STOP attempts after 25 s of silence.
    let (interval, resync) = pace(&mut world, &mut first);
    assert!(interval < Duration::from_secs(12), "{interval:?}");
    assert!(resync, "it is told anew");
    assert_eq!(pace(&mut world, &mut first), (Duration::from_secs(41), false));
}

/// A task waits, an agent becomes free, and the store takes nothing.
fn refused() -> (World, TaskId) {
    let mut world = World::new(Settings::default(), 1);
    let mut s1 = sidecar(1, 1, 1);
    s1.unready.insert(AgentId::parse("a0").unwrap());
    dial(&mut world, &mut s1, 1);
    world.settle();
    let task = submit(&mut world, 1, 0);
    world.settle();
    s1.unready.clear();
    let agents = vec![s1.credit_of(&AgentId::parse("a0").unwrap())];
    let messages = vec![FromSidecar::Credit { seen: Default::default(), agents }];
    world.step(Input::Frame { connection: Connection(1), leader: world.leader.epoch(), messages });
    world.down.clear();
    (world, task)
}

#[test]
fn a_store_that_refuses_everything_is_not_asked_without_end() {
    let (mut world, task) = refused();
    let (mut asked, mut resyncs) = (0, 0);
    for _ in 0..100 {
        while world.take_off() {
            asked += 1;
            assert!(asked <= 12, "the store is asked again and again");
            world.refuse(StoreRefusal::NoSpace);
        }
        resyncs += world.down.drain(..).filter(|(_, message)| matches!(message, ToSidecar::Resync)).count();
        world.now = world.now + Duration::from_millis(100);
        world.step(Input::Tick);
    }
    assert!(asked >= 5, "the store is asked again when there may be room");
    assert!(resyncs <= 12, "{resyncs} hellos asked for");
    // And once there is room, work goes on.
    for _ in 0..20 {
        world.settle();
        world.now = world.now + Duration::from_millis(100);
        world.step(Input::Tick);
    }
    assert!(world.task(task).unwrap().run().is_some());
}

#[test]
fn refused_calls_do_not_ask_for_a_hello_each() {
    let (mut world, _) = refused();
    for number in 0..200 {
        submit(&mut world, 10 + number, 0);
        world.take_off();
        world.refuse(StoreRefusal::NoSpace);
        world.now = world.now + Duration::from_millis(5);
    }
    let resyncs = world.down.iter().filter(|(_, message)| matches!(message, ToSidecar::Resync)).count();
    assert!(resyncs <= 2, "{resyncs} hellos asked for within a second");
}
