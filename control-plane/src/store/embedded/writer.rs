//! The thread that writes: fence, order, durability, and what follows a failure.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard};

use hive_core::id::Revision;
use tokio::sync::{mpsc, oneshot};

use super::disk::Trace;
use super::engine::{Engine, Failure};
use super::folder::{Folder, damaged, failed};
use super::space::{Ballast, free_bytes};
use super::stamp::{self, Beside, Stamp};
use super::{MAX_OPS, Shared};
use crate::store::{CommitError, Loaded, Op, OpenError, RefusedReason, Transaction};

pub(super) enum Job {
    Acquire(oneshot::Sender<Result<Loaded, OpenError>>),
    Commit(Transaction, oneshot::Sender<Result<Revision, CommitError>>),
}

pub(super) struct Writer {
    folder: Folder,
    shared: Arc<Shared>,
    trace: Arc<Trace>,
    beside: Beside,
    ballast: Ballast,
    /// The last one known to be durable.
    stamp: Stamp,
    /// Free bytes when the disk was last found full; nothing has been freed since.
    full_at: Option<u64>,
}

impl Writer {
    pub(super) fn open(
        folder: Folder,
        ballast: u64,
        trace: Arc<Trace>,
        shared: Arc<Shared>,
    ) -> Result<Self, OpenError> {
        let path = folder.path.join(stamp::FILE);
        let (beside, acknowledged) = Beside::open(&folder.path).map_err(failed("open", &path))?;
        let acknowledged =
            acknowledged.ok_or_else(|| damaged(&folder.path, format!("{} is unreadable", stamp::FILE)))?;
        let ballast = Ballast::new(&folder.path, ballast, shared.shed_below);
        let mut writer = Self { folder, shared, trace, beside, ballast, stamp: acknowledged, full_at: None };
        writer.reopen()?;
        writer.keep_ballast();
        Ok(writer)
    }

    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            // Whoever asked may have given up; what was done stays done.
            match job {
                Job::Acquire(answer) => drop(answer.send(self.acquire())),
                Job::Commit(tx, answer) => drop(answer.send(self.commit(tx))),
            }
            self.keep_ballast();
        }
        // Closed before the folder is unlocked.
        self.engine_mut().take();
    }

    fn acquire(&mut self) -> Result<Loaded, OpenError> {
        if self.engine().is_none() {
            self.reopen()?;
        }
        let mut stamp = self.stamp;
        stamp.epoch.number += 1;
        let taken = match self.engine().as_ref() {
            None => return Err(OpenError::Stopped),
            Some(engine) => engine.write(stamp, &[]),
        };
        if let Err(failure) = taken {
            self.engine_mut().take();
            let source = match failure {
                Failure::Full => {
                    // Room for the next try.
                    self.ballast.release();
                    io::ErrorKind::StorageFull.into()
                }
                Failure::Other(source) => io::Error::other(source),
            };
            return Err(failed("raise the epoch in", &self.folder.database())(source));
        }
        self.settled(stamp);
        let records = match self.engine().as_ref() {
            None => return Err(OpenError::Stopped),
            Some(engine) => engine.load(),
        };
        let records = records.map_err(|source| OpenError::Damaged {
            folder: self.folder.path.clone(),
            what: "the records can't be read".into(),
            source: Some(source),
        })?;
        let Stamp { epoch, seq, nonce, time } = stamp;
        Ok(Loaded { epoch, seq, nonce, time, records })
    }

    fn commit(&mut self, tx: Transaction) -> Result<Revision, CommitError> {
        let last = self.stamp;
        if self.engine().is_none() {
            return Err(closed());
        }
        if tx.fence != last.epoch {
            return Err(CommitError::Fenced { current: last.epoch });
        }
        tx.check(MAX_OPS).map_err(CommitError::Refused)?;
        if tx.prev_seq != last.seq {
            return Err(CommitError::SeqDiffers { found: last.seq, nonce: last.nonce });
        }
        let frees = tx.ops.iter().all(|op| matches!(op, Op::Delete { .. }));
        if !frees && self.still_full() {
            return Err(CommitError::Refused(RefusedReason::NoSpace));
        }
        let stamp = Stamp { epoch: last.epoch, seq: tx.seq, nonce: tx.nonce, time: tx.time.max(last.time) };
        let written = match self.engine().as_ref() {
            None => return Err(closed()),
            Some(engine) => engine.write(stamp, &tx.ops),
        };
        match written {
            Ok(()) => {
                self.settled(stamp);
                Ok(self.revision())
            }
            Err(Failure::Full) => self.make_room(stamp),
            Err(Failure::Other(source)) => {
                self.engine_mut().take();
                Err(CommitError::Unknown(source))
            }
        }
    }

    fn settled(&mut self, stamp: Stamp) {
        self.stamp = stamp;
        self.beside.note(stamp);
        self.full_at = None;
    }

    /// Opens the database again, which rolls an unfinished commit back or finds it whole.
    fn reopen(&mut self) -> Result<(), OpenError> {
        let (path, folder) = (self.folder.database(), &self.folder.path);
        self.engine_mut().take();
        let (engine, found) = Engine::open(&path, folder, Arc::clone(&self.trace))?;
        let acknowledged = self.stamp;
        if found.position() < acknowledged.position() {
            let what = format!(
                "commit {} of epoch {} was acknowledged, but the database ends with commit {} of epoch {}",
                acknowledged.seq, acknowledged.epoch, found.seq, found.epoch
            );
            return Err(damaged(folder, what));
        }
        if found.epoch.cluster_generation != self.folder.identity.cluster_generation {
            return Err(damaged(folder, "the database belongs to another generation of the cluster"));
        }
        self.stamp = found;
        *self.engine_mut() = Some(engine);
        Ok(())
    }

    /// After a commit that met a full disk: gives up the ballast, so that deletions fit, and
    /// reopens the database, which shows whether it landed. Nobody else writes, so that is final.
    fn make_room(&mut self, stamp: Stamp) -> Result<Revision, CommitError> {
        let gave = self.ballast.release();
        if let Err(error) = self.reopen() {
            return Err(CommitError::Unknown(error.into()));
        }
        if self.stamp == stamp {
            self.beside.note(stamp);
            return Ok(self.revision());
        }
        if !gave {
            // With more left than this it was something passing, or a quota.
            self.full_at = free_bytes(&self.folder.path).ok().filter(|free| *free < 16 << 20);
        }
        Err(CommitError::Refused(RefusedReason::NoSpace))
    }

    fn revision(&self) -> Revision {
        Revision { cluster_generation: self.stamp.epoch.cluster_generation, seq: self.stamp.seq }
    }

    /// Whether trying again would only meet the same full disk.
    fn still_full(&self) -> bool {
        let Some(then) = self.full_at else { return false };
        free_bytes(&self.folder.path).is_ok_and(|now| now <= then)
    }

    fn keep_ballast(&mut self) {
        if self.ballast.missing()
            && let Ok(free) = free_bytes(&self.folder.path)
        {
            self.ballast.restore(free);
        }
        self.shared.ballast_released.store(self.ballast.missing(), Ordering::Relaxed);
    }

    fn engine(&self) -> RwLockReadGuard<'_, Option<Engine>> {
        self.shared.engine.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn engine_mut(&self) -> RwLockWriteGuard<'_, Option<Engine>> {
        self.shared.engine.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn closed() -> CommitError {
    CommitError::Unknown("the store is closed since an earlier commit failed".into())
}
