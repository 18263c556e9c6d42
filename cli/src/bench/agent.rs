//! The agent under load: does what the first byte of a payload says and tells when it began.

use std::time::Duration;

use hive_sdk::{Agent, Output, Task};

use crate::args::Kind;
use crate::clock;
use crate::failure::Failure;

/// What the `work` kind takes.
const WORK: Duration = Duration::from_millis(10);
/// Bytes of a `large` payload and result.
pub(super) const LARGE: usize = 64 << 10;

/// Serves until the sidecar lets go.
pub(crate) async fn run() -> Result<(), Failure> {
    let fail = |e: hive_sdk::agent::Error| {
        Failure::error("the agent stopped", e).next("it is started by a sidecar; try `hive bench run`")
    };
    Agent::from_env().map_err(fail)?.serve(handle).await.map_err(fail)
}

async fn handle(task: Task) -> Result<Output, hive_sdk::Failure> {
    let began = clock::monotonic_ns();
    let payload = task.payload().data();
    let kind = payload.first().copied().unwrap_or_default();
    let size = payload.len().max(8);
    if kind == Kind::Work as u8 {
        tokio::time::sleep(WORK).await;
    }
    if kind == Kind::Flaky as u8 && task.attempt() == 1 {
        return Err(hive_sdk::Failure::retryable("as asked: the first attempt fails"));
    }
    let mut result = vec![0; size];
    result[..8].copy_from_slice(&began.to_le_bytes());
    Ok(Output::bytes(result, "application/octet-stream"))
}

/// When the attempt with this result began, by the monotonic clock of the agent's machine.
pub(super) fn began(result: &[u8]) -> Option<u64> {
    result.get(..8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The payload of a task.
pub(super) fn payload(kind: Kind, bytes: usize) -> Vec<u8> {
    let mut payload = vec![0; if kind == Kind::Large { LARGE } else { bytes }];
    payload[0] = kind as u8;
    payload
}
