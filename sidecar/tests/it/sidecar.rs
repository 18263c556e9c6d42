//! A sidecar whose runtimes are the test.

use std::path::Path;
use std::sync::{Arc, Mutex};

use hive_proto::sidecar_v1::{FailureReason, Outcome};
use hive_proto::v1;
use hive_sidecar::attempt::{AttemptEnd, AttemptKey, StartAttempt};
use hive_sidecar::config::{AgentConfig, RuntimeKind, SidecarConfig};
use hive_sidecar::driver::Runtimes;
use hive_sidecar::journal::Limits;
use hive_sidecar::runtime::{RuntimeCommand, RuntimeEvent};
use hive_sidecar::session::ExitReason;
use hive_sidecar::tasks::{Kind, Tasks};
use hive_sidecar::upstream::Tcp;
use hive_sidecar::{Error, run_with};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::control_plane::{ControlPlane, DEADLINE};

pub(crate) const AGENT: &str = "a";

type Outside = Arc<Mutex<Option<(mpsc::Receiver<RuntimeCommand>, mpsc::Sender<RuntimeEvent>, Vec<AttemptKey>)>>>;

struct Scripted(Outside);

impl Runtimes for Scripted {
    fn spawn(
        &self,
        _agent: &AgentConfig,
        adopt: Vec<AttemptKey>,
        events: mpsc::Sender<RuntimeEvent>,
        _tasks: &Tasks,
    ) -> mpsc::Sender<RuntimeCommand> {
        let (sender, commands) = mpsc::channel(64);
        *self.0.lock().expect("not poisoned") = Some((commands, events, adopt));
        sender
    }
}

pub(crate) struct Sidecar {
    commands: mpsc::Receiver<RuntimeCommand>,
    events: mpsc::Sender<RuntimeEvent>,
    pub(crate) adopt: Vec<AttemptKey>,
    pub(crate) stop: mpsc::Sender<()>,
    outcome: oneshot::Receiver<Result<ExitReason, Error>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sidecar {
    pub(crate) async fn start(control_plane: &ControlPlane, state_dir: &Path) -> Self {
        let config = SidecarConfig {
            namespace: "default".into(),
            id: "s".into(),
            server: format!("http://{}", control_plane.address),
            state_dir: state_dir.to_owned(),
            socket_dir: state_dir.join("sockets"),
            stop_on_stdin_eof: false,
            tls: None,
            agents: vec![AgentConfig { slots: 2, ..AgentConfig::new(AGENT, RuntimeKind::Command, &["x"], &["true"]) }],
        };
        let outside = Outside::default();
        let (stop, stopped) = mpsc::channel(2);
        let (tell, outcome) = oneshot::channel();
        let runtimes = Scripted(outside.clone());
        let task = Tasks::new().spawn(Kind::Essential, "sidecar", async move {
            let limits = Limits { min_free: 0, ..Limits::default() };
            let _gone = tell.send(run_with(config, Tcp::default(), runtimes, limits, stopped).await);
        });
        let (commands, events, adopt) = timeout(DEADLINE, async {
            loop {
                if let Some(outside) = outside.lock().expect("not poisoned").take() {
                    return outside;
                }
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("started in time");
        let sidecar = Self { commands, events, adopt, stop, outcome, task };
        sidecar.say(RuntimeEvent::Agent { agent: AGENT.into(), ready: true, message: String::new() }).await;
        sidecar
    }

    pub(crate) async fn say(&self, event: RuntimeEvent) {
        self.events.send(event).await.expect("the sidecar listens");
    }

    /// The first command for which `pick` has an answer.
    pub(crate) async fn command<T>(&mut self, pick: impl Fn(&RuntimeCommand) -> Option<T>) -> T {
        timeout(DEADLINE, async {
            loop {
                if let Some(found) = pick(&self.commands.recv().await.expect("the sidecar lives")) {
                    return found;
                }
            }
        })
        .await
        .expect("the command in time")
    }

    pub(crate) async fn begin(&mut self) -> StartAttempt {
        let start =
            self.command(|c| if let RuntimeCommand::Start(start) = c { Some(start.clone()) } else { None }).await;
        self.say(RuntimeEvent::Started { agent: AGENT.into(), key: start.key, started_ms: 1 }).await;
        start
    }

    pub(crate) async fn succeed(&self, key: AttemptKey, data: &'static [u8]) {
        let end = AttemptEnd {
            outcome: Outcome::Succeeded,
            payload: Some(v1::Payload { data: data.into(), content_type: "text/plain".into() }),
            ..AttemptEnd::failed(FailureReason::Unspecified, "", false, 1, 2)
        };
        self.say(RuntimeEvent::Ended { agent: AGENT.into(), key, end }).await;
    }

    pub(crate) async fn outcome(self) -> Result<ExitReason, Error> {
        let Self { commands, outcome, .. } = self;
        // Its runtime ends when told to; the test has nothing more to hear.
        drop(commands);
        timeout(DEADLINE, outcome).await.expect("ends in time").expect("tells")
    }

    /// As kill -9, but for the disk: nothing more is done. Resolves when its folder is free.
    pub(crate) async fn kill(self, state_dir: &Path) {
        self.task.abort();
        let _aborted = self.task.await;
        timeout(DEADLINE, async {
            while hive_sidecar::journal::Journal::open(state_dir, Limits::default()).is_err() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the folder is free in time");
    }
}
