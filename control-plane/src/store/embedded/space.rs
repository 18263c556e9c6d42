//! Space on the disk: how much is left, and a reserve to give up when there is none.
//!
//! Deleting needs space too, so a full disk would stop the very thing that frees it. The ballast
//! is that space. Who is refused meanwhile is for the driver, by [`Health::shedding`].
//!
//! [`Health::shedding`]: crate::store::Health::shedding

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

pub(super) const FILE: &str = "BALLAST";

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    bytes: u64,
    /// Taken back only above this, so that it does not come and go.
    restore_above: u64,
    held: bool,
}

impl Ballast {
    pub(super) fn new(folder: &Path, bytes: u64, shed_below: u64) -> Self {
        let path = folder.join(FILE);
        let held = fs::metadata(&path).is_ok_and(|m| m.len() >= bytes);
        Self { path, bytes, restore_above: shed_below.saturating_add(bytes), held }
    }

    /// Wanted but not there.
    pub(super) fn missing(&self) -> bool {
        self.bytes > 0 && !self.held
    }

    /// Gives the space back to the file system. True if there was any to give.
    pub(super) fn release(&mut self) -> bool {
        let was_held = std::mem::take(&mut self.held);
        match fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!(bytes = self.bytes, "disk full, ballast released");
                was_held
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!(%error, path = %self.path.display(), "ballast can't be released");
                }
                false
            }
        }
    }

    /// Takes the reserve when there is ample space.
    pub(super) fn restore(&mut self, free: u64) {
        if self.held || self.bytes == 0 || free < self.restore_above {
            return;
        }
        let taken = File::create(&self.path).and_then(|f| Ok(fallocate(f, FallocateFlags::empty(), 0, self.bytes)?));
        match taken {
            Ok(()) => self.held = true,
            Err(error) => {
                // A file system without fallocate has no ballast; shedding still works there.
                tracing::warn!(%error, path = %self.path.display(), "no ballast");
                let _ = fs::remove_file(&self.path);
                self.bytes = 0;
            }
        }
    }
}

/// Bytes free to us on the file system of `folder`.
pub(super) fn free_bytes(folder: &Path) -> io::Result<u64> {
    let stat = statvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}
