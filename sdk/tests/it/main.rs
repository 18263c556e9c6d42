//! The SDK against fake peers on real sockets: an agent and a sandbox sidecar, a client and a
//! scripted server.
#![expect(clippy::disallowed_methods, reason = "tests spawn and measure time as they like")]
#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod agent;
mod client;
mod examples;
mod fake;
mod local;
mod watch;

use std::future::Future;
use std::time::Duration;

/// Fails the test, rather than hanging it, when something does not come.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come"),
    }
}
