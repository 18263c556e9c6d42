//! From what a store loads to a leader, and back from its refusals.

use std::time::Duration;

use hive_core::id::Namespace;
use hive_core::leader::{Leader, StoreRefusal};
use hive_core::settings::Settings;
use hive_core::state::State;
use hive_core::time::Time;

use super::Error;
use crate::store::{Loaded, OpenError, RefusedReason, Store, codec};

/// First wait between two attempts to reopen a store that failed.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest.
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// A leader over what was loaded.
///
/// # Errors
/// [`Error::Decode`].
pub fn lead(loaded: Loaded, settings: &Settings, namespaces: &[Namespace], now: Time) -> Result<Leader, Error> {
    let mut state = State::new(settings.clone(), namespaces.iter().cloned());
    // Delayed tasks are told from ready ones by the clock.
    state.advance(now);
    for (key, value) in &loaded.records {
        state.apply(codec::decode(key, value)?);
    }
    Ok(Leader::new(loaded.epoch, state, loaded.seq, now))
}

/// A store's refusal as the leader sees it.
#[must_use]
pub fn refusal(reason: RefusedReason) -> StoreRefusal {
    match reason {
        RefusedReason::NoSpace => StoreRefusal::NoSpace,
        RefusedReason::TooLarge => StoreRefusal::TooLarge,
        RefusedReason::Malformed => StoreRefusal::Unavailable,
    }
}

/// Tries until the store opens or says that it can't be trusted.
pub(super) async fn acquire_patiently<S: Store>(store: &S) -> Result<Loaded, OpenError> {
    let mut wait = PATIENCE;
    loop {
        match store.acquire().await {
            Ok(loaded) => return Ok(loaded),
            Err(error) if error.is_retryable() => {
                tracing::warn!(error = %error, retry_ms = wait.as_millis(), "the store can't be opened yet");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(MOST_PATIENCE);
            }
            Err(error) => return Err(error),
        }
    }
}
