//! One call: its deadline, its retries.

use std::future::Future;
use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use super::{Client, Error};
use crate::backoff::Backoff;
use crate::clock;

const BASE: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(5);

pub(super) fn backoff() -> Backoff {
    Backoff::new(BASE, CAP)
}

/// How long to wait before the next try; `None` ends the trying.
pub(super) fn pause(backoff: &mut Backoff, error: &Error, left: Duration, random: u64) -> Option<Duration> {
    if !error.is_retryable() {
        return None;
    }
    // Jitter is added to what the server asks for, or all come back at once.
    let wait = backoff.next(random) + error.retry_after().unwrap_or_default();
    (wait < left).then_some(wait)
}

impl Client {
    /// Makes a call that may be made twice without harm, within the client's timeout.
    pub(super) async fn call<R, T, F, Fut>(&self, name: &'static str, request: R, op: F) -> Result<T, Error>
    where
        R: Clone,
        F: FnMut(Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(name, self.inner.timeout, request, op).await
    }

    /// [`Client::call`] with a limit of its own.
    pub(super) async fn call_within<R, T, F, Fut>(
        &self,
        name: &'static str,
        limit: Duration,
        request: R,
        mut op: F,
    ) -> Result<T, Error>
    where
        R: Clone,
        F: FnMut(Request<R>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let end = clock::now() + limit;
        let mut backoff = backoff();
        let mut last = None;
        loop {
            let left = end.saturating_duration_since(clock::now());
            let mut carrier = Request::new(request.clone());
            carrier.set_timeout(left);
            let error = match tokio::time::timeout_at(end, op(carrier)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if status.code() == Code::DeadlineExceeded => {
                    return Err(Error::Deadline { call: name, limit, last });
                }
                Ok(Err(status)) => self.failed(status),
                Err(_) => return Err(Error::Deadline { call: name, limit, last }),
            };
            let left = end.saturating_duration_since(clock::now());
            // tonic's own timer may strike just before ours, as a broken connection.
            if left.is_zero() {
                return Err(Error::Deadline { call: name, limit, last: last.or(Some(Box::new(error))) });
            }
            match pause(&mut backoff, &error, left, clock::random()) {
                Some(wait) => {
                    tracing::debug!(call = name, %error, ?wait, "trying again");
                    last = Some(Box::new(error));
                    tokio::time::sleep(wait).await;
                }
                None => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::{ErrorDetails, StatusExt as _};

    fn busy(retry_after: Duration) -> Error {
        let details = ErrorDetails::with_retry_info(Some(retry_after));
        Error::refused(Status::with_error_details(Code::ResourceExhausted, "busy", details))
    }

    #[test]
    fn the_server_says_how_long_to_wait_at_least() {
        let second = Duration::from_secs(1);
        let wait = pause(&mut backoff(), &busy(second), second * 9, u64::MAX).expect("retryable");
        assert!(wait > second && wait <= second + BASE);
    }

    #[test]
    fn no_wait_goes_past_the_deadline_and_refusals_are_final() {
        let second = Duration::from_secs(1);
        assert_eq!(pause(&mut backoff(), &busy(second), second, 0), None);
        assert_eq!(pause(&mut backoff(), &Error::refused(Status::not_found("no")), second, 0), None);
    }
}
