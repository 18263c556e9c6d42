//! The database file as the engine sees it.
//!
//! It notes when the disk is full, which the engine's errors do not say reliably: after the first
//! error it reports only that there was one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;

#[derive(Debug, Default)]
pub(super) struct Trace {
    full: AtomicBool,
    #[cfg(any(test, feature = "conformance"))]
    faults: super::faults::Faults,
}

impl Trace {
    #[cfg(any(test, feature = "conformance"))]
    pub(super) fn with_faults(faults: super::faults::Faults) -> Self {
        Self { faults, ..Self::default() }
    }

    /// Called before each transaction.
    pub(super) fn reset(&self) {
        self.full.store(false, Ordering::Relaxed);
    }

    /// The disk was full since.
    pub(super) fn full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    fn note<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        {
            self.full.store(true, Ordering::Relaxed);
        }
        result
    }
}

#[derive(Debug)]
pub(super) struct Disk {
    pub(super) file: File,
    pub(super) trace: Arc<Trace>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.trace.note(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        #[cfg(any(test, feature = "conformance"))]
        self.trace.note(self.trace.faults.before_sync())?;
        self.trace.note(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        #[cfg(any(test, feature = "conformance"))]
        self.trace.note(self.trace.faults.before_write(offset))?;
        self.trace.note(self.file.write_all_at(data, offset))
    }
}
