//! The database: tables, one write transaction per commit, and what its failures mean.
//!
//! The only file that names redb. A commit is one write transaction with one fdatasync (redb's
//! one-phase commit: checksums tell a torn commit from a whole one). Every open verifies every
//! checksum, since a leader reads everything anyway.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use redb::{Builder, Database, ReadableDatabase, TableDefinition};
use rustix::fs::{Advice, fadvise};

use super::disk::{Disk, Trace};
use super::folder::{damaged, failed};
use super::stamp::Stamp;
use crate::store::{Cause, Op, OpenError, RECORDS};

/// One table for all: each further one costs a commit two more pages.
const TABLE: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("hive");
/// Sorts right behind all records, so that it often shares a page with the newest ones.
const STAMP_KEY: &[u8] = b"s~stamp";
/// First key behind all records.
const RECORDS_END: &[u8] = b"s0";

/// Why a write transaction failed. Whether it landed shows only after opening the database again.
#[derive(Debug)]
pub(super) enum Failure {
    /// The disk was full.
    Full,
    /// Anything else.
    Other(Cause),
}

#[derive(Debug)]
pub(super) struct Engine {
    db: Database,
    trace: Arc<Trace>,
}

impl Engine {
    /// Makes a database with nothing but a stamp, closed and durable when this returns.
    pub(super) fn create(path: &Path, folder: &Path, stamp: Stamp) -> Result<(), OpenError> {
        let engine = Self::attach(path, folder, Arc::default(), true)?;
        match engine.write(stamp, &[]) {
            Ok(()) => Ok(()),
            Err(Failure::Full) => Err(failed("write", path)(std::io::ErrorKind::StorageFull.into())),
            Err(Failure::Other(source)) => Err(failed("write", path)(std::io::Error::other(source))),
        }
    }

    /// Opens and verifies.
    pub(super) fn open(path: &Path, folder: &Path, trace: Arc<Trace>) -> Result<(Self, Stamp), OpenError> {
        let engine = Self::attach(path, folder, trace, false)?;
        let stamp = guarded(|| engine.stamp().map_err(Into::into))
            .map_err(|source| told(folder, "the database has no stamp", source))?
            .ok_or_else(|| damaged(folder, "the database has no stamp"))?;
        Ok((engine, stamp))
    }

    fn attach(path: &Path, folder: &Path, trace: Arc<Trace>, create: bool) -> Result<Self, OpenError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(create)
            .mode(0o600)
            .open(path)
            .map_err(failed("open", path))?;
        // After a failed sync the page cache may show what the disk does not hold.
        fadvise(&file, 0, None, Advice::DontNeed).map_err(|e| failed("drop the cache of", path)(e.into()))?;
        let repaired = Arc::new(AtomicBool::new(false));
        let disk = Disk { file, trace: Arc::clone(&trace) };
        let db = guarded(|| {
            let mut builder = Builder::new();
            let seen = Arc::clone(&repaired);
            builder.set_cache_size(CACHE).set_repair_callback(move |_| seen.store(true, Ordering::Relaxed));
            let mut db = builder.create_with_backend(disk)?;
            // A repair has just verified the same.
            if !create && !repaired.load(Ordering::Relaxed) && !db.check_integrity()? {
                tracing::warn!("database repaired");
            }
            Ok(db)
        })
        .map_err(|source| match source.downcast::<redb::DatabaseError>() {
            Ok(error) => match *error {
                redb::DatabaseError::Storage(redb::StorageError::Io(io)) if !torn(&io) => failed("open", path)(io),
                other => told(folder, "the database can't be verified", other.into()),
            },
            Err(source) => told(folder, "the database can't be verified", source),
        })?;
        Ok(Self { db, trace })
    }

    fn stamp(&self) -> Result<Option<Stamp>, redb::Error> {
        let table = self.db.begin_read()?.open_table(TABLE)?;
        Ok(table.get(STAMP_KEY)?.and_then(|found| Stamp::decode(found.value())))
    }

    /// All records in key order.
    pub(super) fn load(&self) -> Result<Vec<(Bytes, Bytes)>, Cause> {
        guarded(|| {
            let table = self.db.begin_read()?.open_table(TABLE)?;
            let mut records = Vec::new();
            for entry in table.range(RECORDS..RECORDS_END)? {
                let (key, value) = entry?;
                records.push((Bytes::copy_from_slice(key.value()), Bytes::copy_from_slice(value.value())));
            }
            Ok(records)
        })
    }

    pub(super) fn blob(&self, key: &[u8]) -> Result<Option<Bytes>, Cause> {
        guarded(|| {
            let table = self.db.begin_read()?.open_table(TABLE)?;
            Ok(table.get(key)?.map(|found| Bytes::copy_from_slice(found.value())))
        })
    }

    /// Writes `ops` and `stamp` as one, durable when this returns.
    pub(super) fn write(&self, stamp: Stamp, ops: &[Op]) -> Result<(), Failure> {
        self.trace.reset();
        guarded(|| self.try_write(stamp, ops).map_err(Into::into))
            .map_err(|source| if self.trace.full() { Failure::Full } else { Failure::Other(source) })
    }

    fn try_write(&self, stamp: Stamp, ops: &[Op]) -> Result<(), redb::Error> {
        let write = self.db.begin_write()?;
        {
            let mut table = write.open_table(TABLE)?;
            for op in ops {
                match op {
                    Op::Put { key, value } => drop(table.insert(&key[..], &value[..])?),
                    Op::Delete { key } => drop(table.remove(&key[..])?),
                }
            }
            table.insert(STAMP_KEY, &stamp.encode()[..])?;
        }
        Ok(write.commit()?)
    }
}

/// Pages kept in memory. Measured with 50k live tasks: 16 MiB already holds the working set.
const CACHE: usize = 32 << 20;

/// A file shorter than its header says.
fn torn(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData)
}

fn told(folder: &Path, what: &str, source: Cause) -> OpenError {
    OpenError::Damaged { folder: folder.into(), what: what.into(), source: Some(source) }
}

/// Runs the engine; a panic in it, as damaged files have caused, is an error like any other.
fn guarded<T>(run: impl FnOnce() -> Result<T, Cause>) -> Result<T, Cause> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(format!("the engine panicked: {text}").into())
    })
}
