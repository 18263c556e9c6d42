//! The whole server: `run(config, listeners, shutdown)`. Built in the order of dependence, ended
//! in reverse. What `main` prepares (flags, logging, ports, signals) is not its business.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::api::Identity;
use crate::assemble::Sources;
use crate::config::{Config, Shutdown, StoreKind};
use crate::listen::Listener;
use crate::metrics::{self, Metrics};
use crate::server::{self, Ending, Health, Readiness, Routes, Settings};
use crate::store::embedded::ClusterId;
use crate::store::etcd::BadOptions;
use crate::store::{OpenError, Store};
use crate::tasks::{Failure, TaskKind, Tasks};
use crate::{assemble, clock, driver, ops, tls};

/// The ports, bound.
pub struct Listeners<L> {
    /// Clients and sidecars.
    pub main: L,
    /// Health and metrics.
    pub ops: L,
}

/// Why the server did not run, or not to its orderly end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Metrics could not start.
    #[error("cannot start")]
    Metrics(#[from] metrics::Error),
    /// A port could not be served.
    #[error("cannot serve")]
    Serve(#[from] server::Error),
    /// The certificates could not be used.
    #[error("cannot serve TLS")]
    Tls(#[from] tls::Error),
    /// The store could not be opened.
    #[error("cannot open the store")]
    Open(#[from] OpenError),
    /// etcd's settings can't be meant.
    #[error("cannot use etcd")]
    Etcd(#[from] BadOptions),
    /// The store could not be taken over.
    #[error("cannot take the store over")]
    Driver(#[from] driver::Error),
    /// The file that says we are ready could not be written.
    #[error("ready_file {path:?} cannot be written")]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// Something the server cannot do without failed; it has shut down in order.
    #[error("stopped by a failure")]
    Failed(#[source] Failure),
    /// Connections or tasks were left after the drain and the time given to cut them.
    #[error("not everything ended within the time to stop; what was left has been cut")]
    Overrun,
}

/// Runs until `shutdown` is cancelled or something critical fails, then stops in order.
///
/// # Errors
/// See [`Error`]; a requested and orderly stop is no error.
pub async fn run<L: Listener>(
    config: Config,
    listeners: Listeners<L>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    match config.store_kind {
        StoreKind::Embedded => {
            let store = assemble::open(&config)?;
            let cluster = store.identity().cluster;
            run_with(config, listeners, store, cluster, Sources::real(), shutdown).await
        }
        StoreKind::Etcd => {
            let store = assemble::etcd(&config)?;
            let cluster = store.cluster().await?;
            run_with(config, listeners, store, cluster, Sources::real(), shutdown).await
        }
    }
}

/// As [`run`], over a store, time and chance of the caller's choice.
///
/// # Errors
/// As [`run`].
pub async fn run_with<L: Listener, S: Store>(
    config: Config,
    listeners: Listeners<L>,
    store: S,
    cluster: ClusterId,
    sources: Sources,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    // Two sets of tasks: the edge (connections, sessions, streams) stops first, the core (driver,
    // store) when no call needs it any more.
    let edge = Tasks::new(&shutdown);
    let core_stop = CancellationToken::new();
    let core = Tasks::new(&core_stop);
    let _guards = (edge.stopping().drop_guard(), core_stop.clone().drop_guard());

    let address = listeners.main.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let identity = Identity {
        cluster_id: format!("{:032x}", cluster.0),
        replica_id: match config.store_kind {
            StoreKind::Embedded => "embedded".to_owned(),
            StoreKind::Etcd => assemble::host(),
        },
        endpoint: format!("{}://{address}", if config.tls.is_some() { "https" } else { "http" }),
        security: config.security(),
    };
    let (routes, _handle) = assemble::services(&config, store, identity, sources, &core, &edge).await?;

    // Who learns later that it cannot serve (a store that fails) says so by a clone of this.
    let health = Health::starting(routes.names().collect::<Vec<_>>()).await;
    let broken = core.stopping();
    let served = tokio::select! {
        served = serve(&config, listeners, routes, &health, &edge, shutdown.clone()) => served,
        // A core that fails stops the edge as a signal would, and `serve` goes on to drain.
        never = stop_after(broken, &shutdown) => match never {},
    };
    core_stop.cancel();
    let ended = tokio::time::timeout(CUT, core.ended_all()).await;
    match core.failure() {
        Some(failure) => Err(Error::Failed(failure)),
        None => served.and(ended.map_err(|_| Error::Overrun)),
    }
}

async fn stop_after(broken: CancellationToken, shutdown: &CancellationToken) -> Infallible {
    broken.cancelled().await;
    shutdown.cancel();
    std::future::pending().await
}

/// Serves `routes` and the ops port until the server is to stop, then drains.
///
/// # Errors
/// See [`Error`].
pub async fn serve<L: Listener>(
    config: &Config,
    listeners: Listeners<L>,
    routes: Routes,
    health: &Health,
    tasks: &Tasks,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics = metrics::install()?;
    let tls = match &config.tls {
        None => None,
        Some(files) => {
            let (acceptor, reloader) = tls::open(files, config.tls_watch.poll)?;
            if !acceptor.asks() {
                tracing::warn!(
                    "tls.client_ca is not set: whoever reaches this port may call, and sidecars are not told apart"
                );
            }
            tasks.spawn(TaskKind::Upkeep, reloader.run());
            Some(acceptor)
        }
    };
    let (ending, ops_end) = (Ending::default(), CancellationToken::new());
    // No connection outlives this function, whichever way it ends.
    let _guards = (ops_end.clone().drop_guard(), ending.connections.clone().drop_guard());
    let addresses = (listeners.main.local_addr(), listeners.ops.local_addr());
    let settings =
        Settings { reflection: config.reflection, limits: &config.limits, transport: &config.transport, tls };
    tasks.spawn(TaskKind::Upkeep, upkeep(metrics.clone()));
    // The ops port has tasks of its own: it outlives the others, to show how the stop goes.
    let ops_tasks = Tasks::new(&ops_end);
    ops::serve(&ops_tasks, listeners.ops, metrics, health, &settings, ops_end.clone())?;
    server::serve(tasks, listeners.main, routes, health, &settings, &ending)?;
    health.set(Readiness::Ready).await;
    if let Some(path) = &config.ready_file {
        let write = || write_ready(path, &addresses.0?, &addresses.1?);
        write().map_err(|source| Error::ReadyFile { path: path.clone(), source })?;
    }
    tracing::info!("serving");

    tokio::select! {
        () = tasks.stopping().cancelled_owned() => {}
        () = ops_tasks.stopping().cancelled_owned() => {}
    }
    // Also after a failure: whoever runs us limits the time that stopping takes.
    shutdown.cancel();
    health.set(Readiness::Stopping).await;
    let drained = drain(tasks, &ending, &config.shutdown).await;
    ops_end.cancel();
    let ended = tokio::time::timeout(CUT, ops_tasks.ended_all()).await;
    match tasks.failure().or_else(|| ops_tasks.failure()) {
        Some(failure) => Err(Error::Failed(failure)),
        None if drained && ended.is_ok() => Ok(()),
        None => Err(Error::Overrun),
    }
}

/// Time for goodbyes on streams of ours; then they are ended for them.
const GOODBYES: Duration = Duration::from_secs(3);
/// Time for tasks to notice that their connections have been cut.
const CUT: Duration = Duration::from_secs(3);

/// Streams end themselves, then are ended; calls finish; what is left after the drain is cut.
/// Waiting for clients to leave would take as long as the slowest of them likes.
async fn drain(tasks: &Tasks, ending: &Ending, times: &Shutdown) -> bool {
    tracing::info!(drain_ms = times.drain.as_millis(), "stopping");
    let begun = clock::monotonic();
    if tokio::time::timeout(GOODBYES.min(times.drain / 2), tasks.ended_all()).await.is_ok() {
        return true;
    }
    ending.streams.cancel();
    if tokio::time::timeout_at(begun + times.drain, tasks.ended_all()).await.is_ok() {
        return true;
    }
    tracing::warn!("calls were still in progress after the drain; cutting their connections");
    ending.connections.cancel();
    tokio::time::timeout(CUT, tasks.ended_all()).await.is_ok()
}

/// Tells where we listen. A reader sees nothing or all of it.
fn write_ready(path: &Path, listen: &SocketAddr, ops_listen: &SocketAddr) -> io::Result<()> {
    let text = serde_json::json!({
        "listen": listen.to_string(),
        "ops_listen": ops_listen.to_string(),
        "pid": std::process::id(),
    });
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    std::fs::write(&part, format!("{text}\n"))?;
    std::fs::rename(&part, path)
}

async fn upkeep(metrics: Metrics) -> crate::tasks::Outcome {
    let mut every = tokio::time::interval(metrics::UPKEEP_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        every.tick().await;
        metrics.upkeep();
    }
}
