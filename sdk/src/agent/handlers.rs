//! The handlers that run: started, told to end, dropped, and heard.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hive_proto::agent_v1::Assign;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinError};
use tokio_util::sync::CancellationToken;

use super::outcome::End;
use super::session::Input;
use super::task::{AskError, Asked, Link, Reply};
use super::{Failure, Task};
use crate::{Payload, tasks};

/// Questions of one attempt that may wait for their turn.
const QUESTIONS: usize = 32;

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
    pub(crate) ends: FuturesUnordered<BoxFuture<'static, Ended>>,
}

struct Running {
    cancel: CancellationToken,
    abort: AbortHandle,
    answers: BTreeMap<u32, Reply>,
}

impl Handlers {
    pub(crate) fn new(handler: Handler, runtime: Handle, link: Link) -> Self {
        Self { handler, runtime, link, running: BTreeMap::new(), ends: FuturesUnordered::new() }
    }

    pub(crate) fn start(&mut self, assign: Assign) {
        let cancel = CancellationToken::new();
        let token = assign.token.clone();
        let task = Task::new(assign, cancel.clone(), self.link.clone());
        let handler = self.handler.clone();
        // The handler makes its future inside, so that a panic there ends this task alone as well.
        let work = tasks::spawn_on(&self.runtime, tasks::Kind::Handler, async move { handler(task).await });
        let running = Running { cancel, abort: work.abort_handle(), answers: BTreeMap::new() };
        self.running.insert(token.clone(), running);
        self.ends.push(work.map(|end| (token, self::end(end))).boxed());
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

fn end(ended: Result<Outcome, JoinError>) -> Option<End> {
    let failure = |message, retryable| End::Failure { message, retryable };
    match ended {
        Ok(Ok(output)) => Some(End::Output(output)),
        Ok(Err(failed)) => Some(failure(failed.message().to_owned(), failed.is_retryable())),
        Err(error) => error.try_into_panic().ok().map(|panic| failure(panic_text(panic.as_ref()), false)),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("the handler panicked: {}", text.unwrap_or("no message"))
}
