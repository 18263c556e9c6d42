//! Follows one attempt from its folder to its end: lays down what to run, starts or finds the shim, passes
//! on a cancel, and reads the outcome.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hive_proto::sidecar_v1::FailureReason;
use tokio::sync::{mpsc, watch};

use super::{GRACE, Note, verdict};
use crate::attempt::{AttemptEnd, AttemptKey, StartAttempt};
use crate::clock;
use crate::config::AgentConfig;
use crate::runtime::argv::{Template, Values};
use crate::runtime::run::{self, End, Found, Run};
use crate::shim::files::{self, Spec};
use crate::tasks::{Kind, Tasks};

/// Name of the file that holds the payload.
pub(super) const PAYLOAD: &str = "payload";
/// What marks an attempt's processes in their environment: no other has this path.
const MARK: &str = "HIVE_PAYLOAD_FILE";

/// What attendants need; the same for all attempts.
pub(super) struct Shared {
    pub(super) agent: AgentConfig,
    pub(super) template: Template,
    pub(super) attempts: PathBuf,
    pub(super) shim: Vec<std::ffi::OsString>,
    pub(super) tasks: Tasks,
}

impl Shared {
    pub(super) async fn run_new(
        self: &Arc<Self>,
        start: StartAttempt,
        dir: PathBuf,
        cancelled: watch::Receiver<Option<Duration>>,
        notes: &mpsc::Sender<Note>,
    ) -> Note {
        let key = start.key;
        let (shared, place) = (self.clone(), dir.clone());
        let launched = self.tasks.spawn_blocking(move || shared.launch(&start, &place)).await;
        let run = match launched {
            Ok(Ok(run)) => run,
            Ok(Err(error)) => return self.not_started(key, &error.to_string()),
            Err(error) => return self.not_started(key, &error.to_string()),
        };
        match self.watch(key, run, &dir, cancelled, notes, false).await {
            Ok(note) => note,
            Err(error) => self.not_started(key, &format!("the run cannot be followed: {error}")),
        }
    }

    pub(super) async fn run_adopted(
        self: &Arc<Self>,
        key: AttemptKey,
        dir: PathBuf,
        cancelled: watch::Receiver<Option<Duration>>,
        notes: &mpsc::Sender<Note>,
    ) -> Note {
        let place = dir.clone();
        let found = self.tasks.spawn_blocking(move || Run::find(&place)).await;
        let noted = match found {
            Ok(Ok(Found::Running(run))) => self.watch(key, run, &dir, cancelled, notes, true).await,
            Ok(Ok(Found::Ended(exit))) => self.judge(key, exit, &dir).await,
            Ok(Ok(Found::Nothing)) => return Note::Lost { key },
            Ok(Ok(Found::Vanished)) => {
                self.end_leftovers(key, &dir).await;
                return Note::Lost { key };
            }
            Ok(Err(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        };
        noted.unwrap_or_else(|error| {
            tracing::warn!(attempt = %key, %error, "what a former run left cannot be read");
            Note::Lost { key }
        })
    }

    /// Lays down what to run and starts its shim. Blocks.
    fn launch(&self, start: &StartAttempt, dir: &Path) -> io::Result<Run> {
        let key = start.key;
        let payload_file = dir.join(PAYLOAD);
        let task_id = key.task_id();
        let capability = start.capabilities.first().map_or("", String::as_str);
        let shown = payload_file.to_string_lossy();
        let values = Values { capability, task_id: &task_id, attempt: key.attempt, payload_file: &shown };
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut env = self.agent.env.clone();
        for (name, value) in [
            ("HIVE_TASK_ID", task_id.as_str()),
            ("HIVE_ATTEMPT", &key.attempt.to_string()),
            ("HIVE_ATTEMPT_TOKEN", &key.to_string()),
            ("HIVE_AGENT_ID", &self.agent.id),
            ("HIVE_CAPABILITY", capability),
            (MARK, &shown),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        let work = dir.join("work");
        let spec = Spec {
            argv: self.template.expand(&values),
            env,
            cwd: Some(self.agent.cwd.clone().unwrap_or_else(|| work.clone())),
            stdin: Some(payload_file.clone()),
            output_limit: self.agent.output_limit,
            rotate: false,
            timeout_ms: Some(millis(start.timeout)),
            grace_ms: millis(start.grace),
            memory_limit: self.agent.memory_limit,
        };
        run::prepare(dir, &spec)?;
        if self.agent.cwd.is_none() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&work)?;
        }
        files::private(&payload_file)?.write_all(&start.payload.data)?;
        Run::spawn(&self.shim, dir)
    }

    async fn watch(
        self: &Arc<Self>,
        key: AttemptKey,
        mut run: Run,
        dir: &Path,
        mut cancelled: watch::Receiver<Option<Duration>>,
        notes: &mpsc::Sender<Note>,
        adopted: bool,
    ) -> io::Result<Note> {
        // The shim speaks within the time of a process start, or ends.
        let started = run.started().await?;
        if let Some(started_ms) = started {
            let _ = notes.send(Note::Started { key, started_ms }).await;
        }
        let mut open = true;
        let end = loop {
            // The first look also sees what was asked before the start.
            let asked = *cancelled.borrow_and_update();
            if let Some(grace) = asked {
                run.cancel(grace)?;
            }
            tokio::select! {
                end = run.ended() => break end?,
                changed = cancelled.changed(), if open => open = changed.is_ok(),
            }
        };
        match end {
            End::Exit(exit) if exit.void => Ok(Note::Lost { key }),
            End::Exit(exit) => self.judge(key, exit, dir).await,
            End::Failed(error) => Ok(self.not_started(key, &error)),
            End::Vanished(started) => {
                self.end_leftovers(key, dir).await;
                if adopted && started.is_none() {
                    return Ok(Note::Lost { key });
                }
                let now = clock::wall_ms();
                let since = started.map_or(now, |started| started.started_ms);
                let why = "the process that watched the program was killed";
                Ok(Note::Ended { key, end: AttemptEnd::failed(FailureReason::AgentLost, why, true, since, now) })
            }
        }
    }

    async fn judge(self: &Arc<Self>, key: AttemptKey, exit: files::Exit, dir: &Path) -> io::Result<Note> {
        let dir = dir.to_owned();
        let media = self.agent.result_content_type.clone();
        let end = self.tasks.spawn_blocking(move || verdict::of(exit, &dir, media.as_deref())).await;
        Ok(Note::Ended { key, end: end.map_err(io::Error::other)? })
    }

    async fn end_leftovers(&self, key: AttemptKey, dir: &Path) {
        let dir = dir.to_owned();
        let ended =
            self.tasks.spawn_blocking(move || run::end_leftovers(&dir, MARK, &dir.join(PAYLOAD).to_string_lossy()));
        let ended = ended.await;
        if !matches!(ended, Ok(Ok(true))) {
            tracing::warn!(attempt = %key, "processes of an attempt may be left over");
        }
    }

    fn not_started(&self, key: AttemptKey, why: &str) -> Note {
        let now = clock::wall_ms();
        // Not the program's fault: another try, perhaps elsewhere, may do.
        Note::Ended { key, end: AttemptEnd::failed(FailureReason::StartFailed, why, true, now, now) }
    }

    /// Ends what runs here but is in no journal, with a grace.
    pub(super) fn end_stray(self: &Arc<Self>, key: AttemptKey) {
        let shared = self.clone();
        tracing::warn!(attempt = %key, "ending a run that no journal knows");
        self.tasks.spawn(Kind::Attendant, "stray", async move {
            let dir = shared.attempts.join(key.dir_name());
            if let Ok(Found::Running(mut run)) = Run::find(&dir)
                && run.cancel(GRACE).is_ok()
            {
                let _ = run.ended().await;
            }
        });
    }
}
