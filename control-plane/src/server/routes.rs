//! Which service answers which path. A table by service name; no pattern is needed for gRPC.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::{Request, Response};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use super::health::Health;
use crate::api::error::Reason;

type Boxed = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Services of one port, with the descriptors that reflection shows.
#[derive(Clone, Default)]
pub struct Routes {
    services: Arc<BTreeMap<&'static str, Boxed>>,
    descriptors: Vec<&'static [u8]>,
}

/// A descriptor set that is none.
#[derive(Debug, thiserror::Error)]
#[error("descriptor set is malformed")]
pub struct DescriptorError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl Routes {
    /// No service, with the descriptors of `hive.v1` and `hive.sidecar.v1`.
    #[must_use]
    pub fn of_hive() -> Self {
        Self { services: Arc::default(), descriptors: vec![hive_proto::SERVER_DESCRIPTORS] }
    }

    /// Adds a service, or replaces the one of its name.
    #[must_use]
    pub fn with_service<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        Arc::make_mut(&mut self.services).insert(S::NAME, BoxCloneSyncService::new(service));
        self
    }

    /// Names of the services.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.services.keys().copied()
    }

    pub(crate) fn with_health(mut self, health: &Health) -> Self {
        self.descriptors.push(tonic_health::pb::FILE_DESCRIPTOR_SET);
        self.with_service(health.service())
    }

    /// Adds reflection (v1, and v1alpha for older clients) of exactly the services here.
    pub(crate) fn with_reflection(mut self) -> Result<Self, DescriptorError> {
        const V1: &str = "grpc.reflection.v1.ServerReflection";
        const V1ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";
        let served: Vec<_> = self.names().collect();
        let builder = |itself: &str| {
            let mut builder = tonic_reflection::server::Builder::configure();
            for descriptors in &self.descriptors {
                builder = builder.register_encoded_file_descriptor_set(descriptors);
            }
            served.iter().copied().chain([itself]).fold(builder, |builder, name| builder.with_service_name(name))
        };
        let v1 = builder(V1).build_v1().map_err(|e| DescriptorError(e.into()))?;
        let v1alpha = builder(V1ALPHA).build_v1alpha().map_err(|e| DescriptorError(e.into()))?;
        self.descriptors.push(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET);
        self.descriptors.push(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
        Ok(self.with_service(v1).with_service(v1alpha))
    }

    pub(super) fn described(&self) -> Result<Vec<FileDescriptorSet>, DescriptorError> {
        self.descriptors
            .iter()
            .map(|set| FileDescriptorSet::decode(*set).map_err(|e| DescriptorError(e.into())))
            .collect()
    }
}

impl Service<Request<Body>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<tower::util::Oneshot<Boxed, Request<Body>>, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let service =
            path.strip_prefix('/').and_then(|path| path.split_once('/')).and_then(|(name, _)| self.services.get(name));
        match service {
            Some(service) => Either::Left(service.clone().oneshot(request)),
            None => {
                let shown: String = path.chars().take(200).collect();
                Either::Right(ready(Ok(Reason::MethodUnknown
                    .status(format!("{shown} is not served here"))
                    .into_http())))
            }
        }
    }
}
