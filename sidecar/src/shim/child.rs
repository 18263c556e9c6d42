//! The program and what it leaves behind: start, signals to its group, descendants, reaping.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, Command, Stdio};

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpid, getrlimit, kill_process,
    kill_process_group, prlimit, setrlimit, waitid, waitpid,
};

use super::files::Spec;
use super::procfs;

/// A program started as leader of its own group.
pub(super) struct Leader {
    pub(super) pid: Pid,
    reaped: Option<WaitStatus>,
}

/// Starts the program of `spec`.
///
/// # Errors
/// The operating system's, in its words, for the thing that failed.
pub(super) fn start(spec: &Spec, dir: &Path) -> Result<(Leader, ChildStdout, ChildStderr), String> {
    let Some((program, args)) = spec.argv.split_first() else { return Err("no program is named".to_owned()) };
    let stdin = match &spec.stdin {
        Some(path) => File::open(path).map_err(|error| format!("{}: {error}", path.display()))?.into(),
        None => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.args(args).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    // The sidecar's own settings, which may hold secrets, are not the program's.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"HIVE_") {
            command.env_remove(name);
        }
    }
    let cwd = spec.cwd.as_deref().unwrap_or(dir);
    command.envs(&spec.env).current_dir(cwd);

    let own = getrlimit(Resource::As);
    if let Some(limit) = spec.memory_limit {
        // Soft here and inherited from the first instruction on; made hard on the child below.
        let soft = Rlimit { current: Some(limit), maximum: own.maximum };
        setrlimit(Resource::As, soft).map_err(|error| format!("memory limit: {}", io::Error::from(error)))?;
    }
    let spawned = command.spawn();
    if spec.memory_limit.is_some() {
        setrlimit(Resource::As, own).map_err(|error| format!("memory limit: {}", io::Error::from(error)))?;
    }
    let mut child = spawned.map_err(|error| match (error.kind(), spec.memory_limit) {
        (io::ErrorKind::OutOfMemory, Some(limit)) => format!("{program}: {error} (memory limit {limit} bytes)"),
        // A missing folder reads like a missing program.
        (io::ErrorKind::NotFound, _) if !cwd.is_dir() => format!("working directory {}: {error}", cwd.display()),
        _ => format!("{program}: {error}"),
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or("a process id out of range")?;
    if let Some(limit) = spec.memory_limit {
        // Fails only when it has ended already.
        let _ = prlimit(Some(pid), Resource::As, Rlimit { current: Some(limit), maximum: Some(limit) });
    }
    match (child.stdout.take(), child.stderr.take()) {
        (Some(stdout), Some(stderr)) => Ok((Leader { pid, reaped: None }, stdout, stderr)),
        _ => Err("its output has no pipe".to_owned()),
    }
}

impl Leader {
    /// Sends a signal to the whole group. Only while the leader is not reaped, so that the group's
    /// number cannot have passed to others.
    pub(super) fn signal(&self, signal: Signal) {
        if self.reaped.is_none() {
            // ESRCH cannot be: the leader is there, if only as a zombie.
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Whether the program has ended; it stays a zombie until [`Self::reap`].
    pub(super) fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.reaped.is_some() || matches!(waitid(WaitId::Pid(self.pid), options), Ok(Some(_)))
    }

    /// Takes its status, once it has ended.
    pub(super) fn reap(&mut self) -> Option<WaitStatus> {
        if self.reaped.is_none() {
            self.reaped = waitpid(Some(self.pid), WaitOptions::NOHANG).ok().flatten().map(|(_, status)| status);
        }
        self.reaped
    }

    /// Reaps orphans that came to the shim and says which still run. Processes that left the group come
    /// here too: the shim is their subreaper. Costs a look at all of `/proc`.
    pub(super) fn orphans(&self) -> io::Result<Vec<Pid>> {
        let own = getpid().as_raw_nonzero().get();
        let mut alive = Vec::new();
        for (pid, stat) in procfs::all()? {
            let Some(pid) = Pid::from_raw(pid).filter(|&pid| stat.parent == own && pid != self.pid) else { continue };
            if stat.zombie {
                let _ = waitpid(Some(pid), WaitOptions::NOHANG);
            } else {
                alive.push(pid);
            }
        }
        Ok(alive)
    }
}

/// Reaps ended orphans while the leader runs.
pub(super) fn reap_orphans(leader: &Leader) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    if !leader.has_ended() && matches!(waitid(WaitId::All, options), Ok(Some(_))) {
        let _ = leader.orphans();
    }
}

/// Whether the shim has no child at all.
pub(super) fn childless() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::All, options), Err(Errno::CHILD))
}

/// Kills children of the shim: their ids are theirs until it reaps them.
pub(super) fn kill(pids: &[Pid]) {
    for &pid in pids {
        let _ = kill_process(pid, Signal::KILL);
    }
}
