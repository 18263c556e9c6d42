//! The `command` runtime: a program run once per attempt, under a shim.
//!
//! The owner loop keeps what runs and answers commands; one attendant per attempt follows its shim,
//! see [`follow`]. How an exit becomes an outcome is in [`verdict`]; which output is kept how long in [`retention`].

mod follow;
mod retention;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hive_proto::sidecar_v1::{FailureReason, Outcome};
use tokio::sync::{mpsc, watch};

use super::argv::Template;
use super::outbox::Outbox;
use super::{Hands, RuntimeCommand, RuntimeEvent};
use crate::attempt::{AttemptEnd, AttemptKey, StartAttempt};
use crate::clock;
use crate::config::AgentConfig;
use crate::tasks::Kind;
use follow::Shared;
use retention::Retention;

/// Grace for what is ended without anyone having named one.
const GRACE: Duration = Duration::from_secs(10);

enum Note {
    Started { key: AttemptKey, started_ms: u64 },
    Ended { key: AttemptKey, end: AttemptEnd },
    Lost { key: AttemptKey },
}

struct Owner {
    shared: Arc<Shared>,
    outbox: Outbox,
    notes: mpsc::Sender<Note>,
    /// Attempts not ended; the sender tells the attendant to cancel within a grace.
    live: BTreeMap<AttemptKey, watch::Sender<Option<Duration>>>,
    /// Adopted attempts not answered for yet.
    unanswered: BTreeSet<AttemptKey>,
    retention: Retention,
    /// Ended because the sidecar stops, not because anybody asked for that.
    cut_short: BTreeSet<AttemptKey>,
    draining: bool,
    stopping: bool,
    said: Option<(bool, String)>,
}

pub(super) async fn run(
    agent: AgentConfig,
    hands: Hands,
    adopt: Vec<AttemptKey>,
    mut commands: mpsc::Receiver<RuntimeCommand>,
) {
    let (notes, mut heard) = mpsc::channel(256);
    let template = Template::parse(&agent.argv);
    let fault = template.as_ref().err().map(ToString::to_string);
    let attempts = hands.dirs.agent(&agent.id).join("attempts");
    let shared = Arc::new(Shared {
        template: template.unwrap_or_else(|_| Template::default()),
        attempts: attempts.clone(),
        shim: hands.dirs.shim,
        tasks: hands.tasks.clone(),
        agent,
    });
    let adopted = adopt.clone();
    let found = hands.tasks.spawn_blocking(move || Retention::scan(&attempts, &adopted)).await;
    let (retention, strays) = found.unwrap_or_default();
    let mut owner = Owner {
        shared,
        outbox: hands.outbox,
        notes,
        live: BTreeMap::new(),
        unanswered: adopt.iter().copied().collect(),
        retention,
        cut_short: BTreeSet::new(),
        draining: false,
        stopping: false,
        said: None,
    };
    for stray in strays {
        owner.shared.end_stray(stray);
    }
    for key in adopt {
        owner.follow(key, None);
    }
    let mut deadline = None;
    loop {
        owner.say_ready(fault.as_deref());
        if owner.stopping && owner.live.is_empty() {
            break;
        }
        tokio::select! {
            command = commands.recv() => match command {
                Some(RuntimeCommand::Shutdown { deadline: time }) => {
                    owner.stopping = true;
                    deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(time)));
                }
                Some(command) => owner.obey(command),
                // Whoever owned this runtime is gone; what runs waits for the next one.
                None => return,
            },
            Some(note) = heard.recv() => owner.hear(note),
            () = async { match &mut deadline { Some(time) => time.await, None => std::future::pending().await } } => {
                deadline = None;
                owner.stop_all();
            }
            _ = owner.outbox.hand_over(), if !owner.outbox.is_empty() => {}
        }
    }
    commands.close();
    owner.outbox.finish().await;
}

impl Owner {
    fn say_ready(&mut self, fault: Option<&str>) {
        if !self.unanswered.is_empty() {
            return;
        }
        let now = match fault {
            Some(fault) => (false, fault.to_owned()),
            None if self.stopping => (false, "the sidecar is stopping".to_owned()),
            None if self.draining => (false, "draining".to_owned()),
            None => (true, String::new()),
        };
        if self.said.as_ref() != Some(&now) {
            let (ready, message) = now.clone();
            self.outbox.push(RuntimeEvent::Agent { agent: self.shared.agent.id.clone(), ready, message });
            self.said = Some(now);
        }
    }

    fn obey(&mut self, command: RuntimeCommand) {
        match command {
            RuntimeCommand::Start(start) => self.start(start),
            RuntimeCommand::Cancel { key, grace } => {
                // Of an attempt that ended meanwhile, the end is on its way.
                if let Some(cancel) = self.live.get(&key) {
                    cancel.send_modify(|old| *old = Some(old.map_or(grace, |old| old.min(grace))));
                }
            }
            RuntimeCommand::Forget { key } => {
                if !self.live.contains_key(&key) {
                    self.retention.release(&self.shared.attempts, key, &self.shared.tasks);
                }
            }
            RuntimeCommand::Drain { .. } => self.draining = true,
            RuntimeCommand::Activate => self.draining = false,
            // A program run once asks nothing and is told nothing.
            RuntimeCommand::Input { .. } | RuntimeCommand::ResultJournaled { .. } | RuntimeCommand::Shutdown { .. } => {
            }
        }
    }

    fn start(&mut self, start: StartAttempt) {
        let key = start.key;
        if self.live.contains_key(&key) {
            tracing::warn!(attempt = %key, "asked to start an attempt that runs");
            return;
        }
        let full = self.live.len() >= usize::try_from(self.shared.agent.slots).unwrap_or(usize::MAX);
        if full || self.stopping {
            // The session gives no more than there is room for; this is the net below it.
            let why = if full { "no free slot" } else { "the sidecar is stopping" };
            let now = clock::wall_ms();
            let end = AttemptEnd::failed(FailureReason::StartFailed, why, true, now, now);
            self.outbox.push(RuntimeEvent::Ended { agent: self.shared.agent.id.clone(), key, end });
            return;
        }
        self.follow(key, Some(start));
    }

    fn follow(&mut self, key: AttemptKey, start: Option<StartAttempt>) {
        let (cancel, cancelled) = watch::channel(None);
        self.live.insert(key, cancel);
        let (shared, notes) = (self.shared.clone(), self.notes.clone());
        self.shared.tasks.spawn(Kind::Attendant, "command-attempt", async move {
            let dir = shared.attempts.join(key.dir_name());
            let note = match start {
                Some(start) => shared.run_new(start, dir, cancelled, &notes).await,
                None => shared.run_adopted(key, dir, cancelled, &notes).await,
            };
            // Refused only when the owner is gone, and then a later one will find the same.
            let _ = notes.send(note).await;
        });
    }

    fn hear(&mut self, note: Note) {
        let agent = self.shared.agent.id.clone();
        match note {
            Note::Started { key, started_ms } => {
                self.unanswered.remove(&key);
                self.outbox.push(RuntimeEvent::Started { agent, key, started_ms });
            }
            Note::Ended { key, mut end } => {
                self.unanswered.remove(&key);
                self.live.remove(&key);
                if self.cut_short.remove(&key) && end.outcome == Outcome::Cancelled {
                    let why = "the sidecar stopped";
                    end = AttemptEnd::failed(FailureReason::AgentLost, why, true, end.started_ms, end.ended_ms);
                }
                self.outbox.push(RuntimeEvent::Ended { agent, key, end });
            }
            Note::Lost { key } => {
                self.unanswered.remove(&key);
                self.live.remove(&key);
                self.outbox.push(RuntimeEvent::Lost { agent, key });
            }
        }
    }

    fn stop_all(&mut self) {
        for (key, cancel) in &self.live {
            if cancel.borrow().is_none() {
                self.cut_short.insert(*key);
            }
            cancel.send_modify(|old| *old = Some(old.unwrap_or(GRACE).min(GRACE)));
        }
    }
}
