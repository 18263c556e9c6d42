use std::time::Duration;

use hive_core::id::{AgentId, Attempt, Incarnation, MoveNumber, TaskId};
use hive_core::record::{
    AgentRecord, AgentSpec, Answer, Body, Cause, Depth, Desired, DisconnectPolicy, End, Failure, Phase, Priority,
    Question, Requirement, RetryPolicy, Run, Runtime, TaskRecord, TaskSpec,
};

use super::*;

fn task(phase: Phase) -> Record {
    let id = TaskId::new(Time(1_000), 7);
    Record::Task(Arc::new(TaskRecord {
        id,
        spec: Arc::new(TaskSpec {
            requirement: Requirement {
                capabilities: ["wc".into(), "gpu".into()].into(),
                labels: [("zone".into(), "a".into())].into(),
                pool: Some("p".into()),
            },
            capability: "wc".into(),
            priority: Priority::High,
            payload: Body { content_type: "text/plain".into(), size: 9_000, inline: None },
            labels: [("job".into(), "7".into())].into(),
            retry: RetryPolicy {
                max_failures: 3,
                base_delay: Duration::from_secs(1),
                max_delay: Duration::from_secs(60),
            },
            attempt_timeout: Duration::from_secs(600),
            queue_timeout: Duration::from_secs(86_400),
            input_timeout: Duration::from_secs(86_400),
            disconnect: DisconnectPolicy::Stop,
            digest: [9; 16],
        }),
        created: Time(2_000),
        attempt: Attempt(4),
        failures: 2,
        questions: 1,
        cancel: Some(Time(5)),
        agent: AgentId::parse("a1").ok(),
        failure: Some(Failure { exit_code: Some(3), ..Failure::of(Cause::ExitCode) }),
        phase,
    }))
}

fn run() -> Run {
    Run {
        agent: AgentId::parse("a1").expect("a name"),
        incarnation: Incarnation { moved: MoveNumber(1), generation: Generation(2) },
        since: Time(2_500),
        assigned: Time(3_000),
        started: Some(Time(3_100)),
        waited: Duration::from_millis(40),
        answer: Some(Answer {
            number: 1,
            body: Body::split("".into(), Bytes::from_static(b"yes")).0,
            request: [1; 16],
        }),
    }
}

fn agent() -> Record {
    Record::Agent(Arc::new(AgentRecord {
        id: AgentId::parse("a1").expect("a name"),
        spec: AgentSpec {
            pool: "default".into(),
            capabilities: ["wc".into()].into(),
            labels: [("k".into(), "v".into())].into(),
            slots: 4,
            runtime: Runtime::Command,
        },
        declared: Some([1; 16]),
        request: None,
        desired: Desired::Drained,
        depth: Depth::Stopped,
        moved: MoveNumber(3),
        host: SidecarId::parse("s1").ok(),
        lost: true,
        evict: true,
        created: Time(1),
        updated: Time(2),
    }))
}

#[test]
fn every_record_reads_back_as_it_was_written() {
    let ns = Namespace::parse("default").expect("a name");
    let question = Question { number: 1, prompt: Body::default(), asked: Time(9) };
    let end = |end| Phase::Ended { at: Time(10), end, reported: true };
    let records = [
        Record::Namespace(Arc::new(NamespaceRecord {
            floor: Time(77),
            generation: Generation(5),
            moved: MoveNumber(6),
        })),
        Record::Sidecar(Arc::new(SidecarRecord {
            id: SidecarId::parse("s1").expect("a name"),
            boot: BootId(u128::MAX - 5),
            generation: Generation(3),
            updated: Time(4),
        })),
        agent(),
        task(Phase::Pending { not_before: Time(1), since: Time(2) }),
        task(Phase::Assigned(run())),
        task(Phase::InputRequired(run(), question)),
        task(end(End::Succeeded(Body::split("a/b".into(), Bytes::from_static(b"{}")).0))),
        task(end(End::Failed)),
        task(end(End::Cancelled(Cause::Unconfirmed))),
        task(end(End::Expired)),
    ];
    for record in records {
        let key = record_key(&record.key(&ns));
        let change = decode(&key, &encode(&record)).expect("reads back");
        assert_eq!(change, Change { key: record.key(&ns), value: Some(record) });
    }
}

#[test]
fn foreign_keys_and_values_are_refused() {
    for key in ["x", "s/", "s/t/default/short", "s/q/default/a", "s/a/default", "s/a/default/Not-A-Name"] {
        assert!(decode_key(key.as_bytes()).is_none(), "{key}");
    }
    let key = record_key(&agent().key(&Namespace::parse("default").expect("a name")));
    assert!(matches!(decode(&key, &Bytes::from_static(b"\xff\xff")), Err(DecodeError::Value { .. })));
    assert!(matches!(decode(&key, &Bytes::new()), Err(DecodeError::Field { field: "desired", .. })));
}
