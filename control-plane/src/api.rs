//! The client API: converts requests into commands and answers into messages. Rules are elsewhere.

mod agents;
mod bodies;
pub mod check;
mod cluster;
mod convert;
pub mod error;
mod filter;
pub mod reason;
pub mod refusal;
mod spec;
mod tasks;
mod watch;

pub use agents::Agents;
pub use cluster::{Cluster, Identity};
pub(crate) use convert::{AGENT_PHASES, phase, phase_name};
pub use tasks::Tasks as TaskApi;
pub use watch::Watches;
