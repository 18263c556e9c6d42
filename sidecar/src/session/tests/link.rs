//! Streams, contact, levels and stopping.

use hive_proto::sidecar_v1::{
    self as wire, Outcome, ReleaseKind, control_message::Kind as Down, sidecar_message::Kind as Up,
};
use hive_proto::v1::{DesiredState, DisconnectPolicy};

use super::super::rig::{Rig, assign, attempt, committed, release};
use super::super::{ExitReason, Input, LinkEnd};
use super::{connected, kinds, work};
use crate::runtime::RuntimeCommand;

#[test]
fn a_gap_in_the_assignments_starts_a_new_stream() {
    let mut rig = connected();
    rig.down(vec![assign(2, attempt(1, 1), "a", DisconnectPolicy::Replace)]);
    assert_eq!(rig.stream, None);
    rig.connect();
    work(&mut rig, 1, attempt(1, 1));
    assert_eq!(rig.started.len(), 1);
}

#[test]
fn a_resync_is_answered_with_hello_and_numbers_begin_again() {
    let mut rig = connected();
    work(&mut rig, 1, attempt(1, 1));
    rig.told();
    rig.leader.number += 1;
    rig.down(vec![Down::Resync(wire::Resync {})]);
    let told = rig.told();
    assert_eq!(kinds(&told), ["hello"]);
    rig.end(attempt(1, 1), Outcome::Succeeded);
    assert!(rig.told().is_empty(), "nothing before the welcome");
    rig.welcome();
    assert!(kinds(&rig.told()).contains(&"result"));
    work(&mut rig, 1, attempt(2, 1));
    assert_eq!(rig.started.len(), 2);
}

#[test]
fn hello_without_a_welcome_ends_after_its_deadline() {
    let mut rig = Rig::new();
    rig.pass(1_000);
    rig.dial();
    rig.pass(4_900);
    assert!(rig.stream.is_some());
    rig.pass(200);
    assert!(rig.stream.is_none());
    rig.connect();
}

#[test]
fn beats_go_on_at_the_servers_pace_and_silence_ends_the_stream() {
    let mut rig = connected();
    rig.pass(29_000);
    let beats = kinds(&rig.told()).len();
    assert!((4..=8).contains(&beats), "{beats}");
    rig.pass(2_000);
    assert!(rig.stream.is_none());
}

#[test]
fn a_stream_on_which_no_beat_is_answered_is_given_up_whatever_else_it_says() {
    let mut rig = connected();
    let first = rig.stream;
    let one = attempt(1, 1);
    for number in 1..=15 {
        // What this side says is not heard, so the offer comes again and again.
        rig.down(vec![assign(number, one, "a", DisconnectPolicy::Wait)]);
        rig.pass(3_000);
    }
    assert!(rig.stream.is_none(), "{first:?} is kept");
}

#[test]
fn a_guarded_copy_is_stopped_without_contact_and_the_others_are_not() {
    let mut rig = connected();
    let (one, two) = (attempt(1, 1), attempt(2, 1));
    rig.down(vec![assign(1, one, "a", DisconnectPolicy::Stop), assign(2, two, "a", DisconnectPolicy::Wait)]);
    rig.begin(one);
    rig.pass(15_000);
    rig.down(vec![Down::HeartbeatAck(wire::HeartbeatAck { beat: 3, beat_interval: None })]);
    rig.cut();
    rig.commands.clear();
    rig.pass(16_000);
    assert!(rig.commands.is_empty());
    rig.pass(16_000);
    let cancelled: Vec<_> = rig
        .commands
        .iter()
        .filter_map(|c| if let RuntimeCommand::Cancel { key, .. } = c { Some(*key) } else { None })
        .collect();
    assert_eq!(cancelled, [one]);
    rig.end(one, Outcome::Cancelled);
    rig.connect();
    let told = rig.told();
    let result = told.iter().find_map(|k| if let Up::Result(r) = k { Some(r) } else { None }).expect("a result");
    assert_eq!((result.reason(), result.retryable), (wire::FailureReason::AgentLost, true));
}

#[test]
fn levels_are_remembered_and_a_removed_agent_is_declared_as_such() {
    let mut rig = connected();
    let drain = |state: DesiredState| Down::Drain(wire::Drain { agent_id: "b".into(), desired_state: state.into() });
    rig.down(vec![drain(DesiredState::Removed)]);
    rig.commands.clear();
    rig.crash(0);
    assert!(matches!(rig.commands[..], [RuntimeCommand::Drain { remove: true }]));
    rig.told();
    rig.connect();
    let told = rig.told();
    let Up::Hello(hello) = &told[0] else { panic!() };
    let declared: Vec<_> = hello.agents.iter().map(|a| (a.agent_id.as_str(), a.removed)).collect();
    assert_eq!(declared, [("a", false), ("b", true)]);
    rig.down(vec![drain(DesiredState::Active)]);
    assert!(matches!(rig.commands.last(), Some(RuntimeCommand::Activate)));
    assert!(rig.journal.desired.is_empty());
}

#[test]
fn a_host_boot_makes_a_new_boot_and_keeps_results() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.end(one, Outcome::Succeeded);
    let before = rig.journal.boot_id;
    rig.journal.host_boot = [1; 16];
    rig.crash(0);
    assert_ne!(rig.journal.boot_id, before);
    rig.told();
    rig.connect();
    let told = rig.told();
    let Up::Hello(hello) = &told[0] else { panic!() };
    assert_eq!((hello.generation, hello.finished.len()), (0, 1));
}

#[test]
fn a_graceful_stop_waits_delivers_and_says_goodbye() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.told();
    rig.input(Input::Shutdown);
    assert_eq!(kinds(&rig.told()), ["credit"]);
    rig.down(vec![assign(2, attempt(2, 1), "a", DisconnectPolicy::Replace)]);
    assert!(kinds(&rig.told()).contains(&"declined"));
    rig.end(one, Outcome::Succeeded);
    assert_eq!(rig.exit, None);
    rig.told();
    rig.down(vec![release(one, ReleaseKind::Committed, committed(one))]);
    assert_eq!(kinds(&rig.told()).last(), Some(&"goodbye"));
    assert_eq!(rig.exit, Some(ExitReason::Stopped));
}

#[test]
fn a_hard_stop_ends_what_runs_and_is_bounded() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.input(Input::Shutdown);
    rig.pass(29_000);
    assert!(!rig.commands.iter().any(|c| matches!(c, RuntimeCommand::Cancel { .. })));
    rig.input(Input::Shutdown);
    assert!(rig.commands.iter().any(|c| matches!(c, RuntimeCommand::Cancel { .. })));
    rig.pass(11_000);
    assert_eq!(rig.exit, Some(ExitReason::Stopped), "even if nothing ends");
}

#[test]
fn a_fenced_sidecar_exits_and_an_occupied_one_waits() {
    let mut rig = connected();
    let stream = rig.stream.expect("open");
    rig.input(Input::StreamEnded(stream, LinkEnd::Occupied));
    rig.pass(1_000);
    assert_eq!(rig.dialled, Some(stream));
    rig.connect();
    let stream = rig.stream.expect("open");
    rig.input(Input::StreamEnded(stream, LinkEnd::Fenced));
    assert_eq!(rig.exit, Some(ExitReason::Fenced));
}

#[test]
fn a_goaway_is_obeyed_and_output_asked_for_is_passed_on() {
    let mut rig = connected();
    rig.down(vec![Down::TailLogs(wire::TailLogs::default())]);
    assert_eq!(rig.tails, 1);
    let before = rig.dialled;
    let retry_after = Some(prost_types::Duration { seconds: 20, nanos: 0 });
    rig.down(vec![Down::Goaway(wire::Goaway { reason: String::new(), retry_after })]);
    rig.pass(20_000);
    assert_eq!((rig.stream, rig.dialled), (None, before));
    rig.connect();
}

/// A control plane on an emptied data folder: its epochs and revisions begin anew.
fn another_cluster(rig: &mut Rig) {
    rig.cut();
    rig.cluster = "two";
    rig.leader.number = 1;
}

#[test]
fn another_cluster_is_followed_when_nothing_is_held() {
    let mut rig = connected();
    rig.leader.number = 7;
    work(&mut rig, 1, attempt(9, 1));
    rig.end(attempt(9, 1), Outcome::Succeeded);
    rig.down(vec![release(attempt(9, 1), ReleaseKind::Committed, committed(attempt(9, 1)))]);
    rig.session.settled.raise_floor(super::super::Revision { cluster_generation: 1, seq: 1_000_000 });
    rig.down(vec![Down::Drain(wire::Drain { agent_id: "a".to_owned(), desired_state: DesiredState::Drained.into() })]);
    another_cluster(&mut rig);
    rig.connect();
    rig.commands.clear();
    work(&mut rig, 1, attempt(1, 1));
    assert!(rig.started.contains(&attempt(1, 1)), "what was settled in another cluster rules nothing out");
    // And so it stays.
    let held = rig.journal.clone();
    assert_eq!((held.cluster.as_str(), held.desired.len()), ("two", 0));
}

#[test]
fn what_is_held_for_another_cluster_is_kept_for_it() {
    let mut rig = connected();
    rig.leader.number = 7;
    work(&mut rig, 1, attempt(1, 1));
    rig.end(attempt(1, 1), Outcome::Succeeded);
    another_cluster(&mut rig);
    for _ in 0..3 {
        rig.pass(20_000);
        rig.dial();
        rig.told();
        rig.welcome();
        assert_eq!(rig.stream, None, "it does not stay");
        assert!(rig.told().is_empty());
    }
    rig.crash(0);
    rig.cluster = "one";
    rig.leader.number = 8;
    rig.connect();
    let told = rig.told();
    let Some(Up::Hello(hello)) = told.iter().rev().find(|kind| matches!(kind, Up::Hello(_))) else {
        panic!("{told:?}")
    };
    assert_eq!((hello.cluster_id.as_str(), hello.finished.len()), ("one", 1));
    assert!(kinds(&told).contains(&"result"));
}
