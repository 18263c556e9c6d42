//! The `process` runtime: a long-lived agent that speaks the local API.
//!
//! One loop owns the agent's process, its stream and its attempts. The process itself is followed by
//! [`child`], attempts are kept in [`attempts`], restarts are decided in [`lifecycle`]
//! and paced by [`backoff`].

mod attempts;
mod backoff;
mod child;
mod lifecycle;
mod running;

use std::time::Duration;

use hive_proto::agent_v1::{self, session_request, session_response};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::ledger::{self, Ledger};
use super::outbox::Outbox;
use super::{Hands, RuntimeCommand, RuntimeEvent};
use crate::attempt::AttemptKey;
use crate::clock;
use crate::config::AgentConfig;
use crate::local::{self, FromAgent, Link};
use crate::tasks::{Kind, Tasks};
use attempts::Attempts;
use backoff::Restarts;
use child::{Note, Place, Process};

/// Commands and messages that share a round with the one that began it.
const ROUND: usize = 128;
/// Grace of an agent that has to go.
const GRACE: Duration = Duration::from_secs(10);
/// Between attempts to make the socket.
const REBIND: Duration = Duration::from_secs(5);
/// How long what a dead process had sent may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Where the agent's process stands. Times are boot-time milliseconds.
enum State {
    /// None; the next start, if one is due.
    Down { start_at: Option<u64> },
    /// It runs, or is being started.
    Up { process: Process, speak_by: Option<u64> },
    /// It ended; what it had sent is still being heard.
    Ended { why: String, until: u64 },
}

struct Stream {
    link: Link,
    /// What the agent last said of itself.
    ready: Option<bool>,
    message: String,
}

struct Owner {
    agent: AgentConfig,
    place: Place,
    tasks: Tasks,
    outbox: Outbox,
    heartbeat: Duration,
    state: State,
    processes: u64,
    notes: mpsc::Sender<Note>,
    stream: Option<Stream>,
    attempts: Attempts,
    restarts: Restarts,
    /// Why there is no process, or why it is being ended.
    trouble: String,
    draining: bool,
    removing: bool,
    stopping: bool,
    said: Option<(bool, String)>,
}

pub(super) async fn run(
    agent: AgentConfig,
    hands: Hands,
    adopt: Vec<AttemptKey>,
    mut commands: mpsc::Receiver<RuntimeCommand>,
) {
    let agent_dir = hands.dirs.agent(&agent.id);
    let socket = child::socket_path(&hands.dirs.socket_dir, &agent.id);
    let place = Place {
        agent: agent.clone(),
        dir: ledger::process_dir(&agent_dir),
        socket: socket.clone(),
        shim: hands.dirs.shim,
        tasks: hands.tasks.clone(),
    };
    let (limit, intended) = (agent.output_limit, adopt.clone());
    let Ok(ledger) = hands.tasks.spawn_blocking(move || Ledger::open(&agent_dir, limit, &intended)).await else {
        return;
    };
    let (notes, mut noted) = mpsc::channel(16);
    let (to, mut from) = mpsc::channel(256);
    let mut owner = Owner {
        attempts: Attempts::new(&agent, ledger, &adopt),
        restarts: Restarts::new(agent.restart),
        agent,
        place,
        tasks: hands.tasks,
        outbox: hands.outbox,
        heartbeat: hands.dirs.heartbeat,
        state: State::Down { start_at: None },
        processes: 0,
        notes,
        stream: None,
        trouble: "starting".to_owned(),
        draining: false,
        removing: false,
        stopping: false,
        said: None,
    };
    let stop = CancellationToken::new();
    let _close = stop.clone().drop_guard();
    while let Err(error) = owner.listen(&to, &stop) {
        let why = std::error::Error::source(&error).map_or(error.to_string(), |source| format!("{error}: {source}"));
        tracing::warn!(agent = owner.agent.id, error = why, "an agent has no socket");
        owner.trouble = why;
        owner.say();
        tokio::select! {
            () = tokio::time::sleep(REBIND) => {}
            command = commands.recv() => match command {
                None => return,
                Some(RuntimeCommand::Shutdown { .. }) => {
                    commands.close();
                    return owner.outbox.finish().await;
                }
                Some(command) => owner.obey(command),
            },
            _ = owner.outbox.hand_over(), if !owner.outbox.is_empty() => {}
        }
    }
    match owner.place.find().await {
        Some(found) => owner.start(Some(found)),
        None => {
            owner.attempts.lose_adopted(&mut owner.outbox);
            owner.state = State::Down { start_at: Some(clock::boot_ms()) };
        }
    }
    let mut stop_at = None;
    loop {
        let now = clock::boot_ms();
        owner.tick(now, stop_at);
        owner.say();
        if owner.stopping && matches!(owner.state, State::Down { .. }) {
            break;
        }
        let wake = owner.next_wake().into_iter().chain(stop_at.filter(|&at| at > now)).min();
        owner.attempts.settle();
        tokio::select! {
            biased;
            command = commands.recv() => match command {
                Some(command) => owner.take(command, &mut stop_at),
                // Whoever owned this runtime is gone; what runs waits for the next one.
                None => return,
            },
            Some(message) = from.recv() => owner.hear(message),
            Some(note) = noted.recv() => owner.note(note),
            _ = owner.outbox.hand_over(), if !owner.outbox.is_empty() => {}
            () = clock::Clock::real().sleep_until(wake.unwrap_or(0)), if wake.is_some() => {}
        }
        // All of it had arrived when the first was taken: nothing else runs on this thread meanwhile.
        for _ in 0..ROUND {
            if let Ok(command) = commands.try_recv() {
                owner.take(command, &mut stop_at);
            } else if let Ok(message) = from.try_recv() {
                owner.hear(message);
            } else {
                break;
            }
        }
        owner.deliver();
    }
    commands.close();
    owner.attempts.end_all("the sidecar stopped", &mut owner.outbox);
    owner.attempts.settle();
    drop(owner.stream);
    owner.outbox.finish().await;
    let _ = std::fs::remove_file(socket);
}

fn later(now_ms: u64, by: Duration) -> u64 {
    now_ms.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX))
}

impl Owner {
    fn listen(&self, to: &mpsc::Sender<FromAgent>, stop: &CancellationToken) -> Result<(), local::BindError> {
        let listener = local::bind(&self.place.socket)?;
        let served = local::serve(listener, self.heartbeat, to.clone(), self.tasks.clone(), stop.clone());
        self.tasks.spawn(Kind::Attendant, "agent-socket", served);
        Ok(())
    }

    fn start(&mut self, found: Option<super::run::Run>) {
        self.processes += 1;
        let process = self.place.follow(self.processes, found, self.notes.clone());
        let speak_by = Some(later(clock::boot_ms(), self.agent.start_timeout));
        "starting".clone_into(&mut self.trouble);
        self.state = State::Up { process, speak_by };
    }

    /// Whether the agent is fit for work, and why not.
    fn readiness(&self) -> (bool, String) {
        if self.stopping {
            return (false, "the sidecar is stopping".to_owned());
        }
        if self.draining {
            return (false, if self.removing { "being removed" } else { "draining" }.to_owned());
        }
        match (&self.state, &self.stream) {
            (State::Up { .. }, Some(Stream { ready: Some(true), .. })) => (true, String::new()),
            (State::Up { .. }, Some(Stream { ready: Some(false), message, .. })) => (false, message.clone()),
            _ => (false, self.trouble.clone()),
        }
    }

    fn say(&mut self) {
        let now = self.readiness();
        // Every adopted attempt is answered for before the agent is called ready.
        if (now.0 && self.attempts.has_unanswered()) || self.said.as_ref() == Some(&now) {
            return;
        }
        let (ready, message) = now.clone();
        self.outbox.push(RuntimeEvent::Agent { agent: self.agent.id.clone(), ready, message });
        self.said = Some(now);
    }

    fn take(&mut self, command: RuntimeCommand, stop_at: &mut Option<u64>) {
        if let RuntimeCommand::Shutdown { deadline } = command {
            self.stopping = true;
            stop_at.get_or_insert(later(clock::boot_ms(), deadline));
        } else {
            self.obey(command);
        }
    }

    /// What it starts is handed over at the end of the round.
    fn obey(&mut self, command: RuntimeCommand) {
        match command {
            RuntimeCommand::Start(start) => self.attempts.start(start, self.stopping, &mut self.outbox),
            RuntimeCommand::Cancel { key, grace } => {
                let link = self.stream.as_ref().map(|stream| &stream.link);
                self.attempts.cancel(key, grace, link, &mut self.outbox);
            }
            RuntimeCommand::Input { key, local_number, input } => {
                let link = self.stream.as_ref().map(|stream| &stream.link);
                self.attempts.input(key, local_number, input, link);
            }
            // Released while it ran, its end is never journaled; nobody asks for it again either.
            RuntimeCommand::ResultJournaled { key } | RuntimeCommand::Forget { key } => {
                let link = self.stream.as_ref().map(|stream| &stream.link);
                self.attempts.journaled(key, link);
            }
            RuntimeCommand::Drain { remove } => {
                self.draining = true;
                self.removing = remove;
                if remove && let Some(stream) = &self.stream {
                    let reason = "the agent is being removed".to_owned();
                    stream.link.send(session_response::Kind::Drain(agent_v1::Drain { reason }));
                }
            }
            RuntimeCommand::Activate => {
                self.draining = false;
                self.removing = false;
                self.restarts.clear();
                if let State::Down { start_at } = &mut self.state {
                    *start_at = Some(clock::boot_ms());
                }
            }
            RuntimeCommand::Shutdown { .. } => {}
        }
    }

    fn hear(&mut self, message: FromAgent) {
        match message {
            FromAgent::Opened(link, hello) => self.opened(link, hello),
            FromAgent::Message(number, kind) => {
                if self.stream.as_ref().is_some_and(|stream| stream.link.number == number) {
                    self.message(kind);
                }
            }
            FromAgent::Closed(number) => {
                if self.stream.as_ref().is_some_and(|stream| stream.link.number == number) {
                    self.stream = None;
                    "not connected".clone_into(&mut self.trouble);
                    if let State::Up { speak_by, .. } = &mut self.state {
                        *speak_by = Some(later(clock::boot_ms(), self.agent.start_timeout));
                    }
                }
            }
        }
    }

    fn opened(&mut self, link: Link, hello: agent_v1::Hello) {
        if !matches!(self.state, State::Up { .. }) {
            return link.end(Status::unavailable("the agent's process is not the sidecar's"));
        }
        if let Some(old) = self.stream.take() {
            old.link.end(Status::aborted("a later stream of this agent took over"));
        }
        let stop = self.attempts.stale(&hello);
        link.send(session_response::Kind::Welcome(agent_v1::Welcome {
            agent_id: self.agent.id.clone(),
            slots: self.agent.slots,
            heartbeat_interval: prost_types::Duration::try_from(self.heartbeat).ok(),
            stop,
        }));
        self.attempts.reconcile(&hello, &link, &mut self.outbox);
        if self.removing {
            let reason = "the agent is being removed".to_owned();
            link.send(session_response::Kind::Drain(agent_v1::Drain { reason }));
        }
        self.stream = Some(Stream { link, ready: None, message: String::new() });
    }

    fn message(&mut self, kind: session_request::Kind) {
        let Some(stream) = &mut self.stream else { return };
        match kind {
            session_request::Kind::Ready(ready) => {
                stream.ready = Some(ready.ready);
                stream.message = if ready.message.is_empty() {
                    "the agent is not ready".to_owned()
                } else {
                    crate::attempt::cut(&ready.message, crate::attempt::MESSAGE_LIMIT).to_owned()
                };
                if let State::Up { speak_by, .. } = &mut self.state {
                    *speak_by = None;
                }
            }
            session_request::Kind::Progress(progress) => self.attempts.progress(progress, &mut self.outbox),
            session_request::Kind::InputRequired(asked) => {
                self.attempts.asked(asked, &stream.link, &mut self.outbox);
            }
            session_request::Kind::Result(result) => {
                self.attempts.result(result, &stream.link, &mut self.outbox);
            }
            // The stream's own matter.
            session_request::Kind::Hello(_) | session_request::Kind::Heartbeat(_) => {}
        }
    }

    fn deliver(&mut self) {
        if let (State::Up { .. }, Some(Stream { link, ready: Some(true), .. })) = (&self.state, &self.stream) {
            self.attempts.deliver(link, &mut self.outbox);
        }
    }
}
