//! Settings of etcd, and which store is used.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::reader::Reader;
use super::value::{ByteSize, Secret};

/// Where state is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreKind {
    /// In a folder of this machine.
    Embedded,
    /// In etcd.
    Etcd,
}

/// How etcd is reached and used.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// Addresses of its members.
    pub endpoints: Vec<String>,
    /// Name under which the keys are.
    pub cluster: String,
    /// Whom etcd knows us as, and by which password.
    pub user: Option<(String, Secret)>,
    /// Signed the members' certificates.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// One try of one call.
    pub call: Duration,
    /// All tries of one call.
    pub patience: Duration,
    /// Quota of its database, as etcd was told.
    pub quota: ByteSize,
}

impl Etcd {
    pub(super) fn read(r: &mut Reader<'_>) -> Self {
        let user = r.take_optional("etcd.user", "User, where etcd has authentication.");
        let password: Option<Secret> = r.take_optional("etcd.password", "The user's password.");
        let cert = r.take_optional("etcd.cert", "Our certificate (PEM), where etcd asks for one.");
        let key = r.take_optional("etcd.key", "Its private key (PEM).");
        Self {
            endpoints: r.take("etcd.endpoints", "Addresses of etcd's members, such as `http://127.0.0.1:2379`.", vec![]),
            cluster: r.take("etcd.cluster", "Keys are under `/hive/<cluster>/`; one control plane each.", "default".into()),
            user: match (user, password) {
                (Some(user), Some(password)) => Some((user, password)),
                (Some(_), None) => r.lack("etcd.password", "is missing: etcd.user has one"),
                (None, Some(_)) => r.lack("etcd.user", "is missing: etcd.password belongs to a user"),
                (None, None) => None,
            },
            ca: r.take_optional("etcd.ca", "CA (PEM) of the members' certificates, for `https://` endpoints."),
            pair: match (cert, key) {
                (Some(cert), Some(key)) => Some((cert, key)),
                (Some(_), None) => r.lack("etcd.key", "is missing: etcd.cert needs its private key"),
                (None, Some(_)) => r.lack("etcd.cert", "is missing: etcd.key belongs to a certificate"),
                (None, None) => None,
            },
            call: r.take_in(
                "etcd.call",
                "Time one call may take; then another member is tried.",
                Duration::from_secs(3),
                Duration::from_millis(50)..=Duration::from_secs(60),
            ),
            patience: r.take_in(
                "etcd.patience",
                "Time all tries of a call may take; after it a commit's outcome is unknown, and the store is taken over anew.",
                Duration::from_secs(10),
                Duration::from_millis(100)..=Duration::from_secs(600),
            ),
            quota: r.take_in(
                "etcd.quota",
                "Quota of etcd's database as etcd was told (`--quota-backend-bytes`); from 70 % on no task is accepted.",
                ByteSize::mib(2 << 10),
                ByteSize::mib(16)..=ByteSize::mib(1 << 20),
            ),
        }
    }

    /// What must hold with the choice of the store.
    pub(super) fn check(&self, kind: StoreKind, insecure: bool, r: &mut Reader<'_>) {
        match kind {
            StoreKind::Etcd if self.endpoints.is_empty() => {
                r.refuse("etcd.endpoints", "is missing: store.kind is etcd");
            }
            StoreKind::Embedded if !self.endpoints.is_empty() => {
                r.refuse("etcd.endpoints", "is given, but store.kind is embedded: say etcd there, or leave this out");
            }
            _ => {}
        }
        if self.endpoints.iter().any(|url| url.starts_with("https://")) != self.ca.is_some() {
            r.refuse("etcd.ca", "belongs to https:// endpoints, and they to it");
        }
        if !insecure && self.endpoints.iter().any(|url| beyond_loopback(url)) {
            r.refuse(
                "etcd.endpoints",
                "are spoken to in plain text beyond this machine: use https:// and etcd.ca, or say --insecure",
            );
        }
        if self.patience < self.call {
            r.refuse("etcd.patience", "must be at least etcd.call");
        }
    }
}

/// Plain text, to another machine.
fn beyond_loopback(url: &str) -> bool {
    let Some(Ok(uri)) = url.starts_with("http://").then(|| url.parse::<http::Uri>()) else { return false };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    host != "localhost" && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
