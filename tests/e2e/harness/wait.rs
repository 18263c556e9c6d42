//! Waiting for a condition, with a deadline.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use super::clock::now;

/// Long enough for anything that ought to happen, on a busy machine too.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Asks again and again until the answer is `Ok`; panics with the last `Err` when `limit` is over.
pub(crate) async fn eventually<T, E: Debug, F, Fut>(what: &str, limit: Duration, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let end = now() + limit;
    loop {
        let error = match condition().await {
            Ok(value) => return value,
            Err(error) => error,
        };
        assert!(now() < end, "not within {limit:?}: {what}; last seen: {error:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// [`eventually`] for a condition that is just true or not, within [`LONG`].
pub(crate) async fn soon(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, LONG, || {
        let holds = condition();
        async move { if holds { Ok(()) } else { Err("it does not hold") } }
    })
    .await;
}
