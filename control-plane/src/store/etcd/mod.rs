//! The store of several machines: etcd.
//!
//! A commit is one transaction that compares the leader's key (the fence) and the last commit's
//! stamp, and writes the next stamp. One of unknown outcome is sent again as it is until etcd says what
//! became of it; when time is up, [`Store::acquire`] settles it: a new fence keeps the old one out
//! for good. etcd must take requests of 1.5 MiB and 128 operations, its defaults.

mod acquire;
mod commit;
mod keys;
mod position;
mod request;
mod ring;
mod verdict;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hive_core::id::{LeaderEpoch, Revision};
use hive_proto::tls::ClientTls;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::keys::Keys;
use self::position::Stamp;
use self::ring::Ring;
use super::embedded::ClusterId;
use super::{CommitError, Health, Loaded, OpenError, ReadError, Store, Transaction};
use crate::clock;

/// Version of keys and records that this version writes and reads.
pub const FORMAT: u32 = 1;

/// etcd takes 128; one is the stamp.
const MAX_OPS: usize = super::MAX_OPS - 1;

/// New submissions are shed from this share of the quota on, in percent.
const SHED_FROM: u64 = 70;

/// Size and alarms are asked for this often.
const MEASURE_EVERY: Duration = Duration::from_secs(5);

/// Who asks, where etcd has authentication.
#[derive(Clone)]
pub struct User {
    /// Name.
    pub name: String,
    /// Password; not printed.
    pub password: String,
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How etcd is reached and used.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of the members, `http://host:port`, or `https://host:port` with `tls`.
    pub endpoints: Vec<String>,
    /// Name of the cluster; its keys are under `/hive/<name>/`.
    pub cluster: String,
    /// Name of this replica, for people who look at the leader's key.
    pub holder: String,
    /// Where etcd has authentication.
    pub user: Option<User>,
    /// Whom to trust, and what to show, where etcd speaks TLS. Read anew at each connection.
    pub tls: Option<ClientTls>,
    /// One try of one call.
    pub call: Duration,
    /// All tries of one call or commit.
    pub patience: Duration,
    /// etcd's quota of its database in bytes, as etcd was told.
    pub quota: u64,
    /// Random: tells this process's tries for the lead from any other's, and names a new cluster.
    pub random: u128,
}

impl Options {
    /// The defaults: 3 s for a call, 10 s for all its tries, 2 GiB.
    #[must_use]
    pub fn new(endpoints: Vec<String>, cluster: impl Into<String>, holder: impl Into<String>, random: u128) -> Self {
        Self {
            endpoints,
            cluster: cluster.into(),
            holder: holder.into(),
            user: None,
            tls: None,
            call: Duration::from_secs(3),
            patience: Duration::from_secs(10),
            quota: 2 << 30,
            random,
        }
    }
}

/// Options that can't be meant.
#[derive(Debug, thiserror::Error)]
pub enum BadOptions {
    /// No member is named.
    #[error("no endpoint of etcd is named")]
    NoEndpoint,
    /// An address is none.
    #[error("{0:?} is no address of an etcd member: write http://host:port, or https://host:port with a CA")]
    Endpoint(String),
    /// The name of the cluster can't be part of a key.
    #[error("{0:?} can't be a cluster's name: 1 to 63 bytes without a slash")]
    Cluster(String),
}

/// A handle on etcd. Dials when it is first used.
#[derive(Debug)]
pub struct Etcd {
    ring: Ring,
    keys: Keys,
    options: Options,
    /// Held while a transaction flies: there is one at a time.
    lead: Mutex<Lead>,
    open: AtomicBool,
    no_space: AtomicBool,
    /// Largest database of a member, as last measured.
    size: AtomicU64,
}

/// What this process knows of the lead.
#[derive(Debug, Default)]
struct Lead {
    /// The last commit it saw.
    last: Stamp,
    /// The one it was told has landed last, and in which generation.
    acknowledged: Option<Revision>,
    /// A transaction was sent and nobody knows what became of it.
    doubt: bool,
    /// Tries for the lead so far.
    tries: u64,
}

impl Etcd {
    /// A handle; nothing is dialled yet.
    ///
    /// # Errors
    /// The options can't be meant.
    pub fn new(options: Options) -> Result<Self, BadOptions> {
        Ok(Self {
            ring: Ring::new(&options)?,
            keys: Keys::new(&options.cluster).ok_or_else(|| BadOptions::Cluster(options.cluster.clone()))?,
            options,
            lead: Mutex::default(),
            open: AtomicBool::new(false),
            no_space: AtomicBool::new(false),
            size: AtomicU64::new(0),
        })
    }

    /// The cluster's own name; names it if it is new.
    ///
    /// # Errors
    /// etcd can't be reached, or holds what this version can't use.
    pub async fn cluster(&self) -> Result<ClusterId, OpenError> {
        Ok(self.format().await?.cluster)
    }

    /// Asks every member for its size and its alarms, for [`Store::health`]. To be repeated every few
    /// seconds, as [`Store::upkeep`] does.
    pub async fn measure(&self) {
        let statuses = self.ring.statuses().await;
        let Some(largest) = statuses.iter().map(|status| status.db_size.unsigned_abs()).max() else { return };
        let alarmed = statuses.iter().any(|status| status.errors.iter().any(|error| error.contains("NOSPACE")));
        self.size.store(largest, Ordering::Relaxed);
        self.no_space.store(alarmed, Ordering::Relaxed);
    }

    fn deadline(&self) -> Instant {
        clock::monotonic() + self.options.patience
    }
}

impl Store for Etcd {
    async fn acquire(&self) -> Result<Loaded, OpenError> {
        let mut lead = self.lead.lock().await;
        let loaded = self.take_lead(&mut lead).await?;
        self.open.store(true, Ordering::Relaxed);
        Ok(loaded)
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        tx.check(MAX_OPS).map_err(CommitError::Refused)?;
        let mut lead = self.lead.lock().await;
        let result = self.settle(&mut lead, &tx).await;
        self.open.store(!lead.doubt, Ordering::Relaxed);
        result
    }

    async fn blob(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let request = request::get(self.keys.of(key));
        let answer = self.ring.call(self.deadline(), |mut kv| {
            let request = request.clone();
            async move { kv.range(request).await }
        });
        let found = answer.await.map_err(|failed| ReadError::Engine(failed.cause))?.response;
        Ok(found.kvs.into_iter().next().map(|kv| kv.value))
    }

    async fn upkeep(&self) {
        loop {
            self.measure().await;
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    fn max_ops(&self) -> usize {
        MAX_OPS
    }

    fn health(&self) -> Health {
        let store_bytes = self.size.load(Ordering::Relaxed);
        let no_space = self.no_space.load(Ordering::Relaxed);
        Health {
            free_bytes: self.options.quota.saturating_sub(store_bytes),
            store_bytes,
            shedding: no_space || store_bytes >= self.options.quota / 100 * SHED_FROM,
            ballast_released: false,
            open: self.open.load(Ordering::Relaxed),
        }
    }
}

/// The epoch that etcd's revision of the leader's key stands for.
fn epoch(cluster_generation: u64, revision: i64) -> LeaderEpoch {
    LeaderEpoch { cluster_generation, number: revision.unsigned_abs() }
}
