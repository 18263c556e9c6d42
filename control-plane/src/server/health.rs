//! One truth about readiness, told by `grpc.health.v1` on both ports and by `/readyz`.
//!
//! Names: "" and each service follow readiness; `readiness` too; `liveness` is SERVING as long as
//! the process answers, whatever the store does.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use tokio::sync::watch;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower::Service;

/// Whether calls are welcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Not yet: the store is being opened.
    Starting,
    /// Calls are served.
    Ready,
    /// Not now, for a reason that may pass.
    Unready(&'static str),
    /// Not any more.
    Stopping,
}

impl Readiness {
    /// For people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unready(why) => why,
            Self::Stopping => "stopping",
        }
    }
}

/// Tells readiness. Clones tell the same.
#[derive(Clone)]
pub struct Health {
    reporter: HealthReporter,
    readiness: Arc<watch::Sender<Readiness>>,
    names: Arc<[&'static str]>,
}

impl Health {
    /// Starting. `services` are the names that follow readiness.
    pub async fn starting(services: impl IntoIterator<Item = &'static str>) -> Self {
        let names = ["", "readiness"].into_iter().chain(services).collect();
        let health = Self {
            reporter: HealthReporter::new(),
            readiness: Arc::new(watch::Sender::new(Readiness::Starting)),
            names,
        };
        health.reporter.set_service_status("liveness", ServingStatus::Serving).await;
        health.set(Readiness::Starting).await;
        health
    }

    /// Tells everybody. Stopping is final.
    pub async fn set(&self, readiness: Readiness) {
        let told = self.readiness.send_if_modified(|now| {
            let keeps = *now == Readiness::Stopping;
            if !keeps {
                *now = readiness;
            }
            !keeps
        });
        if !told {
            return;
        }
        let status = if readiness == Readiness::Ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for name in self.names.iter() {
            self.reporter.set_service_status(*name, status).await;
        }
    }

    /// What was told last.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        *self.readiness.borrow()
    }

    pub(super) fn service(
        &self,
    ) -> impl Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send + 'static>
    + NamedService
    + Clone
    + Send
    + Sync
    + 'static {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
    }
}
