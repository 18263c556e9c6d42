//! The conformance suite over the store that the transport lab runs the control plane on, so that
//! it can't drift from the real one.
#![allow(missing_docs, reason = "tests")]

#[path = "../../tests/net/memory.rs"]
mod memory;

use hive_control_plane::store::conformance;
use memory::Memory;

macro_rules! suite {
    ($($check:ident),* $(,)?) => {$(
        #[tokio::test]
        async fn $check() {
            conformance::$check(&Memory::default()).await;
        }
    )*};
}

suite! {
    starts_empty,
    keeps_what_was_committed,
    keeps_blobs_apart,
    fences_old_leaders,
    commits_in_order,
    keeps_time,
    refuses_what_is_too_large,
}

#[tokio::test]
async fn survives_reopening() {
    let memory = Memory::default();
    conformance::survives_reopening(|| memory.clone()).await;
}
