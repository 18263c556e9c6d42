//! One run from start to exit record: a loop over signals, both outputs and one deadline.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SigSet};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::{Signal, getpid, set_child_subreaper};

use super::child::{self, Leader};
use super::files::{self, Cancel, Exit, Identity, Spec, Started, Stop};
use super::keep::Keeper;
use super::say;
use crate::clock;

/// How long KILL and the pipes after it may take before the record is written without them.
const SWEEP_MS: u64 = 5_000;
/// Pause between looks at `/proc` while sweeping.
const SWEEP_STEP_MS: u64 = 20;

/// Runs what `dir/spec.json` says.
///
/// # Errors
/// Nothing was started, and no record could be left.
pub(super) fn run(dir: &Path) -> io::Result<()> {
    let mut mask = SigSet::empty();
    for signal in [SIGTERM, SIGINT, SIGHUP, SIGCHLD] {
        mask.add(signal);
    }
    // The program inherits the mask, so signals are blocked only once it runs. Until then the sidecar
    // sends none: it leaves the cancel file, which is looked for on both sides of the start.
    mask.thread_unblock()?;
    set_child_subreaper(Some(getpid()))?;
    files::write(dir, files::SHIM, &Identity::of(getpid().as_raw_nonzero().get())?)?;
    let spec: Spec = files::read(dir, files::SPEC)?.ok_or_else(|| io::Error::other("there is no spec.json"))?;

    if dir.join(files::VOID).exists() {
        return record(dir, Exit { void: true, ended_ms: clock::wall_ms(), ..Exit::default() });
    }
    if files::read::<Cancel>(dir, files::CANCEL)?.is_some() {
        let exit = Exit { stop: Some(Stop::Cancelled), ended_ms: clock::wall_ms(), ..Exit::default() };
        return record(dir, exit);
    }
    // Its place on the disk is taken while there is room; see `record`.
    io::Write::write_all(&mut files::private(&dir.join(format!("{}.tmp", files::EXIT)))?, &[b' '; 2048])?;
    let kept = Keeper::open(dir, "stdout", spec.output_limit, spec.rotate)
        .and_then(|out| Ok((out, Keeper::open(dir, "stderr", spec.output_limit, spec.rotate)?)));
    let (out, err) = match kept {
        Ok(kept) => kept,
        Err(error) => return start_failed(dir, format!("its output cannot be kept: {error}")),
    };
    let (leader, stdout, stderr) = match child::start(&spec, dir) {
        Ok(started) => started,
        Err(error) => return start_failed(dir, error),
    };
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let started_ms = clock::wall_ms();
    let written = Identity::of(leader.pid.as_raw_nonzero().get())
        .and_then(|program| files::write(dir, files::STARTED, &Started { program, started_ms }));
    let mut run = Run {
        dir,
        spec: &spec,
        signals,
        leader,
        stdout: Pipe::new(stdout, out)?,
        stderr: Pipe::new(stderr, err)?,
        phase: Phase::Running,
        stop: None,
        deadline: spec.timeout_ms.map(|ms| clock::boot_ms().saturating_add(ms)),
    };
    if dir.join(files::CANCEL).exists() {
        run.stop_asked()?;
    }
    match &written {
        Ok(()) => say(&format!("started {started_ms}")),
        // Nobody could adopt it: it must not run on.
        Err(_) => run.sweep(),
    }
    let strays = run.until_ended()?;
    let start_error = written.err().map(|error| format!("its start cannot be recorded: {error}"));
    let status = run.leader.reap();
    let (stdout, out_error) = run.stdout.keeper.finish();
    let (stderr, err_error) = run.stderr.keeper.finish();
    let exit = Exit {
        started_ms: Some(started_ms),
        ended_ms: clock::wall_ms(),
        start_error,
        exit_code: status.and_then(|s| s.exit_status()),
        signal: status.and_then(|s| s.terminating_signal()),
        stop: run.stop,
        void: false,
        stdout,
        stderr,
        output_error: out_error.or(err_error),
        max_rss_kib: getrusage(UsageWho::RUSAGE_CHILDREN).ok().and_then(|u| u.max_rss().try_into().ok()).unwrap_or(0),
        strays,
    };
    record(dir, exit)
}

fn start_failed(dir: &Path, error: String) -> io::Result<()> {
    record(dir, Exit { start_error: Some(error), ended_ms: clock::wall_ms(), ..Exit::default() })
}

/// The record overwrites blanks laid down at the start, so a disk that filled up meanwhile cannot
/// swallow it; JSON does not mind blanks behind it.
fn record(dir: &Path, exit: Exit) -> io::Result<()> {
    let tmp = dir.join(format!("{}.tmp", files::EXIT));
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&tmp)?;
    io::Write::write_all(&mut file, &serde_json::to_vec(&exit)?)?;
    std::fs::rename(tmp, dir.join(files::EXIT))
}

enum Phase {
    Running,
    /// TERM was sent; KILL follows at the deadline.
    Stopping,
    /// KILL was sent; the deadline gives up on what even that did not end.
    Sweeping,
}

struct Pipe<R> {
    reader: Option<R>,
    keeper: Keeper,
}

impl<R: Read + AsFd> Pipe<R> {
    fn new(reader: R, keeper: Keeper) -> io::Result<Self> {
        fcntl_setfl(&reader, fcntl_getfl(&reader)? | OFlags::NONBLOCK)?;
        Ok(Self { reader: Some(reader), keeper })
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.reader.as_ref().map(AsFd::as_fd)
    }

    /// Takes what is there now, at most a few pages, so that neither pipe starves the other.
    fn drain(&mut self, buffer: &mut [u8]) {
        let Some(reader) = &mut self.reader else { return };
        match reader.read(buffer) {
            Ok(0) => self.reader = None,
            Ok(n) => self.keeper.take(&buffer[..n]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.reader = None,
        }
    }
}

struct Run<'a> {
    dir: &'a Path,
    spec: &'a Spec,
    signals: SignalFd,
    leader: Leader,
    stdout: Pipe<ChildStdout>,
    stderr: Pipe<ChildStderr>,
    phase: Phase,
    stop: Option<Stop>,
    /// Of the phase, by the boot-time clock.
    deadline: Option<u64>,
}

impl Run<'_> {
    /// Returns whether something outlived KILL.
    fn until_ended(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; 64 * 1024];
        // What ended before signals were blocked has sent none.
        let mut child_ended = true;
        loop {
            while let Some(info) = self.signals.read_signal()? {
                match i32::try_from(info.ssi_signo) {
                    Ok(n) if n == SIGCHLD as i32 => child_ended = true,
                    _ => self.stop_asked()?,
                }
            }
            self.stdout.drain(&mut buffer);
            self.stderr.drain(&mut buffer);
            if child_ended {
                child::reap_orphans(&self.leader);
            }
            let late = self.deadline.is_some_and(|deadline| clock::boot_ms() >= deadline);
            match self.phase {
                Phase::Running if child_ended && self.leader.has_ended() => self.sweep(),
                Phase::Running if late => self.terminate(Stop::TimedOut, self.spec.grace_ms),
                // Also those that TERM reached have the grace.
                Phase::Stopping if late => self.sweep(),
                Phase::Stopping if child_ended && self.leader.has_ended() && self.leader.orphans()?.is_empty() => {
                    self.sweep();
                }
                _ => {}
            }
            if matches!(self.phase, Phase::Sweeping) && self.leader.reap().is_some() {
                let strays = if child::childless() { Vec::new() } else { self.leader.orphans()? };
                child::kill(&strays);
                let quiet = self.stdout.reader.is_none() && self.stderr.reader.is_none();
                if late || (strays.is_empty() && quiet && child::childless()) {
                    return Ok(!strays.is_empty());
                }
            }
            child_ended = false;
            self.wait()?;
        }
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        for fd in [self.stdout.fd(), self.stderr.fd()].into_iter().flatten() {
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        let mut left = self.deadline.map(|deadline| deadline.saturating_sub(clock::boot_ms()));
        if matches!(self.phase, Phase::Sweeping) {
            left = Some(SWEEP_STEP_MS);
        }
        let left = left.map(|ms| Timespec {
            tv_sec: i64::try_from(ms / 1000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ms % 1000 * 1_000_000).unwrap_or(0),
        });
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn stop_asked(&mut self) -> io::Result<()> {
        let cancel: Option<Cancel> = files::read(self.dir, files::CANCEL)?;
        let (why, grace_ms) = match cancel {
            Some(cancel) => (Stop::Cancelled, cancel.grace_ms),
            None => (Stop::Terminated, self.spec.grace_ms),
        };
        match self.phase {
            Phase::Running => self.terminate(why, grace_ms),
            // A second word can only shorten the grace.
            Phase::Stopping => {
                let at = clock::boot_ms().saturating_add(grace_ms);
                self.deadline = Some(self.deadline.map_or(at, |old| old.min(at)));
            }
            Phase::Sweeping => {}
        }
        Ok(())
    }

    fn terminate(&mut self, why: Stop, grace_ms: u64) {
        // What has ended by itself has not been stopped.
        if self.leader.has_ended() {
            return;
        }
        self.stop = Some(why);
        self.leader.signal(Signal::TERM);
        // A stopped group would sleep through it.
        self.leader.signal(Signal::CONT);
        self.phase = Phase::Stopping;
        self.deadline = Some(clock::boot_ms().saturating_add(grace_ms));
    }

    fn sweep(&mut self) {
        // One call reaches every member, also those being forked.
        self.leader.signal(Signal::KILL);
        self.phase = Phase::Sweeping;
        self.deadline = Some(clock::boot_ms().saturating_add(SWEEP_MS));
    }
}
