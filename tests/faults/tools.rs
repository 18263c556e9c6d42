//! Programs of others that some faults need, and what is skipped without them.

use std::path::{Path, PathBuf};

use crate::harness::Small;

#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) strace: Option<PathBuf>,
    pub(crate) faketime: Option<PathBuf>,
    /// A tmpfs can be mounted, which only root may.
    pub(crate) mounts: bool,
    pub(crate) root: bool,
}

/// What a fault needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    Nothing,
    Mount,
    Strace,
    Faketime,
    Root,
}

impl Tools {
    pub(crate) fn find() -> Self {
        let services =
            std::env::var_os("TEST_SERVICES").map_or_else(|| PathBuf::from("target/services"), PathBuf::from);
        let services = services.join("debian");
        let root = rustix::process::geteuid().is_root();
        let folder = tempfile::Builder::new().prefix("hive-e2e-mount-").tempdir().expect("a folder");
        let mounts = root && Small::mount(folder.path(), 1).is_some();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let strace = std::env::split_paths(&path)
            .map(|folder| folder.join("strace"))
            .chain([services.join("usr/bin/strace")])
            .find(|file| file.exists());
        let library = |root: &Path| {
            let folders = std::fs::read_dir(root.join("usr/lib")).into_iter().flatten().flatten();
            folders.map(|folder| folder.path().join("faketime/libfaketime.so.1")).find(|file| file.exists())
        };
        let faketime = library(Path::new("/")).or_else(|| library(&services)).and_then(|path| path.canonicalize().ok());
        Self { strace, faketime, mounts, root }
    }

    /// Why this cannot be had, and how to get it.
    pub(crate) fn lacks(&self, need: Need) -> Option<&'static str> {
        let (has, lack) = match need {
            Need::Nothing => return None,
            Need::Mount => (self.mounts, "cannot mount a small file system: run as root"),
            Need::Strace if !self.root => (false, "tracing another process needs root"),
            Need::Strace => (self.strace.is_some(), "strace is missing: make services, or apt-get install strace"),
            Need::Faketime => {
                (self.faketime.is_some(), "libfaketime is missing: make services, or apt-get install libfaketime")
            }
            Need::Root => (self.root, "changing another process's limits needs root"),
        };
        (!has).then_some(lack)
    }
}
