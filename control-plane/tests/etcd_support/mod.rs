//! A real etcd of one member: started on loopback in a folder of its own, ended by its pid.

use std::fs::File;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hive_control_plane::store::etcd::{Etcd, Options};
use hive_etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::Channel;

/// Which etcd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.4, the oldest that is supported.
    Old,
    /// 3.5.28 or newer.
    New,
}

pub(crate) struct Server {
    program: PathBuf,
    more: Vec<String>,
    dir: TempDir,
    scheme: &'static str,
    port: u16,
    peer_port: u16,
    child: Option<Child>,
}

impl Server {
    /// Starts one with these further arguments. None: there is no etcd; the test is to end.
    pub(crate) fn start(test: &str, version: Version, more: &[&str]) -> Option<Self> {
        Self::start_with("http", test, version, more)
    }

    /// The same, speaking TLS with clients.
    pub(crate) fn start_tls(test: &str, version: Version, more: &[&str]) -> Option<Self> {
        Self::start_with("https", test, version, more)
    }

    fn start_with(scheme: &'static str, test: &str, version: Version, more: &[&str]) -> Option<Self> {
        let name = match version {
            Version::Old => "etcd/old/usr/bin/etcd",
            Version::New => "etcd/new/usr/bin/etcd",
        };
        let services = std::env::var_os("TEST_SERVICES")
            .map_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../target/services").into(), PathBuf::from);
        let program = services.join(name);
        if !program.exists() {
            skip(test, &format!("{name} is missing"), "make services");
            return None;
        }
        let more = more.iter().map(ToString::to_string).collect();
        let (port, peer_port) = (free_port(), free_port());
        let mut server =
            Self { program, more, dir: tempfile::tempdir().unwrap(), scheme, port, peer_port, child: None };
        server.restart();
        Some(server)
    }

    /// Starts it again in the same folder; whoever calls waits for it by what it asks.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = Command::new(&self.program)
            .args(["--name", "m", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m={peer}")])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// kill -9, and reaped.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    pub(crate) fn options(&self, cluster: &str) -> Options {
        let mut options = Options::new(vec![self.url()], cluster, "a test", u128::from(self.port));
        // Long enough for a start on a busy machine.
        options.patience = Duration::from_secs(60);
        options
    }

    pub(crate) fn store(&self, cluster: &str) -> Etcd {
        Etcd::new(self.options(cluster)).unwrap()
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::from_shared(self.url()).unwrap().connect_lazy()
    }

    pub(crate) fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("etcd's last words:");
            last.iter().rev().for_each(|line| eprintln!("  {line}"));
        }
    }
}

/// Says that a test could not run; `make test` shows it, and counts it as a failure in CI.
fn skip(test: &str, why: &str, how: &str) {
    println!("skipped {test}: {why}; {how}");
    if let Some(path) = std::env::var_os("TEST_SKIPS") {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        writeln!(file, "{test}: {why}; {how}").unwrap();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
