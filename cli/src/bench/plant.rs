//! The fleet under load: one control plane, many sidecars with one agent process each, as children
//! that stop when this program does. Not supervised: a child that dies is a finding, not something
//! to mend.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use hive_proto::v1;
use tokio::process::{Child, Command};

use crate::clock;
use crate::connect::Client;
use crate::dev::{CERTIFICATES, binaries};
use crate::failure::Failure;

/// What the agents under load can do.
pub(super) const CAPABILITY: &str = "bench";
/// For the control plane to serve.
const SERVE_LIMIT: Duration = Duration::from_secs(30);
/// For all agents to be ready.
const JOIN_LIMIT: Duration = Duration::from_secs(120);
/// For a child to stop once asked.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// The fleet's processes; those left when it is dropped are killed.
pub(super) struct Plant {
    pub(super) server: String,
    root: PathBuf,
    is_ours: bool,
    control_plane: Child,
    sidecars: Vec<Child>,
}

impl Plant {
    /// Starts a control plane in `data`, or in a folder that goes away with the plant.
    pub(super) async fn start(data: Option<&Path>) -> Result<Self, Failure> {
        let root = match data {
            Some(data) => std::path::absolute(data).unwrap_or_else(|_| data.to_owned()),
            None => std::env::temp_dir().join(format!("hive-bench-{}", &clock::new_id().simple().to_string()[20..])),
        };
        std::fs::create_dir_all(root.join("logs"))
            .map_err(|e| Failure::error(format!("cannot make {}", root.display()), e))?;
        let ready = root.join("ready.json");
        let _absent = std::fs::remove_file(&ready);
        let mut command = Command::new(binaries::find("hive-control-plane")?);
        command.arg("--data").arg(root.join("store")).args(["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
        command.arg("--stop-on-stdin-eof").arg("--ready-file").arg(&ready);
        let mut control_plane = spawn(command, &root, "control-plane")?;
        let until = clock::now() + SERVE_LIMIT;
        let listen = loop {
            let text = std::fs::read(&ready).unwrap_or_default();
            let found = serde_json::from_slice::<serde_json::Value>(&text).ok();
            if let Some(listen) = found.as_ref().and_then(|v| v["listen"].as_str()) {
                break listen.to_owned();
            }
            let ended = control_plane.try_wait().ok().flatten();
            if ended.is_some() || clock::now() > until {
                let why = ended.map_or("it did not serve in time".to_owned(), |status| format!("it ended: {status}"));
                return Err(Failure::error("the control plane did not start", why)
                    .next(format!("read {}", root.join("logs/control-plane.log").display())));
            }
            tokio::time::sleep(LOOK).await;
        };
        let server = format!("http://{listen}");
        Ok(Self { server, is_ours: data.is_none(), root, control_plane, sidecars: Vec::new() })
    }

    /// Starts the sidecars, all at once, and waits until their agents are ready. Returns how long each
    /// agent took, from the start of its sidecar's process.
    pub(super) async fn join(&mut self, sidecars: u16, slots: u16, client: &Client) -> Result<Vec<Duration>, Failure> {
        let program = binaries::find("hive-sidecar")?;
        let hive = std::env::current_exe().map_err(|e| Failure::error("cannot find this program's own file", e))?;
        let mut begun = Vec::new();
        for number in 1..=sidecars {
            let own = self.root.join(format!("s{number}"));
            let fail = |e| Failure::error(format!("cannot prepare {}", own.display()), e);
            std::fs::create_dir_all(own.join("state")).map_err(fail)?;
            let file = own.join("sidecar.toml");
            std::fs::write(&file, toml(number, slots, &hive)).map_err(fail)?;
            let mut command = Command::new(&program);
            command.arg("--config").arg(&file).args(["--server", &self.server, "--id", &format!("bench-{number}")]);
            command.arg("--state-dir").arg(own.join("state")).arg("--socket-dir").arg(own.join("s"));
            command.arg("--stop-on-stdin-eof");
            begun.push(clock::now());
            self.sidecars.push(spawn(command, &self.root, &format!("sidecar-{number}"))?);
        }
        let until = clock::now() + JOIN_LIMIT;
        let mut took = vec![None; usize::from(sidecars)];
        while took.iter().any(Option::is_none) {
            for agent in ready_agents(client).await? {
                let number = agent.strip_prefix("bench-agent-").and_then(|n| n.parse::<usize>().ok());
                if let Some(place) = number.and_then(|n| n.checked_sub(1)).filter(|place| *place < took.len()) {
                    took[place].get_or_insert_with(|| clock::now().duration_since(begun[place]));
                }
            }
            if clock::now() > until {
                let missing = took.iter().filter(|took| took.is_none()).count();
                return Err(Failure::error(
                    "the fleet is not complete",
                    format!("{missing} agents did not become ready"),
                )
                .next(format!("keep the logs with --data DIR and read them; now in {}", self.root.display())));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(took.into_iter().flatten().collect())
    }

    /// Part of the command line or the environment of every process of this fleet.
    pub(super) fn mark(&self) -> String {
        self.root.display().to_string()
    }

    /// Children that have died by themselves, by name.
    pub(super) fn dead(&mut self) -> Vec<String> {
        let mut dead = Vec::new();
        if self.control_plane.try_wait().ok().flatten().is_some() {
            dead.push("control-plane".to_owned());
        }
        for (n, sidecar) in self.sidecars.iter_mut().enumerate() {
            if sidecar.try_wait().ok().flatten().is_some() {
                dead.push(format!("sidecar-{}", n + 1));
            }
        }
        dead
    }

    /// Stops sidecars, then the control plane. Returns those that had to be killed.
    pub(super) async fn stop(mut self) -> usize {
        let mut killed = 0;
        self.sidecars.iter_mut().for_each(|child| drop(child.stdin.take()));
        let until = clock::now() + STOP_LIMIT;
        for child in &mut self.sidecars {
            killed += usize::from(!ends(child, until).await);
        }
        drop(self.control_plane.stdin.take());
        killed += usize::from(!ends(&mut self.control_plane, clock::now() + STOP_LIMIT).await);
        killed
    }
}

impl Drop for Plant {
    fn drop(&mut self) {
        if self.is_ours {
            let _left = std::fs::remove_dir_all(&self.root);
        }
    }
}

async fn ends(child: &mut Child, until: std::time::Instant) -> bool {
    let left = until.saturating_duration_since(clock::now());
    let ended = tokio::time::timeout(left, child.wait()).await.is_ok();
    if !ended {
        let _gone = child.kill().await;
    }
    ended
}

fn spawn(mut command: Command, root: &Path, name: &str) -> Result<Child, Failure> {
    let log = root.join("logs").join(format!("{name}.log"));
    let fail = |e| Failure::error(format!("cannot start {name}"), e);
    let log = std::fs::File::create(&log).map_err(fail)?;
    let also = log.try_clone().map_err(fail)?;
    command.stdin(Stdio::piped()).stdout(log).stderr(also).kill_on_drop(true);
    // What is set for whoever runs the bench is not meant for the fleet.
    for name in ["HIVE_SERVER", "HIVE_CONFIG"].iter().chain(CERTIFICATES) {
        command.env_remove(name);
    }
    command.spawn().map_err(fail)
}

async fn ready_agents(client: &Client) -> Result<Vec<String>, Failure> {
    let mut ready = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListAgentsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = client.call("cannot list agents", request, |mut s, r| async move { s.agents.list_agents(r).await });
        let page = page.await?;
        ready.extend(page.agents.into_iter().filter(|a| a.phase() == v1::AgentPhase::Ready).map(|a| a.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(ready);
        }
    }
}

fn toml(number: u16, slots: u16, hive: &Path) -> String {
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(
        text,
        "[[agents]]\nid = \"bench-agent-{number}\"\nruntime = \"process\"\ncapabilities = [\"{CAPABILITY}\"]\nslots = {slots}\nargv = [{:?}, \"bench\", \"agent\"]",
        hive.display().to_string(),
    );
    text
}
