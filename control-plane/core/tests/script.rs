//! Golden scripts: `tests/scripts/*.txt` hold commands and, below each, everything that came of it.
//!
//! A line `> verb …` acts, `#` is a remark, an indented line is expected output. `UPDATE=1` writes
//! what comes out back into the files. The store commits at once unless a script says `store hold`;
//! messages arrive at once. The verbs are the arms of [`Script::act`].

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hive_core::command::{AgentUpdate, Command, Delivered, Outcome, Reply};
use hive_core::id::{AgentId, AssignNumber, Attempt, AttemptId, Generation, TaskId};
use hive_core::leader::{Beat, CallId, Connection, Credit, FromSidecar, Input, ToSidecar};
use hive_core::record::{
    AgentSpec, Body, Cause, DisconnectPolicy, Failure, Labels, Priority, Requirement, RetryPolicy, Runtime, TaskSpec,
};
use hive_core::settings::Settings;
use hive_core::time::Time;

use crate::args::{Args, span};
use crate::sidecar::{Held, Sidecar, question};
use crate::world::{StoreRefusal, World};

pub(crate) struct Script {
    pub(crate) world: World,
    sidecars: BTreeMap<String, Sidecar>,
    pub(crate) names: BTreeMap<TaskId, String>,
    calls: BTreeMap<CallId, String>,
    connections: u64,
    hold: bool,
    /// Sidecars that send no beats of their own accord.
    mute: Vec<String>,
    /// Sidecars that do nothing unless told: no receipts, no credit.
    manual: Vec<String>,
    pub(crate) start: Time,
    out: String,
}

impl Script {
    fn new(settings: Settings) -> Self {
        let world = World::new(settings, 7);
        let start = world.now;
        Self {
            world,
            sidecars: BTreeMap::new(),
            names: BTreeMap::new(),
            calls: BTreeMap::new(),
            connections: 0,
            hold: false,
            mute: Vec::new(),
            manual: Vec::new(),
            start,
            out: String::new(),
        }
    }

    fn say(&mut self, line: &str) {
        let _infallible = writeln!(self.out, "    {line}");
    }

    fn id(&mut self, name: &str, at: Option<Time>) -> TaskId {
        let number: u128 = name.trim_start_matches('t').parse().unwrap_or_else(|_| panic!("{name} is no task"));
        if let Some((id, _)) = self.names.iter().find(|(_, known)| *known == name) {
            return *id;
        }
        let id = TaskId::new(at.unwrap_or(self.world.now), number);
        self.names.insert(id, name.into());
        id
    }

    fn token(&mut self, text: &str) -> AttemptId {
        let (task, attempt) = text.split_once('/').unwrap_or_else(|| panic!("{text} is no attempt, like t1/1"));
        AttemptId { task: self.id(task, None), attempt: Attempt(attempt.parse().unwrap()) }
    }

    fn spec(args: &Args<'_>) -> TaskSpec {
        let payload = args.get("payload").unwrap_or("");
        TaskSpec {
            requirement: Requirement {
                capabilities: args.list("cap"),
                labels: args.labels("labels"),
                pool: args.get("pool").map(Arc::from),
            },
            capability: Arc::from(args.get("cap").and_then(|c| c.split(',').next()).unwrap_or("wc")),
            priority: match args.get("prio") {
                Some("low") => Priority::Low,
                Some("high") => Priority::High,
                Some("critical") => Priority::Critical,
                _ => Priority::Normal,
            },
            payload: Body::split(Arc::from(""), Bytes::from(payload.to_owned())).0,
            labels: Labels::new(),
            retry: RetryPolicy {
                max_failures: args.number("failures").unwrap_or(3),
                base_delay: args.span("delay").unwrap_or(Duration::from_secs(1)),
                max_delay: Duration::from_secs(60),
            },
            attempt_timeout: args.span("timeout").unwrap_or(Duration::from_secs(600)),
            queue_timeout: args.span("queue").unwrap_or(Duration::from_secs(24 * 3600)),
            input_timeout: args.span("input").unwrap_or(Duration::from_secs(24 * 3600)),
            disconnect: match args.get("policy") {
                Some("stop") => DisconnectPolicy::Stop,
                Some("wait") => DisconnectPolicy::Wait,
                _ => DisconnectPolicy::Replace,
            },
            digest: [args.number("body").unwrap_or(0); 16],
        }
    }

    fn agent_spec(args: &Args<'_>) -> AgentSpec {
        AgentSpec {
            pool: Arc::from(args.get("pool").unwrap_or("default")),
            capabilities: args.list("cap"),
            labels: args.labels("labels"),
            slots: args.number("slots").unwrap_or(1),
            runtime: Runtime::Command,
        }
    }

    fn call(&mut self, label: String, command: Command) {
        let call = self.world.call(command);
        self.calls.insert(call, label);
    }

    fn sidecar(&mut self, name: &str) -> &mut Sidecar {
        self.sidecars.get_mut(name).unwrap_or_else(|| panic!("no sidecar {name}"))
    }

    fn send(&mut self, name: &str, messages: Vec<FromSidecar>) {
        let sidecar = self.sidecar(name);
        let (Some(connection), leader) = (sidecar.connection, sidecar.leader) else { return };
        if !messages.is_empty() {
            self.world.step(Input::Frame { connection, leader, messages });
        }
    }

    fn act(&mut self, line: &str) {
        let args = Args(line.split_whitespace().collect());
        let name = args.0.get(1).copied().unwrap_or("").to_owned();
        match args.at(0) {
            // Clients and operators.
            "submit" => {
                let at = args.number::<i64>("skew").map(|ms| Time(self.world.now.0.saturating_add_signed(ms)));
                for name in name.split(',') {
                    let id = self.id(name, at);
                    let spec = Arc::new(Self::spec(&args));
                    self.call(name.into(), Command::Submit { id, spec, blob: None });
                }
            }
            "cancel" => {
                let id = self.id(&name, None);
                self.call(name, Command::Cancel(id));
            }
            "input" => {
                let id = self.id(&name, None);
                let number = args.number("number").unwrap_or(0);
                let request = [args.number("request").unwrap_or(1); 16];
                self.call(name, Command::ProvideInput { id, number, input: Delivered::default(), request });
            }
            "register" => {
                let command = Command::RegisterAgent {
                    id: AgentId::parse(&name).unwrap(),
                    spec: Self::agent_spec(&args),
                    request: [args.number("request").unwrap_or(1); 16],
                };
                self.call(name, command);
            }
            "update" => {
                let update = AgentUpdate { slots: args.number("slots"), ..Default::default() };
                self.call(name.clone(), Command::UpdateAgent { id: AgentId::parse(&name).unwrap(), update });
            }
            "drain" => {
                let command = Command::DrainAgent { id: AgentId::parse(&name).unwrap(), undo: args.has("undo") };
                self.call(name, command);
            }
            "remove" => {
                let command = Command::RemoveAgent { id: AgentId::parse(&name).unwrap(), force: args.has("force") };
                self.call(name, command);
            }
            // The store and the leader.
            "store" => match name.as_str() {
                "hold" => self.hold = true,
                "go" => self.hold = false,
                "fly" => drop(self.world.take_off()),
                "land" => self.world.land(),
                "refuse" => self.world.refuse(StoreRefusal::NoSpace),
                other => panic!("store {other}?"),
            },
            "takeover" => {
                self.world.take_over(args.has("landed"));
                self.world.down.clear();
                let epoch = self.world.leader.epoch();
                for name in self.sidecars.keys().cloned().collect::<Vec<_>>() {
                    let now = self.world.now;
                    let replies = self.sidecar(&name).hear(ToSidecar::Resync, epoch, now);
                    if !self.mute.contains(&name) {
                        self.send(&name, replies);
                    }
                }
            }
            "tick" => self.pass(span(&name)),
            // Sidecars.
            "sidecar" => {
                let boot = u128::try_from(self.sidecars.len() + 1).unwrap();
                self.sidecars.entry(name.clone()).or_insert_with(|| Sidecar::new(&name, boot));
                for agent in args.0.iter().skip(2).filter(|word| !word.contains('=')) {
                    let id = AgentId::parse(agent).unwrap();
                    self.sidecar(&name).agents.insert(id, Self::agent_spec(&args));
                }
            }
            "undeclare" => drop(self.sidecar(&name).agents.remove(&AgentId::parse(args.at(2)).unwrap())),
            "dial" => {
                self.connections += 1;
                let connection = Connection(self.connections);
                let (leader, now) = (self.world.leader.epoch(), self.world.now);
                let sidecar = self.sidecar(&name);
                if let Some(dial) = args.number("dial") {
                    sidecar.dial = dial;
                }
                if let Some(generation) = args.number("generation") {
                    sidecar.generation = Generation(generation);
                }
                let hello = sidecar.dial(connection, leader, now);
                self.send(&name, vec![hello]);
            }
            "hangup" => {
                if let Some(connection) = self.sidecar(&name).hang_up() {
                    self.world.step(Input::Hangup(connection));
                }
            }
            "goodbye" => self.send(&name, vec![FromSidecar::Goodbye]),
            "reboot" => self.sidecar(&name).reboot(args.number("boot").unwrap_or(1000)),
            "crash" => self.sidecar(&name).lose_processes(),
            "mute" => self.mute.push(name),
            "unmute" => self.mute.retain(|n| *n != name),
            "manual" => self.manual.push(name),
            "unready" => drop(self.sidecar(&name).unready.insert(AgentId::parse(args.at(2)).unwrap())),
            "ready" => drop(self.sidecar(&name).unready.remove(&AgentId::parse(args.at(2)).unwrap())),
            "stubborn" => self.sidecar(&name).stubborn = true,
            "deaf" => self.sidecar(&name).deaf = !args.has("off"),
            "beat" => {
                let now = self.world.now;
                let beat = self.sidecar(&name).beat(now);
                self.send(&name, vec![beat]);
            }
            "raw-beat" => {
                let seen = AssignNumber(args.number("seen").unwrap_or(0));
                let beat = Beat { number: 99, seen, agents: Vec::new(), attempts: Vec::new() };
                self.send(&name, vec![FromSidecar::Beat(Box::new(beat))]);
            }
            "raw-credit" => {
                let seen = AssignNumber(args.number("seen").unwrap_or(0));
                let free = args.number("free").unwrap_or(0);
                let agents = vec![Credit { agent: AgentId::parse(args.at(2)).unwrap(), free, ready: true }];
                self.send(&name, vec![FromSidecar::Credit { seen, agents }]);
            }
            "credit" => {
                let credit = self.sidecar(&name).credit();
                self.send(&name, vec![credit]);
            }
            "start" => {
                let (token, now) = (self.token(args.at(2)), self.world.now);
                if let Some(work) = self.sidecar(&name).journal.get_mut(&token) {
                    work.held = Held::Running(now);
                }
                self.send(&name, vec![FromSidecar::Started(token)]);
            }
            "finish" => {
                let token = self.token(args.at(2));
                let failure = Failure { exit_code: Some(1), ..Failure::of(Cause::ExitCode) };
                let outcome = match args.at(3) {
                    "ok" => Outcome::Succeeded(Delivered::default()),
                    "fail" => Outcome::Failed { failure, retryable: false },
                    "retry" => Outcome::Failed { failure, retryable: true },
                    "timeout" => Outcome::Failed { failure: Failure::of(Cause::Timeout), retryable: true },
                    "cancelled" => Outcome::Cancelled,
                    other => panic!("finish {other}?"),
                };
                let replies = self.sidecar(&name).finish(token, outcome.clone());
                let unknown = replies.is_empty();
                self.send(&name, if unknown { vec![FromSidecar::Result { token, outcome }] } else { replies });
            }
            "decline" => {
                let token = self.token(args.at(2));
                if let Some(work) = self.sidecar(&name).journal.get_mut(&token) {
                    work.held = Held::Lost;
                }
                let credit = self.sidecar(&name).credit();
                self.send(&name, vec![FromSidecar::Declined(token), credit]);
            }
            "lose" => {
                let token = self.token(args.at(2));
                if let Some(work) = self.sidecar(&name).journal.get_mut(&token) {
                    work.held = Held::Lost;
                }
                let credit = self.sidecar(&name).credit();
                self.send(&name, vec![FromSidecar::AttemptLost(token), credit]);
            }
            "ask" => {
                let token = self.token(args.at(2));
                let now = self.world.now;
                let mut number = args.number("number").unwrap_or(0);
                if let Some(work) = self.sidecar(&name).journal.get_mut(&token) {
                    number = if number == 0 { work.question } else { number };
                    work.held = Held::Waiting(now, number);
                }
                self.send(&name, vec![question(token, number)]);
            }
            other => panic!("unknown verb {other}"),
        }
        self.settle();
    }

    fn pass(&mut self, most: Duration) {
        let end = self.world.now + most;
        while self.world.now < end {
            self.world.now = (self.world.now + Duration::from_millis(500)).min(end);
            let now = self.world.now;
            if now.since(self.start).as_millis().is_multiple_of(5_000) {
                for name in self.sidecars.keys().cloned().collect::<Vec<_>>() {
                    if self.sidecar(&name).open && !self.mute.contains(&name) {
                        let beat = self.sidecar(&name).beat(now);
                        self.send(&name, vec![beat]);
                    }
                }
            }
            for sidecar in self.sidecars.values_mut() {
                sidecar.guard(now);
            }
            self.world.step(Input::Tick);
            self.settle();
        }
    }

    /// Delivers and commits until all is quiet, and says what came of it.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            for (call, result) in std::mem::take(&mut self.world.answers) {
                let Some(label) = self.calls.remove(&call) else { continue };
                let text = match result {
                    Ok(Reply::Task { task, duplicate }) => {
                        format!("{}{}", self.describe(&task), if duplicate { " (known)" } else { "" })
                    }
                    Ok(Reply::Agent(agent)) => format!("{:?}", agent.desired),
                    Ok(other) => format!("{other:?}"),
                    Err(error) => format!("refused: {}", self.rename(&error.to_string())),
                };
                self.say(&format!("{label}: {text}"));
            }
            let fresh = std::mem::take(&mut self.world.fresh);
            for (key, value) in fresh {
                let line = self.describe_change(&key, value.as_ref());
                self.say(&line);
            }
            for (connection, cause) in std::mem::take(&mut self.world.closed) {
                let names = self.sidecars.iter().filter(|(_, s)| s.connection == Some(connection));
                let names: Vec<String> = names.map(|(name, _)| name.clone()).collect();
                let cause = self.rename(&format!("{cause:?}"));
                self.say(&format!("{}: closed, {cause}", names.first().map_or("an old stream", String::as_str)));
                for name in &names {
                    let _gone = self.sidecar(name).hang_up();
                }
                self.world.step(Input::Hangup(connection));
            }
            let down = std::mem::take(&mut self.world.down);
            let quiet = down.is_empty();
            for (connection, message) in down {
                let named = self.sidecars.iter().find(|(_, s)| s.connection == Some(connection));
                let Some(name) = named.map(|(name, _)| name.clone()) else { continue };
                if !matches!(message, ToSidecar::BeatAck { .. }) {
                    let text = self.describe_message(&message);
                    self.say(&format!("{name} <- {text}"));
                }
                let (leader, now) = (self.world.leader.epoch(), self.world.now);
                let replies = self.sidecar(&name).hear(message, leader, now);
                if !self.manual.contains(&name) {
                    self.send(&name, replies);
                }
            }
            let flew = !self.hold && (self.world.take_off() || self.world.flying.is_some());
            if flew {
                self.world.land();
            }
            if quiet && !flew && self.world.answers.is_empty() && self.world.down.is_empty() {
                return;
            }
        }
        panic!("never quiet");
    }
}

fn settings(line: &str) -> Settings {
    let mut settings = Settings::default();
    let args = Args(line.split_whitespace().collect());
    settings.max_pending = args.number("pending").unwrap_or(settings.max_pending);
    settings.retention.count = args.number("count").unwrap_or(settings.retention.count);
    settings.retention.bytes = args.number("bytes").unwrap_or(settings.retention.bytes);
    settings.retention.age = args.span("age").unwrap_or(settings.retention.age);
    settings.liveness.max_lost_per_second = args.number("lost").unwrap_or(settings.liveness.max_lost_per_second);
    settings
}

/// Runs a script and gives it back with what came out.
fn run(text: &str) -> String {
    let first = text.lines().find_map(|line| line.strip_prefix("> settings ")).unwrap_or("");
    let mut script = Script::new(settings(first));
    let mut result = String::new();
    for line in text.lines().filter(|line| !line.starts_with(' ')) {
        result.push_str(line);
        result.push('\n');
        if let Some(command) = line.strip_prefix("> ").filter(|command| !command.starts_with("settings ")) {
            script.act(command);
            result.push_str(&std::mem::take(&mut script.out));
        }
    }
    script.world.settle();
    script.world.check_replay();
    result
}

#[test]
fn scripts_say_what_they_said() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let mut differing = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let result = std::panic::catch_unwind(|| run(&text)).unwrap_or_else(|_| panic!("{} failed", path.display()));
        if result == text {
            continue;
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, result).unwrap();
            continue;
        }
        let at = text.lines().zip(result.lines()).take_while(|(expected, got)| expected == got).count();
        let (expected, got) = (text.lines().nth(at), result.lines().nth(at));
        differing.push(format!("{}:{}: expected {expected:?}, got {got:?}", path.display(), at + 1));
    }
    assert!(differing.is_empty(), "{}\n(UPDATE=1 takes the new output over)", differing.join("\n"));
}
