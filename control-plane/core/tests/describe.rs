//! What scripts say of records and messages.

use std::fmt::Write as _;

use hive_core::id::AttemptId;
use hive_core::leader::ToSidecar;
use hive_core::record::{Key, Phase, Record, TaskRecord};
use hive_core::time::Time;

use crate::script::Script;

impl Script {
    pub(crate) fn rename(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (id, name) in &self.names {
            text = text.replace(&id.to_string(), name);
        }
        text.replace(&self.start.0.to_string()[..7], "T")
    }

    pub(crate) fn attempt(&self, token: &AttemptId) -> String {
        self.rename(&format!("{}/{}", token.task, token.attempt))
    }

    pub(crate) fn describe(&self, task: &TaskRecord) -> String {
        let since = |at: Time| format!("{}ms", at.since(self.world.now).as_millis());
        let mut text = match &task.phase {
            Phase::Pending { not_before, .. } if *not_before > self.world.now => {
                format!("PENDING, not for {}", since(*not_before))
            }
            Phase::Pending { .. } => "PENDING".to_owned(),
            Phase::Assigned(run) => {
                let state = if run.started.is_some() { "RUNNING" } else { "ASSIGNED" };
                format!(
                    "{state} #{} to {} of {:?}",
                    task.attempt,
                    run.agent,
                    (run.incarnation.moved.0, run.incarnation.generation.0)
                )
            }
            Phase::InputRequired(run, q) => {
                format!("INPUT_REQUIRED #{} at {}, question {}", task.attempt, run.agent, q.number)
            }
            Phase::Ended { end, .. } => {
                let end = format!("{end:?}").to_uppercase();
                end.split(" {").next().unwrap_or(&end).split("(BODY").next().unwrap_or(&end).to_owned()
            }
        };
        if task.cancel.is_some() {
            text.push_str(", cancel requested");
        }
        if let Some(failure) = &task.failure {
            let _infallible = write!(text, ", {:?}", failure.cause);
        }
        if task.failures > 0 {
            let _infallible = write!(text, ", failures {}", task.failures);
        }
        text
    }

    pub(crate) fn describe_change(&self, key: &Key, value: Option<&Record>) -> String {
        let name = match key {
            Key::Namespace(_) => "namespace".to_owned(),
            Key::Sidecar(_, id) => id.to_string(),
            Key::Agent(_, id) => id.to_string(),
            Key::Task(_, id) => self.rename(&id.to_string()),
        };
        let text = match value {
            None => "deleted".to_owned(),
            Some(Record::Namespace(record)) => self.rename(&format!("floor {}", record.floor)),
            Some(Record::Sidecar(record)) => format!("boot {} generation {}", record.boot.0, record.generation),
            Some(Record::Agent(record)) => {
                let host = record.host.as_ref().map_or("nobody", |host| host.as_str());
                let flags = [(record.lost, ", lost"), (record.evict, ", by force")];
                let flags: String = flags.iter().filter(|(set, _)| *set).map(|(_, text)| *text).collect();
                format!("{:?} at {host}, moves {}, slots {}{flags}", record.desired, record.moved, record.spec.slots)
            }
            Some(Record::Task(task)) => self.describe(task),
        };
        format!("= {name}: {text}")
    }

    pub(crate) fn describe_message(&self, message: &ToSidecar) -> String {
        match message {
            ToSidecar::Welcome(w) => {
                let mut text = format!("welcome, generation {} dial {}", w.generation, w.connection);
                for verdict in &w.verdicts {
                    let over = verdict.over.map_or("keep".to_owned(), |over| format!("{over:?}"));
                    let _infallible = write!(text, ", {} {over}", self.attempt(&verdict.token));
                }
                for (agent, desired) in w.agents.iter().filter(|(_, d)| *d != Default::default()) {
                    let _infallible = write!(text, ", {agent} {desired:?}");
                }
                for (agent, host) in &w.in_use {
                    let _infallible = write!(text, ", {agent} is at {host}");
                }
                text
            }
            ToSidecar::Assign(a) => format!("assign {} as {}", self.attempt(&a.task.token()), a.number),
            ToSidecar::ResultAck { token, release, .. } => format!("ack {} {release:?}", self.attempt(token)),
            ToSidecar::Stop { token, reason, .. } => format!("stop {} {reason:?}", self.attempt(token)),
            ToSidecar::Answer { token, number, .. } => format!("answer {number} for {}", self.attempt(token)),
            ToSidecar::Desire { agent, desired } => format!("desire {agent} {desired:?}"),
            ToSidecar::BeatAck { number, .. } => format!("beat {number} heard"),
            ToSidecar::Resync => "resync".to_owned(),
        }
    }
}
