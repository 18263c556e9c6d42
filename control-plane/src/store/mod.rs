//! Durable state as keys and values: who may write, in what order, and what is known afterwards.
//!
//! A store holds *records* under `s/…`, which every replica follows and a leader loads whole, and
//! *blobs* under `b/…`, read one at a time. It keeps three things in step with them: the leader
//! epoch (the fence), the number of the last commit, and cluster time. What the bytes mean is for
//! the record codec; what to write, and when, is for the driver.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use hive_core::id::{LeaderEpoch, Revision};
use hive_core::time::Time;

pub mod codec;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod embedded;
pub mod etcd;

pub use embedded::Embedded;
pub use etcd::Etcd;

/// Prefix of every followed record.
pub const RECORDS: &[u8] = b"s/";
/// Prefix of every blob.
pub const BLOBS: &[u8] = b"b/";
/// Most operations in one transaction unless the store says otherwise.
pub const MAX_OPS: usize = 128;
/// Most bytes of keys and values in one transaction: a batch of 1 MiB and one payload on top. etcd
/// takes requests of 1.5 MiB; the rest is left for the cluster's prefix and for framing.
pub const MAX_BYTES: usize = (1 << 20) + (480 << 10);
/// Longest key in bytes.
pub const MAX_KEY: usize = 1024;

type Cause = Box<dyn StdError + Send + Sync>;

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value, new or in place of the old one.
    Put {
        /// Key, beginning with [`RECORDS`] or [`BLOBS`].
        key: Bytes,
        /// Value.
        value: Bytes,
    },
    /// Removes a key. One that is not there is no error.
    Delete {
        /// Key, beginning with [`RECORDS`] or [`BLOBS`].
        key: Bytes,
    },
}

impl Op {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        }
    }
}

/// Changes that become durable together or not at all, in their order: the last one of a key wins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Epoch of the leader that decided it.
    pub fence: LeaderEpoch,
    /// Number of the commit it was decided upon.
    pub prev_seq: u64,
    /// Its own number: `prev_seq + 1`.
    pub seq: u64,
    /// Tells this transaction from any other with the same number, once its fate is looked up.
    pub nonce: u64,
    /// Cluster time of the decision. An earlier time than the last one's is raised to it.
    pub time: Time,
    /// The changes; none at all is a commit that only proves the lead.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// The limits and the form that every store asks for; `max_ops` is the store's own.
    ///
    /// # Errors
    /// [`RefusedReason::TooLarge`] or [`RefusedReason::Malformed`].
    pub fn check(&self, max_ops: usize) -> Result<(), RefusedReason> {
        let known = |key: &[u8]| key.starts_with(RECORDS) || key.starts_with(BLOBS);
        if Some(self.seq) != self.prev_seq.checked_add(1) || !self.ops.iter().all(|op| known(op.key())) {
            return Err(RefusedReason::Malformed);
        }
        let bytes: usize = self.ops.iter().map(Op::bytes).sum();
        let longest = self.ops.iter().map(|op| op.key().len()).max().unwrap_or(0);
        if self.ops.len() > max_ops || bytes > MAX_BYTES || longest > MAX_KEY {
            return Err(RefusedReason::TooLarge);
        }
        Ok(())
    }
}

/// What a leader starts from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The epoch just won; older ones are fenced off.
    pub epoch: LeaderEpoch,
    /// Number of the last commit; 0 in a new store.
    pub seq: u64,
    /// Nonce of the last commit: settles whether one of unknown outcome landed.
    pub nonce: u64,
    /// Cluster time of the last commit.
    pub time: Time,
    /// All records, no blob, in key order.
    pub records: Vec<(Bytes, Bytes)>,
}

/// State of the store for `/metrics`, readiness and shedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Space left on the file system, in bytes.
    pub free_bytes: u64,
    /// Space the store takes, in bytes.
    pub store_bytes: u64,
    /// New submissions should be refused until there is more space.
    pub shedding: bool,
    /// The disk was full: the reserve has been given up so that retention can delete.
    pub ballast_released: bool,
    /// Commits are taken; false between a failed one and the next [`Store::acquire`].
    pub open: bool,
}

/// Durable records, blobs and the fence around them. Handles are shared; one transaction flies at
/// a time.
pub trait Store: Send + Sync + 'static {
    /// Takes the lead: raises the epoch durably, which fences off every older one, settles a
    /// commit of unknown outcome, and loads all records.
    ///
    /// # Errors
    /// The store can't be read or written, or what it holds can't be trusted.
    fn acquire(&self) -> impl Future<Output = Result<Loaded, OpenError>> + Send;

    /// Makes a transaction durable. Dropping the future does not take it back.
    ///
    /// # Errors
    /// After [`CommitError::Unknown`] only [`Store::acquire`] tells whether it landed; all other
    /// errors say that nothing was written.
    fn commit(&self, tx: Transaction) -> impl Future<Output = Result<Revision, CommitError>> + Send;

    /// Reads one blob as of the last commit.
    ///
    /// # Errors
    /// The store is closed or can't be read. A blob that is not there is `None`.
    fn blob(&self, key: &[u8]) -> impl Future<Output = Result<Option<Bytes>, ReadError>> + Send;

    /// Space and openness, cheap enough for every submission.
    fn health(&self) -> Health;

    /// Housekeeping for as long as the store is used; never ends. What it can't do now it does later.
    fn upkeep(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Most operations it takes in one transaction. The more, the fewer syncs a busy leader waits for.
    fn max_ops(&self) -> usize {
        MAX_OPS
    }
}

/// Why a store can't be opened or taken over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder holds something that is not ours.
    #[error(
        "{folder} is not a Hive data folder but is not empty (found {found}): name an empty or a new folder with --data",
        folder = folder.display()
    )]
    Foreign {
        /// The folder.
        folder: PathBuf,
        /// Some of what is in it.
        found: String,
    },
    /// The folder was written by a later version.
    #[error(
        "{folder} has format {found}, this version reads up to {supported}: run the version that wrote it, or restore an older backup into a new folder",
        folder = folder.display()
    )]
    NewerFormat {
        /// The folder.
        folder: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// Another process uses the folder.
    #[error(
        "another process{} holds {lock}: stop it, or name another folder with --data",
        holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        lock = lock.display()
    )]
    Locked {
        /// The lock file.
        lock: PathBuf,
        /// Who holds it, if the file says so.
        holder: Option<u32>,
    },
    /// The folder is ours, but what it holds can't be trusted. It stays so until somebody decides.
    #[error("{folder} is damaged: {what}. Restore a backup into a new folder; keep this one for inspection", folder = folder.display())]
    Damaged {
        /// The folder.
        folder: PathBuf,
        /// What is wrong.
        what: String,
        /// What the engine said.
        #[source]
        source: Option<Cause>,
    },
    /// The operating system refused a step.
    #[error("can't {step} {path}", path = path.display())]
    Io {
        /// The step, as a verb.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// etcd gave no useful answer in time.
    #[error("can't {step} in etcd ({endpoints})")]
    Etcd {
        /// The step, as a verb.
        step: &'static str,
        /// Where.
        endpoints: String,
        /// What the last answer was.
        #[source]
        source: Cause,
    },
    /// What etcd holds can't be trusted, or is not for this version. It stays so until somebody decides.
    #[error("what etcd holds under {prefix} can't be used: {what}")]
    Keys {
        /// The cluster's prefix.
        prefix: String,
        /// What is wrong.
        what: String,
    },
    /// The thread that owns the store has ended.
    #[error("the store has stopped")]
    Stopped,
}

impl OpenError {
    /// Whether the same call may succeed later with nobody repairing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Locked { .. } | Self::Io { .. } | Self::Etcd { .. })
    }
}

/// Why nothing was written although the store is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    /// More than [`Store::max_ops`], [`MAX_BYTES`] or [`MAX_KEY`].
    #[error("it is too large")]
    TooLarge,
    /// The disk is full.
    #[error("there is no space left")]
    NoSpace,
    /// A key without a known prefix, or a number that is not the next one: a bug of the caller.
    #[error("it is malformed")]
    Malformed,
}

/// Why a commit was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another leader has been there: step down. If the store had to send the transaction again, and
    /// later leaders have written since, it can't tell whether the first sending had landed.
    #[error("the lead was lost to epoch {current}")]
    Fenced {
        /// The epoch that holds the lead.
        current: LeaderEpoch,
    },
    /// The transaction was decided upon another commit than the last one.
    #[error("the last commit is {found}")]
    SeqDiffers {
        /// Number of the last commit.
        found: u64,
        /// Its nonce: equal to the refused one's if that had landed before.
        nonce: u64,
    },
    /// The store will not take this transaction.
    #[error("the transaction was refused: {0}")]
    Refused(RefusedReason),
    /// It may or may not have landed: [`Store::acquire`], then compare `seq` and `nonce`. Every
    /// commit until then gets the same answer and writes nothing.
    #[error("the outcome of the commit is unknown")]
    Unknown(#[source] Cause),
}

impl CommitError {
    /// Whether the same transaction may be sent again as it is, later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Refused(RefusedReason::NoSpace))
    }
}

/// Why a blob can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// An earlier commit failed and the store has not been taken over since.
    #[error("the store is closed after a failed commit")]
    Closed,
    /// The engine could not read it.
    #[error("the blob can't be read")]
    Engine(#[source] Cause),
    /// The thread that reads has ended.
    #[error("the store has stopped")]
    Stopped,
}

impl ReadError {
    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Closed)
    }
}
