//! A connection with TLS, under tonic's channel.

use std::error::Error as StdError;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::ServiceExt as _;

use super::explain::Explained;
use super::{ALPN, Error, Pem, explain, provider};

/// Whom a client trusts, and what it shows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClientTls {
    files: Arc<Files>,
}

#[derive(Debug)]
struct Files {
    ca: PathBuf,
    pair: Option<(PathBuf, PathBuf)>,
    /// What served last, for the moment in which files are half written.
    last: Mutex<Option<Arc<ClientConfig>>>,
}

/// An endpoint; if `server` is `https://HOST:PORT`, to be dialled by [`ClientTls`] alone.
///
/// # Errors
/// `server` is no URL.
pub fn endpoint(server: &str) -> Result<Endpoint, tonic::transport::Error> {
    // tonic refuses https with a connector of ours once any crate turns its own TLS on.
    let dialled = server.strip_prefix("https://").map(|rest| format!("http://{rest}"));
    let Some(dialled) = dialled else { return Endpoint::from_shared(server.to_owned()) };
    let endpoint = Endpoint::from_shared(dialled)?;
    Ok(match server.parse::<Uri>() {
        Ok(origin) => endpoint.origin(origin),
        Err(_) => endpoint,
    })
}

impl ClientTls {
    /// Reads nothing yet. `ca` signed the server's certificate; `pair` is our own certificate and its key.
    #[must_use]
    pub fn new(ca: &Path, pair: Option<(&Path, &Path)>) -> Self {
        let pair = pair.map(|(cert, key)| (cert.to_owned(), key.to_owned()));
        Self { files: Arc::new(Files { ca: ca.to_owned(), pair, last: Mutex::default() }) }
    }

    /// Reads the files once, so that a mistake shows before the first connection.
    ///
    /// # Errors
    /// One can't be used.
    pub fn check(&self) -> Result<(), Error> {
        self.read().map(drop)
    }

    /// Connects to an [`endpoint`].
    ///
    /// # Errors
    /// No connection, or no agreement.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect_with_connector(self.connector()).await
    }

    /// Connects to an [`endpoint`] at the first call.
    #[must_use]
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(self.connector())
    }

    fn connector(
        &self,
    ) -> impl tower::Service<Uri, Response = TokioIo<Tls>, Error = Failure, Future = Dialling> + use<> {
        let tls = self.clone();
        tower::service_fn(move |uri| -> Dialling {
            let tls = tls.clone();
            Box::pin(async move { tls.dial(uri).await.map(TokioIo::new) })
        })
    }

    async fn dial(&self, uri: Uri) -> Result<Tls, Failure> {
        let config = self.config()?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host)?;
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        let tcp = tcp.oneshot(uri).await?.into_inner();
        match TlsConnector::from(config).connect(name, tcp).await {
            Ok(stream) => Ok(stream),
            Err(error) => Err(match explain(&error) {
                Some(words) => Explained(words).into(),
                None => format!("the TLS handshake broke off ({error}); if the server serves plain text, use http://")
                    .into(),
            }),
        }
    }

    /// The files as they are now; what served last if they can't be used.
    fn config(&self) -> Result<Arc<ClientConfig>, Error> {
        let read = self.read();
        let mut last = self.files.last.lock().unwrap_or_else(PoisonError::into_inner);
        match (read, &*last) {
            (Ok(config), _) => {
                *last = Some(Arc::clone(&config));
                Ok(config)
            }
            (Err(error), Some(last)) => {
                tracing::error!(%error, "cannot read certificates anew; those read before go on");
                Ok(Arc::clone(last))
            }
            (Err(error), None) => Err(error),
        }
    }

    /// Small files, and a connection is about to be made: not worth a thread of their own.
    fn read(&self) -> Result<Arc<ClientConfig>, Error> {
        let roots = Pem::read(&self.files.ca)?.roots()?;
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
        let unusable = |error: rustls::Error| Error::Ca { path: self.files.ca.clone(), why: error.to_string() };
        let builder = builder.map_err(unusable)?.with_root_certificates(roots);
        let mut config = match &self.files.pair {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let (chain, secret) = (Pem::read(cert)?.certificates()?, Pem::read(key)?.key()?);
                let pair = builder.with_client_auth_cert(chain, secret);
                pair.map_err(|cause| Error::Pair { cert: cert.clone(), key: key.clone(), cause })?
            }
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would carry an identity that has been renewed or taken away.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

type Tls = TlsStream<TcpStream>;
type Failure = Box<dyn StdError + Send + Sync>;
type Dialling = Pin<Box<dyn Future<Output = Result<TokioIo<Tls>, Failure>> + Send>>;
