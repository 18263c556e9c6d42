//! PEM files, and what is wrong with them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why certificates can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("cannot read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        cause: Arc<std::io::Error>,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {what} in PEM form", path.display())]
    Lacks {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
    /// Certificate and key do not fit each other, or are of a kind that is not supported.
    #[error("{} and {} are no usable pair: {cause}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
    /// A CA certificate can't be used.
    #[error("{} holds a CA certificate that cannot be used: {why}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A file as it was read. Two are equal if their bytes are.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// It may be a private key.
impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pem").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Pem {
    /// Reads a file.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let path = path.to_owned();
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Self { path, bytes }),
            Err(cause) => Err(Error::Read { path, cause: Arc::new(cause) }),
        }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn lacks(&self, what: &'static str) -> Error {
        Error::Lacks { path: self.path.clone(), what }
    }

    /// The certificates, leaf first.
    ///
    /// # Errors
    /// There are none, or one is torn.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        all.ok().filter(|all| !all.is_empty()).ok_or_else(|| self.lacks("certificate"))
    }

    /// The private key.
    ///
    /// # Errors
    /// There is none.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(&self.bytes).map_err(|_| self.lacks("private key"))
    }

    /// The certificates, as those one trusts.
    ///
    /// # Errors
    /// There are none, or one is no CA.
    pub fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            let added = roots.add(certificate);
            added.map_err(|error| Error::Ca { path: self.path.clone(), why: error.to_string() })?;
        }
        Ok(roots)
    }
}
