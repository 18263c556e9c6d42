//! The data folder of a fleet: where it is, what lies where in it, and that one fleet at a time
//! uses it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::clock;
use crate::failure::Failure;

/// A Unix socket's path must be shorter than 108 bytes; the rest of it is at most this long:
/// `/NN/` and an agent's id with its ending.
const SOCKET_ROOM: usize = 40;

/// A data folder in use by this process.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    /// Held until the end; the kernel lets go of it however this process ends.
    _lock: File,
    ephemeral: bool,
}

/// `${XDG_STATE_HOME}/hive/dev`, or `~/.local/state/hive/dev`.
pub(crate) fn default_root() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|state| state.join("hive/dev"))
        .ok_or_else(|| {
            Failure::usage("there is no place for data", "neither XDG_STATE_HOME nor HOME is set")
                .next("name one with --data DIR, or use --ephemeral")
        })
}

impl Folder {
    /// Makes the folder if need be and takes it.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        let root = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
        let fail = |e: io::Error| Failure::error(format!("cannot use the data folder {}", root.display()), e);
        private_dir(&root).map_err(fail)?;
        let path = root.join("dev.lock");
        let mut lock = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = lock.take(32).read_to_string(&mut owner);
                return Err(Failure::error(
                    format!("the data folder {} is in use", root.display()),
                    format!("by `hive` with process id {}", owner.trim()),
                )
                .next("stop that one, or give this one a folder of its own with --data DIR"));
            }
            Err(TryLockError::Error(error)) => return Err(fail(error)),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(fail)?;
        for sub in ["control-plane", "sidecars", "logs"] {
            private_dir(&root.join(sub)).map_err(fail)?;
        }
        Ok(Self { root, _lock: lock, ephemeral: false })
    }

    /// A folder that goes away with this process.
    pub(crate) fn ephemeral() -> Result<Self, Failure> {
        let root = std::env::temp_dir().join(format!("hive-dev-{}", clock::new_id().simple()));
        let mut folder = Self::open(&root)?;
        folder.ephemeral = true;
        Ok(folder)
    }

    /// Goes away with this process.
    pub(crate) fn is_ephemeral(&self) -> bool {
        self.ephemeral
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("control-plane")
    }

    /// Where the control plane says what it listens on.
    pub(crate) fn control_plane_ready(&self) -> PathBuf {
        self.root.join("control-plane.ready.json")
    }

    /// What runs, for the next run to find after an unclean end.
    pub(crate) fn record(&self) -> PathBuf {
        self.root.join("dev.json")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// A sidecar's own folder.
    pub(crate) fn sidecar(&self, id: &str) -> io::Result<PathBuf> {
        let path = self.root.join("sidecars").join(id);
        private_dir(&path.join("state"))?;
        Ok(path)
    }

    /// Folder for the sockets of one sidecar's agents: in the data folder where paths stay short
    /// enough, else in a private folder elsewhere.
    pub(crate) fn sockets(&self, number: u16) -> io::Result<PathBuf> {
        let mut base = self.root.join("s");
        if base.as_os_str().len() + SOCKET_ROOM >= 108 {
            let digest = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
            let short: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
            let runtime = runtime.filter(|p| p.is_dir() && p.as_os_str().len() < 40);
            let uid = rustix::process::getuid().as_raw();
            base = runtime.unwrap_or_else(|| PathBuf::from("/tmp")).join(format!("hive-{uid}-{short}"));
        }
        private_dir(&base)?;
        let owner = fs::metadata(&base)?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            let why = format!("{} belongs to another user", base.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let path = base.join(number.to_string());
        private_dir(&path)?;
        Ok(path)
    }

    /// Lets go of the folder after a clean end.
    pub(crate) fn close(self) {
        let _ = fs::remove_file(self.record());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.ephemeral {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// Makes a folder, if need be, that only this user can enter.
fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes a file whole or not at all.
pub(crate) fn write_atomically(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(data)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_fleet_per_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        let refused = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("in use") && refused.contains(&std::process::id().to_string()), "{refused}");
        drop(first);
        Folder::open(dir.path()).unwrap().close();
        assert!(dir.path().exists());
    }

    #[test]
    fn an_ephemeral_folder_goes_away() {
        let folder = Folder::ephemeral().unwrap();
        let root = folder.root.clone();
        assert!(root.join("logs").is_dir());
        folder.close();
        assert!(!root.exists());
    }

    #[test]
    fn socket_paths_stay_short() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(90));
        let folder = Folder::open(&deep).unwrap();
        let sockets = folder.sockets(64).unwrap();
        assert!(sockets.as_os_str().len() + "/agent-0000000000.sock".len() < 108, "{}", sockets.display());
        fs::remove_dir_all(sockets.parent().unwrap()).unwrap();
    }

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
