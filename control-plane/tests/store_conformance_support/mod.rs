//! Opening stores and small disks for tests.

use std::path::Path;
use std::process::Command;

use hive_control_plane::store::OpenError;
use hive_control_plane::store::embedded::{ClusterId, Embedded, Options};
use hive_core::time::Time;

pub(crate) fn options() -> Options {
    let mut options = Options::new(ClusterId(0x1234), Time(1_700_000_000_000));
    // The machine's own disk is not the subject.
    (options.ballast, options.shed_below) = (0, 0);
    options
}

pub(crate) fn try_open(path: &Path, options: &Options) -> Result<Embedded, OpenError> {
    Embedded::open(path, options)
}

pub(crate) fn open(path: &Path) -> Embedded {
    try_open(path, &options()).unwrap()
}

/// A small file system of its own, unmounted when dropped.
pub(crate) struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    /// `None` where mounting is not allowed.
    pub(crate) fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "hive-test"])
            .arg(dir.path())
            .output()
            .is_ok_and(|out| out.status.success());
        mounted.then_some(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily, in case a failed test still has the folder open.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

/// A folder in memory where there is one, for tests that open hundreds of stores and sync nothing
/// that matters.
pub(crate) fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}
