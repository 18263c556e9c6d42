//! The loop around the session machine: inputs in, outputs done. It owns every queue and never waits
//! for one of them alone.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hive_proto::sidecar_v1::{SessionRequest, TailLogs};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tonic::transport::Endpoint;

use crate::attempt::AttemptKey;
use crate::clock::{self, Clock};
use crate::config::AgentConfig;
use crate::journal::{Append, Journal, Keeper, Syncing};
use crate::runtime::{RuntimeCommand, RuntimeEvent};
use crate::session::record::Recovered;
use crate::session::{Connection, ExitReason, Input, LinkEnd, Output, Session};
use crate::tasks::{Kind, Tasks};
use crate::upstream::{self, Connect, Link, LinkEvent};

/// Events waiting for the loop; their senders wait.
const MAILBOX: usize = 256;
/// Appends the journal has not taken; above this the loop takes no frames and no runtime events.
const BACKLOG: usize = 1_024;
/// Inputs that share a turn with the one that began it.
const TURN: usize = 64;
/// Commands a runtime has not taken are offered again after this long.
const OFFER: Duration = Duration::from_millis(20);
/// Requests for output served at a time; more are refused by silence, which their askers outlive.
const TAILS: usize = 8;
/// After the end of the session: for the last frames, and for runtimes beyond their own deadline.
const FAREWELL: Duration = Duration::from_secs(2);
const RUNTIMES: Duration = Duration::from_secs(8);

/// Starts the runtime of an agent; see [`crate::runtime::spawn`].
pub trait Runtimes {
    /// Ends what runs for agents that are declared no longer; see [`crate::runtime::strays`].
    fn end_strays(&self, _declared: &[AgentConfig], _tasks: &Tasks) {}

    /// Starts one.
    fn spawn(
        &self,
        agent: &AgentConfig,
        adopt: Vec<AttemptKey>,
        events: mpsc::Sender<RuntimeEvent>,
        tasks: &Tasks,
    ) -> mpsc::Sender<RuntimeCommand>;
}

/// The sidecar cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal's thread is gone.
    #[error("the journal cannot be written any more")]
    Journal,
    /// A part it cannot do without panicked.
    #[error("an essential task failed; see the log")]
    Task,
}

/// What the loop is built from.
pub struct Parts<C, R> {
    /// Makes connections.
    pub connect: C,
    /// Whom they lead to.
    pub endpoint: Endpoint,
    /// Starts agents.
    pub runtimes: R,
    /// The agents.
    pub agents: Vec<AgentConfig>,
    /// The open journal, what it held, and whether it waits for the disk.
    pub journal: (Journal, Recovered, Syncing),
    /// Where kept output is.
    pub state_dir: PathBuf,
    /// The machine, not yet started.
    pub session: Session,
    /// Its time.
    pub clock: Clock,
    /// Random numbers.
    pub rng: Box<dyn FnMut() -> u64 + Send>,
    /// Spawns.
    pub tasks: Tasks,
}

impl<C, R> std::fmt::Debug for Parts<C, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("agents", &self.agents).finish_non_exhaustive()
    }
}

/// An agent's runtime and what it has not yet taken.
struct Runtime {
    commands: mpsc::Sender<RuntimeCommand>,
    backlog: VecDeque<RuntimeCommand>,
}

struct Driver<C> {
    connect: C,
    endpoint: Endpoint,
    state_dir: PathBuf,
    session: Session,
    clock: Clock,
    rng: Box<dyn FnMut() -> u64 + Send>,
    tasks: Tasks,
    journal: Keeper,
    appends: VecDeque<Append>,
    /// Of this turn.
    frame: Option<(Connection, SessionRequest)>,
    runtimes: BTreeMap<String, Runtime>,
    link: Option<Link>,
    closing: Option<Link>,
    link_events: mpsc::Sender<LinkEvent>,
    tails: Arc<Semaphore>,
    exit: Option<ExitReason>,
}

/// Runs until the session ends. Each message of `shutdown` asks to stop, the second one hard.
///
/// # Errors
/// A part it cannot do without is gone. Programs are left running, for the next start to adopt.
pub async fn run<C: Connect, R: Runtimes>(
    parts: Parts<C, R>,
    mut shutdown: mpsc::Receiver<()>,
) -> Result<ExitReason, Error> {
    let Parts { connect, endpoint, runtimes, agents, journal, state_dir, session, clock, rng, tasks } = parts;
    runtimes.end_strays(&agents, &tasks);
    let (journal, recovered, syncing) = journal;
    let (event, mut events) = mpsc::channel::<RuntimeEvent>(MAILBOX);
    let (link_events, mut heard) = mpsc::channel::<LinkEvent>(MAILBOX);
    let journal = Keeper::new(journal, syncing, tasks.clone());
    let spawn = |agent: &AgentConfig| {
        let commands = runtimes.spawn(agent, recovered.adopt(&agent.id), event.clone(), &tasks);
        (agent.id.clone(), Runtime { commands, backlog: VecDeque::new() })
    };
    let runtimes = agents.iter().map(spawn).collect();
    let tails = Arc::new(Semaphore::new(TAILS));
    let mut driver = Driver {
        connect,
        endpoint,
        state_dir,
        session,
        clock,
        rng,
        tasks: tasks.clone(),
        journal,
        appends: VecDeque::new(),
        frame: None,
        runtimes,
        link: None,
        closing: None,
        link_events,
        tails,
        exit: None,
    };
    driver.step(Input::Start { recovered: Box::new(recovered), host_boot: clock::host_boot() });
    driver.settle();
    let mut asked = true;
    while driver.exit.is_none() {
        let wake = driver.session.next_wake();
        let room = driver.appends.len() < BACKLOG;
        let offer = driver.runtimes.values().any(|r| !r.backlog.is_empty());
        let input = tokio::select! {
            biased;
            () = tasks.failed() => return Err(Error::Task),
            stop = shutdown.recv(), if asked => match stop {
                Some(()) => Input::Shutdown,
                None => { asked = false; continue }
            },
            turned = driver.journal.turn(), if driver.journal.is_busy() => {
                turned.map_err(|_| Error::Journal)?;
                driver.settle();
                continue;
            }
            Some(event) = heard.recv(), if room => hear(event),
            Some(event) = events.recv(), if room => Input::Runtime(event),
            () = clock.sleep_until(wake.unwrap_or_default()), if wake.is_some() => Input::Tick,
            () = tokio::time::sleep(OFFER), if offer => { driver.offer(); continue }
        };
        driver.step(input);
        // What came with it shares its write, its frame and its turn.
        for _ in 0..TURN {
            let Ok(input) = heard.try_recv().map(hear).or_else(|_| events.try_recv().map(Input::Runtime)) else {
                break;
            };
            driver.step(input);
        }
        driver.settle();
    }
    Ok(driver.finish(events).await)
}

fn hear(event: LinkEvent) -> Input {
    match event {
        LinkEvent::Dialed(connection) => Input::Dialed(connection),
        LinkEvent::DialFailed(connection, end) => Input::DialFailed(connection, end),
        LinkEvent::Frame(connection, frame) => Input::Frame(connection, frame),
        LinkEvent::Ended(connection, end) => Input::StreamEnded(connection, end),
    }
}

impl<C: Connect> Driver<C> {
    fn step(&mut self, input: Input) {
        let mut out = Vec::new();
        self.session.step(self.clock.now(), input, &mut *self.rng, &mut out);
        for output in out {
            self.perform(output);
        }
    }

    /// Ends a turn: what is to be journaled is, with all that follows from it, then frames and
    /// commands go out.
    fn settle(&mut self) {
        loop {
            let answers = self.journal.append(&mut self.appends);
            if answers.is_empty() {
                break;
            }
            for (seq, done) in answers {
                self.step(if done { Input::Journaled(seq) } else { Input::JournalFailed(seq) });
            }
        }
        self.flush();
        self.offer();
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Journal(seq, entries) => self.appends.push_back((seq, entries)),
            Output::Dial(connection) => {
                let events = self.link_events.clone();
                self.link = Some(Link::dial(&self.connect, &self.endpoint, connection, events, &self.tasks));
            }
            Output::Send(connection, request) => self.send(connection, request),
            Output::CloseStream(connection) => {
                self.flush();
                self.closing = self.link.take_if(|link| link.connection() == connection);
            }
            Output::Runtime { agent, command } => match self.runtimes.get_mut(&agent) {
                Some(runtime) => runtime.backlog.push_back(command),
                None => tracing::error!(agent, "a command for an agent that is not here"),
            },
            Output::TailLogs(tail) => self.tail(tail),
            Output::Exit(reason) => self.exit = Some(reason),
        }
    }

    /// Adds to the frame of this turn.
    fn send(&mut self, connection: Connection, request: SessionRequest) {
        let request = match &mut self.frame {
            Some((of, frame)) if *of == connection => upstream::join(frame, request),
            _ => Some(request),
        };
        if let Some(request) = request {
            self.flush();
            self.frame = Some((connection, request));
        }
    }

    fn flush(&mut self) {
        let Some((connection, request)) = self.frame.take() else { return };
        let Some(link) = self.link.as_ref().filter(|link| link.connection() == connection) else { return };
        if !link.send(request) {
            tracing::warn!("the control plane takes nothing in; cutting the stream");
            self.link = None;
            // The machine hears of it as of any other end.
            let events = self.link_events.clone();
            self.tasks.spawn(Kind::Attendant, "cut", async move {
                let _gone = events.send(LinkEvent::Ended(connection, LinkEnd::Broken)).await;
            });
        }
    }

    fn offer(&mut self) {
        for (agent, runtime) in &mut self.runtimes {
            while let Some(command) = runtime.backlog.pop_front() {
                match runtime.commands.try_send(command) {
                    Ok(()) => {}
                    Err(TrySendError::Full(command)) => {
                        runtime.backlog.push_front(command);
                        break;
                    }
                    Err(TrySendError::Closed(command)) => {
                        tracing::error!(agent, ?command, "an agent's runtime is gone");
                        runtime.backlog.clear();
                    }
                }
            }
        }
    }

    fn tail(&self, tail: TailLogs) {
        let Ok(permit) = self.tails.clone().try_acquire_owned() else {
            tracing::warn!(request = tail.request_id, "too many requests for output at a time");
            return;
        };
        let (connect, endpoint, state_dir) = (self.connect.clone(), self.endpoint.clone(), self.state_dir.clone());
        self.tasks.spawn(Kind::Attendant, "push-logs", async move {
            upstream::push(connect, endpoint, &state_dir, tail).await;
            drop(permit);
        });
    }

    /// The last frames go out, runtimes end, the journal reaches the disk.
    async fn finish(mut self, mut events: mpsc::Receiver<RuntimeEvent>) -> ExitReason {
        if let Some(link) = self.closing.take()
            && tokio::time::timeout(FAREWELL, link.close()).await.is_err()
        {
            tracing::warn!("the control plane did not take the goodbye");
        }
        self.link = None;
        let runtimes = async {
            for runtime in self.runtimes.values_mut() {
                while let Some(command) = runtime.backlog.pop_front() {
                    if runtime.commands.send(command).await.is_err() {
                        break;
                    }
                }
                runtime.commands.closed().await;
            }
        };
        // What they still say is nobody's now: the journal and their files tell it at the next start.
        let drain = async { while events.recv().await.is_some() {} };
        tokio::select! {
            () = runtimes => {}
            () = async { drain.await; std::future::pending::<()>().await } => {}
            () = tokio::time::sleep(RUNTIMES) => tracing::warn!("an agent did not end in time"),
        }
        let Self { journal, tasks, exit, .. } = self;
        journal.close().await;
        if tokio::time::timeout(FAREWELL, tasks.finish()).await.is_err() {
            tracing::warn!("tasks were still running at the end");
        }
        exit.unwrap_or(ExitReason::Stopped)
    }
}
