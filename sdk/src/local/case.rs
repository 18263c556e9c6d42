//! One handler, one task, in memory.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use hive_proto::agent_v1::{self as wire, session_request as up, session_response as down};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::agent::outcome::text_within;
use crate::agent::shell::{self, Limits};
use crate::agent::{Failure, Task, dial, handlers, task::Board};
use crate::{Output, Payload, clock};

/// Runs a handler on one payload, as a first attempt at capability `test`, and says how it ended.
pub async fn run<F, Fut>(handler: F, payload: impl Into<Payload>) -> Ended
where
    F: Fn(Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Output, Failure>> + Send + 'static,
{
    Case::new(payload).run(handler).await
}

/// A task for a handler, with what shall happen meanwhile.
///
/// ```
/// use hive_sdk::{Failure, Output, Task, local::Case};
///
/// async fn paint(task: Task) -> Result<Output, Failure> {
///     task.progress(0.5, "choosing");
///     let colour = task.ask("which colour?").await?;
///     Ok(Output::text(format!("painted {}", colour.as_text()?)))
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let ended = Case::new("fence").answer("white").run(paint).await;
/// assert_eq!(ended.output().unwrap().as_text().unwrap(), "painted white");
/// assert_eq!(ended.progress[0].message, "choosing");
/// assert_eq!(ended.questions.len(), 1);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Case {
    payload: Payload,
    capabilities: Vec<String>,
    attempt: u32,
    answers: VecDeque<Payload>,
    cancel_after: Option<Duration>,
    cancel_at_question: Option<u32>,
    grace: Duration,
}

/// How a handler's run ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ended {
    /// The end itself.
    pub how: How,
    /// All it said of its progress, in order.
    pub progress: Vec<Progress>,
    /// All it asked, in order.
    pub questions: Vec<Payload>,
}

/// How a run ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum How {
    /// With an output.
    Succeeded(Output),
    /// With a failure, a panic, or an output over the limit.
    Failed(Failure),
    /// By the case's cancel.
    Cancelled,
    /// It asked something the case has no answer for, and was dropped.
    Unanswered,
}

/// One word of progress.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Share done, 0 to 1, if it said so.
    pub fraction: Option<f64>,
    /// Text for people.
    pub message: String,
}

impl Ended {
    /// The output, if it succeeded.
    pub fn output(&self) -> Option<&Output> {
        match &self.how {
            How::Succeeded(output) => Some(output),
            _ => None,
        }
    }

    /// The failure, if it failed.
    pub fn failure(&self) -> Option<&Failure> {
        match &self.how {
            How::Failed(failure) => Some(failure),
            _ => None,
        }
    }
}

impl Case {
    /// A first attempt at capability `test`.
    pub fn new(payload: impl Into<Payload>) -> Self {
        Self {
            payload: payload.into(),
            capabilities: vec!["test".to_owned()],
            attempt: 1,
            answers: VecDeque::new(),
            cancel_after: None,
            cancel_at_question: None,
            grace: Duration::from_secs(10),
        }
    }

    /// The capability that names the work.
    pub fn capability(mut self, capability: impl Into<String>) -> Self {
        self.capabilities = vec![capability.into()];
        self
    }

    /// The attempt's number.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.attempt = attempt;
        self
    }

    /// The answer to the next question without one.
    pub fn answer(mut self, answer: impl Into<Payload>) -> Self {
        self.answers.push_back(answer.into());
        self
    }

    /// Cancels after a time.
    pub fn cancel_after(mut self, time: Duration) -> Self {
        self.cancel_after = Some(time);
        self
    }

    /// Cancels when this question is asked, counted from 1, instead of answering it.
    pub fn cancel_at_question(mut self, number: u32) -> Self {
        self.cancel_at_question = Some(number);
        self
    }

    /// Time between a cancel and the handler being dropped; 10 s unless said.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Runs the handler. Waits for as long as it does.
    pub async fn run<F, Fut>(self, handler: F) -> Ended
    where
        F: Fn(Task) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Output, Failure>> + Send + 'static,
    {
        let board = Arc::new(Board::recording());
        let (wires, dialed) = mpsc::channel(1);
        let abandon = CancellationToken::new();
        let _end_with_me = abandon.clone().drop_guard();
        let limits = Limits {
            socket: "sandbox".into(),
            first_connect: Duration::from_secs(30),
            gone: Duration::from_secs(30),
            stop: CancellationToken::new(),
            abandon,
        };
        let agent = shell::run(InMemory(wires), handlers::boxed(handler), Handle::current(), board.clone(), limits);
        let mut script = Script { case: self, questions: Vec::new(), unanswered: false, result: None };
        let (end, ()) = tokio::join!(agent, script.play(dialed));
        let how = match script.result {
            _ if script.unanswered => How::Unanswered,
            Some(result) => how(result),
            None => How::Failed(Failure::new(end.err().map_or("no result".to_owned(), |error| error.to_string()))),
        };
        let said = |p: wire::Progress| Progress { fraction: p.fraction, message: p.message };
        Ended { how, progress: board.recorded().into_iter().map(said).collect(), questions: script.questions }
    }
}

fn how(result: wire::Result) -> How {
    match result.outcome() {
        wire::Outcome::Succeeded => How::Succeeded(result.payload.unwrap_or_default().into()),
        wire::Outcome::Cancelled => How::Cancelled,
        _ if result.retryable => How::Failed(Failure::retryable(text_within(result.message))),
        _ => How::Failed(Failure::new(text_within(result.message))),
    }
}

struct Pipe {
    outgoing: mpsc::Receiver<wire::SessionRequest>,
    respond: mpsc::Sender<Result<wire::SessionResponse, Status>>,
}

/// Two channels instead of a socket.
struct InMemory(mpsc::Sender<Pipe>);

impl dial::Dial for InMemory {
    fn dial(
        &mut self,
        outgoing: mpsc::Receiver<wire::SessionRequest>,
    ) -> BoxFuture<'static, Result<dial::Incoming, Status>> {
        let (respond, responses) = mpsc::channel(8);
        let handed = self.0.try_send(Pipe { outgoing, respond });
        async move {
            handed.map_err(|_| Status::unavailable("the sandbox takes one stream"))?;
            Ok(ReceiverStream::new(responses).boxed())
        }
        .boxed()
    }
}

/// The sidecar's part, as the case has it.
struct Script {
    case: Case,
    questions: Vec<Payload>,
    unanswered: bool,
    result: Option<wire::Result>,
}

const TOKEN: &str = "sandbox-attempt";

impl Script {
    async fn play(&mut self, mut dialed: mpsc::Receiver<Pipe>) {
        let Some(mut pipe) = dialed.recv().await else { return };
        let cancel_at = self.case.cancel_after.map(|after| clock::now() + after);
        let mut cancelled = false;
        loop {
            let message = tokio::select! {
                message = pipe.outgoing.recv() => message,
                () = tokio::time::sleep_until(cancel_at.unwrap_or_else(clock::now)), if cancel_at.is_some() && !cancelled => {
                    cancelled = true;
                    say(&pipe, self.cancel(self.case.grace)).await;
                    continue;
                }
            };
            // The agent has stopped.
            let Some(kind) = message.map(|m| m.kind) else { return };
            match kind {
                Some(up::Kind::Hello(_)) => {
                    say(&pipe, down::Kind::Welcome(welcome())).await;
                    let assign = self.assign();
                    say(&pipe, down::Kind::Assign(assign)).await;
                }
                Some(up::Kind::InputRequired(question)) => {
                    let answer = self.answer(question);
                    say(&pipe, answer).await;
                }
                Some(up::Kind::Result(result)) => {
                    self.result = Some(result);
                    say(&pipe, down::Kind::ResultAck(wire::ResultAck { token: TOKEN.to_owned() })).await;
                    say(&pipe, down::Kind::Drain(wire::Drain::default())).await;
                }
                _ => {}
            }
        }
    }

    fn assign(&self) -> wire::Assign {
        wire::Assign {
            token: TOKEN.to_owned(),
            task_id: clock::unique().to_string(),
            attempt: self.case.attempt,
            capabilities: self.case.capabilities.clone(),
            payload: Some(self.case.payload.clone().into()),
            attempt_timeout: None,
        }
    }

    fn answer(&mut self, question: wire::InputRequired) -> down::Kind {
        let number = question.number;
        self.questions.push(question.prompt.unwrap_or_default().into());
        if self.case.cancel_at_question == Some(number) {
            return self.cancel(self.case.grace);
        }
        match self.case.answers.pop_front() {
            Some(answer) => {
                down::Kind::Input(wire::Input { token: TOKEN.to_owned(), number, input: Some(answer.into()) })
            }
            None => {
                self.unanswered = true;
                self.cancel(Duration::ZERO)
            }
        }
    }

    fn cancel(&self, grace: Duration) -> down::Kind {
        down::Kind::Cancel(wire::Cancel { token: TOKEN.to_owned(), grace: grace.try_into().ok() })
    }
}

fn welcome() -> wire::Welcome {
    wire::Welcome { agent_id: "sandbox".to_owned(), slots: 1, ..Default::default() }
}

async fn say(pipe: &Pipe, kind: down::Kind) {
    // An agent that has stopped hears nothing more.
    drop(pipe.respond.send(Ok(wire::SessionResponse { kind: Some(kind) })).await);
}
