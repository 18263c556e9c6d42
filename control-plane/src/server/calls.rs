//! Around every call: its place among the calls in progress, its deadline, its count, and a net
//! under its panics.

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use super::body::{Call, Watched};
use super::methods::Methods;
use super::routes::{DescriptorError, Routes};
use crate::api::error::Reason;
use crate::clock;
use crate::config::Limits;
use crate::listen::Peer;

/// Our answer must leave before the caller, who counts from an earlier moment, gives up.
const MARGIN: Duration = Duration::from_millis(5);
/// Longest deadline taken from a caller; the specification allows eight digits of hours.
const LONGEST: Duration = Duration::from_secs(7 * 86_400);
const RETRY: Duration = Duration::from_millis(500);

/// Until when the caller waits; an extension of every request that has a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(pub Instant);

/// The layer around the routes of a port.
#[derive(Clone)]
pub(crate) struct Calls {
    routes: Routes,
    shared: Arc<Shared>,
}

struct Shared {
    methods: Methods,
    /// Calls with one answer in progress.
    places: Arc<Semaphore>,
    unary_deadline: Duration,
    stopping: CancellationToken,
    end_streams: CancellationToken,
}

impl Calls {
    pub(crate) fn new(
        routes: Routes,
        limits: &Limits,
        stopping: CancellationToken,
        end_streams: CancellationToken,
    ) -> Result<Self, DescriptorError> {
        let served: Vec<_> = routes.names().collect();
        let methods = Methods::new(&served, &routes.described()?);
        let places = Arc::new(Semaphore::new(usize::try_from(limits.calls).unwrap_or(usize::MAX)));
        let unary_deadline = limits.call_deadline;
        Ok(Self { routes, shared: Arc::new(Shared { methods, places, unary_deadline, stopping, end_streams }) })
    }
}

impl Service<Request<Body>> for Calls {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let shared = &self.shared;
        let method = shared.methods.get(request.uri().path());
        let begun = clock::monotonic();
        let call = Call::begin(method, begun);
        let asked = grpc_timeout(request.headers()).map(|asked| asked.saturating_sub(MARGIN));
        let allowed = if method.unary { Some(asked.unwrap_or(shared.unary_deadline)) } else { asked };
        let deadline = allowed.map(|allowed| begun + allowed.min(LONGEST));
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(Deadline(deadline));
        }
        let peer = request.extensions().get::<Peer>();
        if let Some(Err(refusal)) = peer.map(|peer| peer.who.may_call(request.uri().path())) {
            return Box::pin(async move { Ok(call.refuse(refusal)) });
        }
        let place = method.unary.then(|| Arc::clone(&shared.places).try_acquire_owned());
        if matches!(place, Some(Err(_))) {
            let refusal = Reason::Overloaded.retry_after("more calls are in progress than may be", RETRY);
            return Box::pin(async move { Ok(call.refuse(refusal)) });
        }
        // Streams of ours say goodbye first; others, such as a health watch, have nothing to say.
        let end = if method.ours { shared.end_streams.clone() } else { shared.stopping.clone() };
        let answer = AssertUnwindSafe(self.routes.call(request)).catch_unwind();
        Box::pin(async move {
            let _place = place;
            let answer = match deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, answer).await,
                None => Ok(answer.await),
            };
            Ok(match answer {
                Err(_) => call.refuse(Reason::Deadline.status("the call took longer than its deadline")),
                Ok(Err(_)) => call.panicked(),
                Ok(Ok(Ok(response))) => {
                    let (mut parts, body) = response.into_parts();
                    explain(&mut parts.headers);
                    let body = Watched::new(body, call, &parts.headers, deadline, (!method.unary).then_some(end));
                    Response::from_parts(parts, Body::new(body))
                }
                Ok(Ok(Err(never))) => match never {},
            })
        })
    }
}

/// Gives a reason to refusals of the framework, which carry none.
fn explain(headers: &mut HeaderMap) {
    let Some(status) = Status::from_header_map(headers) else { return };
    if !status.details().is_empty() {
        return;
    }
    let refusal = match (fault_of_request(&status), status.code()) {
        (Some(refusal), _) => refusal,
        (None, Code::Unimplemented) => named(Reason::MethodUnknown, &status),
        (None, Code::Internal | Code::Unknown) => Reason::Internal.status("internal error"),
        _ => return,
    };
    // Texts come from `status`, which keeps them to what a header can hold.
    let _ = refusal.add_header(headers);
}

/// The refusal of a message that the framework could not read, by its reason; none if its status
/// says something else, such as a broken stream.
pub(crate) fn fault_of_request(status: &Status) -> Option<Status> {
    match status.code() {
        // tonic's codes for a message beyond the limit, and for one that does not decode.
        Code::OutOfRange | Code::ResourceExhausted => Some(named(Reason::MessageTooLarge, status)),
        Code::Internal if of_the_request(status.message()) => Some(named(Reason::MessageMalformed, status)),
        _ => None,
    }
}

fn named(reason: Reason, status: &Status) -> Status {
    reason.status(if status.message().is_empty() { reason.means() } else { status.message() })
}

/// tonic calls a request that it cannot read INTERNAL; the fault is the caller's.
fn of_the_request(message: &str) -> bool {
    ["decode", "Missing request message", "protocol error: received", "Unexpected EOF"]
        .iter()
        .any(|sign| message.contains(sign))
}

/// The specification's `TimeoutValue TimeoutUnit`; anything else counts as absent.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_specified() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", http::HeaderValue::from_static(text));
            grpc_timeout(&headers)
        };
        assert_eq!(read("3S"), Some(Duration::from_secs(3)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "S", "3", "3x", "-1S", "123456789S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(grpc_timeout(&HeaderMap::new()), None);
    }
}
