//! Runs attempts: one task per agent owns the agent's programs and answers with events.
//!
//! What an attempt means upstream, and what of it is remembered, is for the session and the journal;
//! here is only what runs, what it says and how it ended.

pub mod argv;
mod command;
pub(crate) mod ledger;
mod outbox;
mod process;
mod run;
pub mod strays;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use hive_proto::v1;
use tokio::sync::mpsc;

use crate::attempt::{AttemptEnd, AttemptKey, StartAttempt};
use crate::config::{AgentConfig, RuntimeKind};
use crate::tasks::{Kind, Tasks};

/// What an agent's runtime is asked to do.
#[derive(Clone, Debug)]
pub enum RuntimeCommand {
    /// Start this attempt. Its intent is journaled: it is started at most once.
    Start(StartAttempt),
    /// End an attempt: TERM, then KILL after the grace.
    Cancel {
        /// Which.
        key: AttemptKey,
        /// Time until KILL.
        grace: Duration,
    },
    /// The answer to an attempt's question.
    Input {
        /// Which attempt.
        key: AttemptKey,
        /// The agent's own number of the question.
        local_number: u32,
        /// The answer.
        input: v1::Payload,
    },
    /// The attempt's [`RuntimeEvent::Ended`] is in the journal: its agent may forget the result.
    ResultJournaled {
        /// Which.
        key: AttemptKey,
    },
    /// Released upstream: working files go now, kept output after a while, within a bound.
    Forget {
        /// Which.
        key: AttemptKey,
    },
    /// No more work. With `remove`, the agent's process ends once nothing of it runs.
    Drain {
        /// End the process as well.
        remove: bool,
    },
    /// Undoes a drain.
    Activate,
    /// No more work; what still runs after `deadline` is ended; then the runtime itself ends, which
    /// shows as the closing of its command channel.
    Shutdown {
        /// Time for attempts to end by themselves.
        deadline: Duration,
    },
}

/// What an agent's runtime says.
#[derive(Clone, Debug, PartialEq)]
pub enum RuntimeEvent {
    /// Whether the agent is up and takes work.
    Agent {
        /// The agent.
        agent: String,
        /// It is up.
        ready: bool,
        /// Why not, for people.
        message: String,
    },
    /// An attempt runs.
    Started {
        /// Its agent.
        agent: String,
        /// Which.
        key: AttemptKey,
        /// Since when, wall clock in ms since the Unix epoch.
        started_ms: u64,
    },
    /// Progress, as the agent tells it. Dropped when nobody takes events fast enough.
    Progress {
        /// Which attempt.
        key: AttemptKey,
        /// Share done, 0 to 1.
        fraction: Option<f64>,
        /// Text for people, at most 1 KiB.
        message: String,
    },
    /// An attempt asks its client something; its timeout stands still.
    InputRequired {
        /// Which attempt.
        key: AttemptKey,
        /// The agent's own number of the question, from 1.
        local_number: u32,
        /// The question.
        prompt: v1::Payload,
    },
    /// An attempt ended: exactly once per attempt, only when observed.
    Ended {
        /// Its agent.
        agent: String,
        /// Which.
        key: AttemptKey,
        /// How.
        end: AttemptEnd,
    },
    /// An adopted attempt is neither running nor finished.
    Lost {
        /// Its agent.
        agent: String,
        /// Which.
        key: AttemptKey,
    },
}

/// Where runtimes keep things, and how they start a shim.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// Holds `agents/<agent>/…`; absolute.
    pub state_dir: PathBuf,
    /// Holds agents' sockets; absolute.
    pub socket_dir: PathBuf,
    /// Command line before a shim's own argument.
    pub shim: Vec<OsString>,
    /// Between two signs of life of an agent on its socket.
    pub heartbeat: Duration,
}

impl Dirs {
    /// With this very program as the shim.
    #[must_use]
    pub fn new(state_dir: PathBuf, socket_dir: PathBuf) -> Self {
        // Not the path: the binary may have been replaced by a newer one meanwhile.
        let heartbeat = Duration::from_secs(5);
        Self { state_dir, socket_dir, heartbeat, shim: vec!["/proc/self/exe".into(), "shim".into()] }
    }

    /// An agent's folder.
    #[must_use]
    pub fn agent(&self, agent: &str) -> PathBuf {
        self.state_dir.join("agents").join(agent)
    }
}

/// Commands waiting for one runtime; more make the sender wait.
const COMMANDS: usize = 256;

/// Starts the task that owns one agent.
///
/// `adopt` are the attempts the journal calls intended and not finished; each is answered by `Started`,
/// `Ended` or `Lost` before `Agent { ready: true }`. Dropping the sender leaves running programs alone,
/// for a later sidecar to adopt; `Shutdown` ends them.
#[must_use]
pub fn spawn(
    agent: AgentConfig,
    dirs: Dirs,
    adopt: Vec<AttemptKey>,
    events: mpsc::Sender<RuntimeEvent>,
    tasks: &Tasks,
) -> mpsc::Sender<RuntimeCommand> {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let hands = Hands { dirs, tasks: tasks.clone(), outbox: outbox::Outbox::new(events) };
    match agent.runtime {
        RuntimeKind::Command => {
            tasks.spawn(Kind::Essential, "command-runtime", command::run(agent, hands, adopt, commands))
        }
        RuntimeKind::Process => {
            tasks.spawn(Kind::Essential, "process-runtime", process::run(agent, hands, adopt, commands))
        }
    };
    sender
}

/// What every runtime works with.
struct Hands {
    dirs: Dirs,
    tasks: Tasks,
    outbox: outbox::Outbox,
}
