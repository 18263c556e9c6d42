//! Store, driver, sessions and API, built in the order of dependence.

use std::sync::Arc;
use std::time::Duration;

use hive_core::settings::{Liveness, Retention, Settings};
use hive_core::time::Time;
use hive_proto::sidecar_v1::sidecar_service_server::SidecarServiceServer;
use hive_proto::tls::ClientTls;
use hive_proto::v1::agent_service_server::AgentServiceServer;
use hive_proto::v1::cluster_service_server::ClusterServiceServer;
use hive_proto::v1::task_service_server::TaskServiceServer;

use crate::api::{Agents, Cluster, Identity, TaskApi, Watches};
use crate::clock::ClusterClock;
use crate::config::Config;
use crate::driver::{self, Handle};
use crate::server::Routes;
use crate::session::{Logs, Sidecars};
use crate::store::embedded::{ClusterId, Options};
use crate::store::etcd::{self, BadOptions};
use crate::store::{Embedded, Etcd, OpenError, Store};
use crate::tasks::{TaskKind, Tasks};

/// Opens the store of one machine. Blocks while the store verifies itself.
///
/// # Errors
/// See [`OpenError`].
pub fn open(config: &Config) -> Result<Embedded, OpenError> {
    let mut options = Options::new(ClusterId(random()), ClusterClock::start(Time::ZERO).now());
    options.shed_below = config.store.min_free.0;
    options.ballast = config.store.ballast.0;
    Embedded::open(&config.data, &options)
}

/// A handle on etcd, not dialled yet.
///
/// # Errors
/// See [`BadOptions`].
pub fn etcd(config: &Config) -> Result<Etcd, BadOptions> {
    let settings = &config.etcd;
    let pair = settings.pair.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    Etcd::new(etcd::Options {
        user: settings
            .user
            .as_ref()
            .map(|(name, password)| etcd::User { name: name.clone(), password: password.reveal().to_owned() }),
        tls: settings.ca.as_deref().map(|ca| ClientTls::new(ca, pair)),
        call: settings.call,
        patience: settings.patience,
        quota: settings.quota.0,
        ..etcd::Options::new(settings.endpoints.clone(), &settings.cluster, host(), random())
    })
}

/// This machine's name, for people.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[expect(clippy::disallowed_methods, reason = "a new cluster's name and a seed for jitter; nothing is decided by it")]
fn random() -> u128 {
    // Of a version 7 UUID the low half is random; two make a whole.
    let half = || uuid::Uuid::now_v7().as_u128() & u128::from(u64::MAX >> 2);
    (half() << 64) ^ (half() << 2) ^ half()
}

/// The rules' share of the configuration.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    let session = &config.session;
    Settings {
        max_pending: config.limits.pending_tasks,
        cancel_grace: config.task.cancel_grace,
        report_margin: Duration::from_secs(5),
        id_window: config.limits.id_ahead,
        liveness: Liveness {
            min_beat: session.beat,
            beats_per_second: session.beats_per_second,
            jitter_permille: (session.beat_jitter * 1000.0).round() as u32,
            suspect_beats: session.suspect_beats,
            min_grace: session.lost,
            grace_beats: session.lost_beats,
            min_kill: session.kill,
            kill_beats: session.kill_beats,
            kill_margin: session.kill_margin,
            receipt: session.receipt,
            ..Liveness::default()
        },
        retention: Retention {
            age: config.retention.age,
            count: config.retention.tasks,
            bytes: config.retention.bytes.0,
            min_age: config.retention.at_least,
        },
        ..Settings::default()
    }
}

/// Where time and chance come from.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// Starts cluster time after the latest stamp found in the store.
    pub clock: fn(Time) -> ClusterClock,
    /// Of jitter and nonces.
    pub seed: u64,
}

impl Sources {
    /// This machine's.
    #[must_use]
    pub fn real() -> Self {
        Self { clock: ClusterClock::start, seed: u64::try_from(random() >> 64).unwrap_or(0) }
    }
}

/// Starts the driver over a store and returns the services to be served.
///
/// # Errors
/// The store can't be taken over.
pub async fn services<S: Store>(
    config: &Config,
    store: S,
    identity: Identity,
    sources: Sources,
    core: &Tasks,
    edge: &Tasks,
) -> Result<(Routes, Handle), driver::Error> {
    let store = Arc::new(store);
    let (driver, handle) =
        driver::prepare(Arc::clone(&store), settings(config), config.namespaces.clone(), sources).await?;
    core.spawn(TaskKind::Driver, driver.run(core.stopping(), edge.stopping()));

    let kept = Arc::clone(&store);
    let upkeep = async move {
        kept.upkeep().await;
        Ok(())
    };
    core.spawn(TaskKind::Upkeep, upkeep);

    let logs = Logs::default();
    let watches = Watches::new(edge.clone(), config.limits.watches, &config.watch);
    let content = config.limits.content();
    let hello = config.session.hello;
    let tasks = TaskApi::new(handle.clone(), Arc::clone(&store), watches.clone(), logs.clone(), config);
    let agents = Agents::new(handle.clone(), watches, config);
    let cluster_id = identity.cluster_id.clone();
    let cluster = Cluster::new(handle.clone(), Arc::clone(&store), identity);
    let sidecars = Sidecars::new(handle.clone(), store, logs, edge.clone(), hello, content, &cluster_id);

    let limit = usize::try_from(config.limits.message_bytes.0).unwrap_or(usize::MAX);
    macro_rules! sized {
        ($server:expr) => {
            $server.max_decoding_message_size(limit).max_encoding_message_size(limit)
        };
    }
    let routes = Routes::of_hive()
        .with_service(sized!(TaskServiceServer::new(tasks)))
        .with_service(sized!(AgentServiceServer::new(agents)))
        .with_service(sized!(ClusterServiceServer::new(cluster)))
        .with_service(sized!(SidecarServiceServer::new(sidecars)));
    Ok((routes, handle))
}
