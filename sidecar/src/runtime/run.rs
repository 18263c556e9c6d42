//! A handle on one shim: started here, or found running after this sidecar's own restart.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::shim::files::{self, Cancel, Exit, Identity, Spec, Started};
use crate::shim::procfs;

/// Between looks at an adopted shim that has not started its program yet.
const STEP: Duration = Duration::from_millis(20);
/// Rounds of killing what a vanished shim left behind.
const ROUNDS: u32 = 50;

/// One program under its shim.
pub(super) struct Run {
    dir: PathBuf,
    watch: Watch,
    /// Why the shim started nothing, in its own words.
    refusal: Option<String>,
}

enum Watch {
    Own { child: Child, said: BufReader<ChildStdout> },
    Adopted { shim: Identity, fd: Option<AsyncFd<OwnedFd>> },
}

/// What a run's folder holds.
pub(super) enum Found {
    /// The shim lives.
    Running(Run),
    /// It left its record.
    Ended(Exit),
    /// There was a shim, and it left without a word; see [`end_leftovers`].
    Vanished,
    /// Nothing ever ran, and nothing can start any more.
    Nothing,
}

/// How a run ended.
pub(super) enum End {
    /// By the shim's record.
    Exit(Exit),
    /// The shim itself was killed. When its program started, if it did.
    Vanished(Option<Started>),
    /// The shim could start nothing and said why.
    Failed(String),
}

impl Run {
    /// Starts a shim on a folder that [`prepare`] made. Blocks for the time of a process start.
    pub(super) fn spawn(shim: &[OsString], dir: &Path) -> io::Result<Self> {
        let (program, args) = shim.split_first().ok_or_else(|| io::Error::other("no shim is configured"))?;
        let mut child = Command::new(program)
            .args(args)
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A terminal's Ctrl-C is for the sidecar; what runs ends by its word.
            .process_group(0)
            .spawn()?;
        let said = child.stdout.take().ok_or_else(|| io::Error::other("the shim has no pipe"))?;
        let watch = Watch::Own { child, said: BufReader::new(said) };
        Ok(Self { dir: dir.to_owned(), watch, refusal: None })
    }

    /// Looks at what a former sidecar left in `dir`. Blocks for a few file reads.
    pub(super) fn find(dir: &Path) -> io::Result<Found> {
        if let Some(exit) = files::read::<Exit>(dir, files::EXIT)? {
            return Ok(if exit.void { Found::Nothing } else { Found::Ended(exit) });
        }
        let mut shim: Option<Identity> = files::read(dir, files::SHIM)?;
        if shim.is_none() && dir.is_dir() {
            // It may be on its way. From here on it starts nothing, unless it already wrote who it is.
            files::private(&dir.join(files::VOID))?;
            shim = files::read(dir, files::SHIM)?;
        }
        let Some(shim) = shim else { return Ok(Found::Nothing) };
        let fd = open(&shim)?;
        if shim.is_alive() {
            let watch = Watch::Adopted { shim, fd };
            return Ok(Found::Running(Self { dir: dir.to_owned(), watch, refusal: None }));
        }
        // It may have ended between the two looks.
        Ok(match files::read::<Exit>(dir, files::EXIT)? {
            Some(exit) if exit.void => Found::Nothing,
            Some(exit) => Found::Ended(exit),
            None => Found::Vanished,
        })
    }

    /// Waits until the program runs. `None`: it never will, see [`Self::ended`].
    pub(super) async fn started(&mut self) -> io::Result<Option<u64>> {
        match &mut self.watch {
            Watch::Own { said, .. } => {
                let mut line = String::new();
                said.read_line(&mut line).await?;
                self.refusal = line.strip_prefix("failed ").map(|text| text.trim().to_owned());
                Ok(line.strip_prefix("started ").and_then(|ms| ms.trim().parse().ok()))
            }
            Watch::Adopted { shim, .. } => loop {
                if let Some(started) = files::read::<Started>(&self.dir, files::STARTED)? {
                    return Ok(Some(started.started_ms));
                }
                if !shim.is_alive() {
                    return Ok(None);
                }
                tokio::time::sleep(STEP).await;
            },
        }
    }

    /// Waits for the end. Cancel-safe.
    pub(super) async fn ended(&mut self) -> io::Result<End> {
        let mut failed = None;
        match &mut self.watch {
            Watch::Own { child, .. } => {
                let status = child.wait().await?;
                if !status.success() && status.code().is_some() {
                    let why = self.refusal.take().unwrap_or_else(|| status.to_string());
                    failed = Some(format!("the shim could not start it: {why}"));
                }
            }
            Watch::Adopted { shim, fd } => {
                if let Some(fd) = fd {
                    // Readable once the process has ended; never before.
                    fd.readable().await?.retain_ready();
                }
                while shim.is_alive() {
                    tokio::time::sleep(STEP).await;
                }
            }
        }
        if let Some(exit) = files::read::<Exit>(&self.dir, files::EXIT)? {
            return Ok(End::Exit(exit));
        }
        let started = files::read::<Started>(&self.dir, files::STARTED)?;
        Ok(match (failed, started) {
            (Some(text), None) => End::Failed(text),
            (_, started) => End::Vanished(started),
        })
    }

    /// Asks for the end: TERM to the program's group, KILL after `grace`.
    pub(super) fn cancel(&self, grace: Duration) -> io::Result<()> {
        let grace_ms = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        // In this order: a shim that has not recorded the start yet looks for the file when it has, and
        // must not be signalled before.
        files::write(&self.dir, files::CANCEL, &Cancel { grace_ms })?;
        if !self.dir.join(files::STARTED).exists() {
            return Ok(());
        }
        let Some(shim) = files::read::<Identity>(&self.dir, files::SHIM)? else { return Ok(()) };
        signal(&shim, Signal::TERM)
    }
}

/// Makes a run's folder, private to this user, and lays down what to run. An older run's records go.
pub(super) fn prepare(dir: &Path, spec: &Spec) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    forget_run(dir);
    files::write(dir, files::SPEC, spec)
}

/// Removes a run's records, not its output.
pub(super) fn forget_run(dir: &Path) {
    for name in [files::SPEC, files::SHIM, files::STARTED, files::EXIT, files::CANCEL, files::VOID] {
        let _ = fs::remove_file(dir.join(name));
    }
}

/// A shim's handle, if this is still that process; `None` where the kernel has no pidfd or it is gone.
fn open(process: &Identity) -> io::Result<Option<AsyncFd<OwnedFd>>> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(fd) => {
            // Looked at after the handle was taken, so it is the handle of the process looked at.
            if process.is_alive() { watchable(fd).map(Some) } else { Ok(None) }
        }
        Err(Errno::SRCH | Errno::NOSYS | Errno::INVAL | Errno::PERM) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[expect(deprecated, reason = "its successor is unsafe for the sake of descriptors closed early; an OwnedFd is not")]
fn watchable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, tokio::io::Interest::READABLE)
}

fn signal(process: &Identity, signal: Signal) -> io::Result<()> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(()) };
    let fd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => fd,
        Err(Errno::SRCH) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !process.is_alive() {
        return Ok(());
    }
    match pidfd_send_signal(fd, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Ends what a vanished shim left running: the program's group, and whatever carries `name=value` in
/// its environment. Blocks until none is left or its patience is; returns whether none is.
pub(super) fn end_leftovers(dir: &Path, name: &str, value: &str) -> io::Result<bool> {
    let program = files::read::<Started>(dir, files::STARTED)?.map(|started| started.program);
    for _ in 0..ROUNDS {
        // The number is the group's only as long as its leader is the process that was started.
        if let Some(program) = program.as_ref().filter(|program| program.is_alive())
            && let Some(group) = Pid::from_raw(program.pid)
        {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let mut left = false;
        for (pid, stat) in procfs::all()? {
            if stat.zombie || !procfs::has_env(pid, name, value) {
                continue;
            }
            left = true;
            let boot = procfs::boot_id()?;
            signal(&Identity { pid, start: stat.start, boot }, Signal::KILL)?;
        }
        if !left && !program.as_ref().is_some_and(Identity::is_alive) {
            return Ok(true);
        }
        pause();
    }
    Ok(false)
}

#[expect(clippy::disallowed_methods, reason = "on a thread that may block, between two looks at /proc")]
fn pause() {
    std::thread::sleep(STEP);
}
