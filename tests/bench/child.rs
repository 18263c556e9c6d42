//! Child processes: parts of yardsticks and Hive's own programs. Killed when dropped.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::process::{ChildStdout, Command, Stdio};

pub struct Child {
    child: std::process::Child,
    out: BufReader<ChildStdout>,
}

/// This program again, as a part of something.
pub fn own<A: AsRef<OsStr>>(part: &str, arguments: impl IntoIterator<Item = A>) -> Child {
    let program = std::env::current_exe().expect("this program");
    Child::start(Command::new(program).arg(part).args(arguments))
}

impl Child {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().expect("started");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, out }
    }

    /// The next line it prints.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn stat(&self) -> Vec<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("it runs");
        let (_, fields) = stat.rsplit_once(") ").expect("fields");
        fields.split(' ').map(|field| field.trim().parse().unwrap_or_default()).collect()
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> f64 {
        (self.stat()[21] * rustix::param::page_size() as u64) as f64 / 1024.0
    }

    /// Processor time used since its start, in seconds.
    pub fn cpu_seconds(&self) -> f64 {
        let stat = self.stat();
        (stat[11] + stat[12]) as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    pub fn kill(self) {}

    /// Asks it to stop, as Ctrl-C does.
    pub fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("it is ours").is_some()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
