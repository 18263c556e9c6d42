//! The data folder: whose it is, in which format, and who may use it now.
//!
//! ```text
//! HIVE      identity: format, cluster, when it was made; written last, so its presence means whole
//! LOCK      flock(2), with the holder's pid
//! STAMP     what was acknowledged; see stamp.rs
//! store.db  the database
//! BALLAST   space to give up when the disk is full
//! ```
//! Only an empty folder, or one in which an earlier making was interrupted, is made into a data
//! folder. Nothing that could hold a commit is ever deleted.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hive_core::time::Time;
use rustix::fs::{FlockOperation, flock};

use super::stamp::{self, fnv1a};
use crate::store::OpenError;

/// Newest folder format this version reads and the one it writes.
pub const FORMAT: u32 = 1;

pub(super) const DATABASE: &str = "store.db";
const IDENTITY: &str = "HIVE";
const LOCK: &str = "LOCK";
/// Names that exist before the folder is whole; they never hold a commit.
const DATABASE_NEW: &str = "store.db.new";
const IDENTITY_NEW: &str = "HIVE.new";
const TITLE: &str = "hive data folder";

/// A cluster's random name, chosen when its folder is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterId(pub u128);

/// What a data folder says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster whose state it holds.
    pub cluster: ClusterId,
    /// Raised by a restore from a backup.
    pub cluster_generation: u64,
    /// When the folder was made.
    pub created: Time,
}

impl Identity {
    fn encode(self) -> String {
        let body = format!(
            "{TITLE}\nformat {FORMAT}\ncluster {:032x}\ngeneration {}\ncreated {}\n",
            self.cluster.0, self.cluster_generation, self.created.0
        );
        format!("{body}check {:016x}\n", fnv1a(body.as_bytes()))
    }

    fn decode(folder: &Path, text: &str) -> Result<Self, OpenError> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let bad = |what: &str| damaged(folder, format!("{IDENTITY} {what}"));
        if text.lines().next() != Some(TITLE) {
            return Err(bad("does not begin as it should"));
        }
        // The format comes first: a later one may have changed all that follows.
        let format = field("format").and_then(|v| v.parse().ok()).ok_or_else(|| bad("names no format"))?;
        if format > FORMAT {
            return Err(OpenError::NewerFormat { folder: folder.into(), found: format, supported: FORMAT });
        }
        let whole = text.split_once("check ").is_some_and(|(body, sum)| {
            u64::from_str_radix(sum.trim_end(), 16).is_ok_and(|sum| sum == fnv1a(body.as_bytes()))
        });
        if !whole {
            return Err(bad("fails its check sum"));
        }
        let identity = || {
            Some(Self {
                cluster: ClusterId(u128::from_str_radix(field("cluster")?, 16).ok()?),
                cluster_generation: field("generation")?.parse().ok()?,
                created: Time(field("created")?.parse().ok()?),
            })
        };
        identity().ok_or_else(|| bad("lacks a field"))
    }
}

/// A locked data folder. Dropping it releases the lock.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    _lock: File,
}

impl Folder {
    /// Locks the folder and makes it a data folder if it is empty; `build` makes the database
    /// under the path it is given, and the stamp.
    pub(super) fn open(
        path: &Path,
        newborn: Identity,
        build: impl FnOnce(&Path) -> Result<(), OpenError>,
    ) -> Result<Self, OpenError> {
        make_folder(path)?;
        // Looked at before the lock, so that nothing is written into a folder that is not ours.
        refuse_foreign(path)?;
        let lock = take_lock(path)?;
        refuse_foreign(path)?;
        let text = match fs::read_to_string(path.join(IDENTITY)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => make(path, newborn, build)?,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(damaged(path, format!("{IDENTITY} is not text")));
            }
            Err(error) => return Err(failed("read", &path.join(IDENTITY))(error)),
        };
        let identity = Identity::decode(path, &text)?;
        for part in [DATABASE, stamp::FILE] {
            let there = fs::metadata(path.join(part)).is_ok_and(|m| m.len() > 0);
            if !there {
                return Err(damaged(path, format!("{part} is missing or empty")));
            }
        }
        Ok(Self { path: path.into(), identity, _lock: lock })
    }

    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

pub(super) fn damaged(folder: &Path, what: impl Into<String>) -> OpenError {
    OpenError::Damaged { folder: folder.into(), what: what.into(), source: None }
}

pub(super) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |source| OpenError::Io { step, path, source }
}

fn make_folder(path: &Path) -> Result<(), OpenError> {
    // Payloads and results are nobody else's business on a shared machine.
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the data folder", path))
}

fn refuse_foreign(path: &Path) -> Result<(), OpenError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path).map_err(failed("list", path))? {
        names.push(entry.map_err(failed("list", path))?.file_name().to_string_lossy().into_owned());
    }
    let has = |name: &str| names.iter().any(|n| n == name);
    if has(IDENTITY) {
        return Ok(());
    }
    // A database without identity is unfinished only if the identity is there to be put in place.
    let finishing = has(IDENTITY_NEW);
    if has(DATABASE) && !finishing {
        return Err(damaged(path, format!("{IDENTITY} is missing beside {DATABASE}")));
    }
    let ours = [LOCK, DATABASE_NEW, IDENTITY_NEW, stamp::FILE, DATABASE, "lost+found"];
    names.retain(|name| !ours.contains(&name.as_str()));
    if names.is_empty() {
        return Ok(());
    }
    names.sort();
    let more = if names.len() > 3 { ", …" } else { "" };
    names.truncate(3);
    Err(OpenError::Foreign { folder: path.into(), found: names.join(", ") + more })
}

fn take_lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(failed("lock", &path)(error.into()));
        }
        let mut text = String::new();
        let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
        return Err(OpenError::Locked { lock: path, holder });
    }
    let note = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    if let Err(error) = note(&mut file) {
        // The lock holds all the same; only the next one's message will lack the pid.
        tracing::warn!(%error, path = %path.display(), "pid not written");
    }
    Ok(file)
}

/// Every step can be cut off; the next open finishes or repeats it.
fn make(
    path: &Path,
    identity: Identity,
    build: impl FnOnce(&Path) -> Result<(), OpenError>,
) -> Result<String, OpenError> {
    let (database, identity_new) = (path.join(DATABASE), path.join(IDENTITY_NEW));
    let sync = |path: &Path| File::open(path).and_then(|f| f.sync_all()).map_err(failed("sync", path));
    if !database.exists() {
        let unfinished = path.join(DATABASE_NEW);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &unfinished)(error));
            }
            _ => build(&unfinished)?,
        }
        fs::write(&identity_new, identity.encode()).map_err(failed("write", &identity_new))?;
        sync(&identity_new)?;
        sync(path)?;
        fs::rename(&unfinished, &database).map_err(failed("put in place", &database))?;
    }
    fs::rename(&identity_new, path.join(IDENTITY)).map_err(failed("put in place", &path.join(IDENTITY)))?;
    sync(path)?;
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        sync(parent)?;
    }
    fs::read_to_string(path.join(IDENTITY)).map_err(failed("read", &path.join(IDENTITY)))
}
