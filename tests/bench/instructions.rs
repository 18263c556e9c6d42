//! `make instructions`: counts the machine instructions of the scheduler and the codecs under callgrind
//! and holds them against `docs/instructions.toml`. Unlike times they are the same on a busy machine.
//!
//! Without arguments it runs itself once for each operation under valgrind, which counts only while
//! [`counted`] runs. `UPDATE=1` writes what was counted.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a measuring program: it spawns, and stops at the first surprise"
)]

mod fleet;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_control_plane::api::check::Limits;
use hive_control_plane::session::{read_frame, write_frame};
use hive_control_plane::store::codec;
use hive_core::id::{AssignNumber, LeaderEpoch, Revision, TaskId};
use hive_core::leader::{Assignment, Credit, FromSidecar, ToSidecar};
use hive_core::record::{Key, Record, TaskRecord};
use hive_core::time::Time;
use hive_proto::sidecar_v1::{
    AgentCredit, AttemptRef, Credit as WireCredit, Outcome, Receipt, Result as WireResult, SessionRequest,
    SidecarMessage, sidecar_message::Kind,
};
use prost::Message as _;

use fleet::Fleet;

const AGENTS: usize = 1_000;
const PENDING: usize = 10_000;
/// Each operation is done so often; the counts are of one.
const TIMES: usize = 500;
/// More than this over what was kept is too much, less than this under it is worth keeping.
const TOLERANCE: f64 = 0.10;

const OPERATIONS: &[(&str, fn())] = &[
    ("submit_assign_end", submit_assign_end),
    ("record_encode", record_encode),
    ("record_decode", record_decode),
    ("frame_encode", frame_encode),
    ("frame_decode", frame_decode),
];

/// What happens in here is counted.
#[inline(never)]
fn counted(work: &mut dyn FnMut(usize)) {
    for at in 0..TIMES {
        work(at);
    }
}

/// One task comes, one ends, and its agent is given the next of those that wait.
fn submit_assign_end() {
    let mut fleet = Fleet::empty();
    fleet.queue(PENDING + AGENTS);
    fleet.join(AGENTS, false);
    assert_eq!(fleet.running.len(), AGENTS, "everybody works");
    counted(&mut |at| {
        fleet.submit(PENDING + AGENTS + at);
        fleet.settle();
        let (connection, agent, seen) = fleet.end(at);
        fleet.settle();
        let agents = vec![Credit { agent, free: 1, ready: true }];
        fleet.frame(connection, FromSidecar::Credit { seen, agents });
        fleet.settle();
    });
    assert_eq!(fleet.running.len(), AGENTS, "everybody works again");
}

/// A task that is being worked on, with a payload of 256 B.
fn task() -> Arc<TaskRecord> {
    let mut fleet = Fleet::empty();
    fleet.queue(1);
    fleet.join(fleet::KINDS, false);
    let (_, _, token, _) = fleet.running.pop().expect("it was given");
    fleet.leader.view().task(&fleet.namespace, token.task).expect("it is there")
}

fn record_encode() {
    let record = Record::Task(task());
    counted(&mut |_| drop(black_box(codec::encode(&record))));
}

fn record_decode() {
    let task = task();
    let namespace = hive_core::id::Namespace::parse("default").expect("a name");
    let key = codec::record_key(&Key::Task(namespace, task.id));
    let value = codec::encode(&Record::Task(task));
    counted(&mut |_| drop(black_box(codec::decode(&key, &value).expect("a record"))));
}

/// A frame that assigns eight tasks.
fn frame_encode() {
    let task = task();
    let assign = |number| {
        let task = Arc::clone(&task);
        let (number, grace) = (AssignNumber(number), Duration::from_secs(10));
        ToSidecar::Assign(Box::new(Assignment { number, task, grace, revision: Revision::default() }))
    };
    counted(&mut |_| {
        let messages = (1..=8).map(assign).collect();
        let frame = write_frame(LeaderEpoch::default(), messages, |_, _| None).expect("a frame");
        drop(black_box(frame.encode_to_vec()));
    });
}

/// A frame that ends eight tasks, takes in some more and tells what room there is.
fn frame_decode() {
    let id = |number| Bytes::copy_from_slice(&TaskId::new(Time(1_700_000_000_000), number).0);
    let result = |number: u128| {
        Kind::Result(WireResult {
            attempt: Some(AttemptRef { task_id: id(number), attempt: 1 }),
            outcome: Outcome::Succeeded.into(),
            payload: Some(hive_proto::v1::Payload {
                content_type: "text/plain".to_owned(),
                data: Bytes::from(vec![7; 128]),
            }),
            ..WireResult::default()
        })
    };
    let room = AgentCredit { agent_id: "agent-1".to_owned(), free_slots: 3, ready: true };
    let kinds = (1..=8).map(result).chain([
        Kind::Receipt(Receipt { assigns_seen: 9 }),
        Kind::Credit(WireCredit { assigns_seen: 9, agents: vec![room] }),
    ]);
    let messages = kinds.map(|kind| SidecarMessage { kind: Some(kind) }).collect();
    let bytes = Bytes::from(SessionRequest { messages, ..SessionRequest::default() }.encode_to_vec());
    let limits = Limits { payload: 256 << 10, labels: 32, capabilities: 32, slots: 100 };
    counted(&mut |_| {
        let frame = SessionRequest::decode(bytes.clone()).expect("a message");
        drop(black_box(read_frame(frame, &limits).expect("a frame")));
    });
}

fn main() -> ExitCode {
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    if let Some(wanted) = wanted {
        let (_, operation) = OPERATIONS.iter().find(|(name, _)| *name == wanted).expect("an operation");
        operation();
        return ExitCode::SUCCESS;
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let Some(valgrind) = Valgrind::find(&root) else {
        let missing = "valgrind is missing; make services fetches it";
        if std::env::var("CI").is_ok_and(|ci| ci == "true") {
            eprintln!("instructions: {missing}");
            return ExitCode::FAILURE;
        }
        println!("instructions: skipped, nothing was counted: {missing}");
        return ExitCode::SUCCESS;
    };
    let found = OPERATIONS.iter().map(|(name, _)| ((*name).to_owned(), valgrind.count(name))).collect();
    judge(&root.join("docs/instructions.toml"), &found)
}

/// Holds the counts against those that were kept, or keeps them.
fn judge(file: &Path, found: &BTreeMap<String, u64>) -> ExitCode {
    let text = std::fs::read_to_string(file).expect("docs/instructions.toml");
    let kept: BTreeMap<String, u64> = toml::from_str(&text).expect("names and numbers");
    let mut bad = 0;
    for (name, new) in found {
        let old = kept.get(name).copied().unwrap_or(0);
        let change = *new as f64 / old.max(1) as f64 - 1.0;
        let verdict = match change {
            _ if old == 0 => "NEW",
            more if more > TOLERANCE => "TOO MANY",
            less if less < -TOLERANCE => "fewer: keep it with UPDATE=1",
            _ => "",
        };
        bad += usize::from(old == 0 || change > TOLERANCE);
        println!("{name:<20} {new:>8} instructions, kept {old:>8}, {:>+6.1} %  {verdict}", change * 100.0);
    }
    if std::env::var("UPDATE").is_ok_and(|update| !update.is_empty() && update != "0") {
        let mut text: String =
            text.lines().take_while(|line| line.starts_with('#')).fold(String::new(), |all, line| all + line + "\n");
        text.push('\n');
        for (name, count) in found {
            writeln!(text, "{name} = {count}").expect("written");
        }
        std::fs::write(file, text).expect("written");
        println!("instructions: kept in {}", file.display());
        return ExitCode::SUCCESS;
    }
    if bad > 0 {
        println!(
            "instructions: {bad} operations take over {:.0} % more than docs/instructions.toml has. If that is meant, or \
             another Rust version is the cause, `make instructions UPDATE=1` keeps the new counts; say why in the commit.",
            TOLERANCE * 100.0
        );
        return ExitCode::FAILURE;
    }
    println!("instructions: none crept up");
    ExitCode::SUCCESS
}

/// The machine's, or the one that `make services` unpacked.
struct Valgrind {
    program: PathBuf,
    tools: Option<PathBuf>,
}

impl Valgrind {
    fn find(root: &Path) -> Option<Self> {
        let works = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
        if works {
            return Some(Self { program: "valgrind".into(), tools: None });
        }
        let services = std::env::var_os("TEST_SERVICES").map_or_else(|| root.join("target/services"), PathBuf::from);
        let program = services.join("debian/usr/bin/valgrind");
        program.is_file().then(|| Self { program, tools: Some(services.join("debian/usr/libexec/valgrind")) })
    }

    /// Instructions of one time of an operation.
    fn count(&self, operation: &str) -> u64 {
        let mut command = Command::new(&self.program);
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=instructions::counted*"]);
        command.arg(std::env::current_exe().expect("this program")).arg(operation);
        if let Some(tools) = &self.tools {
            command.env("VALGRIND_LIB", tools);
        }
        let output = command.output().expect("valgrind runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{operation} failed under valgrind:\n{said}");
        let (_, collected) = said.split_once("Collected : ").expect("valgrind tells what it collected");
        let all: u64 = collected.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number");
        assert!(all > 0, "valgrind never saw `counted`");
        all / TIMES as u64
    }
}
