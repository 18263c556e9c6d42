//! The handlers that run: started, told to end, dropped, and heard.

use std::any::Any;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{AbortHandle, Abortable, BoxFuture};
use hive_proto::agent_v1::Assign;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::outcome::End;
use super::session::Input;
use super::task::{AskError, Asked, Link, Reply};
use super::{Failure, Task};
use crate::{Payload, tasks};

/// Questions of one attempt that may wait for their turn.
const QUESTIONS: usize = 32;
/// Ends on their way to the session; a handler that has ended waits for room.
const ENDS: usize = 256;

/// What a handler makes of a task.
pub(crate) type Outcome = Result<Payload, Failure>;
/// A handler of any type.
pub(crate) type Handler = Arc<dyn Fn(Task) -> BoxFuture<'static, Outcome> + Send + Sync>;

pub(crate) fn boxed<F, Fut>(handler: F) -> Handler
where
    F: Fn(Task) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send + 'static,
{
    Arc::new(move |task| handler(task).boxed())
}

/// A handler's end: `None` when it was dropped.
pub(crate) type Ended = (String, Option<End>);

pub(crate) struct Handlers {
    handler: Handler,
    runtime: Handle,
    pub(crate) link: Link,
    running: BTreeMap<String, Running>,
    /// Handlers of this round: they reach the runtime together, which wakes it once.
    starting: Vec<BoxFuture<'static, ()>>,
    end: mpsc::Sender<Ended>,
    pub(crate) ends: mpsc::Receiver<Ended>,
}

struct Running {
    cancel: CancellationToken,
    abort: AbortHandle,
    answers: BTreeMap<u32, Reply>,
}

impl Handlers {
    pub(crate) fn new(handler: Handler, runtime: Handle, link: Link) -> Self {
        let (end, ends) = mpsc::channel(ENDS);
        Self { handler, runtime, link, running: BTreeMap::new(), starting: Vec::new(), end, ends }
    }

    /// The handler runs from the end of the round on.
    pub(crate) fn start(&mut self, assign: Assign) {
        let cancel = CancellationToken::new();
        let token = assign.token.clone();
        let task = Task::new(assign, cancel.clone(), self.link.clone());
        let handler = self.handler.clone();
        let (abort, registration) = AbortHandle::new_pair();
        self.running.insert(token.clone(), Running { cancel, abort, answers: BTreeMap::new() });
        let mut herald = Herald { token: Some(token), end: self.end.clone() };
        // The handler makes its future inside, so that a panic there ends this task alone as well.
        let work = AssertUnwindSafe(async move { handler(task).await }).catch_unwind();
        let work = Abortable::new(work, registration);
        self.starting.push(async move { herald.tell(work.await.ok().map(end)).await }.boxed());
    }

    /// Ends a round.
    pub(crate) fn settle(&mut self) {
        let starting = std::mem::take(&mut self.starting);
        if !starting.is_empty() {
            tasks::spawn_on(&self.runtime, tasks::Kind::Handler, async move {
                starting.into_iter().for_each(|handler| tasks::spawn(tasks::Kind::Handler, handler));
            });
        }
    }

    pub(crate) fn ended(&mut self, (token, end): Ended) -> Input {
        self.running.remove(&token);
        Input::Ended { token, end }
    }

    pub(crate) fn asked(&mut self, asked: Asked) -> Option<Input> {
        let Asked { token, number, prompt, reply } = asked;
        let running = self.running.get_mut(&token)?;
        if running.answers.len() >= QUESTIONS {
            // The handler may have stopped waiting.
            drop(reply.send(Err(AskError::TooMany)));
            return None;
        }
        running.answers.insert(number, reply);
        Some(Input::Asked { token, number, prompt })
    }

    pub(crate) fn answer(&mut self, token: String, number: u32, input: Payload) {
        if let Some(reply) = self.running.get_mut(&token).and_then(|running| running.answers.remove(&number)) {
            // The handler may have stopped waiting.
            drop(reply.send(Ok(input)));
        }
    }

    pub(crate) fn cancel(&self, token: &str) {
        if let Some(running) = self.running.get(token) {
            running.cancel.cancel();
        }
    }

    pub(crate) fn abort(&self, token: &str) {
        if let Some(running) = self.running.get(token) {
            running.cancel.cancel();
            running.abort.abort();
        }
    }

    pub(crate) fn abort_all(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.cancel.cancel();
            running.abort.abort();
        }
    }
}

/// Tells a handler's end, also of one that is dropped.
struct Herald {
    token: Option<String>,
    end: mpsc::Sender<Ended>,
}

impl Herald {
    async fn tell(&mut self, end: Option<End>) {
        // The session is gone only with the whole agent.
        if let Ok(room) = self.end.reserve().await
            && let Some(token) = self.token.take()
        {
            room.send((token, end));
        }
    }
}

impl Drop for Herald {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            // Its runtime ends, and with it the agent: nothing waits for room any more.
            let _full_or_gone = self.end.try_send((token, None));
        }
    }
}

fn end(ended: Result<Outcome, Box<dyn Any + Send>>) -> End {
    let failure = |message, retryable| End::Failure { message, retryable };
    match ended {
        Ok(Ok(output)) => End::Output(output),
        Ok(Err(failed)) => failure(failed.message().to_owned(), failed.is_retryable()),
        Err(panic) => failure(panic_text(panic.as_ref()), false),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("no message"))
}
