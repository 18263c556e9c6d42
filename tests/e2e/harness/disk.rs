//! File systems small enough to fill. Needs root, to mount them.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Bytes.
pub(crate) const MIB: u64 = 1 << 20;

/// A file system in memory; gone when this is, even if somebody still uses it.
#[derive(Debug)]
pub(crate) struct Small(PathBuf);

impl Small {
    pub(crate) fn mount(at: &Path, mib: u64) -> Option<Self> {
        fs::create_dir_all(at).expect("a mount point");
        let size = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "hive-e2e"])
            .arg(at)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        mounted.then(|| Self(at.to_owned()))
    }

    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.0).expect("statvfs");
        stat.f_bavail * stat.f_frsize
    }

    /// Leaves about so many bytes free.
    pub(crate) fn fill(&self, leave: u64) -> PathBuf {
        let path = self.0.join("lost+found");
        let mut file = File::options().create(true).append(true).open(&path).expect("a file");
        while self.free() > leave {
            let step = usize::try_from((self.free() - leave).min(MIB)).expect("a size");
            if file.write_all(&vec![0; step]).is_err() {
                break;
            }
        }
        path
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _status = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
