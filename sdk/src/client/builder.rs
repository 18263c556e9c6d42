//! Making a client: where, for which namespace, with what patience.

use std::sync::Arc;
use std::time::Duration;

use hive_proto::v1::agent_service_client::AgentServiceClient;
use hive_proto::v1::cluster_service_client::ClusterServiceClient;
use hive_proto::v1::task_service_client::TaskServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::error::root_cause;
use super::ids::Ids;
use super::{Error, TaskId};

/// Where a control plane listens unless told otherwise.
pub const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7070";

/// A client of one cluster. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) channel: Channel,
    pub(super) endpoint: String,
    pub(super) namespace: String,
    pub(super) timeout: Duration,
    pub(super) ids: Ids,
}

/// See [`Client::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    endpoint: String,
    namespace: String,
    timeout: Duration,
    connect_timeout: Duration,
}

impl Builder {
    /// The control plane's address, [`DEFAULT_ENDPOINT`] unless said; without a scheme, `http://`
    /// is meant.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        self.endpoint = if endpoint.contains(':') && !endpoint.contains("://") && !endpoint.starts_with("unix:") {
            format!("http://{endpoint}")
        } else {
            endpoint
        };
        self
    }

    /// The namespace of all calls; `default` unless said.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.namespace = namespace.into();
        self
    }

    /// Longest time of one call, its retries included; 30 s unless said. Waits and watches have
    /// their own.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Longest time to set up a connection; 3 s unless said.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Connects now. Fails with [`Error::Endpoint`], or [`Error::Unreachable`] at the first try
    /// that finds nobody.
    pub async fn connect(self) -> Result<Client, Error> {
        let channel = self.parse()?.connect().await;
        let channel = channel
            .map_err(|error| Error::Unreachable { endpoint: self.endpoint.clone(), cause: root_cause(&error) })?;
        Ok(self.client(channel))
    }

    /// Connects at the first call, which then tries until its deadline. Fails with
    /// [`Error::Endpoint`]. Must be called within a runtime.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let channel = self.parse()?.connect_lazy();
        Ok(self.client(channel))
    }

    fn parse(&self) -> Result<Endpoint, Error> {
        let invalid = |cause| Error::Endpoint { endpoint: self.endpoint.clone(), cause };
        if !["http://", "unix:"].iter().any(|scheme| self.endpoint.starts_with(scheme)) {
            return Err(invalid("the scheme must be http or unix".to_owned()));
        }
        let endpoint = Endpoint::from_shared(self.endpoint.clone()).map_err(|error| invalid(root_cause(&error)))?;
        Ok(endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true))
    }

    fn client(self, channel: Channel) -> Client {
        let Self { endpoint, namespace, timeout, .. } = self;
        Client { inner: Arc::new(Inner { channel, endpoint, namespace, timeout, ids: Ids::default() }) }
    }
}

impl Client {
    /// A client to be.
    pub fn builder() -> Builder {
        Builder {
            endpoint: DEFAULT_ENDPOINT.to_owned(),
            namespace: String::new(),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(3),
        }
    }

    /// Where this client connects to.
    pub fn endpoint(&self) -> &str {
        &self.inner.endpoint
    }

    /// The namespace of its calls; empty means `default`.
    pub fn namespace(&self) -> &str {
        &self.inner.namespace
    }

    /// A task id of now, by the cluster's clock as far as it is known. For callers that write ids
    /// down before they submit; otherwise [`Client::submit`] makes one.
    pub fn new_task_id(&self) -> TaskId {
        self.inner.ids.next()
    }

    /// The generated client of `hive.v1.TaskService`: no retries, no deadlines but your own.
    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.inner.channel.clone())
    }

    /// The generated client of `hive.v1.AgentService`.
    pub fn agents(&self) -> AgentServiceClient<Channel> {
        AgentServiceClient::new(self.inner.channel.clone())
    }

    /// The generated client of `hive.v1.ClusterService`.
    pub fn cluster(&self) -> ClusterServiceClient<Channel> {
        ClusterServiceClient::new(self.inner.channel.clone())
    }

    pub(super) fn ns(&self) -> String {
        self.inner.namespace.clone()
    }

    pub(super) fn failed(&self, status: tonic::Status) -> Error {
        Error::from_status(&self.inner.endpoint, status)
    }
}
