//! What the sidecar is told: who it is, whom it dials, which agents it hosts.
//!
//! Read once, at the edge, into types that hold only valid values; a flag beats the environment,
//! which beats the file, which beats the default. All faults are reported together. What an agent's
//! settings mean is left to its runtime.

mod file;
mod print;
mod units;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hive_proto::v1;

pub use file::{load, parse};

/// Most agents one sidecar hosts.
pub const MAX_AGENTS: usize = 64;

/// Settings as flags or environment variables; each one beats the file.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "HIVE_SIDECAR__CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Control plane to dial, http://host:port [default: http://127.0.0.1:7070]
    #[arg(long, value_name = "URL", env = "HIVE_SERVER", global = true)]
    pub server: Option<String>,
    /// This sidecar's id, a DNS-1123 label
    #[arg(long, value_name = "ID", env = "HIVE_SIDECAR__ID", global = true)]
    pub id: Option<String>,
    /// Namespace [default: default]
    #[arg(long, value_name = "NAME", env = "HIVE_NAMESPACE", global = true)]
    pub namespace: Option<String>,
    /// Where the journal and kept output live [default: $XDG_STATE_HOME/hive/sidecar/ID]
    #[arg(long, value_name = "DIR", env = "HIVE_SIDECAR__STATE_DIR", global = true)]
    pub state_dir: Option<PathBuf>,
    /// Where agents find their sockets [default: $XDG_RUNTIME_DIR/hive]
    #[arg(long, value_name = "DIR", env = "HIVE_SIDECAR__SOCKET_DIR", global = true)]
    pub socket_dir: Option<PathBuf>,
    /// CA (PEM) that signed the control plane's certificate; the server is then https://host:port
    #[arg(long, value_name = "FILE", env = "HIVE_CA", global = true)]
    pub ca: Option<PathBuf>,
    /// This sidecar's certificate (PEM)
    #[arg(long, value_name = "FILE", env = "HIVE_CERT", global = true)]
    pub cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", env = "HIVE_KEY", global = true)]
    pub key: Option<PathBuf>,
    /// Allow plain text to a control plane that is not on this machine
    #[arg(long, global = true)]
    pub insecure: bool,
    /// Stop gracefully when standard input ends (for a supervisor holding a pipe)
    #[arg(long, global = true)]
    pub stop_on_stdin_eof: bool,
}

/// Everything the sidecar needs, checked.
#[derive(Debug, Clone)]
pub struct SidecarConfig {
    /// Namespace of the sidecar and its agents.
    pub namespace: String,
    /// This sidecar's id, a DNS-1123 label.
    pub id: String,
    /// Control plane to dial: `http://host:port`, with `tls` `https://host:port`.
    pub server: String,
    /// Whom to trust and what to show; plain text without.
    pub tls: Option<TlsFiles>,
    /// Holds the journal, attempts' files and kept output; one sidecar at a time.
    pub state_dir: PathBuf,
    /// Holds agents' sockets.
    pub socket_dir: PathBuf,
    /// Stop gracefully when standard input ends.
    pub stop_on_stdin_eof: bool,
    /// The agents hosted here, at least one, ids unique.
    pub agents: Vec<AgentConfig>,
}

/// Certificates, as PEM files. They are read again at each dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Signed the control plane's certificate.
    pub ca: PathBuf,
    /// Our own certificate and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
}

/// How an agent's work is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeKind {
    /// A long-lived process that speaks the local API.
    Process,
    /// A program run once per task.
    Command,
}

/// An agent hosted here. `Debug` hides the values of its environment.
#[derive(Clone, PartialEq)]
pub struct AgentConfig {
    /// DNS-1123 label, unique in the namespace.
    pub id: String,
    /// How its work is run.
    pub runtime: RuntimeKind,
    /// What it can do; 1 to 32.
    pub capabilities: Vec<String>,
    /// Labels it is found by; at most 32.
    pub labels: BTreeMap<String, String>,
    /// Its pool.
    pub pool: String,
    /// Tasks at a time, 1 to 100.
    pub slots: u32,
    /// Program and arguments; no shell. `command` replaces `{capability}` by the task's first one.
    pub argv: Vec<String>,
    /// Variables set besides the sidecar's own environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; the attempt's own directory (`command`) or the sidecar's, if absent.
    pub cwd: Option<PathBuf>,
    /// Memory limit of one program, in bytes; none if absent.
    pub memory_limit: Option<u64>,
    /// Standard output and error kept per attempt, in bytes each.
    pub output_limit: u64,
    /// Media type of what a program writes to standard output (`command`); if absent, text or not, by looking.
    pub result_content_type: Option<String>,
    /// Longest time from start to ready (`process`).
    pub start_timeout: Duration,
    /// What follows when the agent's process ends by itself (`process`).
    pub restart: RestartPolicy,
}

/// Restarts back off exponentially, and stop when they come too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// First delay; doubles per restart within the window.
    pub base: Duration,
    /// Longest delay.
    pub cap: Duration,
    /// Restarts within the window after which the agent stays down.
    pub max: u32,
    /// How far back restarts are counted.
    pub window: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { base: Duration::from_secs(1), cap: Duration::from_secs(300), max: 8, window: Duration::from_secs(1800) }
    }
}

impl AgentConfig {
    /// An agent with every default.
    #[must_use]
    pub fn new(id: &str, runtime: RuntimeKind, capabilities: &[&str], argv: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            runtime,
            capabilities: capabilities.iter().map(|&c| c.to_owned()).collect(),
            labels: BTreeMap::new(),
            pool: "default".to_owned(),
            slots: 1,
            argv: argv.iter().map(|&a| a.to_owned()).collect(),
            env: BTreeMap::new(),
            cwd: None,
            memory_limit: None,
            output_limit: 1 << 20,
            result_content_type: None,
            start_timeout: Duration::from_secs(30),
            restart: RestartPolicy::default(),
        }
    }

    /// What is declared of it upstream.
    #[must_use]
    pub fn spec(&self) -> v1::AgentSpec {
        let runtime = match self.runtime {
            RuntimeKind::Process => v1::Runtime::Process,
            RuntimeKind::Command => v1::Runtime::Command,
        };
        v1::AgentSpec {
            pool: self.pool.clone(),
            capabilities: self.capabilities.clone(),
            labels: self.labels.clone(),
            slots: self.slots,
            runtime: runtime.into(),
        }
    }
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("id", &self.id)
            .field("runtime", &self.runtime)
            .field("capabilities", &self.capabilities)
            .field("pool", &self.pool)
            .field("slots", &self.slots)
            .field("argv", &self.argv)
            .field("env", &self.env.keys())
            .finish_non_exhaustive()
    }
}

/// One fault of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where, such as `agents[0].slots`.
    pub field: String,
    /// What is wrong and what would be right.
    pub problem: String,
}

/// The configuration cannot be used; all faults at once.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file named cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML: {message}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why, over several lines.
        message: String,
    },
    /// Values are missing or wrong.
    #[error("the configuration has {} fault(s):{}", .0.len(), lines(.0))]
    Faults(Vec<Fault>),
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|f| format!("\n  {}: {}", f.field, f.problem)).collect()
}
