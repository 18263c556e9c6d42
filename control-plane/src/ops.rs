//! The ops port: `/metrics`, `/healthz`, `/readyz`, and gRPC health for probes that speak it.
//!
//! Always plain text, and alive until the very end of a shutdown: it is how one watches it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tower::Service;

use crate::listen::{Caps, Listener, Port, Speaks, accept};
use crate::metrics::Metrics;
use crate::server::{self, Calls, Health, Readiness, Routes, Settings};
use crate::tasks::{TaskKind, Tasks};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
/// Prometheus's text form.
const EXPOSITION: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Serves the ops port until `end`.
///
/// # Errors
/// Descriptors cannot be read.
pub fn serve<L: Listener>(
    tasks: &Tasks,
    listener: L,
    metrics: Metrics,
    health: &Health,
    settings: &Settings<'_>,
    end: CancellationToken,
) -> Result<(), server::Error> {
    let routes = Routes::default().with_health(health);
    let routes = if settings.reflection { routes.with_reflection()? } else { routes };
    let calls = Calls::new(routes, settings.limits, tasks.stopping(), end.clone())?;
    let ops = Ops { calls, metrics, health: health.clone() };
    let caps = Caps::of(settings.limits, Port::Ops);
    let incoming = accept(tasks, Port::Ops, listener, Speaks::Http, None, &caps, end);
    let http = server::http2(settings.transport).accept_http1(true);
    tasks.spawn(TaskKind::Serve, async move {
        http.serve_with_incoming(ops, incoming).await?;
        Ok(())
    });
    Ok(())
}

#[derive(Clone)]
struct Ops {
    calls: Calls,
    metrics: Metrics,
    health: Health,
}

impl Ops {
    fn page(&self, request: &Request<Body>) -> Response<Body> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, TEXT, "use GET\n".to_owned());
        }
        match request.uri().path() {
            "/metrics" => text(StatusCode::OK, EXPOSITION, self.metrics.render()),
            "/healthz" => text(StatusCode::OK, TEXT, "alive\n".to_owned()),
            "/readyz" => {
                let readiness = self.health.readiness();
                let ready = readiness == Readiness::Ready;
                let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                text(status, TEXT, format!("{}\n", readiness.as_str()))
            }
            _ => text(
                StatusCode::NOT_FOUND,
                TEXT,
                "here are /metrics, /healthz, /readyz and grpc.health.v1\n".to_owned(),
            ),
        }
    }
}

fn text(status: StatusCode, kind: HeaderValue, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

impl Service<Request<Body>> for Ops {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kind = request.headers().get(header::CONTENT_TYPE);
        if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
            return self.calls.call(request);
        }
        let page = self.page(&request);
        Box::pin(async move { Ok(page) })
    }
}
