//! The store of one machine: a folder, a database in it, and the thread that writes.
//!
//! One thread owns the database and makes each transaction durable with one fdatasync; another
//! reads blobs. After an I/O error the database is dropped; [`Store::acquire`] opens it again,
//! which settles what was unknown, and raises the epoch, so a store takes over from itself.

mod disk;
mod engine;
#[cfg(any(test, feature = "conformance"))]
pub mod faults;
mod folder;
mod space;
mod stamp;
mod writer;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use hive_core::id::{LeaderEpoch, Revision};
use hive_core::time::Time;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::disk::Trace;
use self::engine::Engine;
pub use self::folder::{ClusterId, FORMAT, Identity};
use self::folder::{Folder, failed};
use self::stamp::{Beside, Stamp};
use self::writer::{Job, Writer};
use super::{CommitError, Health, Loaded, OpenError, ReadError, Store, Transaction};
use crate::clock;

/// Jobs waiting for a thread of the store; a caller beyond that waits.
const QUEUE: usize = 64;

/// Most operations in one transaction: from about 256 on, throughput no longer hangs on the syncs.
const MAX_OPS: usize = 1_024;

/// The file system is asked for space this often; what the limit keeps free is enough for the meantime.
const SPACE_AGE: Duration = Duration::from_millis(50);

/// How a data folder is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name for the cluster if the folder is new.
    pub cluster: ClusterId,
    /// Time of making if the folder is new, and the first cluster time.
    pub now: Time,
    /// Submissions are shed below this many free bytes.
    pub shed_below: u64,
    /// Size of the ballast file in bytes; 0 for none.
    pub ballast: u64,
    /// Disk errors for tests.
    #[cfg(any(test, feature = "conformance"))]
    pub faults: faults::Faults,
}

impl Options {
    /// The defaults: shedding below 512 MiB, 64 MiB of ballast.
    #[must_use]
    pub fn new(cluster: ClusterId, now: Time) -> Self {
        Self {
            cluster,
            now,
            shed_below: 512 << 20,
            ballast: 64 << 20,
            #[cfg(any(test, feature = "conformance"))]
            faults: faults::Faults::default(),
        }
    }
}

/// What the threads and the handles share.
#[derive(Debug)]
struct Shared {
    /// `None` between a failed commit and the next acquire. Read-locked for one blob at a time.
    engine: RwLock<Option<Engine>>,
    ballast_released: AtomicBool,
    folder: PathBuf,
    shed_below: u64,
    /// Free bytes and bytes taken, as of when.
    measured: Mutex<Option<(Instant, (u64, u64))>>,
}

impl Shared {
    /// Free bytes of the disk, and bytes the store takes; at most [`SPACE_AGE`] old.
    fn space(&self) -> (u64, u64) {
        let mut measured = self.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::monotonic();
        if let Some((_, space)) = measured.filter(|(at, _)| now < *at + SPACE_AGE) {
            return space;
        }
        // No answer about space counts as none: better to shed than to accept and lose.
        let free = space::free_bytes(&self.folder).unwrap_or(0);
        // Blocks, not length: the database file has holes.
        let size = |name: &str| fs::metadata(self.folder.join(name)).map_or(0, |m| m.blocks() * 512);
        let space = (free, size(folder::DATABASE) + size(space::FILE));
        *measured = Some((now, space));
        space
    }
}

/// A handle on the embedded store. The folder is unlocked when the last handle is dropped, which
/// waits for the transaction in flight.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Threads>);

#[derive(Debug)]
struct Threads {
    shared: Arc<Shared>,
    identity: Identity,
    jobs: Option<mpsc::Sender<Job>>,
    reads: Option<mpsc::Sender<Read>>,
    joins: Vec<JoinHandle<()>>,
}

struct Read {
    key: Vec<u8>,
    answer: oneshot::Sender<Result<Option<Bytes>, ReadError>>,
}

impl Embedded {
    /// Opens the data folder, making it if it is missing or empty. Blocks: it verifies the whole
    /// database.
    ///
    /// # Errors
    /// The folder is foreign, of a newer format, in use or damaged, or the disk refuses.
    pub fn open(folder: &Path, options: &Options) -> Result<Self, OpenError> {
        let first =
            Stamp { epoch: LeaderEpoch { cluster_generation: 1, number: 0 }, time: options.now, ..Stamp::default() };
        let newborn = Identity { cluster: options.cluster, cluster_generation: 1, created: options.now };
        let folder = Folder::open(folder, newborn, |database| {
            Engine::create(database, folder, first)?;
            Beside::create(folder, first).map_err(failed("write", &folder.join(stamp::FILE)))
        })?;
        #[cfg(any(test, feature = "conformance"))]
        let trace = Arc::new(Trace::with_faults(options.faults.clone()));
        #[cfg(not(any(test, feature = "conformance")))]
        let trace = Arc::new(Trace::default());
        let identity = folder.identity;
        let shared = Arc::new(Shared {
            engine: RwLock::new(None),
            ballast_released: AtomicBool::new(false),
            folder: folder.path.clone(),
            shed_below: options.shed_below,
            measured: Mutex::new(None),
        });
        let writer = Writer::open(folder, options.ballast, trace, Arc::clone(&shared))?;

        let (jobs, job_queue) = mpsc::channel(QUEUE);
        let (reads, read_queue) = mpsc::channel(QUEUE);
        let reader = Arc::clone(&shared);
        let start = |name: &str, run: Box<dyn FnOnce() + Send>| {
            thread::Builder::new().name(name.into()).spawn(run).map_err(failed("start a thread for", &shared.folder))
        };
        let joins = vec![
            start("hive-store", Box::new(move || writer.run(job_queue)))?,
            start("hive-store-read", Box::new(move || read_blobs(&reader, read_queue)))?,
        ];
        Ok(Self(Arc::new(Threads { shared, identity, jobs: Some(jobs), reads: Some(reads), joins })))
    }

    /// What the folder says about itself.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.0.identity
    }
}

impl Store for Embedded {
    async fn acquire(&self) -> Result<Loaded, OpenError> {
        let (answer, answered) = oneshot::channel();
        let jobs = self.0.jobs.as_ref().ok_or(OpenError::Stopped)?;
        jobs.send(Job::Acquire(answer)).await.map_err(|_| OpenError::Stopped)?;
        answered.await.unwrap_or(Err(OpenError::Stopped))
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let (answer, answered) = oneshot::channel();
        let ended = || CommitError::Unknown("the store's thread has ended".into());
        let jobs = self.0.jobs.as_ref().ok_or_else(ended)?;
        jobs.send(Job::Commit(tx, answer)).await.map_err(|_| ended())?;
        answered.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn blob(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let (answer, answered) = oneshot::channel();
        let reads = self.0.reads.as_ref().ok_or(ReadError::Stopped)?;
        reads.send(Read { key: key.to_vec(), answer }).await.map_err(|_| ReadError::Stopped)?;
        answered.await.unwrap_or(Err(ReadError::Stopped))
    }

    fn max_ops(&self) -> usize {
        MAX_OPS
    }

    fn health(&self) -> Health {
        let shared = &self.0.shared;
        let (free_bytes, store_bytes) = shared.space();
        Health {
            free_bytes,
            store_bytes,
            shedding: free_bytes < shared.shed_below,
            ballast_released: shared.ballast_released.load(Ordering::Relaxed),
            // Held for writing only while the database is being opened.
            open: shared.engine.try_read().is_ok_and(|engine| engine.is_some()),
        }
    }
}

impl Drop for Threads {
    /// Closes the queues and waits, so that the folder is unlocked afterwards.
    fn drop(&mut self) {
        self.reads = None;
        self.jobs = None;
        for thread in self.joins.drain(..).rev() {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

fn read_blobs(shared: &Shared, mut queue: mpsc::Receiver<Read>) {
    while let Some(Read { key, answer }) = queue.blocking_recv() {
        let found = match shared.engine.read() {
            Ok(engine) => match &*engine {
                Some(engine) => engine.blob(&key).map_err(ReadError::Engine),
                None => Err(ReadError::Closed),
            },
            Err(_) => Err(ReadError::Stopped),
        };
        // The caller may have given up.
        let _ = answer.send(found);
    }
}
