//! A sandbox: run an agent's handler in a test, without a sidecar and without a control plane.
//!
//! Nothing here is Hive: there is no journal, no retry, no limit on time, and what ends is told to
//! the test alone. [`run`] and [`Case`] drive a handler in memory, through the same session code a
//! real agent uses; [`SandboxSidecar`] serves the real `hive.agent.v1` on a Unix socket, to test
//! a whole agent process.
//!
//! ```
//! use hive_sdk::{Failure, Output, Task, local};
//!
//! async fn count(task: Task) -> Result<Output, Failure> {
//!     Ok(Output::text(format!("{} words", task.text()?.split_whitespace().count())))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let ended = local::run(count, "a rose is a rose").await;
//! assert_eq!(ended.output().unwrap().as_text().unwrap(), "5 words");
//! # }
//! ```

mod case;
mod sidecar;

pub use case::{Case, Ended, How, Progress, run};
pub use sidecar::{SandboxSidecar, Seen, Work};
