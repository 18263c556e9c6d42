//! A stand-in for a sidecar that a test steers: the real `hive.agent.v1`, nothing behind it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hive_proto::agent_v1::agent_service_server::{AgentService, AgentServiceServer};
use hive_proto::agent_v1::{self as wire, session_request as up, session_response as down};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{Payload, clock, tasks};

/// A sandbox: serves `hive.agent.v1` on a Unix socket in this process, hands out the work a test
/// gives it and records what the agent says. It keeps nothing and limits nothing; it is not a
/// sidecar. Dropping it closes the socket.
///
/// ```
/// use hive_sdk::{Agent, Output, Task, local::{SandboxSidecar, Work}};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let sidecar = SandboxSidecar::start(4).await?;
/// let agent = Agent::at(sidecar.socket()).without_signals();
/// let serving = tokio::spawn(agent.serve(|task: Task| async move {
///     Ok(Output::text(task.text()?.to_uppercase()))
/// }));
/// sidecar.assign(Work::new("t1", "hi")).await;
/// assert_eq!(sidecar.result("t1").await.payload.unwrap().data, "HI");
/// sidecar.drain().await;
/// serving.await??;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct SandboxSidecar {
    socket: PathBuf,
    /// Made by and for this sandbox, if any.
    folder: Option<PathBuf>,
    desk: Arc<Desk>,
    stop: CancellationToken,
}

/// A piece of work to hand out.
#[derive(Debug, Clone)]
pub struct Work(wire::Assign);

impl Work {
    /// Work under this attempt token: a first attempt at capability `test`.
    pub fn new(token: impl Into<String>, payload: impl Into<Payload>) -> Self {
        Self(wire::Assign {
            token: token.into(),
            task_id: clock::unique().to_string(),
            attempt: 1,
            capabilities: vec!["test".to_owned()],
            payload: Some(payload.into().into()),
            attempt_timeout: None,
        })
    }

    /// The capability that names the work.
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.0.capabilities = vec![capability.into()];
        self
    }
}

/// What an agent has said so far, over all its streams.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Seen {
    /// A stream is open and welcomed.
    pub connected: bool,
    /// One per stream.
    pub hellos: Vec<wire::Hello>,
    /// The last word on taking work.
    pub ready: Option<bool>,
    /// Heartbeats, counted.
    pub heartbeats: u64,
    /// In order; the wire collapses what comes too fast.
    pub progress: Vec<wire::Progress>,
    /// In order, repeated ones included.
    pub questions: Vec<wire::InputRequired>,
    /// In order, repeated ones included.
    pub results: Vec<wire::Result>,
}

#[derive(Debug)]
struct Desk {
    slots: u32,
    heartbeat: Duration,
    seen: watch::Sender<Seen>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<(u64, mpsc::Sender<Result<wire::SessionResponse, Status>>)>,
    streams: u64,
    known: BTreeSet<String>,
    hold_acks: bool,
}

impl SandboxSidecar {
    /// Serves on a socket in a new folder under the system's one for temporary files.
    pub async fn start(slots: u32) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("hive-sandbox-{}", clock::unique().simple()));
        std::fs::create_dir(&folder)?;
        let mut sidecar = Self::start_at(folder.join("agent.sock"), slots).await?;
        sidecar.folder = Some(folder);
        Ok(sidecar)
    }

    /// Serves on a socket at this path; a socket file left there is replaced.
    pub async fn start_at(socket: impl Into<PathBuf>, slots: u32) -> io::Result<Self> {
        let socket = socket.into();
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        let desk = Arc::new(Desk {
            slots,
            heartbeat: Duration::from_millis(50),
            seen: watch::Sender::default(),
            state: Mutex::default(),
        });
        let stop = CancellationToken::new();
        tasks::spawn(tasks::Kind::Sandbox, accept(listener, desk.clone(), stop.clone()));
        Ok(Self { socket, folder: None, desk, stop })
    }

    /// Where it serves: the value for `HIVE_AGENT_SOCKET`.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Hands out work; waits for an agent that is ready.
    pub async fn assign(&self, work: Work) {
        self.until(|seen| (seen.connected && seen.ready == Some(true)).then_some(())).await;
        self.desk.state().known.insert(work.0.token.clone());
        self.desk.say(down::Kind::Assign(work.0)).await;
    }

    /// Takes work as known, as a sidecar would that finds it in its journal.
    pub fn knows(&self, token: impl Into<String>) {
        self.desk.state().known.insert(token.into());
    }

    /// Ends an attempt.
    pub async fn cancel(&self, token: &str, grace: Duration) {
        let cancel = wire::Cancel { token: token.to_owned(), grace: grace.try_into().ok() };
        self.desk.say(down::Kind::Cancel(cancel)).await;
    }

    /// Answers a question.
    pub async fn answer(&self, token: &str, number: u32, input: impl Into<Payload>) {
        let input = wire::Input { token: token.to_owned(), number, input: Some(input.into().into()) };
        self.desk.say(down::Kind::Input(input)).await;
    }

    /// Lets the agent finish and exit.
    pub async fn drain(&self) {
        self.desk.say(down::Kind::Drain(wire::Drain { reason: "the test is over".to_owned() })).await;
    }

    /// While held, results are recorded and not acknowledged.
    pub fn hold_acks(&self, hold: bool) {
        self.desk.state().hold_acks = hold;
    }

    /// Ends the agent's stream; it will dial again.
    pub async fn cut(&self) {
        self.end_stream(Status::unavailable("cut by the sandbox")).await;
    }

    /// Ends the agent's stream with a status of the test's choice.
    pub async fn end_stream(&self, status: Status) {
        let stream = self.desk.state().stream.take();
        if let Some((_, stream)) = stream {
            drop(stream.send(Err(status)).await);
        }
        self.desk.seen.send_modify(|seen| seen.connected = false);
    }

    /// What the agent has said so far.
    pub fn seen(&self) -> Seen {
        self.desk.seen.borrow().clone()
    }

    /// Waits until a condition holds on what the agent has said. Set a deadline around it.
    pub async fn until<T>(&self, mut condition: impl FnMut(&Seen) -> Option<T>) -> T {
        let mut seen = self.desk.seen.subscribe();
        loop {
            if let Some(found) = condition(&seen.borrow_and_update()) {
                return found;
            }
            // The sender lives in the desk, which lives in self.
            if seen.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits for the result of an attempt.
    pub async fn result(&self, token: &str) -> wire::Result {
        self.until(|seen| seen.results.iter().find(|result| result.token == token).cloned()).await
    }
}

impl Drop for SandboxSidecar {
    fn drop(&mut self) {
        self.stop.cancel();
        self.desk.state().stream = None;
        // Best effort: what is left is an empty socket file under the temporary folder.
        drop(std::fs::remove_file(&self.socket));
        if let Some(folder) = &self.folder {
            drop(std::fs::remove_dir(folder));
        }
    }
}

impl Desk {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn say(&self, kind: down::Kind) {
        let stream = self.state().stream.as_ref().map(|(_, stream)| stream.clone());
        if let Some(stream) = stream {
            // An agent that is gone hears nothing.
            drop(stream.send(Ok(wire::SessionResponse { kind: Some(kind) })).await);
        }
    }

    fn open(&self) -> (u64, mpsc::Receiver<Result<wire::SessionResponse, Status>>) {
        let (sender, responses) = mpsc::channel(64);
        let mut state = self.state();
        state.streams += 1;
        let number = state.streams;
        if let Some((_, earlier)) = state.stream.replace((number, sender)) {
            drop(earlier.try_send(Err(Status::aborted("a later stream took over"))));
        }
        (number, responses)
    }

    fn close(&self, number: u64) {
        let mut state = self.state();
        if state.stream.as_ref().is_some_and(|(open, _)| *open == number) {
            state.stream = None;
            self.seen.send_modify(|seen| seen.connected = false);
        }
    }

    async fn hear(&self, kind: up::Kind) {
        match kind {
            up::Kind::Hello(hello) => {
                let known = self.state().known.clone();
                let all = hello.running.iter().chain(&hello.finished);
                let welcome = wire::Welcome {
                    agent_id: "sandbox".to_owned(),
                    slots: self.slots,
                    heartbeat_interval: self.heartbeat.try_into().ok(),
                    stop: all.filter(|token| !known.contains(*token)).cloned().collect(),
                };
                self.say(down::Kind::Welcome(welcome)).await;
                self.seen.send_modify(|seen| {
                    seen.connected = true;
                    seen.ready = None;
                    seen.hellos.push(hello);
                });
            }
            up::Kind::Ready(ready) => self.seen.send_modify(|seen| seen.ready = Some(ready.ready)),
            up::Kind::Heartbeat(_) => self.seen.send_modify(|seen| seen.heartbeats += 1),
            up::Kind::Progress(progress) => self.seen.send_modify(|seen| seen.progress.push(progress)),
            up::Kind::InputRequired(question) => self.seen.send_modify(|seen| seen.questions.push(question)),
            up::Kind::Result(result) => {
                let token = result.token.clone();
                self.seen.send_modify(|seen| seen.results.push(result));
                if !self.state().hold_acks {
                    self.say(down::Kind::ResultAck(wire::ResultAck { token })).await;
                }
            }
        }
    }
}

/// Takes connections until told to stop; then all of them break, as they do when a process dies.
async fn accept(listener: UnixListener, desk: Arc<Desk>, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        let (desk, stop) = (desk.clone(), stop.clone());
        tasks::spawn(tasks::Kind::Sandbox, async move {
            let service = TowerToHyperService::new(AgentServiceServer::new(Service(desk)));
            let builder = Builder::new(TokioExecutor::new()).http2_only();
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            if let Some(Err(error)) = stop.run_until_cancelled(connection).await {
                tracing::debug!(%error, "a connection to the sandbox broke");
            }
        });
    }
}

struct Service(Arc<Desk>);

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = ReceiverStream<Result<wire::SessionResponse, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<wire::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (number, responses) = self.0.open();
        let (desk, mut incoming) = (self.0.clone(), request.into_inner());
        tasks::spawn(tasks::Kind::Sandbox, async move {
            while let Ok(Some(message)) = incoming.message().await {
                if let Some(kind) = message.kind {
                    desk.hear(kind).await;
                }
            }
            desk.close(number);
        });
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}
