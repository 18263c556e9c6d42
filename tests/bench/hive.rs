//! Hive's own programs, started for a measurement.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::child::Child;

pub const CONTROL_PLANE: &str = env!("CARGO_BIN_EXE_hive-control-plane");
pub const SIDECAR: &str = env!("CARGO_BIN_EXE_hive-sidecar");
pub const HIVE: &str = env!("CARGO_BIN_EXE_hive");

/// A control plane in a folder of its own.
pub struct ControlPlane {
    pub process: Child,
    pub server: String,
    pub folder: tempfile::TempDir,
}

impl ControlPlane {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let ready = folder.path().join("ready.json");
        let mut command = Command::new(CONTROL_PLANE);
        command.arg("--data").arg(folder.path().join("store")).arg("--ready-file").arg(&ready);
        command.args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]).stderr(Stdio::null());
        let process = Child::start(&mut command);
        let listen = wait("the control plane to serve", || {
            let text = std::fs::read(&ready).ok()?;
            let ready: serde_json::Value = serde_json::from_slice(&text).ok()?;
            Some(ready["listen"].as_str()?.to_owned())
        });
        Self { process, server: format!("http://{listen}"), folder }
    }

    /// A sidecar with one command agent that is never asked to do anything.
    pub fn sidecar(&self) -> Child {
        let file = self.folder.path().join("sidecar.toml");
        let text = "[[agents]]\nid = \"idle\"\nruntime = \"command\"\ncapabilities = [\"idle\"]\nargv = [\"true\"]\n";
        std::fs::write(&file, text).expect("written");
        let mut command = Command::new(SIDECAR);
        command.arg("--config").arg(&file).args(["--server", &self.server, "--id", "idle"]);
        command.arg("--state-dir").arg(self.folder.path().join("state")).stderr(Stdio::null());
        let sidecar = Child::start(&mut command);
        wait("the agent to be ready", || {
            let agents = run(HIVE, &["agents", "idle", "--server", &self.server, "-o", "json"]).ok()?;
            agents.contains("AGENT_PHASE_READY").then_some(())
        });
        sidecar
    }
}

/// Waits until there is something.
pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program to its end; its output, or what it said on failing.
pub fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().map_err(|e| e.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stdout) + &text(&output.stderr)) }
}

/// One run of `hive bench run`: its figures by name.
pub fn bench(arguments: &[&str]) -> std::collections::BTreeMap<String, Figure> {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let mut command = Command::new(HIVE);
    command.args(["bench", "run", "--json"]).arg(&report).args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    let status = command.status().expect("it runs");
    assert!(status.success(), "hive bench run {} failed: {status}", arguments.join(" "));
    let text = std::fs::read(&report).expect("a report");
    let figures: Vec<Figure> = serde_json::from_slice(&text).expect("figures");
    figures.into_iter().map(|figure| (figure.name.clone(), figure)).collect()
}

#[derive(Clone, Debug, serde::Deserialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: String,
    pub better: String,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub min: f64,
    pub max: f64,
    pub runs: u64,
}

/// The size a program has without symbols, in bytes.
pub fn stripped(program: &str) -> f64 {
    let folder = tempfile::tempdir().expect("a folder");
    let copy: PathBuf = folder.path().join("stripped");
    let copied = run("strip", &["-o", copy.to_str().expect("a path"), program]);
    copied.expect("strip is part of every C compiler's set of tools");
    size(&copy)
}

fn size(path: &Path) -> f64 {
    std::fs::metadata(path).expect("it is there").len() as f64
}
