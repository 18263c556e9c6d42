//! The agent's process under its shim: start, adoption, stop, and how its end reads.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::config::AgentConfig;
use crate::runtime::run::{self, End, Found, Run};
use crate::shim::files::{Exit, Spec};
use crate::tasks::{Kind, Tasks};

/// What marks the agent's processes in their environment. Not the socket's variable: a person may set that
/// for a program of theirs.
const MARK: &str = "HIVE_RUN_DIR";

/// What the attendant of one process says; the number is the process's.
pub(super) enum Note {
    Started(u64),
    Ended(u64, String),
}

/// A live process, as its owner sees it.
pub(super) struct Process {
    pub(super) number: u64,
    stop: watch::Sender<Option<Duration>>,
}

impl Process {
    /// Ends the whole group: TERM, KILL after the grace. A shorter grace overrules a longer one.
    pub(super) fn stop(&self, grace: Duration) {
        self.stop.send_if_modified(|old| {
            let new = Some(old.map_or(grace, |old| old.min(grace)));
            std::mem::replace(old, new) != new
        });
    }
}

/// Where an agent's process lives.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) agent: AgentConfig,
    pub(super) dir: PathBuf,
    pub(super) socket: PathBuf,
    pub(super) shim: Vec<std::ffi::OsString>,
    pub(super) tasks: Tasks,
}

impl Place {
    /// What a former sidecar left running; ends what it left half dead.
    pub(super) async fn find(&self) -> Option<Run> {
        let place = self.clone();
        let found = self.tasks.spawn_blocking(move || {
            let found = Run::find(&place.dir)?;
            if matches!(found, Found::Vanished) {
                place.end_leftovers();
            }
            Ok::<_, io::Error>(found)
        });
        match found.await {
            Ok(Ok(Found::Running(run))) => Some(run),
            Ok(Ok(_)) | Err(_) => None,
            Ok(Err(error)) => {
                tracing::warn!(agent = self.agent.id, %error, "what a former run left cannot be read");
                None
            }
        }
    }

    /// Starts the process, or follows the one found.
    pub(super) fn follow(&self, number: u64, found: Option<Run>, notes: mpsc::Sender<Note>) -> Process {
        let (stop, stopped) = watch::channel(None);
        let place = self.clone();
        self.tasks.spawn(Kind::Attendant, "agent-process", async move {
            let why = place.live(number, found, stopped, &notes).await;
            let _ = notes.send(Note::Ended(number, why)).await;
        });
        Process { number, stop }
    }

    /// Returns why it ended, for people.
    async fn live(
        &self,
        number: u64,
        found: Option<Run>,
        mut stopped: watch::Receiver<Option<Duration>>,
        notes: &mpsc::Sender<Note>,
    ) -> String {
        let launched = match found {
            Some(run) => Ok(run),
            None => {
                let place = self.clone();
                self.tasks.spawn_blocking(move || place.launch()).await.map_err(io::Error::other).flatten()
            }
        };
        let mut run = match launched {
            Ok(run) => run,
            Err(error) => return format!("cannot be started: {error}"),
        };
        match run.started().await {
            Ok(Some(_)) => {
                let _ = notes.send(Note::Started(number)).await;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(agent = self.agent.id, %error, "an agent's start cannot be followed"),
        }
        let mut open = true;
        let end = loop {
            let asked = *stopped.borrow_and_update();
            if let Some(grace) = asked
                && let Err(error) = run.cancel(grace)
            {
                tracing::warn!(agent = self.agent.id, %error, "an agent cannot be told to stop");
            }
            tokio::select! {
                end = run.ended() => break end,
                changed = stopped.changed(), if open => open = changed.is_ok(),
            }
        };
        match end {
            Ok(End::Exit(exit)) => told(&exit),
            Ok(End::Failed(error)) => error,
            Ok(End::Vanished(_)) => {
                let place = self.clone();
                let _ = self.tasks.spawn_blocking(move || place.end_leftovers()).await;
                "the process that watched it was killed".to_owned()
            }
            Err(error) => format!("cannot be followed: {error}"),
        }
    }

    fn launch(&self) -> io::Result<Run> {
        let mut env = self.agent.env.clone();
        env.insert("HIVE_AGENT_ID".to_owned(), self.agent.id.clone());
        env.insert("HIVE_AGENT_SOCKET".to_owned(), self.socket.to_string_lossy().into_owned());
        env.insert(MARK.to_owned(), self.dir.to_string_lossy().into_owned());
        let cwd = match &self.agent.cwd {
            Some(cwd) => cwd.clone(),
            None => std::env::current_dir()?,
        };
        let spec = Spec {
            argv: self.agent.argv.clone(),
            env,
            cwd: Some(cwd),
            stdin: None,
            output_limit: self.agent.output_limit,
            rotate: true,
            timeout_ms: None,
            grace_ms: 10_000,
            memory_limit: self.agent.memory_limit,
        };
        run::prepare(&self.dir, &spec)?;
        Run::spawn(&self.shim, &self.dir)
    }

    fn end_leftovers(&self) {
        let ended = run::end_leftovers(&self.dir, MARK, &self.dir.to_string_lossy());
        if !matches!(ended, Ok(true)) {
            tracing::warn!(agent = self.agent.id, "processes of an agent may be left over");
        }
    }
}

/// The agent's socket.
pub(super) fn socket_path(socket_dir: &Path, agent: &str) -> PathBuf {
    socket_dir.join(format!("{agent}.sock"))
}

fn told(exit: &Exit) -> String {
    match (&exit.start_error, exit.exit_code, exit.signal) {
        (Some(error), ..) => error.clone(),
        (None, Some(code), _) => format!("ended with exit code {code}"),
        (None, None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None, None) => "ended".to_owned(),
    }
}
