//! One agent's runtime in a folder of its own, with deadlines on every wait.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use hive_proto::v1;
use hive_sidecar::attempt::{AttemptEnd, AttemptKey, StartAttempt};
use hive_sidecar::config::AgentConfig;
use hive_sidecar::runtime::{self, Dirs, RuntimeCommand, RuntimeEvent};
use hive_sidecar::shim::files::{self, Identity, Started};
use hive_sidecar::shim::procfs;
use hive_sidecar::tasks::Tasks;
use tokio::sync::mpsc;

/// Longest wait for anything; reached only when something is wrong.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

thread_local! {
    /// Of the rigs of this test; cleared when nothing can start anything in them any more.
    static FOLDERS: RefCell<Vec<Folder>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn block_on(test: impl Future<Output = ()>) {
    // Declared first, so dropped last.
    let _folders = Cleaned;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(2 * DEADLINE, test).await.expect("the test ends in time") });
}

/// Clears the folders after the runtime has gone, also when the test failed.
struct Cleaned;

impl Drop for Cleaned {
    fn drop(&mut self) {
        drop(FOLDERS.take());
    }
}

pub(crate) struct Rig {
    pub(crate) agent: AgentConfig,
    pub(crate) dirs: Dirs,
    pub(crate) commands: mpsc::Sender<RuntimeCommand>,
    pub(crate) events: mpsc::Receiver<RuntimeEvent>,
    tasks: Tasks,
}

/// Ends what still runs in it before it goes.
struct Folder(tempfile::TempDir);

impl Drop for Folder {
    fn drop(&mut self) {
        let path = self.0.path().as_os_str().as_encoded_bytes().to_owned();
        let names = |pid: i32, file: &str| {
            let text = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            text.windows(path.len()).any(|part| part == path)
        };
        for _ in 0..100 {
            let all = procfs::all().unwrap_or_default().into_iter().filter(|(_, stat)| !stat.zombie);
            let left: Vec<_> = all.filter(|&(pid, _)| names(pid, "environ") || names(pid, "cmdline")).collect();
            for (pid, _) in &left {
                Identity::of(*pid).iter().for_each(kill);
            }
            if left.is_empty() {
                break;
            }
        }
    }
}

impl Rig {
    pub(crate) fn new(agent: AgentConfig) -> Self {
        Self::beating(agent, None)
    }

    /// With another time between an agent's signs of life.
    pub(crate) fn beating(agent: AgentConfig, heartbeat: Option<Duration>) -> Self {
        let folder = Folder(tempfile::tempdir().expect("a folder"));
        let mut dirs = Dirs::new(folder.0.path().join("state"), folder.0.path().join("s"));
        if let Some(heartbeat) = heartbeat {
            dirs.heartbeat = heartbeat;
        }
        FOLDERS.with_borrow_mut(|folders| folders.push(folder));
        Self::over(agent, dirs, &[])
    }

    fn over(agent: AgentConfig, dirs: Dirs, adopt: &[AttemptKey]) -> Self {
        let (sender, events) = mpsc::channel(64);
        let tasks = Tasks::new();
        let commands = runtime::spawn(agent.clone(), dirs.clone(), adopt.to_vec(), sender, &tasks);
        Self { agent, dirs, commands, events, tasks }
    }

    /// The sidecar dies without a word; programs stay. `meanwhile` happens before its successor comes.
    pub(crate) async fn crash(self, adopt: &[AttemptKey], meanwhile: impl AsyncFnOnce(&Dirs)) -> Self {
        let Self { agent, dirs, commands, events, tasks } = self;
        drop((commands, events));
        tasks.finish().await;
        meanwhile(&dirs).await;
        Self::over(agent, dirs, adopt)
    }

    pub(crate) async fn send(&self, command: RuntimeCommand) {
        self.commands.send(command).await.expect("the runtime lives");
    }

    pub(crate) async fn event(&mut self) -> RuntimeEvent {
        tokio::time::timeout(DEADLINE, self.events.recv()).await.expect("an event in time").expect("the runtime lives")
    }

    /// The next event that is not about the agent itself.
    pub(crate) async fn attempt_event(&mut self) -> RuntimeEvent {
        loop {
            match self.event().await {
                RuntimeEvent::Agent { .. } => {}
                event => return event,
            }
        }
    }

    /// Waits until the agent is called ready, or not ready for this reason.
    pub(crate) async fn until_agent(&mut self, wanted: bool, part: &str) -> String {
        loop {
            if let RuntimeEvent::Agent { ready, message, .. } = self.event().await
                && ready == wanted
                && message.contains(part)
            {
                return message;
            }
        }
    }

    pub(crate) async fn started(&mut self, wanted: AttemptKey) -> u64 {
        match self.attempt_event().await {
            RuntimeEvent::Started { key, started_ms, .. } if key == wanted => started_ms,
            other => panic!("not the start of {wanted}: {other:?}"),
        }
    }

    pub(crate) async fn ended(&mut self, wanted: AttemptKey) -> AttemptEnd {
        match self.attempt_event().await {
            RuntimeEvent::Ended { key, end, .. } if key == wanted => end,
            other => panic!("not the end of {wanted}: {other:?}"),
        }
    }

    pub(crate) async fn lost(&mut self, wanted: AttemptKey) {
        match self.attempt_event().await {
            RuntimeEvent::Lost { key, .. } if key == wanted => {}
            other => panic!("not the loss of {wanted}: {other:?}"),
        }
    }

    /// Starts an attempt and waits for its end.
    pub(crate) async fn run(&mut self, start: StartAttempt) -> AttemptEnd {
        let key = start.key;
        self.send(RuntimeCommand::Start(start)).await;
        loop {
            match self.attempt_event().await {
                RuntimeEvent::Started { .. } => {}
                RuntimeEvent::Ended { key: ended, end, .. } if ended == key => return end,
                other => panic!("not of {key}: {other:?}"),
            }
        }
    }

    pub(crate) fn attempt_dir(&self, key: AttemptKey) -> PathBuf {
        self.dirs.agent(&self.agent.id).join("attempts").join(key.dir_name())
    }

    pub(crate) fn process_dir(&self) -> PathBuf {
        self.dirs.agent(&self.agent.id).join("process")
    }
}

pub(crate) fn key(n: u8) -> AttemptKey {
    AttemptKey { task: [n; 16], attempt: 1 }
}

pub(crate) fn work(n: u8, payload: &[u8]) -> StartAttempt {
    StartAttempt {
        key: key(n),
        capabilities: vec!["sum".into(), "other".into()],
        payload: v1::Payload { data: payload.to_vec().into(), content_type: String::new() },
        timeout: Duration::from_secs(60),
        grace: Duration::from_secs(10),
    }
}

/// Looks until `look` finds something.
pub(crate) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let found = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("never seen: {what}"))
}

/// The shim of a run and its program.
pub(crate) async fn processes(dir: &std::path::Path) -> (Identity, Identity) {
    let started: Started =
        eventually("a started program", || files::read(dir, files::STARTED).expect("a readable record")).await;
    let shim = files::read(dir, files::SHIM).expect("a readable record").expect("a shim's identity");
    (shim, started.program)
}

/// A process named by a file that it wrote itself.
pub(crate) async fn process_in(file: PathBuf) -> Identity {
    let pid = eventually("a process id", || std::fs::read_to_string(&file).ok()?.trim().parse().ok()).await;
    Identity::of(pid).expect("a live process")
}

pub(crate) async fn gone(process: &Identity) {
    eventually("the end of a process", || (!process.is_alive()).then_some(())).await;
}

pub(crate) fn kill(process: &Identity) {
    let pid = rustix::process::Pid::from_raw(process.pid).expect("a pid");
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}
