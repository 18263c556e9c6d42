//! The fuzz bodies under plain `cargo test`: every input of the corpora, then mutations of them and bytes
//! from nowhere. `make fuzz` runs the same bodies for as long as one likes.
#![allow(missing_docs, unreachable_pub, reason = "tests")]

#[path = "src/lib.rs"]
mod bodies;

use std::path::Path;

use bodies::{Body, TARGETS};
use proptest::prelude::*;

/// Generated inputs per target.
const CASES: u32 = 1_000;

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a file")).collect()
}

/// One change to an input.
#[derive(Debug, Clone)]
enum Change {
    Set(usize, u8),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Cut(usize),
    Append(Vec<u8>),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..24);
    prop::collection::vec(
        prop_oneof![
            4 => (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Change::Set(at, to)),
            2 => (any::<usize>(), bytes()).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
            1 => (any::<usize>(), 1usize..16).prop_map(|(at, count)| Change::Remove(at, count)),
            1 => any::<usize>().prop_map(Change::Cut),
            2 => bytes().prop_map(Change::Append),
        ],
        0..6,
    )
}

fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        let place = |at: usize| at % (bytes.len() + 1);
        match change {
            Change::Set(at, to) => {
                let at = place(at);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = to;
                }
            }
            Change::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more);
            }
            Change::Remove(at, count) => {
                let at = place(at);
                let to = (at + count).min(bytes.len());
                bytes.drain(at..to);
            }
            Change::Cut(at) => bytes.truncate(place(at)),
            Change::Append(more) => bytes.extend(more),
        }
    }
    bytes
}

fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let seeds = (any::<prop::sample::Index>(), changes()).prop_map(move |(seed, changes)| {
        changed(if corpus.is_empty() { Vec::new() } else { seed.get(&corpus).clone() }, changes)
    });
    prop_oneof![2 => seeds, 1 => prop::collection::vec(any::<u8>(), 0..3_000)]
}

fn run(target: &str) {
    let body: Body = TARGETS.iter().find(|(name, _)| *name == target).expect("a target").1;
    let corpus = corpus(target);
    corpus.iter().for_each(|input| body(input));
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(input in inputs(corpus))| body(&input));
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(stringify!($name)); })*

        #[test]
        fn every_target_has_its_test_and_its_cargo_fuzz_binary() {
            let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
            let manifest = std::fs::read_to_string(root.join("Cargo.toml")).expect("a manifest");
            for name in names {
                assert!(root.join("fuzz_targets").join(format!("{name}.rs")).exists(), "{name}");
                assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
            }
        }
    };
}

targets! { wire stored journal configs leader session calls }

/// Messages and methods as the descriptors have them.
fn served(descriptors: &[u8]) -> (Vec<String>, Vec<String>) {
    use prost::Message as _;
    let set = prost_types::FileDescriptorSet::decode(descriptors).expect("descriptors");
    let (mut messages, mut methods) = (Vec::new(), Vec::new());
    for file in &set.file {
        for service in &file.service {
            for method in &service.method {
                let name = |name: &Option<String>| name.clone().unwrap_or_default().trim_start_matches('.').to_owned();
                messages.extend([name(&method.input_type), name(&method.output_type)]);
                methods.push(format!("{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    (messages, methods)
}

#[test]
fn every_message_and_method_that_is_served_is_fuzzed() {
    let known: Vec<_> = bodies::wire::MESSAGES.iter().map(|(name, _)| *name).collect();
    let (mut messages, methods) = served(hive_proto::SERVER_DESCRIPTORS);
    messages.extend(served(hive_proto::AGENT_DESCRIPTORS).0);
    let missing: Vec<_> = messages.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "not in wire.rs: {missing:?}");
    let missing: Vec<_> = methods.iter().filter(|name| !bodies::calls::METHODS.contains(&name.as_str())).collect();
    assert!(missing.is_empty(), "not in calls.rs: {missing:?}");
}

/// Not a test: writes the hand-made seeds of `wire` and `calls` anew, after a change of the protocol
/// (`cargo test --test fuzz sow -- --ignored`).
#[test]
#[ignore = "writes into the corpus"]
fn sow() {
    seeds::sow();
}

mod seeds {
    use hive_proto::{sidecar_v1 as pb, v1};
    use prost::Message;

    use crate::bodies::calls::METHODS;
    use crate::bodies::wire::MESSAGES;

    const TASK: &str = "01a3185c-5000-7000-8000-000000000001";

    fn spec() -> v1::TaskSpec {
        v1::TaskSpec {
            capabilities: vec!["wc".into(), "echo".into()],
            agent_labels: [("zone".to_owned(), "eu".to_owned())].into(),
            pool: "default".into(),
            priority: 3,
            payload: Some(v1::Payload { data: b"payload".as_slice().into(), content_type: "text/plain".into() }),
            labels: [("k".to_owned(), "v".to_owned())].into(),
            attempt_timeout: Some(prost_types::Duration { seconds: 60, nanos: 5 }),
            queue_timeout: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
            disconnect_policy: 2,
            ..Default::default()
        }
    }

    fn submit(n: u8) -> v1::SubmitTaskRequest {
        let task_id = format!("{}{n:02x}", &TASK[..TASK.len() - 2]);
        v1::SubmitTaskRequest { namespace: "default".into(), task_id, spec: Some(spec()) }
    }

    fn agent() -> v1::AgentSpec {
        v1::AgentSpec {
            pool: "default".into(),
            capabilities: vec!["wc".into(), "echo".into()],
            labels: [("zone".to_owned(), "eu".to_owned())].into(),
            slots: 2,
            runtime: 2,
        }
    }

    fn session() -> pb::SessionRequest {
        let attempt = Some(pb::AttemptRef { task_id: vec![1; 16].into(), attempt: 1 });
        let hosted =
            pb::HostedAgent { agent_id: "a".into(), spec: Some(agent()), free_slots: 2, ready: true, removed: false };
        let hello = pb::Hello {
            namespace: "default".into(),
            sidecar_id: "s".into(),
            boot_id: vec![2; 16].into(),
            connection: 1,
            agents: vec![hosted],
            running: vec![pb::RunningAttempt { attempt: attempt.clone(), agent_id: "a".into(), ..Default::default() }],
            finished: vec![pb::FinishedAttempt { attempt, agent_id: "a".into() }],
            ..Default::default()
        };
        let kind = Some(pb::sidecar_message::Kind::Hello(hello));
        pb::SessionRequest { session: None, leader: None, messages: vec![pb::SidecarMessage { kind }] }
    }

    fn messages() -> Vec<(&'static str, &'static str, Vec<u8>)> {
        let task = || TASK.to_owned();
        let filter = || {
            Some(v1::TaskFilter {
                states: vec![1, 2],
                labels: [("k".to_owned(), "v".to_owned())].into(),
                ..Default::default()
            })
        };
        macro_rules! list {
            ($($method:literal $name:literal $message:expr;)*) => { vec![$(($method, $name, $message.encode_to_vec())),*] };
        }
        list! {
            "TaskService/SubmitTask" "hive.v1.SubmitTaskRequest" submit(1);
            "TaskService/SubmitTasks" "hive.v1.SubmitTasksRequest"
                v1::SubmitTasksRequest { tasks: vec![submit(1), submit(2)], ..Default::default() };
            "TaskService/GetTask" "hive.v1.GetTaskRequest" v1::GetTaskRequest { task_id: task(), ..Default::default() };
            "TaskService/ListTasks" "hive.v1.ListTasksRequest" v1::ListTasksRequest {
                filter: filter(), page_size: 1, page_token: "0123456789abcdef".into(), ..Default::default()
            };
            "TaskService/CancelTask" "hive.v1.CancelTaskRequest"
                v1::CancelTaskRequest { task_id: task(), ..Default::default() };
            "TaskService/WatchTasks" "hive.v1.WatchTasksRequest"
                v1::WatchTasksRequest { filter: filter(), ..Default::default() };
            "TaskService/WaitTask" "hive.v1.WaitTaskRequest" v1::WaitTaskRequest {
                task_id: task(), timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..Default::default()
            };
            "TaskService/ProvideInput" "hive.v1.ProvideInputRequest"
                v1::ProvideInputRequest { task_id: task(), ..Default::default() };
            "AgentService/RegisterAgent" "hive.v1.RegisterAgentRequest"
                v1::RegisterAgentRequest { agent_id: "a".into(), spec: Some(agent()), ..Default::default() };
            "AgentService/UpdateAgent" "hive.v1.UpdateAgentRequest" v1::UpdateAgentRequest {
                agent_id: "a".into(),
                spec: Some(agent()),
                update_mask: Some(prost_types::FieldMask { paths: vec!["slots".into(), "labels".into()] }),
                ..Default::default()
            };
            "AgentService/ListAgents" "hive.v1.ListAgentsRequest"
                v1::ListAgentsRequest { page_size: 1, page_token: "a".into(), ..Default::default() };
            "AgentService/DrainAgent" "hive.v1.DrainAgentRequest"
                v1::DrainAgentRequest { agent_id: "a".into(), ..Default::default() };
            "ClusterService/GetStatus" "hive.v1.GetStatusRequest" v1::GetStatusRequest::default();
            "SidecarService/Session" "hive.sidecar.v1.SessionRequest" session();
        }
    }

    pub(super) fn sow() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        let byte = |at: usize| u8::try_from(at).expect("few");
        let mut together = Vec::new();
        for (method, message, bytes) in messages() {
            let file = method.to_lowercase().replace("service/", "-");
            let of_wire = MESSAGES.iter().position(|(name, _)| *name == message).expect("a message");
            std::fs::write(root.join("wire").join(&file), [&[byte(of_wire)], &bytes[..]].concat()).expect("written");
            let of_calls = METHODS.iter().position(|name| name.ends_with(method)).expect("a method");
            let length = u16::try_from(bytes.len()).expect("short").to_le_bytes();
            let call = [&[byte(of_calls)], &length[..], &bytes[..]].concat();
            std::fs::write(root.join("calls").join(&file), &call).expect("written");
            together.extend(call);
        }
        std::fs::write(root.join("calls/together"), together).expect("written");
    }
}
