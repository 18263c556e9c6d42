//! One child process: its log, its end, and all the ways to disturb it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::procfs::signal;
use super::wait::eventually;

/// A child in a process group of its own; killed when dropped.
#[derive(Debug)]
pub(crate) struct Proc {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Starts it. What it writes is added to the log; its standard input is a pipe that closes when
    /// this process dies, however it dies.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Self {
        use std::os::unix::process::CommandExt as _;
        let file = || File::options().create(true).append(true).open(log).expect("open the log");
        command.stdin(Stdio::piped()).stdout(file()).stderr(file()).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        Self { name: name.to_owned(), child, log: log.to_owned(), ended: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("look at a child");
        }
        self.ended
    }

    pub(crate) fn signal(&mut self, which: Signal) {
        // Once reaped, its id may be another's.
        if self.ended().is_none() {
            signal(self.pid(), which);
        }
    }

    /// SIGKILL, and waits for the end, which comes at once.
    pub(crate) fn kill9(&mut self) {
        self.signal(Signal::KILL);
        if self.ended.is_none() {
            self.ended = Some(self.child.wait().expect("wait for a child"));
        }
    }

    /// SIGSTOP: it keeps its connections and says nothing.
    pub(crate) fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// SIGTERM, and waits for the end.
    pub(crate) async fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(limit).await
    }

    /// Waits for the end.
    pub(crate) async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} (pid {}) ends", self.name, self.pid());
        eventually(&what, limit, || {
            let ended = self.ended();
            async move { ended.ok_or("it runs") }
        })
        .await
    }

    /// All it wrote.
    pub(crate) fn log(&self) -> String {
        std::fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        if self.ended().is_none() {
            signal(self.pid(), Signal::KILL);
            let _status = self.child.wait();
        }
    }
}
