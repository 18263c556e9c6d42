//! The agents behind a simulated sidecar: programs that run for a while and give their payload back.
//! A program outlives its sidecar, as one under a shim does, and is adopted by the next one.

use std::sync::Arc;

use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_sidecar::attempt::{AttemptEnd, AttemptKey};
use hive_sidecar::config::AgentConfig;
use hive_sidecar::driver::Runtimes;
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};
use hive_sidecar::tasks::{Kind, Tasks};
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};

use crate::lab::{Lab, Program, now};
use crate::rng::mix;

/// See the module.
pub(crate) struct Agents(pub(crate) Arc<Lab>);

impl Runtimes for Agents {
    fn spawn(
        &self,
        agent: &AgentConfig,
        adopt: Vec<AttemptKey>,
        events: mpsc::Sender<RuntimeEvent>,
        tasks: &Tasks,
    ) -> mpsc::Sender<RuntimeCommand> {
        let (sender, commands) = mpsc::channel(64);
        let host = Host { lab: Arc::clone(&self.0), agent: agent.id.clone(), events };
        tasks.spawn(Kind::Essential, "agent", async move {
            // Nobody listens once the sidecar has ended.
            let _gone = host.run(adopt, commands).await;
        });
        sender
    }
}

struct Host {
    lab: Arc<Lab>,
    agent: String,
    events: mpsc::Sender<RuntimeEvent>,
}

type Gone = mpsc::error::SendError<RuntimeEvent>;

impl Host {
    async fn run(&self, adopt: Vec<AttemptKey>, mut commands: mpsc::Receiver<RuntimeCommand>) -> Result<(), Gone> {
        let agent = self.agent.clone();
        let mut open = Vec::new();
        for key in adopt {
            let program = self.lab.book().programs.entry(agent.clone()).or_default().get(&key).cloned();
            let event = match program {
                Some(program) => {
                    open.push(key);
                    RuntimeEvent::Started { agent: agent.clone(), key, started_ms: program.started_ms }
                }
                None => RuntimeEvent::Lost { agent: agent.clone(), key },
            };
            self.events.send(event).await?;
        }
        self.events.send(RuntimeEvent::Agent { agent: agent.clone(), ready: true, message: String::new() }).await?;
        loop {
            let next = open.iter().filter_map(|key| Some((self.program(*key)?.ends_ms, *key))).min();
            let wait = next.map_or(3_600_000, |(at, _)| at.saturating_sub(now()));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    None => return Ok(()),
                    Some(RuntimeCommand::Start(start)) => {
                        let key = start.key;
                        let started_ms = now();
                        let spread = mix(self.lab.seed ^ u64::from(key.task[15]) ^ u64::from(key.task[14]) << 8 ^ u64::from(key.attempt) << 16);
                        let ends_ms = started_ms + 50 + spread % 4_000;
                        {
                            let mut book = self.lab.book();
                            book.stats.begun += 1;
                            book.note(2, &key.task);
                            book.say(|| format!("{agent} begins {key}"));
                            let times = book.begun.entry(key).or_default();
                            *times += 1;
                            if *times > 1 {
                                book.fault(format!("{key} was begun twice"));
                            }
                            let program = Program { start, started_ms, ends_ms, cancelled: false };
                            book.programs.entry(agent.clone()).or_default().insert(key, program);
                        }
                        open.push(key);
                        self.events.send(RuntimeEvent::Started { agent: agent.clone(), key, started_ms }).await?;
                    }
                    Some(RuntimeCommand::Cancel { key, .. }) => {
                        if let Some(program) = self.lab.book().programs.entry(agent.clone()).or_default().get_mut(&key) {
                            program.cancelled |= program.ends_ms > now();
                            program.ends_ms = program.ends_ms.min(now() + 20);
                        }
                    }
                    Some(RuntimeCommand::Forget { key }) => {
                        self.lab.book().programs.entry(agent.clone()).or_default().remove(&key);
                    }
                    Some(RuntimeCommand::Shutdown { .. }) => {
                        for key in std::mem::take(&mut open) {
                            self.end(key).await?;
                        }
                        return Ok(());
                    }
                    Some(_) => {}
                },
                () = sleep(Duration::from_millis(wait)), if next.is_some() => {
                    if let Some((_, key)) = next {
                        open.retain(|other| *other != key);
                        self.end(key).await?;
                    }
                }
            }
        }
    }

    fn program(&self, key: AttemptKey) -> Option<Program> {
        self.lab.book().programs.get(&self.agent)?.get(&key).cloned()
    }

    async fn end(&self, key: AttemptKey) -> Result<(), Gone> {
        let Some(program) = self.program(key) else { return Ok(()) };
        let (started, ended) = (program.started_ms, now());
        let failed = |reason| AttemptEnd::failed(reason, "", false, started, ended);
        let end = if program.cancelled || program.ends_ms > ended {
            AttemptEnd { outcome: Outcome::Cancelled, ..failed(FailureReason::Signal) }
        } else {
            let payload = Some(program.start.payload);
            AttemptEnd { outcome: Outcome::Succeeded, payload, ..failed(FailureReason::Unspecified) }
        };
        self.lab.book().say(|| format!("{} ends {key}: {:?}", self.agent, end.outcome));
        self.events.send(RuntimeEvent::Ended { agent: self.agent.clone(), key, end }).await
    }
}
