//! TLS of the main port: certificates as they are on disk now, and who a peer is by its own.
//!
//! A connection is given the certificates of its moment, so a renewal drops no stream. The handshake itself
//! is done in `listen`.

mod identity;

pub use identity::{Fault, Identity, Who};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hive_proto::tls::{ALPN, Pem, provider};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio::sync::watch;

use crate::config;
use crate::metrics;
use crate::tasks::Outcome;

/// Why certificates can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing, or is not what it should be.
    #[error("{setting}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// What is wrong.
        source: Box<hive_proto::tls::Error>,
    },
    /// The client CA can't be used.
    #[error("tls.client_ca: {} cannot be used", path.display())]
    ClientCa {
        /// The file.
        path: PathBuf,
        /// Why.
        source: VerifierBuilderError,
    },
}

/// Gives each handshake the certificates of now. Clones share them.
#[derive(Clone, Debug)]
pub struct Acceptor {
    config: watch::Receiver<Arc<ServerConfig>>,
    asks: bool,
}

impl Acceptor {
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config.borrow())
    }

    /// Whether clients must show a certificate.
    #[must_use]
    pub fn asks(&self) -> bool {
        self.asks
    }
}

/// Looks after the files.
pub struct Reloader {
    files: config::TlsFiles,
    every: Duration,
    read: Files,
    config: watch::Sender<Arc<ServerConfig>>,
}

/// Reads the certificates that the settings name.
///
/// # Errors
/// See [`Error`].
pub fn open(files: &config::TlsFiles, every: Duration) -> Result<(Acceptor, Reloader), Error> {
    let read = Files::read(files)?;
    let (sender, receiver) = watch::channel(read.serve()?);
    let acceptor = Acceptor { config: receiver, asks: files.client_ca.is_some() };
    Ok((acceptor, Reloader { files: files.clone(), every, read, config: sender }))
}

impl Reloader {
    /// Looks at the files for ever.
    pub(crate) async fn run(mut self) -> Outcome {
        let mut failing = None;
        loop {
            tokio::time::sleep(self.every).await;
            match self.look() {
                Ok(renewed) => {
                    if renewed {
                        tracing::info!(cert = %self.files.cert.display(), "certificates renewed; new connections use them");
                    } else if failing.is_some() {
                        tracing::info!("the certificate files are as they were when last read");
                    }
                    failing = None;
                }
                Err(error) => {
                    let error = crate::program::chain(&error);
                    metrics::tls_reload_failed();
                    // Said again only when it changes: the files may stay broken for days.
                    if failing.as_ref() != Some(&error) {
                        tracing::error!(error, "cannot use the renewed certificates; those in use stay");
                    }
                    failing = Some(error);
                }
            }
        }
    }

    /// Three small files: by content, because Kubernetes swaps a link above them.
    fn look(&mut self) -> Result<bool, Error> {
        let read = Files::read(&self.files)?;
        if read == self.read {
            return Ok(false);
        }
        let config = read.serve()?;
        self.read = read;
        self.config.send_replace(config);
        Ok(true)
    }
}

#[derive(PartialEq, Eq)]
struct Files {
    cert: Pem,
    key: Pem,
    client_ca: Option<Pem>,
}

fn of(setting: &'static str) -> impl Fn(hive_proto::tls::Error) -> Error {
    move |source| Error::File { setting, source: Box::new(source) }
}

impl Files {
    fn read(files: &config::TlsFiles) -> Result<Self, Error> {
        Ok(Self {
            cert: Pem::read(&files.cert).map_err(of("tls.cert"))?,
            key: Pem::read(&files.key).map_err(of("tls.key"))?,
            client_ca: files.client_ca.as_deref().map(Pem::read).transpose().map_err(of("tls.client_ca"))?,
        })
    }

    fn serve(&self) -> Result<Arc<ServerConfig>, Error> {
        let chain = self.cert.certificates().map_err(of("tls.cert"))?;
        let key = self.key.key().map_err(of("tls.key"))?;
        let pair = |cause| hive_proto::tls::Error::Pair {
            cert: self.cert.path().to_owned(),
            key: self.key.path().to_owned(),
            cause,
        };
        let builder = ServerConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]);
        let builder = builder.map_err(|error| of("tls.cert")(pair(error)))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(ca.roots().map_err(of("tls.client_ca"))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                let path = ca.path().to_owned();
                builder.with_client_cert_verifier(verifier.map_err(|source| Error::ClientCa { path, source })?)
            }
        };
        let served = builder.with_single_cert(chain, key);
        let mut config = served.map_err(|error| of("tls.key")(pair(error)))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would be let in by a certificate that has expired since, or by an old CA.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}
