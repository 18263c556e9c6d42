//! The Rust SDK of Hive: write an agent, or talk to the control plane as a client.
//!
//! * [`agent`]: an agent is a function from a [`Task`] to an [`Output`]; the SDK does the rest
//!   (connection to the sidecar, heartbeats, results kept until they are safe, cancellation).
//! * [`local`]: run such a function in a unit test, without sidecar or control plane.
//! * [`client`]: submit tasks, wait for them, watch them; look after agents.
//!
//! ```no_run
//! use hive_sdk::{Agent, Output, Task};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), hive_sdk::agent::Error> {
//!     Agent::from_env()?
//!         .serve(|task: Task| async move {
//!             let text = task.text()?;
//!             Ok(Output::text(format!("{} words", text.split_whitespace().count())))
//!         })
//!         .await
//! }
//! ```
//!
//! Deciding anything about tasks is left to the control plane, limiting and journaling to the
//! sidecar.

pub mod agent;
mod backoff;
pub mod client;
mod clock;
pub mod local;
mod payload;
mod tasks;

pub use agent::{Agent, Failure, Task};
pub use client::Client;
/// The messages of `hive.v1`, as the wire has them.
pub use hive_proto::v1 as proto;
pub use payload::{Output, PAYLOAD_LIMIT, Payload, PayloadError};
