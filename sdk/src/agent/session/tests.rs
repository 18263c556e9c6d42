use super::*;

const START: Duration = Duration::ZERO;

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn heard(kind: down::Kind) -> Input {
    Input::Message(wire::SessionResponse { kind: Some(kind) })
}

fn assign(token: &str) -> Input {
    heard(down::Kind::Assign(wire::Assign { token: token.to_owned(), ..Default::default() }))
}

fn cancel(token: &str, grace: Duration) -> Input {
    heard(down::Kind::Cancel(wire::Cancel { token: token.to_owned(), grace: grace.try_into().ok() }))
}

fn ack(token: &str) -> Input {
    heard(down::Kind::ResultAck(wire::ResultAck { token: token.to_owned() }))
}

fn done(token: &str) -> Input {
    Input::Ended { token: token.to_owned(), end: Some(End::Output(Payload::text("ok"))) }
}

fn failed(token: &str) -> Input {
    Input::Ended { token: token.to_owned(), end: Some(End::Failure { message: "no".to_owned(), retryable: true }) }
}

fn messages(session: &mut Session, now: Duration) -> Vec<up::Kind> {
    let mut all = Vec::new();
    while session.has_message(now) {
        all.push(session.next_message(now).and_then(|m| m.kind).expect("has_message promised one"));
    }
    assert!(session.next_message(now).is_none());
    all
}

fn welcome(stop: &[&str]) -> Input {
    heard(down::Kind::Welcome(wire::Welcome {
        slots: 2,
        heartbeat_interval: secs(5).try_into().ok(),
        stop: stop.iter().map(|&t| t.to_owned()).collect(),
        ..Default::default()
    }))
}

/// Opens a stream and returns its hello.
fn connect(session: &mut Session, now: Duration, stop: &[&str]) -> wire::Hello {
    session.step(now, Input::Opening);
    let mut first = messages(session, now);
    let Some(up::Kind::Hello(hello)) = first.pop() else { panic!("the first message is a hello") };
    assert!(first.is_empty(), "nothing but a hello before the welcome");
    session.step(now, welcome(stop));
    hello
}

fn up_and_ready() -> Session {
    let mut session = Session::new("test");
    connect(&mut session, START, &[]);
    let ready = wire::Ready { ready: true, message: String::new() };
    assert_eq!(messages(&mut session, START), [up::Kind::Ready(ready)]);
    session
}

fn outcomes(messages: &[up::Kind]) -> Vec<(&str, wire::Outcome)> {
    let mut all = Vec::new();
    for message in messages {
        if let up::Kind::Result(result) = message {
            all.push((result.token.as_str(), result.outcome()));
        }
    }
    all
}

#[test]
fn a_result_is_told_until_it_is_acknowledged() {
    let mut session = up_and_ready();
    assert!(matches!(&session.step(START, assign("a"))[..], [Effect::Start(a)] if a.token == "a"));
    assert!(session.step(START, assign("a")).is_empty(), "a second offer of what runs starts nothing");
    session.step(START, done("a"));
    assert_eq!(outcomes(&messages(&mut session, START)), [("a", wire::Outcome::Succeeded)]);

    session.step(START, Input::Closed);
    assert!(messages(&mut session, START).is_empty());
    let hello = connect(&mut session, secs(1), &[]);
    assert_eq!((hello.running.len(), hello.finished), (0, vec!["a".to_owned()]));
    assert_eq!(outcomes(&messages(&mut session, secs(1))), [("a", wire::Outcome::Succeeded)]);

    assert!(session.step(secs(1), assign("a")).is_empty(), "an offer of what is finished tells the result again");
    assert_eq!(outcomes(&messages(&mut session, secs(1))).len(), 1);
    session.step(secs(1), ack("a"));
    assert!(session.attempts.is_empty());
}

#[test]
fn work_that_ends_while_disconnected_is_told_after_the_welcome() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    session.step(START, assign("b"));
    session.step(START, Input::Closed);
    session.step(START, done("a"));
    let hello = connect(&mut session, secs(1), &[]);
    assert_eq!((hello.running, hello.finished), (vec!["b".to_owned()], vec!["a".to_owned()]));
    assert_eq!(outcomes(&messages(&mut session, secs(1))).len(), 1);
}

#[test]
fn what_welcome_stops_leaves_no_result() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    session.step(START, assign("b"));
    session.step(START, done("a"));
    session.step(START, Input::Closed);
    session.step(START, Input::Opening);
    messages(&mut session, START);
    let effects = session.step(START, welcome(&["a", "b", "unknown"]));
    assert!(effects.contains(&Effect::Cancel("b".to_owned())));
    session.step(START, failed("b"));
    assert!(session.attempts.is_empty());
    assert!(outcomes(&messages(&mut session, START)).is_empty());
}

#[test]
fn a_cancel_tells_the_handler_and_drops_it_after_the_grace() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    assert_eq!(session.step(START, cancel("a", secs(4))), [Effect::Cancel("a".to_owned())]);
    assert!(session.step(START, cancel("a", secs(9))).is_empty(), "told once");
    let at = session.deadline().expect("the grace is a deadline");
    assert!(at < secs(4), "early enough to be heard in time");
    assert!(session.step(at - Duration::from_millis(1), Input::Tick).is_empty());
    assert_eq!(session.step(at, Input::Tick), [Effect::Drop("a".to_owned())]);
    assert!(session.step(at, cancel("a", secs(9))).is_empty());
    assert!(messages(&mut session, at).is_empty(), "a handler that blocks is not called ended");
    session.step(at, Input::Ended { token: "a".to_owned(), end: None });
    assert_eq!(outcomes(&messages(&mut session, at)), [("a", wire::Outcome::Cancelled)]);
    session.step(at, done("a"));
    assert!(messages(&mut session, at).is_empty(), "an attempt ends once");
}

#[test]
fn after_a_cancel_an_error_is_cancelled_and_an_output_stands() {
    let mut session = up_and_ready();
    for token in ["a", "b"] {
        session.step(START, assign(token));
        session.step(START, cancel(token, secs(4)));
    }
    session.step(START, failed("a"));
    session.step(START, done("b"));
    let told = messages(&mut session, START);
    assert_eq!(outcomes(&told), [("a", wire::Outcome::Cancelled), ("b", wire::Outcome::Succeeded)]);
}

#[test]
fn questions_are_asked_again_after_a_reconnect_and_answered_once() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    session.step(START, Input::Asked { token: "a".to_owned(), number: 1, prompt: Payload::text("colour?") });
    assert!(matches!(&messages(&mut session, START)[..], [up::Kind::InputRequired(q)] if q.number == 1));
    session.step(START, Input::Closed);
    connect(&mut session, START, &[]);
    let again = messages(&mut session, START);
    assert!(again.iter().any(|m| matches!(m, up::Kind::InputRequired(_))));
    let input = wire::Input { token: "a".to_owned(), number: 1, input: Some(Payload::text("red").into()) };
    let effects = session.step(START, heard(down::Kind::Input(input.clone())));
    assert!(matches!(&effects[..], [Effect::Answer { number: 1, .. }]));
    assert!(session.step(START, heard(down::Kind::Input(input))).is_empty());
}

#[test]
fn progress_collapses_and_is_paced() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    let say = |text: &str| {
        Input::Progress(wire::Progress { token: "a".to_owned(), fraction: None, message: text.to_owned() })
    };
    session.step(START, say("one"));
    session.step(START, say("two"));
    assert!(matches!(&messages(&mut session, START)[..], [up::Kind::Progress(p)] if p.message == "two"));
    session.step(START, say("three"));
    assert!(messages(&mut session, START).is_empty());
    assert_eq!(session.deadline(), Some(PROGRESS_GAP));
    assert_eq!(messages(&mut session, PROGRESS_GAP).len(), 1);
}

#[test]
fn heartbeats_come_at_the_pace_of_the_welcome_and_do_not_pile_up() {
    let mut session = up_and_ready();
    assert_eq!(session.deadline(), Some(secs(5)));
    session.step(secs(5), Input::Tick);
    session.step(secs(30), Input::Tick);
    assert_eq!(messages(&mut session, secs(30)), [up::Kind::Heartbeat(wire::Heartbeat {})]);
}

#[test]
fn a_hello_without_answer_is_given_up() {
    let mut session = Session::new("test");
    session.step(START, Input::Opening);
    assert_eq!(session.deadline(), Some(HELLO_LIMIT));
    assert!(matches!(session.step(HELLO_LIMIT, Input::Tick)[..], [Effect::Redial(_)]));
}

#[test]
fn a_drain_finishes_what_runs_and_waits_for_the_acknowledgement() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    assert!(session.step(START, heard(down::Kind::Drain(wire::Drain::default()))).is_empty());
    assert!(session.step(START, done("a")).is_empty());
    assert_eq!(session.step(START, ack("a")), [Effect::Finish]);
}

#[test]
fn a_stop_says_not_ready_and_gives_up_on_a_silent_sidecar() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    session.step(START, Input::Stop);
    assert!(matches!(&messages(&mut session, START)[..], [up::Kind::Ready(r)] if !r.ready));
    session.step(START, done("a"));
    assert!(session.step(LINGER, Input::Closed).is_empty());
    let late = session.deadline().expect("acknowledgements have a deadline");
    assert_eq!(late, LINGER + ACK_LIMIT);
    assert_eq!(session.step(late, Input::Tick), [Effect::GiveUp { unacknowledged: 1 }]);
}

#[test]
fn work_on_its_way_when_told_to_stop_is_still_done() {
    let mut session = up_and_ready();
    assert!(session.step(START, Input::Stop).is_empty());
    assert!(matches!(session.step(START, assign("a"))[..], [Effect::Start(_)]));
    assert!(session.step(LINGER, Input::Tick).is_empty());
    session.step(LINGER, done("a"));
    assert_eq!(session.step(LINGER, ack("a")), [Effect::Finish]);

    let mut idle = up_and_ready();
    assert!(idle.step(START, Input::Stop).is_empty());
    assert_eq!(idle.step(LINGER, Input::Tick), [Effect::Finish]);
}

#[test]
fn one_question_is_open_at_a_time() {
    let mut session = up_and_ready();
    session.step(START, assign("a"));
    for number in [1, 2] {
        session.step(START, Input::Asked { token: "a".to_owned(), number, prompt: Payload::text("?") });
    }
    let asked = |messages: Vec<up::Kind>| -> Vec<u32> {
        let number = |m: &up::Kind| if let up::Kind::InputRequired(q) = m { Some(q.number) } else { None };
        messages.iter().filter_map(number).collect()
    };
    assert_eq!(asked(messages(&mut session, START)), [1]);
    session.step(START, Input::Closed);
    connect(&mut session, START, &[]);
    assert_eq!(asked(messages(&mut session, START)), [1]);
    session.step(START, heard(down::Kind::Input(wire::Input { token: "a".to_owned(), number: 1, input: None })));
    assert_eq!(asked(messages(&mut session, START)), [2]);
}
