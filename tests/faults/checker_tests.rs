//! A judge that never condemns proves nothing: each fault planted in a clean history is found, and
//! the clean one is not condemned.

mod checker;
mod history;

use checker::{Finding, Kind, judge};
use history::{Call, End, Excuse, History, Op, Outcome, Run, View};

fn open(attempt: u32, seq: u64) -> View {
    View { task: "t".to_owned(), attempt, end: None, revision: (1, seq) }
}

fn ended(attempt: u32, agent: &str, seq: u64) -> View {
    let result = Some(b"payload".to_vec());
    let end = End { state: "SUCCEEDED".to_owned(), agent: agent.to_owned(), at: (9, 0), result };
    View { end: Some(end), ..open(attempt, seq) }
}

fn op(call: Call, invoked: u64, outcome: Outcome) -> Op {
    Op { task: "t".to_owned(), call, invoked, returned: invoked + 5, outcome }
}

fn run(attempt: u32, agent: &str, begun: u64) -> Run {
    Run { task: "t".to_owned(), attempt, agent: agent.to_owned(), begun }
}

/// One task: no answer, accepted, begun, ended, read, listed.
fn clean() -> History {
    History {
        offered: [("t".to_owned(), b"payload".to_vec())].into(),
        ops: vec![
            op(Call::Submit, 10, Outcome::Unknown),
            op(Call::Submit, 20, Outcome::Told(open(0, 1))),
            op(Call::Get, 30, Outcome::Told(open(1, 2))),
            op(Call::Wait, 40, Outcome::Told(ended(1, "a", 3))),
        ],
        watched: vec![(22, open(0, 1)), (28, open(1, 2)), (44, View { end: unshown(), ..ended(1, "a", 3) })],
        runs: vec![run(1, "a", 35)],
        excuses: Vec::new(),
        listed: vec![ended(1, "a", 9)],
        forgets: false,
    }
}

fn unshown() -> Option<End> {
    ended(1, "a", 3).end.map(|end| End { result: None, ..end })
}

/// The history with a fault planted; what is found must be of this kind.
#[track_caller]
fn finds(kind: Kind, plant: impl FnOnce(&mut History)) -> Vec<Finding> {
    let mut history = clean();
    plant(&mut history);
    let found = judge(&history);
    assert!(!found.is_empty() && found.iter().all(|finding| finding.kind == kind), "{kind:?} expected: {found:?}");
    found
}

#[test]
fn a_clean_history_is_not_condemned() {
    assert_eq!(judge(&clean()), []);
    assert_eq!(judge(&History::default()), []);
}

#[test]
fn lost() {
    finds(Kind::Lost, |h| h.listed.clear());
    finds(Kind::Lost, |h| {
        *h = History { watched: Vec::new(), listed: vec![open(1, 9)], ..clean() };
        h.ops.truncate(3);
    });
    let wrong = |end: End| View { end: Some(end), ..open(1, 9) };
    let good = || ended(1, "a", 9).end.expect("an end");
    for end in [
        End { state: "FAILED".to_owned(), ..good() },
        End { state: "CANCELLED".to_owned(), ..good() },
        End { result: Some(b"another".to_vec()), ..good() },
    ] {
        finds(Kind::Lost, |h| {
            h.ops.truncate(3);
            h.watched.truncate(2);
            h.listed = vec![wrong(end)];
        });
    }
    // What was cancelled may end so; what retention deletes was seen to end.
    let mut history = clean();
    history.ops = vec![op(Call::Submit, 20, Outcome::Told(open(0, 1))), op(Call::Cancel, 30, Outcome::Unknown)];
    history.watched.clear();
    history.listed = vec![wrong(End { state: "CANCELLED".to_owned(), result: None, ..good() })];
    assert_eq!(judge(&history), []);
    let mut history = History { forgets: true, listed: Vec::new(), ..clean() };
    assert_eq!(judge(&history), []);
    history.ops.truncate(2);
    history.watched.clear();
    assert_eq!(judge(&history).first().map(|finding| finding.kind), Some(Kind::Lost));
}

#[test]
fn doubled() {
    finds(Kind::Doubled, |h| h.listed.push(ended(1, "a", 9)));
    finds(Kind::Doubled, |h| h.listed.push(View { task: "u".to_owned(), ..ended(1, "a", 9) }));
    finds(Kind::Doubled, |h| h.runs.push(run(1, "b", 36)));
    finds(Kind::Doubled, |h| h.runs.clear());
    finds(Kind::Doubled, |h| h.ops[3] = op(Call::Wait, 40, Outcome::Told(ended(1, "b", 3))));
    finds(Kind::Doubled, |h| {
        h.watched.push((50, View { end: ended(1, "b", 4).end, ..open(1, 4) }));
    });
    finds(Kind::Doubled, |h| {
        let end = End { result: Some(b"another".to_vec()), ..ended(1, "a", 3).end.expect("an end") };
        h.ops[3].outcome = Outcome::Told(View { end: Some(end), ..open(1, 3) });
    });
    finds(Kind::Doubled, |h| h.ops.push(op(Call::Get, 60, Outcome::Told(open(1, 5)))));
}

#[test]
fn restarted() {
    let second = |h: &mut History| {
        h.ops.truncate(3);
        h.watched.clear();
        h.runs.push(run(2, "b", 50));
        h.listed = vec![ended(2, "b", 9)];
    };
    let excuse = |agent: &str, from, to| Excuse { agents: [agent.to_owned()].into(), from, to };
    finds(Kind::Restarted, second);
    // Done to another agent, or at another time.
    finds(Kind::Restarted, |h| {
        second(h);
        h.excuses = vec![excuse("b", 0, 100), excuse("a", 51, 60), excuse("a", 10, 34)];
    });
    let mut history = clean();
    second(&mut history);
    history.excuses = vec![excuse("a", 40, 45)];
    assert_eq!(judge(&history), []);
}

#[test]
fn broken() {
    finds(Kind::Broken, |h| h.ops[2] = op(Call::Get, 30, Outcome::Absent));
    finds(Kind::Broken, |h| h.ops[3] = op(Call::Wait, 40, Outcome::Told(ended(1, "a", 1))));
    finds(Kind::Broken, |h| h.ops.insert(3, op(Call::Get, 36, Outcome::Told(open(0, 2)))));
    finds(Kind::Broken, |h| {
        let refused = || Outcome::Refused("STORE_LOW_SPACE".to_owned());
        h.ops = vec![op(Call::Submit, 10, refused()), op(Call::Submit, 20, refused())];
    });
    // Asked before the answer came.
    let mut history = clean();
    history.ops.insert(0, op(Call::Get, 19, Outcome::Absent));
    assert_eq!(judge(&history), []);
}
