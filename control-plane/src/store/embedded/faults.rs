//! Disk errors on demand, for tests of what follows them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What the next commit meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// Nothing.
    None,
    /// The sync fails with EIO after everything was written: it lands.
    Sync,
    /// Writing the header fails with EIO: it does not land.
    Header,
    /// Writing a page fails with ENOSPC: it does not land.
    Full,
}

/// Arms one fault at a time; it strikes once.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<AtomicU8>);

impl Faults {
    /// Lets the next commit meet `fault`.
    pub fn arm(&self, fault: Fault) {
        self.0.store(fault as u8, Ordering::SeqCst);
    }

    fn strike(&self, fault: Fault, error: io::ErrorKind) -> io::Result<()> {
        let armed = self.0.compare_exchange(fault as u8, Fault::None as u8, Ordering::SeqCst, Ordering::SeqCst);
        if armed.is_ok() { Err(error.into()) } else { Ok(()) }
    }

    pub(super) fn before_sync(&self) -> io::Result<()> {
        self.strike(Fault::Sync, io::ErrorKind::Other)
    }

    pub(super) fn before_write(&self, offset: u64) -> io::Result<()> {
        // The first page holds the commit slots.
        if offset < 4096 {
            self.strike(Fault::Header, io::ErrorKind::Other)
        } else {
            self.strike(Fault::Full, io::ErrorKind::StorageFull)
        }
    }
}
