//! The answer as it streams: sees the code it ends with, ends it when it must.

use std::future::Future as _;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};

use super::methods::Method;
use crate::api::error::{Reason, code_name};
use crate::clock;
use crate::metrics;

const GRPC_STATUS: &str = "grpc-status";

/// A call in progress. Counts itself when it ends; one that is dropped was cancelled by its caller.
pub(super) struct Call {
    method: Method,
    begun: Instant,
    code: Code,
}

impl Call {
    pub(super) fn begin(method: Method, begun: Instant) -> Self {
        metrics::call_begun(method.service, method.name);
        Self { method, begun, code: Code::Cancelled }
    }

    /// Ends with a refusal before there was an answer.
    pub(super) fn refuse(mut self, refusal: Status) -> Response<Body> {
        self.code = refusal.code();
        refusal.into_http()
    }

    /// Ends with a panic; the panic hook has logged it.
    pub(super) fn panicked(self) -> Response<Body> {
        let refusal = self.panic_status();
        self.refuse(refusal)
    }

    fn panic_status(&self) -> Status {
        metrics::call_panicked(self.method.service, self.method.name);
        Reason::Internal.status("internal error")
    }

    fn saw(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get(GRPC_STATUS) {
            self.code = Code::from_bytes(code.as_bytes());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = clock::monotonic().saturating_duration_since(self.begun);
        metrics::call_ended(self.method.service, self.method.name, code_name(self.code), took);
    }
}

/// The body of an answer. Ends with DEADLINE, SHUTTING_DOWN or INTERNAL when it must.
pub(super) struct Watched {
    body: Option<Body>,
    call: Call,
    deadline: Option<Pin<Box<Sleep>>>,
    end: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Watched {
    pub(super) fn new(
        body: Body,
        mut call: Call,
        headers: &HeaderMap,
        deadline: Option<Instant>,
        end: Option<CancellationToken>,
    ) -> Self {
        call.saw(headers);
        Self {
            body: Some(body),
            call,
            deadline: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline))),
            end: end.map(|end| Box::pin(end.cancelled_owned())),
        }
    }

    fn end_with(&mut self, refusal: &Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        // Dropping the inner body is how its maker learns that nobody listens.
        self.body = None;
        self.call.code = refusal.code();
        let mut trailers = HeaderMap::new();
        // Texts come from `status`, which keeps them to what a header can hold.
        let _ = refusal.add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
        match polled {
            Ok(Poll::Ready(frame)) => {
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            this.call.saw(trailers);
                        }
                    }
                    Some(Err(status)) => this.call.code = status.code(),
                    None => this.body = None,
                }
                return Poll::Ready(frame);
            }
            Ok(Poll::Pending) => {}
            Err(_) => {
                let refusal = this.call.panic_status();
                return this.end_with(&refusal);
            }
        }
        // What was ready has been sent: a watcher still sees the last event, such as NOT_SERVING.
        if this.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return this.end_with(&Reason::Deadline.status("the stream reached its deadline"));
        }
        if this.end.as_mut().is_some_and(|end| end.as_mut().poll(cx).is_ready()) {
            return this.end_with(&Reason::ShuttingDown.status("the server is stopping"));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}
