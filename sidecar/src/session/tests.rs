//! The rules, one script each: work and results here, the stream in `link`.

mod link;

use hive_proto::sidecar_v1::{
    self as wire, Outcome, ReleaseKind, control_message::Kind as Down, sidecar_message::Kind as Up,
};
use hive_proto::v1::{DesiredState, DisconnectPolicy, Payload};

use super::rig::{Disk, Rig, assign, attempt, committed, key, release};
use super::{Input, Leader};
use crate::attempt::AttemptKey;
use crate::runtime::{RuntimeCommand, RuntimeEvent};

fn connected() -> Rig {
    let mut rig = Rig::new();
    rig.connect();
    rig.told();
    rig
}

fn work(rig: &mut Rig, number: u64, key: AttemptKey) {
    rig.down(vec![assign(number, key, "a", DisconnectPolicy::Replace)]);
    rig.begin(key);
}

fn kinds(told: &[Up]) -> Vec<&'static str> {
    told.iter()
        .map(|kind| match kind {
            Up::Hello(_) => "hello",
            Up::Credit(_) => "credit",
            Up::Receipt(_) => "receipt",
            Up::Started(_) => "started",
            Up::Heartbeat(_) => "beat",
            Up::Progress(_) => "progress",
            Up::Declined(_) => "declined",
            Up::AttemptLost(_) => "lost",
            Up::InputRequired(_) => "question",
            Up::Result(_) => "result",
            Up::Goodbye(_) => "goodbye",
        })
        .collect()
}

#[test]
fn hello_then_beat_then_work_then_release() {
    let mut rig = Rig::new();
    rig.connect();
    assert_eq!(kinds(&rig.told()), ["hello", "beat"]);
    let one = attempt(1, 1);
    rig.down(vec![assign(1, one, "a", DisconnectPolicy::Replace)]);
    let told = rig.told();
    assert_eq!(kinds(&told), ["receipt", "credit"]);
    let Up::Credit(credit) = &told[1] else { panic!() };
    assert_eq!((credit.assigns_seen, credit.agents[0].free_slots), (1, 1));
    rig.begin(one);
    assert_eq!(kinds(&rig.told()), ["started"]);
    rig.end(one, Outcome::Succeeded);
    assert_eq!(kinds(&rig.told()), ["result", "credit"], "in one frame");
    rig.down(vec![release(one, ReleaseKind::Committed, committed(one))]);
    assert_eq!(rig.session.unreleased().count(), 0);
    assert!(matches!(rig.commands.last(), Some(RuntimeCommand::Forget { .. })));
    assert!(rig.journal.attempts.is_empty());
}

#[test]
fn several_assignments_make_one_append_and_one_answer() {
    let mut rig = connected();
    rig.disk = Disk::Waits;
    let all: Vec<_> = (1..=4)
        .map(|n| assign(u64::from(n), attempt(n, 1), if n < 3 { "a" } else { "b" }, DisconnectPolicy::Replace))
        .collect();
    rig.down(all);
    assert!(rig.started.is_empty() && rig.told().is_empty(), "nothing before the journal");
    rig.write(1);
    assert_eq!(rig.started.len(), 4);
    assert_eq!(kinds(&rig.told()), ["receipt", "credit"]);
}

#[test]
fn a_repeated_offer_is_answered_by_state() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.told();
    rig.down(vec![assign(2, one, "a", DisconnectPolicy::Replace)]);
    assert_eq!(kinds(&rig.told()), ["receipt", "started", "credit"]);
    rig.end(one, Outcome::Failed);
    rig.told();
    rig.down(vec![assign(3, one, "a", DisconnectPolicy::Replace)]);
    assert_eq!(kinds(&rig.told()), ["receipt", "result", "credit"]);
    rig.down(vec![release(one, ReleaseKind::Committed, committed(one))]);
    rig.told();
    rig.down(vec![assign(4, one, "a", DisconnectPolicy::Replace)]);
    assert_eq!(kinds(&rig.told()), ["receipt", "lost", "credit"]);
}

#[test]
fn an_intent_without_a_run_is_lost_and_stays_lost() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.crash(0);
    rig.lose(one);
    rig.connect();
    assert!(kinds(&rig.told()).contains(&"lost"));
    rig.down(vec![assign(1, one, "a", DisconnectPolicy::Replace)]);
    assert_eq!(kinds(&rig.told()), ["receipt", "lost", "credit"]);
    rig.crash(0);
    rig.connect();
    rig.told();
    rig.down(vec![assign(1, one, "a", DisconnectPolicy::Replace)]);
    assert_eq!(kinds(&rig.told()), ["receipt", "lost", "credit"], "also after another crash");
}

#[test]
fn a_finished_result_survives_a_crash_and_is_sent_again() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.end(one, Outcome::Succeeded);
    rig.crash(0);
    rig.told();
    rig.connect();
    let told = rig.told();
    let Up::Hello(hello) = &told[0] else { panic!() };
    assert_eq!((hello.finished.len(), hello.running.len(), hello.generation), (1, 0, super::rig::GENERATION));
    assert!(kinds(&told).contains(&"result"));
    // Nobody answers: again, with back-off.
    rig.pass(16_000);
    assert_eq!(kinds(&rig.told()).iter().filter(|k| **k == "result").count(), 2);
}

#[test]
fn only_a_release_that_counts_releases() {
    let mut rig = connected();
    let one = attempt(1, 1);
    rig.leader.number = 5;
    work(&mut rig, 1, one);
    rig.end(one, Outcome::Succeeded);
    let stale = Leader { cluster_generation: 1, number: 4 };
    rig.down_from(stale, vec![release(one, ReleaseKind::Gone, 1_000)]);
    rig.down(vec![release(one, ReleaseKind::Unspecified, 1_000)]);
    rig.down(vec![release(one, ReleaseKind::Gone, committed(one) - 1)]);
    assert_eq!(rig.session.unreleased().count(), 1);
    assert_eq!((rig.session.stats().stale_frames, rig.session.stats().releases_refused), (1, 2));
    rig.crash(0);
    rig.leader = stale;
    for _ in 0..3 {
        rig.pass(1_000);
        rig.dial();
        rig.welcome();
    }
    rig.down(vec![release(one, ReleaseKind::Gone, 1_000)]);
    assert_eq!(rig.session.unreleased().count(), 1, "the fence outlives the crash");
    rig.leader.number = 6;
    rig.connect();
    rig.down(vec![release(one, ReleaseKind::Superseded, committed(one))]);
    assert_eq!(rig.session.unreleased().count(), 0);
}

#[test]
fn a_stopped_copy_that_is_released_says_nothing_more() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.down(vec![release(one, ReleaseKind::Superseded, committed(one))]);
    assert!(matches!(rig.commands.last(), Some(RuntimeCommand::Cancel { .. })));
    rig.told();
    rig.end(one, Outcome::Cancelled);
    assert_eq!(kinds(&rig.told()), ["credit"]);
    assert!(rig.journal.attempts.is_empty());
}

#[test]
fn cancel_reaches_the_run_and_an_unknown_attempt_never_runs() {
    let mut rig = connected();
    let (one, two) = (attempt(1, 1), attempt(2, 1));
    let cancel = |key: AttemptKey| Down::Cancel(wire::Cancel { attempt: Some(key.into()), ..Default::default() });
    work(&mut rig, 1, one);
    rig.down(vec![cancel(one), cancel(one)]);
    assert_eq!(rig.commands.iter().filter(|c| matches!(c, RuntimeCommand::Cancel { .. })).count(), 1);
    rig.end(one, Outcome::Cancelled);
    rig.told();
    rig.down(vec![cancel(two)]);
    assert_eq!(kinds(&rig.told()), ["lost"]);
    rig.down(vec![assign(2, two, "a", DisconnectPolicy::Replace)]);
    assert_eq!(kinds(&rig.told()), ["receipt", "lost", "credit"]);
    assert!(!rig.started.contains(&two));
}

#[test]
fn cancelled_before_its_intent_is_journaled_never_starts_and_says_cancelled() {
    let mut rig = connected();
    let one = attempt(1, 1);
    rig.disk = Disk::Waits;
    rig.down(vec![
        assign(1, one, "a", DisconnectPolicy::Replace),
        Down::Cancel(wire::Cancel { attempt: Some(one.into()), ..Default::default() }),
    ]);
    rig.disk = Disk::Writes;
    rig.write(9);
    let told = rig.told();
    assert!(rig.started.is_empty());
    let result = told.iter().find_map(|k| if let Up::Result(r) = k { Some(r) } else { None }).expect("a result");
    assert_eq!(result.outcome(), Outcome::Cancelled);
}

#[test]
fn cancelled_in_one_frame_with_its_refusal_is_answered_after_the_journal() {
    let mut rig = connected();
    let full = [attempt(1, 1), attempt(2, 1)];
    for (number, key) in (1..).zip(full) {
        work(&mut rig, number, key);
    }
    rig.told();
    rig.disk = Disk::Waits;
    let one = attempt(3, 1);
    rig.down(vec![
        assign(3, one, "a", DisconnectPolicy::Replace),
        Down::Cancel(wire::Cancel { attempt: Some(one.into()), ..Default::default() }),
    ]);
    assert!(kinds(&rig.told()).is_empty(), "the refusal is not journaled yet");
    rig.disk = Disk::Writes;
    rig.write(9);
    assert!(kinds(&rig.told()).contains(&"declined"));
}

#[test]
fn a_full_journal_declines_and_takes_no_work_until_it_has_room() {
    let mut rig = connected();
    rig.disk = Disk::Full;
    let one = attempt(1, 1);
    rig.down(vec![assign(1, one, "a", DisconnectPolicy::Replace)]);
    let told = rig.told();
    assert_eq!(kinds(&told), ["receipt", "declined", "credit"]);
    let (Up::Declined(declined), Up::Credit(credit)) = (&told[1], &told[2]) else { panic!() };
    assert_eq!(declined.reason(), wire::DeclineReason::JournalFull);
    assert!(credit.agents.iter().all(|a| a.free_slots == 0));
    rig.disk = Disk::Writes;
    rig.pass(1_500);
    let told = rig.told();
    let Some(Up::Credit(credit)) = told.iter().find(|k| matches!(k, Up::Credit(_))) else { panic!("{told:?}") };
    assert!(credit.agents.iter().all(|a| a.free_slots == 2));
}

#[test]
fn a_failing_journal_keeps_results_and_tries_again() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.disk = Disk::Fails;
    rig.end(one, Outcome::Succeeded);
    rig.told();
    rig.pass(10_000);
    assert!(!kinds(&rig.told()).contains(&"result"));
    rig.disk = Disk::Writes;
    rig.pass(30_000);
    assert!(kinds(&rig.told()).contains(&"result"));
    assert!(rig.journal.attempts[&one].end.is_some());
}

#[test]
fn reasons_to_decline() {
    let mut rig = connected();
    rig.ready("b", false);
    rig.told();
    rig.down(vec![
        assign(1, attempt(1, 1), "a", DisconnectPolicy::Replace),
        assign(2, attempt(2, 1), "a", DisconnectPolicy::Replace),
        assign(3, attempt(3, 1), "a", DisconnectPolicy::Replace),
        assign(4, attempt(4, 1), "b", DisconnectPolicy::Replace),
        assign(5, attempt(5, 1), "nobody", DisconnectPolicy::Replace),
        Down::Drain(wire::Drain { agent_id: "a".into(), desired_state: DesiredState::Drained.into() }),
        assign(6, attempt(6, 1), "a", DisconnectPolicy::Replace),
        assign(7, attempt(1, 0), "a", DisconnectPolicy::Replace),
    ]);
    let told = rig.told();
    let Some(Up::Credit(credit)) = told.iter().find(|k| matches!(k, Up::Credit(_))) else { panic!("{told:?}") };
    let room: Vec<_> = credit.agents.iter().map(|a| (a.agent_id.as_str(), a.free_slots, a.ready)).collect();
    assert_eq!(
        (credit.assigns_seen, room),
        (7, vec![("a", 0, true), ("b", 2, false)]),
        "also what is declined is counted"
    );
    let reasons: Vec<_> = told
        .iter()
        .filter_map(|k| {
            if let Up::Declined(d) = k { Some((d.attempt.as_ref().expect("one").task_id[0], d.reason())) } else { None }
        })
        .collect();
    use wire::DeclineReason::{AgentNotReady, Draining, NoSlot};
    assert_eq!(reasons, [(3, NoSlot), (4, AgentNotReady), (5, AgentNotReady), (6, Draining)]);
    assert_eq!(rig.started.len(), 2);
}

#[test]
fn an_earlier_attempt_of_a_known_one_does_not_start() {
    let mut rig = connected();
    rig.down(vec![
        assign(1, attempt(1, 3), "a", DisconnectPolicy::Replace),
        assign(2, attempt(1, 2), "a", DisconnectPolicy::Replace),
    ]);
    assert_eq!(rig.started.len(), 1);
    assert!(kinds(&rig.told()).contains(&"declined"));
}

#[test]
fn questions_are_numbered_by_task_asked_again_and_answered_once() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    let ask = |rig: &mut Rig| {
        rig.input(Input::Runtime(RuntimeEvent::InputRequired {
            key: one,
            local_number: 1,
            prompt: Payload::default(),
        }));
    };
    ask(&mut rig);
    rig.cut();
    rig.told();
    rig.connect();
    let told = rig.told();
    let question =
        told.iter().find_map(|k| if let Up::InputRequired(q) = k { Some(q) } else { None }).expect("asked again");
    assert_eq!((key(&question.attempt), question.number), (one, 4));
    let answer = Down::Input(wire::Input { attempt: Some(one.into()), number: 4, input: Some(Payload::default()) });
    rig.commands.clear();
    rig.down(vec![answer.clone(), answer]);
    assert!(matches!(rig.commands[..], [RuntimeCommand::Input { local_number: 1, .. }]));
    ask(&mut rig);
    assert_eq!(rig.commands.len(), 2, "the agent asks again: answered from memory");
    assert!(!kinds(&rig.told()).contains(&"question"));
}

#[test]
fn progress_is_coalesced() {
    let mut rig = connected();
    let one = attempt(1, 1);
    work(&mut rig, 1, one);
    rig.told();
    for n in 0..50 {
        let event = RuntimeEvent::Progress { key: one, fraction: Some(f64::from(n) / 50.0), message: String::new() };
        rig.input(Input::Runtime(event));
    }
    rig.pass(300);
    assert_eq!(kinds(&rig.told()), ["progress"]);
}
