//! An agent: a handler that turns tasks into outputs, and the connection to the sidecar beside it.
//!
//! The sidecar decides how many tasks run at once, journals results and limits time; this module
//! keeps the stream to it alive, runs the handler, and forgets a result only when the sidecar has
//! said it is safe. The stream lives on a thread of its own, so a handler that keeps every other
//! thread busy still has a heartbeat.
//!
//! What a handler's end means:
//!
//! | the handler | the task |
//! |---|---|
//! | returns `Ok(output)` | SUCCEEDED, also when a cancel was on its way: the work is done |
//! | returns `Err(failure)` | FAILED, tried again if [`Failure::retryable`]; after a cancel: CANCELLED |
//! | panics | FAILED, with the panic's text |
//! | is still there when a cancel's grace ends | dropped, CANCELLED |
//! | returns more than 256 KiB | FAILED, and the message says so |

pub(crate) mod dial;
mod error;
mod failure;
pub(crate) mod handlers;
pub(crate) mod outcome;
mod serve;
pub(crate) mod session;
pub(crate) mod shell;
pub(crate) mod task;

pub use error::Error;
pub use failure::Failure;
pub use serve::{Agent, SOCKET_VARIABLE};
pub use task::{AskError, Task};
