//! Making a client: where, for which namespace, with what patience.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hive_proto::tls::{self, ClientTls};
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
    ca: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
}

impl Builder {
    /// The control plane's address, [`DEFAULT_ENDPOINT`] unless said; without a scheme, `http://`
    /// is meant. `https://` needs [`Builder::ca`].
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        let endpoint = endpoint.into();
        self.endpoint = if endpoint.contains(':') && !endpoint.contains("://") && !endpoint.starts_with("unix:") {
            format!("http://{endpoint}")
        } else {
            endpoint
        };
        self
    }

    /// The CA (a PEM file) that signed the control plane's certificate. Read again for each connection.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.ca = Some(file.into());
        self
    }

    /// This client's own certificate and its private key (PEM files), for a control plane that asks. Read
    /// again for each connection.
    pub fn certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some((cert.into(), key.into()));
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
        let (endpoint, tls) = self.parse()?;
        let channel = match tls {
            Some(tls) => tls.connect(&endpoint).await,
            None => endpoint.connect().await,
        };
        let channel = channel
            .map_err(|error| Error::Unreachable { endpoint: self.endpoint.clone(), cause: root_cause(&error) })?;
        Ok(self.client(channel))
    }

    /// Connects at the first call, which then tries until its deadline. Fails with
    /// [`Error::Endpoint`]. Must be called within a runtime.
    pub fn connect_lazy(self) -> Result<Client, Error> {
        let (endpoint, tls) = self.parse()?;
        let channel = match tls {
            Some(tls) => tls.connect_lazy(&endpoint),
            None => endpoint.connect_lazy(),
        };
        Ok(self.client(channel))
    }

    fn parse(&self) -> Result<(Endpoint, Option<ClientTls>), Error> {
        let invalid = |cause| Error::Endpoint { endpoint: self.endpoint.clone(), cause };
        let https = self.endpoint.starts_with("https://");
        if !https && !["http://", "unix:"].iter().any(|scheme| self.endpoint.starts_with(scheme)) {
            return Err(invalid("the scheme must be http, https or unix".to_owned()));
        }
        let tls = match &self.ca {
            Some(ca) if https => {
                let pair = self.certificate.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
                let tls = ClientTls::new(ca, pair);
                tls.check().map_err(|error| invalid(error.to_string()))?;
                Some(tls)
            }
            None if https => return Err(invalid("https needs the CA of the control plane's certificate".to_owned())),
            None if self.certificate.is_none() => None,
            _ => return Err(invalid("certificates are given, but the scheme is not https".to_owned())),
        };
        let endpoint = tls::endpoint(&self.endpoint).map_err(|error| invalid(root_cause(&error)))?;
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        Ok((endpoint, tls))
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
            ca: None,
            certificate: None,
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
