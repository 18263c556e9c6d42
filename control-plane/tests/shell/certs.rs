//! Certificates for tests: a CA and what it signs, in a folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hive_proto::tls::ClientTls;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

pub(crate) struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("key");
        let pem = params.self_signed(&key).expect("certificate").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for localhost with these URIs, valid until so long from now (or ago).
    fn sign(&self, uris: &[&str], valid: Result<Duration, Duration>) -> (String, String) {
        let mut params = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).expect("params");
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("uri"))));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        #[expect(clippy::disallowed_methods, reason = "certificates are judged by the wall clock")]
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(86_400)).into();
        params.not_after = valid.map_or_else(|ago| now - ago, |left| now + left).into();
        let key = KeyPair::generate().expect("key");
        (params.signed_by(&key, &self.issuer).expect("certificate").pem(), key.serialize_pem())
    }
}

/// A folder with certificates.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("folder"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, text: &str) {
        // As a renewal does it: nobody ever reads half a file.
        let part = self.path("part");
        std::fs::write(&part, text).expect("write");
        std::fs::rename(part, self.path(name)).expect("rename");
    }

    pub(crate) fn ca(&self, name: &str) -> Ca {
        let ca = Ca::new();
        self.put(name, &ca.pem);
        ca
    }

    pub(crate) fn issue(&self, name: &str, ca: &Ca, uris: &[&str]) {
        self.issue_until(name, ca, uris, Ok(Duration::from_secs(3_600)));
    }

    pub(crate) fn issue_until(&self, name: &str, ca: &Ca, uris: &[&str], valid: Result<Duration, Duration>) {
        let (cert, key) = ca.sign(uris, valid);
        self.put(&format!("{name}.key"), &key);
        self.put(&format!("{name}.pem"), &cert);
    }

    /// A client that trusts `ca` and shows `name`.
    pub(crate) fn client(&self, ca: &str, name: Option<&str>) -> ClientTls {
        let pair = name.map(|name| (self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))));
        let pair = pair.as_ref().map(|(cert, key)| (Path::new(cert), Path::new(key)));
        ClientTls::new(&self.path(ca), pair)
    }

    /// Settings of a server that shows `server` and asks for certificates of `ca`.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        let path = |name: &str| self.path(name).to_string_lossy().into_owned();
        vec![
            ("HIVE_TLS__CERT", path("server.pem")),
            ("HIVE_TLS__KEY", path("server.key")),
            ("HIVE_TLS__CLIENT_CA", path("ca.pem")),
            ("HIVE_TLS__POLL", "100ms".to_owned()),
        ]
    }
}
