//! One control plane and its sidecars on this machine, in a folder of their own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hive_sdk::Client;
use hive_sdk::client::{Error, TaskExt as _, TaskHandle, TaskId, TaskSpec};
use hive_sdk::proto::{AgentPhase, Task, TaskState};
use rustix::process::Signal;
use tempfile::TempDir;

use super::wait::{LONG, eventually};
use super::{AgentDef, CONTROL_PLANE, Ended, Port, Proc, Proxy, SIDECAR, hive, processes_with, signal};

/// What makes waiting short. Agents are LOST only where a test asks for it by [`LOSES`], for on a busy
/// machine a process may well be late.
const QUICK: &[(&str, &str)] = &[
    ("session.beat", "500ms"),
    ("session.lost", "60s"),
    ("session.lost_beats", "6"),
    ("session.kill", "2s"),
    ("session.kill_beats", "4"),
    ("session.kill_margin", "500ms"),
    ("session.receipt", "1s"),
    ("task.backoff", "50ms"),
    ("task.backoff_cap", "200ms"),
    ("task.cancel_grace", "1s"),
    ("watch.bookmark", "1s"),
    ("store.ballast", "0"),
    ("store.min_free", "0"),
];

/// Settings under which an agent out of contact is soon LOST.
pub(crate) const LOSES: &[(&str, &str)] = &[("session.lost", "3s")];

/// See the module. Processes are found again by the folder's name, which all of them carry.
#[derive(Debug)]
pub(crate) struct Rig {
    // Dropped in this order: processes, then folder, then port.
    control_plane: Option<Proc>,
    sidecars: BTreeMap<String, Proc>,
    settings: BTreeMap<String, String>,
    /// Environment of all processes.
    env: BTreeMap<String, String>,
    /// Where a sidecar dials, if not the control plane itself.
    servers: BTreeMap<String, String>,
    /// Certificates of `hive certs`, if it speaks TLS.
    certs: Option<PathBuf>,
    dir: TempDir,
    port: Port,
    ops: Port,
}

impl Rig {
    /// A control plane that serves, with short waits.
    pub(crate) async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same with some settings (by their names in docs/settings.md) in place of the quick ones.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let mut rig = Self::folder(settings);
        rig.start_control_plane().await;
        rig
    }

    /// A control plane that speaks TLS and asks for certificates, all of them made by `hive certs`. The
    /// sidecars named have one each.
    pub(crate) async fn secured(sidecars: &[&str]) -> Self {
        let mut rig = Self::folder(&[("tls.poll", "200ms")]);
        let certs = rig.path().join("certs");
        rig.certs(&certs, sidecars).await;
        let path = |name: &str| certs.join(name).to_str().expect("UTF-8").to_owned();
        rig.set("tls.cert", &path("server.pem"));
        rig.set("tls.key", &path("server.key"));
        rig.set("tls.client_ca", &path("ca.pem"));
        rig.certs = Some(certs);
        rig.start_control_plane().await;
        rig
    }

    /// A CA, with certificates of a server, a client and these sidecars.
    pub(crate) async fn certs(&self, out: &Path, sidecars: &[&str]) {
        let out = out.to_str().expect("UTF-8");
        for args in [&["init"][..], &["server"], &["client"]] {
            hive(&[&["certs"], args, &["--out", out]].concat()).await.expect(0);
        }
        for id in sidecars {
            hive(&["certs", "sidecar", id, "--out", out]).await.expect(0);
        }
    }

    /// A file of `hive certs`.
    pub(crate) fn cert(&self, name: &str) -> PathBuf {
        self.certs.as_ref().expect("a secured rig").join(name)
    }

    /// Nothing runs yet.
    pub(crate) fn folder(settings: &[(&str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("hive-e2e-").tempdir().expect("a folder");
        let mut rig = Self {
            control_plane: None,
            sidecars: BTreeMap::new(),
            settings: BTreeMap::new(),
            env: BTreeMap::new(),
            servers: BTreeMap::new(),
            certs: None,
            dir,
            port: Port::reserve(),
            ops: Port::reserve(),
        };
        for (name, value) in QUICK.iter().chain(settings) {
            rig.set(name, value);
        }
        rig
    }

    /// A setting from the control plane's next start on.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.insert(name.to_owned(), value.to_owned());
    }

    /// A variable of every process from its next start on.
    pub(crate) fn set_env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The data folder of the control plane.
    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("control-plane")
    }

    /// What a command needs to be found again when the rig goes.
    pub(crate) fn mark(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"HIVE_") {
                command.env_remove(name);
            }
        }
        command.env("E2E_RIG", self.path()).env("NO_COLOR", "1").envs(&self.env);
    }

    /// A control plane's command line on this rig's data and ports.
    pub(crate) fn control_plane_command(&self) -> Command {
        let mut command = Command::new(CONTROL_PLANE);
        self.mark(&mut command);
        command.arg("--data").arg(self.data());
        command.args(["--listen", &self.port.address().to_string(), "--ops-listen", &self.ops.address().to_string()]);
        command.arg("--stop-on-stdin-eof").arg("--ready-file").arg(self.ready_file());
        for (name, value) in &self.settings {
            command.env(format!("HIVE_{}", name.to_uppercase().replace('.', "__")), value);
        }
        command
    }

    fn ready_file(&self) -> PathBuf {
        self.path().join("control-plane.ready")
    }

    /// Starts it and waits until it serves.
    pub(crate) async fn start_control_plane(&mut self) {
        self.launch_control_plane();
        let file = self.ready_file();
        let process = self.control_plane.as_mut().expect("just started");
        eventually("the control plane serves", LONG, || {
            let ended = process.ended();
            assert!(ended.is_none(), "the control plane ended at its start: {ended:?}\n{}", process.log());
            let ready = file.exists();
            async move { ready.then_some(()).ok_or("no ready file") }
        })
        .await;
    }

    /// Starts it and does not wait.
    pub(crate) fn launch_control_plane(&mut self) {
        let _absent = std::fs::remove_file(self.ready_file());
        let log = self.path().join("control-plane.log");
        self.control_plane = Some(Proc::start("control-plane", self.control_plane_command(), &log));
    }

    pub(crate) fn control_plane(&mut self) -> &mut Proc {
        self.control_plane.as_mut().expect("the control plane was started")
    }

    /// kill -9 and a new start on the same data.
    pub(crate) async fn crash_control_plane(&mut self) {
        self.control_plane().kill9();
        self.start_control_plane().await;
    }

    pub(crate) fn sidecar_folder(&self, id: &str) -> PathBuf {
        self.path().join(id)
    }

    pub(crate) fn sidecar_command(&self, id: &str) -> Command {
        let folder = self.sidecar_folder(id);
        let mut command = Command::new(SIDECAR);
        self.mark(&mut command);
        command.arg("--config").arg(folder.join("sidecar.toml"));
        let server = self.servers.get(id).cloned().unwrap_or_else(|| self.endpoint());
        command.args(["--server", &server, "--id", id]);
        command.arg("--state-dir").arg(folder.join("state")).arg("--socket-dir").arg(self.path().join("s"));
        command.arg("--stop-on-stdin-eof");
        command
    }

    /// Starts a sidecar that hosts these agents and waits until they are READY.
    pub(crate) async fn sidecar(&mut self, id: &str, agents: &[AgentDef]) {
        self.declare_sidecar(id, agents);
        self.start_sidecar(id);
        for agent in agents {
            self.phase(agent.id(), AgentPhase::Ready).await;
        }
    }

    /// [`Rig::sidecar`] over a wire that can be cut.
    pub(crate) async fn sidecar_by_wire(&mut self, id: &str, agents: &[AgentDef]) -> Proxy {
        let proxy = self.wire(id).await;
        self.sidecar(id, agents).await;
        proxy
    }

    /// A wire for a sidecar, from its next start on.
    pub(crate) async fn wire(&mut self, id: &str) -> Proxy {
        let proxy = Proxy::to(self.port.address()).await;
        self.servers.insert(id.to_owned(), proxy.endpoint());
        proxy
    }

    /// Writes its `sidecar.toml` only.
    pub(crate) fn declare_sidecar(&mut self, id: &str, agents: &[AgentDef]) {
        let folder = self.sidecar_folder(id);
        std::fs::create_dir_all(&folder).expect("a folder for the sidecar");
        let mut text: String = agents.iter().map(AgentDef::toml).collect();
        if self.certs.is_some() {
            let file = |name: &str| self.cert(name).display().to_string();
            let (ca, cert, key) =
                (file("ca.pem"), file(&format!("sidecar-{id}.pem")), file(&format!("sidecar-{id}.key")));
            text.push_str(&format!("\n[tls]\nca = '{ca}'\ncert = '{cert}'\nkey = '{key}'\n"));
        }
        std::fs::write(folder.join("sidecar.toml"), text).expect("write sidecar.toml");
    }

    /// Starts a declared sidecar and does not wait.
    pub(crate) fn start_sidecar(&mut self, id: &str) {
        let log = self.path().join(format!("{id}.log"));
        let process = Proc::start(id, self.sidecar_command(id), &log);
        self.sidecars.insert(id.to_owned(), process);
    }

    pub(crate) fn sidecar_process(&mut self, id: &str) -> &mut Proc {
        self.sidecars.get_mut(id).expect("the sidecar was started")
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://{}", if self.certs.is_some() { "https" } else { "http" }, self.port.address())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.port.address()
    }

    pub(crate) fn ops(&self) -> String {
        format!("http://{}", self.ops.address())
    }

    /// A client whose calls try for up to a minute.
    pub(crate) fn client(&self) -> Client {
        self.client_within(LONG)
    }

    pub(crate) fn client_within(&self, timeout: Duration) -> Client {
        let mut builder = Client::builder().endpoint(self.endpoint()).timeout(timeout);
        if self.certs.is_some() {
            builder = builder.ca(self.cert("ca.pem")).certificate(self.cert("client.pem"), self.cert("client.key"));
        }
        builder.connect_lazy().expect("an endpoint")
    }

    /// Runs `hive` against this rig.
    pub(crate) async fn hive(&self, args: &[&str]) -> Ended {
        if self.certs.is_some() {
            return self.hive_as("client", args).await;
        }
        let endpoint = self.endpoint();
        hive(&[&["--server", &endpoint], args].concat()).await
    }

    /// Runs `hive` with a certificate of that name.
    pub(crate) async fn hive_as(&self, name: &str, args: &[&str]) -> Ended {
        let file = |name: &str| self.cert(name).to_str().expect("UTF-8").to_owned();
        let (ca, cert, key) = (file("ca.pem"), file(&format!("{name}.pem")), file(&format!("{name}.key")));
        let endpoint = self.endpoint();
        hive(&[&["--server", &endpoint, "--ca", &ca, "--cert", &cert, "--key", &key], args].concat()).await
    }

    /// Waits for an agent's phase.
    pub(crate) async fn phase(&self, agent: &str, phase: AgentPhase) {
        let client = self.client();
        eventually(&format!("{agent} is {phase:?}"), LONG, || async {
            match client.get_agent(agent).await {
                Ok(agent) if agent.phase() == phase => Ok(()),
                Ok(agent) => Err(agent.phase().as_str_name().to_owned()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
    }

    /// Submits.
    pub(crate) async fn submit(&self, spec: TaskSpec) -> TaskHandle {
        self.client().submit(spec).await.expect("submit")
    }

    /// Waits for a task's end.
    pub(crate) async fn ended(&self, id: TaskId) -> Task {
        self.client().wait(id, LONG).await.expect("the task's end")
    }

    /// Waits for a task's success and gives its result as text.
    #[track_caller]
    pub(crate) fn result(&self, id: TaskId) -> impl Future<Output = (Task, String)> {
        let client = self.client();
        async move {
            let task = client.wait(id, LONG).await.expect("the task's end");
            assert!(task.is_success(), "{task:?}");
            let text = task.output().map(|output| output.as_text().expect("text").to_owned()).unwrap_or_default();
            (task, text)
        }
    }

    /// Waits until a task stands so.
    pub(crate) async fn state(&self, id: TaskId, state: TaskState) -> Task {
        self.until(id, &format!("{state:?}"), |task| task.state() == state).await
    }

    /// Waits until a task is as wished.
    pub(crate) async fn until(&self, id: TaskId, what: &str, wish: impl Fn(&Task) -> bool) -> Task {
        let client = self.client();
        eventually(&format!("task {id}: {what}"), LONG, || async {
            match client.get(id).await {
                Ok(task) if wish(&task) => Ok(task),
                Ok(task) => Err(format!("{task:?}")),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    /// What was tried again and again, for as long as it is refused for a reason that passes.
    pub(crate) fn passes(error: &Error) -> bool {
        error.is_retryable()
    }

    /// Processes of this rig, by their command lines.
    pub(crate) fn processes(&self) -> Vec<(u32, String)> {
        processes_with(&format!("{}", self.path().display()))
    }

    /// The process of an agent that links the SDK.
    pub(crate) fn agent_process(&self, agent: &str) -> Option<u32> {
        let of_agent = processes_with(&format!("HIVE_AGENT_ID={agent}\0"));
        let of_rig = self.processes();
        of_agent.into_iter().map(|(pid, _)| pid).find(|pid| of_rig.iter().any(|(own, _)| own == pid))
    }

    /// The value of a counter or gauge of the control plane whose line begins so; 0 without one.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        self.try_metric(name).await.expect("the ops port")
    }

    /// The same while the control plane may be away.
    pub(crate) async fn try_metric(&self, name: &str) -> std::io::Result<f64> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.ops.address()).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.rsplit_once(' ')?.1.parse().ok());
        Ok(value.unwrap_or(0.0))
    }

    fn print_logs(&self) {
        let entries = std::fs::read_dir(self.path()).into_iter().flatten().flatten();
        let mut logs: Vec<_> = entries.map(|entry| entry.path()).collect();
        logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        logs.sort();
        for path in logs {
            let text = std::fs::read(&path).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            let from = lines.len().saturating_sub(60);
            println!("--- the last lines of {}", path.display());
            lines[from..].iter().for_each(|line| println!("{line}"));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
            if std::env::var_os("E2E_KEEP").is_some() {
                self.dir.disable_cleanup(true);
                println!("kept {}", self.path().display());
            }
        }
        self.sidecars.clear();
        self.control_plane = None;
        // Agents and programs outlive a killed sidecar, as they should; several rounds, for one that
        // is just starting another.
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            left.iter().for_each(|(pid, _)| signal(*pid, Signal::KILL));
            super::clock::nap();
        }
    }
}
