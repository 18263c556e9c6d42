//! What sidecar and shim leave for each other in a run's folder.
//!
//! Every record is written whole (`.tmp`, then rename), so a reader sees all of it or nothing. None is
//! synced: they outlive processes, not the host; a host loss ends what ran anyway.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::procfs;

/// What to run: written by the sidecar before it starts the shim.
pub const SPEC: &str = "spec.json";
/// The shim's identity: written by the shim before anything else.
pub const SHIM: &str = "shim.json";
/// The program's identity and start: written by the shim once it runs.
pub const STARTED: &str = "started.json";
/// How it ended: the shim's last word.
pub const EXIT: &str = "exit.json";
/// Written by the sidecar before TERM to the shim: end the run, with this grace.
pub const CANCEL: &str = "cancel.json";
/// Written by a sidecar that found no shim: one that comes late must not start anything.
pub const VOID: &str = "void";

/// What to run and within which bounds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Set besides the inherited environment, from which every `HIVE_*` is taken out.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// File that becomes standard input; nothing if absent.
    pub stdin: Option<PathBuf>,
    /// Bytes of each output kept. See `rotate` for what happens to the rest.
    pub output_limit: u64,
    /// Keep the last `output_limit` bytes or a little more (`true`) or the first ones (`false`).
    pub rotate: bool,
    /// Longest run, in ms.
    pub timeout_ms: Option<u64>,
    /// Time between TERM and KILL at a timeout, in ms.
    pub grace_ms: u64,
    /// Address space of each process, in bytes.
    pub memory_limit: Option<u64>,
}

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Process id; also the id of its group.
    pub pid: i32,
    /// Start in clock ticks since the host's boot: field 22 of `/proc/<pid>/stat`.
    pub start: u64,
    /// The host's boot.
    pub boot: String,
}

impl Identity {
    /// Of a process alive or not yet reaped.
    ///
    /// # Errors
    /// `/proc` cannot be read or holds no such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start: procfs::stat(pid)?.start, boot: procfs::boot_id()? })
    }

    /// Whether this very process is alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        procfs::stat(self.pid).is_ok_and(|stat| stat.start == self.start && !stat.zombie)
            && procfs::boot_id().is_ok_and(|boot| boot == self.boot)
    }
}

/// A program runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The program, leader of its group.
    pub program: Identity,
    /// Wall clock, ms since the Unix epoch.
    pub started_ms: u64,
}

/// End the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cancel {
    /// Time between TERM and KILL, in ms.
    pub grace_ms: u64,
}

/// Why a run was ended before its program did so by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The sidecar asked for it.
    Cancelled,
    /// It ran longer than its timeout.
    TimedOut,
    /// Somebody else sent TERM to the shim.
    Terminated,
}

/// One output at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputEnd {
    /// Bytes written by the program, kept or not.
    pub bytes: u64,
    /// Some were not kept.
    pub truncated: bool,
}

/// How a run ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Exit {
    /// Wall clock, ms since the Unix epoch; absent if the program never ran.
    pub started_ms: Option<u64>,
    /// Likewise.
    pub ended_ms: u64,
    /// Why the program never ran.
    pub start_error: Option<String>,
    /// Exit code, when it exited.
    pub exit_code: Option<i32>,
    /// Signal, when one ended it.
    pub signal: Option<i32>,
    /// Why it was ended, if it was.
    pub stop: Option<Stop>,
    /// Found void before it began.
    pub void: bool,
    /// Standard output.
    pub stdout: OutputEnd,
    /// Standard error.
    pub stderr: OutputEnd,
    /// Why output could not be kept.
    pub output_error: Option<String>,
    /// Largest resident set of one process, in KiB; never below the shim's own, from which it was started.
    pub max_rss_kib: u64,
    /// Processes that outlived even KILL.
    pub strays: bool,
}

/// Opens a new file that nobody else may read.
///
/// # Errors
/// As [`OpenOptions::open`].
pub fn private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes a record whole.
///
/// # Errors
/// The disk's; then the old record stands.
pub fn write<T: Serialize>(dir: &Path, name: &str, record: &T) -> io::Result<()> {
    let tmp = dir.join(format!("{name}.tmp"));
    private(&tmp)?.write_all(&serde_json::to_vec(record)?)?;
    fs::rename(tmp, dir.join(name))
}

/// Reads a record; `None` if there is none.
///
/// # Errors
/// It cannot be read or is malformed.
pub fn read<T: DeserializeOwned>(dir: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(dir.join(name)) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
