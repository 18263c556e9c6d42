//! The sidecar: speaks to the control plane for the agents beside it and owns their processes.
//!
//! [`session`] decides, [`driver`] carries out, [`journal`] remembers, [`upstream`] talks, [`runtime`]
//! runs. [`main`] is the program, [`run`] all of it but the command line.

pub mod attempt;
mod cli;
pub mod clock;
pub mod config;
pub mod driver;
pub mod journal;
pub mod local;
pub mod mutant;
pub mod output;
pub mod runtime;
pub mod session;
pub mod shim;
pub mod tasks;
pub mod upstream;

use std::process::ExitCode;

use hive_proto::tls::ClientTls;
use tokio::sync::mpsc;

use attempt::AttemptKey;
use clock::Clock;
use config::{AgentConfig, SidecarConfig};
use driver::{Parts, Runtimes};
use journal::{Journal, Limits, Syncing};
use runtime::{Dirs, RuntimeCommand, RuntimeEvent};
use session::{ExitReason, Session, Settings};
use tasks::Tasks;
use upstream::{Connect, Tcp};

/// The sidecar could not start, or could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal cannot be used.
    #[error("cannot open the journal")]
    Journal(#[from] journal::Error),
    /// The control plane's URL is not one.
    #[error("cannot use {server} as the control plane's address")]
    Server {
        /// As configured.
        server: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The certificates cannot be used.
    #[error("cannot use the certificates")]
    Tls(#[from] hive_proto::tls::Error),
    /// The state or socket folder cannot be named.
    #[error("cannot make the state and socket folders absolute")]
    Folder(#[source] std::io::Error),
    /// No random numbers.
    #[error("cannot read random numbers")]
    Random(#[source] std::io::Error),
    /// Signals cannot be heard.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// A part is gone.
    #[error("the sidecar cannot go on")]
    Driver(#[from] driver::Error),
}

/// Runs the sidecar until it ends. Each message of `shutdown` asks it to stop, the second one hard.
///
/// # Errors
/// It could not start, or could not go on.
pub async fn run(config: SidecarConfig, shutdown: mpsc::Receiver<()>) -> Result<ExitReason, Error> {
    let absolute = |path: &std::path::Path| std::path::absolute(path).map_err(Error::Folder);
    let dirs = Dirs::new(absolute(&config.state_dir)?, absolute(&config.socket_dir)?);
    let tls = config
        .tls
        .as_ref()
        .map(|files| ClientTls::new(&files.ca, files.pair.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()))));
    // Later they may be broken for a moment, while they are renewed.
    tls.as_ref().map_or(Ok(()), ClientTls::check)?;
    run_with(config, Tcp { tls }, Real(dirs), Limits::default(), shutdown).await
}

/// As [`run`], over a network, runtimes and journal limits of the caller's choice.
///
/// # Errors
/// As [`run`].
pub async fn run_with<C: Connect, R: Runtimes>(
    config: SidecarConfig,
    connect: C,
    runtimes: R,
    limits: Limits,
    shutdown: mpsc::Receiver<()>,
) -> Result<ExitReason, Error> {
    let rng = Box::new(clock::rng().map_err(Error::Random)?);
    let sources = Sources { clock: Clock::real(), rng, syncing: Syncing::AsNeeded };
    run_from(config, connect, runtimes, limits, sources, shutdown).await
}

/// Where time and chance come from, and whether the disk is waited for: what a simulation brings itself.
pub struct Sources {
    /// The session's time.
    pub clock: Clock,
    /// The session's random numbers.
    pub rng: Box<dyn FnMut() -> u64 + Send>,
    /// Whether the journal waits for the disk.
    pub syncing: Syncing,
}

/// As [`run_with`], from sources of the caller's choice.
///
/// # Errors
/// As [`run`].
pub async fn run_from<C: Connect, R: Runtimes>(
    config: SidecarConfig,
    connect: C,
    runtimes: R,
    limits: Limits,
    sources: Sources,
    shutdown: mpsc::Receiver<()>,
) -> Result<ExitReason, Error> {
    let endpoint = upstream::endpoint(&config.server);
    let endpoint = endpoint.map_err(|source| Error::Server { server: config.server.clone(), source })?;
    let Sources { clock, rng, syncing } = sources;
    let (journal, recovered) = Journal::open(&config.state_dir, limits)?;
    let session = Session::new(Settings::new(&config));
    tracing::info!(
        id = config.id,
        namespace = config.namespace,
        server = config.server,
        agents = config.agents.len(),
        unfinished = recovered.attempts.len(),
        "the sidecar starts"
    );
    let (agents, state_dir, tasks) = (config.agents, config.state_dir, Tasks::new());
    let journal = (journal, recovered, syncing);
    let parts = Parts { connect, endpoint, runtimes, agents, journal, state_dir, session, clock, rng, tasks };
    Ok(driver::run(parts, shutdown).await?)
}

/// Programs and sockets of this machine.
struct Real(Dirs);

impl Runtimes for Real {
    fn end_strays(&self, declared: &[AgentConfig], tasks: &Tasks) {
        let declared: Vec<String> = declared.iter().map(|agent| agent.id.clone()).collect();
        runtime::strays::end(&self.0, &declared, tasks);
    }

    fn spawn(
        &self,
        agent: &AgentConfig,
        adopt: Vec<AttemptKey>,
        events: mpsc::Sender<RuntimeEvent>,
        tasks: &Tasks,
    ) -> mpsc::Sender<RuntimeCommand> {
        runtime::spawn(agent.clone(), self.0.clone(), adopt, events, tasks)
    }
}

/// Runs the program: the sidecar, or the shim it starts itself as.
#[must_use]
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "shim") { shim::main() } else { cli::main() }
}
