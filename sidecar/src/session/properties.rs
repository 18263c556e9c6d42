//! Random lives of a sidecar: loss, repetition, crashes, full disks, stale leaders. The rig checks
//! each step; here is what is kept in mind over a whole life.

use std::collections::{BTreeMap, BTreeSet};

use hive_proto::sidecar_v1::{
    self as wire, Outcome, ReleaseKind, control_message::Kind as Down, sidecar_message::Kind as Up,
};
use hive_proto::v1::{DesiredState, DisconnectPolicy};
use proptest::prelude::*;

use super::rig::{Disk, Rig, SLOTS, assign, attempt, committed, key, release};
use super::{Input, Leader};
use crate::attempt::AttemptKey;

#[derive(Debug, Clone)]
enum Op {
    Assign { key: AttemptKey, b: bool, stop: bool },
    Begin(AttemptKey),
    End(AttemptKey, bool),
    Lose(AttemptKey),
    Release { key: AttemptKey, below: bool, stale: bool, none: bool },
    Cancel(AttemptKey),
    Drain { b: bool, state: i32 },
    Pass(u16),
    Dial,
    Welcome,
    Cut,
    Ack(u64),
    Crash(u8),
    Disk(u8),
    Write(u8),
    Takeover,
    Resync,
    Ready(bool),
    Garbage,
}

fn keys() -> impl Strategy<Value = AttemptKey> {
    (1u8..5, 1u32..4).prop_map(|(task, number)| attempt(task, number))
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (keys(), any::<bool>(), prop::bool::weighted(0.2)).prop_map(|(key, b, stop)| Op::Assign { key, b, stop }),
        4 => keys().prop_map(Op::Begin),
        6 => (keys(), any::<bool>()).prop_map(|(key, ok)| Op::End(key, ok)),
        1 => keys().prop_map(Op::Lose),
        5 => (keys(), prop::bool::weighted(0.3), prop::bool::weighted(0.3), prop::bool::weighted(0.2))
            .prop_map(|(key, below, stale, none)| Op::Release { key, below, stale, none }),
        2 => keys().prop_map(Op::Cancel),
        1 => (any::<bool>(), 0i32..4).prop_map(|(b, state)| Op::Drain { b, state }),
        4 => (0u16..8_000).prop_map(Op::Pass),
        4 => Just(Op::Dial),
        6 => Just(Op::Welcome),
        1 => Just(Op::Cut),
        2 => (0u64..6).prop_map(Op::Ack),
        2 => (0u8..4).prop_map(Op::Crash),
        2 => (0u8..4).prop_map(Op::Disk),
        3 => (0u8..4).prop_map(Op::Write),
        1 => Just(Op::Takeover),
        1 => Just(Op::Resync),
        1 => any::<bool>().prop_map(Op::Ready),
        1 => Just(Op::Garbage),
    ]
}

/// What the outside knows to be true.
#[derive(Default)]
struct Ledger {
    number: u64,
    /// Assignments of this session: number and agent.
    sent: Vec<(u64, &'static str)>,
    /// Room as last told, and the assignment it was told after.
    room: BTreeMap<String, (u32, u64)>,
    assigned: BTreeMap<AttemptKey, Leader>,
    /// Ends in the journal, not yet validly released.
    kept: BTreeSet<AttemptKey>,
    released: BTreeSet<AttemptKey>,
}

impl Ledger {
    /// A result in the journal stays there until a release that counts was delivered.
    fn check(&mut self, rig: &Rig) {
        for (key, attempt) in &rig.journal.attempts {
            if attempt.end.is_some() && !self.released.contains(key) {
                self.kept.insert(*key);
            }
        }
        for key in &self.kept {
            assert!(
                rig.journal.attempts.get(key).is_some_and(|a| a.end.is_some()),
                "{key} forgotten without a release"
            );
        }
    }

    fn hear(&mut self, kind: Up) {
        match kind {
            Up::Hello(hello) => {
                // Numbers begin again with each hello.
                self.number = 0;
                self.sent.clear();
                self.room = hello.agents.into_iter().map(|a| (a.agent_id, (a.free_slots, 0))).collect();
            }
            Up::Credit(wire::Credit { assigns_seen, agents })
            | Up::Heartbeat(wire::Heartbeat { assigns_seen, agents, .. }) => {
                self.room.extend(agents.into_iter().map(|a| (a.agent_id, (a.free_slots, assigns_seen))));
            }
            _ => {}
        }
    }

    /// What the control plane may still send is exactly the room there is.
    fn check_room(&self, rig: &Rig) {
        for (agent, (free, after)) in self.room.iter().filter(|_| rig.settled()) {
            if rig.session.agents[agent].desired == DesiredState::Removed {
                continue;
            }
            let flying = self.sent.iter().filter(|(number, a)| number > after && a == agent).count();
            let room = i64::from(*free) - flying as i64;
            assert_eq!(room, i64::from(SLOTS - rig.session.occupied(agent)), "room of {agent}");
        }
    }

    fn apply(&mut self, rig: &mut Rig, op: Op) {
        match op {
            Op::Assign { key, b, stop } => {
                let policy = if stop { DisconnectPolicy::Stop } else { DisconnectPolicy::Replace };
                if rig.session.is_open() {
                    self.number += 1;
                    self.assigned.entry(key).or_insert(rig.leader);
                    let agent = if b { "b" } else { "a" };
                    self.sent.push((self.number, agent));
                    rig.down(vec![assign(self.number, key, agent, policy)]);
                }
            }
            Op::Begin(key) => rig.begin(key),
            Op::End(key, ok) => rig.end(key, if ok { Outcome::Succeeded } else { Outcome::Cancelled }),
            Op::Lose(key) => rig.lose(key),
            Op::Release { key, below, stale, none } => {
                let seq = committed(key) - u64::from(below);
                let leader = if stale { Leader { number: rig.leader.number - 1, ..rig.leader } } else { rig.leader };
                let kind = if none { ReleaseKind::Unspecified } else { ReleaseKind::Superseded };
                let fits = self.assigned.get(&key).is_some_and(|at| leader >= *at);
                let counts = rig.stream.is_some() && !below && !none && fits;
                // A stale word counts only while nothing newer was seen, which the ledger cannot know.
                if counts && (!stale || rig.journal.attempts.get(&key).is_some_and(|a| a.assigned.leader <= leader)) {
                    self.kept.remove(&key);
                    self.released.insert(key);
                }
                rig.down_from(leader, vec![release(key, kind, seq)]);
            }
            Op::Cancel(key) => {
                rig.down(vec![Down::Cancel(wire::Cancel { attempt: Some(key.into()), ..wire::Cancel::default() })]);
            }
            Op::Drain { b, state } => {
                let desired_state = DesiredState::try_from(state).expect("a level").into();
                let agent_id = if b { "b" } else { "a" }.into();
                rig.down(vec![Down::Drain(wire::Drain { agent_id, desired_state })]);
            }
            Op::Pass(ms) => rig.pass(ms.into()),
            Op::Dial => rig.dial(),
            Op::Welcome => {
                rig.welcome();
            }
            Op::Cut => rig.cut(),
            Op::Ack(beat) => rig.down(vec![Down::HeartbeatAck(wire::HeartbeatAck { beat, beat_interval: None })]),
            Op::Crash(kept) => rig.crash(kept.into()),
            Op::Disk(state) => {
                rig.disk = [Disk::Writes, Disk::Waits, Disk::Full, Disk::Fails][usize::from(state)];
            }
            Op::Write(count) => rig.write(count.into()),
            Op::Takeover => rig.leader.number += 1,
            Op::Resync => rig.down(vec![Down::Resync(wire::Resync {})]),
            Op::Ready(ready) => rig.ready("a", ready),
            Op::Garbage => rig.down(vec![
                Down::Assign(wire::Assign::default()),
                Down::Cancel(wire::Cancel::default()),
                Down::ResultAck(wire::ResultAck::default()),
                Down::Input(wire::Input::default()),
                Down::Drain(wire::Drain::default()),
                Down::Welcome(wire::Welcome::default()),
            ]),
        }
        for kind in rig.told() {
            self.hear(kind);
        }
        self.check(rig);
        self.check_room(rig);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, max_shrink_iters: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn starts_once_forgets_nothing_and_delivers_after_healing(life in prop::collection::vec(ops(), 1..120)) {
        let mut rig = Rig::new();
        let mut ledger = Ledger::default();
        for op in life {
            ledger.apply(&mut rig, op);
        }
        // Heal: the disk writes, the leader is the newest, programs end. Then everything is told.
        rig.disk = Disk::Writes;
        rig.write(usize::MAX);
        rig.leader.number += 1;
        rig.pass(31_000);
        rig.cut();
        rig.told();
        rig.connect();
        let running: Vec<_> = rig.running.keys().copied().collect();
        for key in running {
            rig.begin(key);
            rig.end(key, Outcome::Succeeded);
        }
        rig.pass(2_000);
        let kept: BTreeSet<_> = rig.session.unreleased().collect();
        let told: BTreeSet<_> =
            rig.told().iter().filter_map(|k| if let Up::Result(r) = k { Some(key(&r.attempt)) } else { None }).collect();
        prop_assert!(kept.is_subset(&told), "kept {kept:?}, told {told:?}");
        for key in kept {
            rig.down(vec![release(key, ReleaseKind::Gone, committed(key))]);
        }
        prop_assert_eq!(rig.session.unreleased().count(), 0);
        prop_assert_eq!(rig.session.occupied("a") + rig.session.occupied("b"), 0);
        prop_assert!(rig.journal.attempts.is_empty());
        rig.input(Input::Shutdown);
        rig.pass(41_000);
        prop_assert!(rig.exit.is_some());
    }
}
