//! The loop around [`Session`]: feeds it the stream, the handlers and the clock, and does what it
//! says. It owns all of it; nothing here is shared but the progress board.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use hive_proto::agent_v1::{SessionRequest, SessionResponse};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::Error;
use super::dial::{Dial, Incoming};
use super::handlers::{Ended, Handler, Handlers};
use super::session::{Effect, Input, Session};
use super::task::{Asked, Board, Link};
use crate::backoff::Backoff;
use crate::clock;

/// Questions that wait to be heard; a handler that asks waits for room.
const QUESTIONS: usize = 64;
/// Messages between the session and the stream; progress collapses while there is no room.
const WIRE: usize = 64;
/// Messages and ends that share a round with what began it.
const ROUND: usize = 128;
/// How often a wait for the first connect is explained.
const EXPLAIN_EVERY: Duration = Duration::from_secs(5);

/// How the loop ends other than by its session.
pub(crate) struct Limits {
    /// Named in errors.
    pub(crate) socket: PathBuf,
    pub(crate) first_connect: Duration,
    /// Without a sidecar and with nothing running, the agent ends after this.
    pub(crate) gone: Duration,
    /// Finish what runs, then end.
    pub(crate) stop: CancellationToken,
    /// End now.
    pub(crate) abandon: CancellationToken,
}

/// Runs the agent's session until it is done.
pub(crate) async fn run<D: Dial>(
    dial: D,
    handler: Handler,
    runtime: Handle,
    board: Arc<Board>,
    limits: Limits,
) -> Result<(), Error> {
    let (questions, inbox) = mpsc::channel(QUESTIONS);
    let started = clock::now();
    let mut shell = Shell {
        dial,
        session: Session::new(concat!("hive-sdk/", env!("CARGO_PKG_VERSION"))),
        handlers: Handlers::new(handler, runtime, Link { questions, board }),
        wire: Wire::Waiting { until: started },
        backoff: Backoff::new(Duration::from_millis(100), Duration::from_secs(2)),
        started,
        out_of_contact: started,
        explained: None,
        welcomed: false,
        in_contact: false,
        cause: String::new(),
        limits,
    };
    let end = shell.serve(inbox).await;
    shell.handlers.abort_all();
    end
}

enum Wire {
    Waiting { until: Instant },
    Dialing { sender: mpsc::Sender<SessionRequest>, opening: BoxFuture<'static, Result<Incoming, Status>> },
    Open { sender: mpsc::Sender<SessionRequest>, incoming: Incoming },
}

struct Shell<D> {
    dial: D,
    session: Session,
    handlers: Handlers,
    wire: Wire,
    // A local socket has no herd behind it, so the cap is low: a sidecar that is back is found soon.
    backoff: Backoff,
    started: Instant,
    out_of_contact: Instant,
    explained: Option<Instant>,
    welcomed: bool,
    in_contact: bool,
    cause: String,
    limits: Limits,
}

/// What woke the loop.
enum Woke {
    /// For another message.
    Room,
    Heard(Option<Result<SessionResponse, Status>>),
    Dialed(Result<Incoming, Status>),
    DialNow,
    Asked(Asked),
    Ended(Ended),
    Progress,
    Stop,
    Abandon,
    Time,
}

impl<D: Dial> Shell<D> {
    async fn serve(&mut self, mut inbox: mpsc::Receiver<Asked>) -> Result<(), Error> {
        let mut stopping = false;
        loop {
            self.check_patience()?;
            let mut woke = Some(self.wait(&mut inbox, stopping).await);
            // What came along with it is heard before anything is answered.
            for _ in 0..ROUND {
                let Some(now) = woke.take().or_else(|| self.ready()) else { break };
                stopping |= matches!(now, Woke::Stop);
                if self.heed(now)? {
                    return Ok(());
                }
            }
            self.handlers.settle();
            self.send();
        }
    }

    /// True when all is done.
    fn heed(&mut self, woke: Woke) -> Result<bool, Error> {
        let input = match woke {
            Woke::Room => return Ok(false),
            Woke::DialNow => {
                self.open();
                return Ok(false);
            }
            Woke::Dialed(Ok(incoming)) => {
                self.opened(incoming);
                return Ok(false);
            }
            Woke::Heard(Some(Ok(message))) => Input::Message(message),
            Woke::Dialed(Err(status)) | Woke::Heard(Some(Err(status))) => self.lost(Some(status))?,
            Woke::Heard(None) => self.lost(None)?,
            Woke::Asked(asked) => match self.handlers.asked(asked) {
                Some(input) => input,
                None => return Ok(false),
            },
            Woke::Ended(ended) => self.handlers.ended(ended),
            Woke::Progress => {
                for (_, progress) in self.handlers.link.board.take() {
                    if self.step(Input::Progress(progress))? {
                        return Ok(true);
                    }
                }
                return Ok(false);
            }
            Woke::Stop => Input::Stop,
            Woke::Abandon => return Err(Error::Stopped { running: self.session.running() }),
            Woke::Time => Input::Tick,
        };
        self.step(input)
    }

    /// A message or an end that is there already.
    fn ready(&mut self) -> Option<Woke> {
        if let Ok(ended) = self.handlers.ends.try_recv() {
            return Some(Woke::Ended(ended));
        }
        let Wire::Open { incoming, .. } = &mut self.wire else { return None };
        incoming.next().now_or_never().map(Woke::Heard)
    }

    /// Sends what there is to say, as long as there is room.
    fn send(&mut self) {
        let now = self.now();
        let Wire::Open { sender, .. } = &self.wire else { return };
        while self.session.has_message(now)
            && let Ok(room) = sender.try_reserve()
            && let Some(message) = self.session.next_message(now)
        {
            room.send(message);
        }
    }

    async fn wait(&mut self, inbox: &mut mpsc::Receiver<Asked>, stopping: bool) -> Woke {
        let now = self.now();
        // Without a stream there is patience to check as well.
        let patience = (!matches!(self.wire, Wire::Open { .. })).then_some(now + Duration::from_secs(1));
        let wake = self.session.deadline().into_iter().chain(patience).min();
        let wake_at = self.started + wake.unwrap_or_default();
        let sends = self.session.has_message(now);
        let Self { wire, handlers, limits, .. } = self;
        let board = &handlers.link.board;
        let wire = async {
            match wire {
                Wire::Waiting { until } => {
                    tokio::time::sleep_until(*until).await;
                    Woke::DialNow
                }
                Wire::Dialing { opening, .. } => Woke::Dialed(opening.await),
                Wire::Open { sender, incoming } => {
                    tokio::select! {
                        // A closed channel says nothing of why; the other direction will.
                        Ok(_) = sender.reserve(), if sends => Woke::Room,
                        heard = incoming.next() => Woke::Heard(heard),
                    }
                }
            }
        };
        tokio::select! {
            woke = wire => woke,
            Some(asked) = inbox.recv() => Woke::Asked(asked),
            Some(ended) = handlers.ends.recv() => Woke::Ended(ended),
            () = board.written.notified() => Woke::Progress,
            () = limits.stop.cancelled(), if !stopping => Woke::Stop,
            () = limits.abandon.cancelled() => Woke::Abandon,
            () = tokio::time::sleep_until(wake_at), if wake.is_some() => Woke::Time,
        }
    }

    fn now(&self) -> Duration {
        clock::now() - self.started
    }

    /// Feeds the session and does what it says; true when all is done.
    fn step(&mut self, input: Input) -> Result<bool, Error> {
        let now = self.now();
        for effect in self.session.step(now, input) {
            match effect {
                Effect::Welcomed { agent_id, slots } => self.welcomed(&agent_id, slots),
                Effect::Start(assign) => self.handlers.start(assign),
                Effect::Cancel(token) => self.handlers.cancel(&token),
                Effect::Drop(token) => self.handlers.abort(&token),
                Effect::Answer { token, number, input } => self.handlers.answer(token, number, input),
                Effect::Redial(why) => drop(self.lost(Some(Status::unavailable(why)))?),
                Effect::Finish => return Ok(true),
                Effect::GiveUp { unacknowledged } => return Err(Error::Unacknowledged { count: unacknowledged }),
            }
        }
        Ok(false)
    }

    fn open(&mut self) {
        let (sender, outgoing) = mpsc::channel(WIRE);
        let now = self.now();
        self.session.step(now, Input::Opening);
        if let Some(hello) = self.session.next_message(now) {
            // The channel is new and has room.
            drop(sender.try_send(hello));
        }
        self.wire = Wire::Dialing { sender, opening: self.dial.dial(outgoing) };
    }

    fn opened(&mut self, incoming: Incoming) {
        let idle = Wire::Waiting { until: clock::now() };
        if let Wire::Dialing { sender, .. } = std::mem::replace(&mut self.wire, idle) {
            self.wire = Wire::Open { sender, incoming };
        }
    }

    fn welcomed(&mut self, agent_id: &str, slots: u32) {
        if self.explained.take().is_some() {
            explain(&format!("connected to the sidecar as agent {agent_id}"));
        }
        tracing::info!(agent_id, slots, "session with the sidecar stands");
        self.welcomed = true;
        self.in_contact = true;
        self.backoff.reset();
    }

    /// The stream is gone, or could not be opened: for good, or to be tried again.
    fn lost(&mut self, status: Option<Status>) -> Result<Input, Error> {
        if std::mem::take(&mut self.in_contact) {
            self.out_of_contact = clock::now();
        }
        let status = status.unwrap_or_else(|| Status::unavailable("the sidecar closed the stream"));
        let message = status.message().to_owned();
        match status.code() {
            Code::Aborted => return Err(Error::Replaced { message }),
            Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated | Code::InvalidArgument => {
                return Err(Error::Refused { message });
            }
            _ => tracing::debug!(cause = %message, "no session with the sidecar"),
        }
        self.cause = message;
        self.wire = Wire::Waiting { until: clock::now() + self.backoff.next(clock::random()) };
        Ok(Input::Closed)
    }

    /// Waits for a sidecar are explained, and not endless.
    fn check_patience(&mut self) -> Result<(), Error> {
        if matches!(self.wire, Wire::Open { .. }) {
            return Ok(());
        }
        let waited = clock::now() - self.out_of_contact;
        let (socket, cause) = (self.limits.socket.clone(), self.cause.clone());
        if !self.welcomed && waited >= self.limits.first_connect {
            return Err(Error::NoSidecar { socket, waited: self.limits.first_connect, cause });
        }
        if self.welcomed && waited >= self.limits.gone && self.session.running() == 0 {
            return Err(Error::SidecarGone { socket, waited: self.limits.gone, cause });
        }
        let due = self.explained.is_none_or(|last| clock::now() - last >= EXPLAIN_EVERY);
        if !self.welcomed && due && matches!(self.wire, Wire::Waiting { .. }) && !cause.is_empty() {
            self.explained = Some(clock::now());
            let left = self.limits.first_connect.saturating_sub(waited).as_secs();
            explain(&format!("waiting for the sidecar at {} ({cause}); giving up in {left} s", socket.display()));
        }
        Ok(())
    }
}

/// Tells a person, by the log if there is one, else on stderr.
fn explain(text: &str) {
    if tracing::dispatcher::has_been_set() {
        tracing::warn!("{text}");
    } else {
        eprintln!("hive-sdk: {text}");
    }
}
