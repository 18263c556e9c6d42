//! A client of the control plane: give work, follow it, end it; look after agents.
//!
//! ```no_run
//! # async fn demo() -> Result<(), hive_sdk::client::Error> {
//! use std::time::Duration;
//! use hive_sdk::{Client, client::{TaskExt as _, TaskSpec}};
//!
//! let client = Client::builder().endpoint("http://127.0.0.1:7070").connect().await?;
//! let handle = client.submit(TaskSpec::new("wc").payload("a rose is a rose")).await?;
//! let task = handle.wait(Duration::from_secs(60)).await?;
//! println!("{:?}: {:?}", task.state(), task.output());
//! # Ok(()) }
//! ```
//!
//! Every call has a deadline, the builder's `timeout`, which covers its retries and travels with
//! it. Tried again are calls that can't do harm twice, after UNAVAILABLE, RESOURCE_EXHAUSTED,
//! ABORTED and broken connections, with full jitter and never sooner than the server asks for. A
//! submission is safe to repeat because its id is made once, before the first try.
//!
//! [`Task`], [`Agent`](crate::proto::Agent) and the like are the wire's own messages; whatever has
//! no convenience here is reached through [`Client::tasks`], [`Client::agents`] and
//! [`Client::cluster`].

mod agents;
mod builder;
mod call;
mod cluster;
mod error;
mod follow;
mod handle;
mod ids;
mod logs;
mod spec;
mod submit;
mod tasks;
mod watch;

pub use agents::AgentChange;
pub use builder::{Builder, Client, DEFAULT_ENDPOINT};
pub(crate) use error::root_cause;
pub use error::{Error, Refusal, Violation};
pub use follow::Event;
pub use handle::{TaskExt, TaskHandle};
pub use hive_proto::v1::{DisconnectPolicy, Priority, Task, TaskFilter, TaskState, TaskView};
pub use ids::{InvalidTaskId, TaskId};
pub use logs::LogQuery;
pub use spec::TaskSpec;
pub use watch::Watch;

/// Items that come as they are read.
pub type Items<T> = futures_util::stream::BoxStream<'static, Result<T, Error>>;
