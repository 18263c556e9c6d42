//! A CA whose certificate follows from its key and its trust domain, so that it can sign without reading its
//! own certificate.

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::files;
use crate::clock;
use crate::failure::Failure;

/// Before now: clocks differ.
const LEEWAY: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// Whom a certificate is for.
pub(super) enum Kind<'a> {
    Server { name: &'a str, hosts: &'a [String] },
    Sidecar { namespace: &'a str, id: &'a str },
    Client { name: &'a str },
}

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    trust_domain: String,
}

fn failed(error: impl Display) -> Failure {
    Failure::error("cannot make a certificate", error)
}

impl Authority {
    /// Makes one in a folder.
    pub(super) fn make(folder: &Path, trust_domain: &str, days: u16) -> Result<(), Failure> {
        check(trust_domain)?;
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::error(format!("cannot make folder {}", folder.display()), error))?;
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = root(trust_domain, days)?.self_signed(&key).map_err(failed)?;
        let (pem, secret) = (certificate.pem(), key.serialize_pem());
        files::write(folder, &[("ca.key", &secret), ("ca.pem", &pem), ("trust-domain", trust_domain)])
    }

    /// The one in a folder.
    pub(super) fn open(folder: &Path) -> Result<Self, Failure> {
        let key = KeyPair::from_pem(&files::read(folder, "ca.key")?)
            .map_err(|error| Failure::error(format!("{}/ca.key is no key", folder.display()), error))?;
        let trust_domain = files::read(folder, "trust-domain")?.trim().to_owned();
        check(&trust_domain)?;
        let issuer = Issuer::new(root(&trust_domain, 1)?, key);
        Ok(Self { issuer, trust_domain })
    }

    /// A certificate, its key and the identity in it.
    pub(super) fn issue(&self, kind: &Kind<'_>, days: u16) -> Result<(String, String, String), Failure> {
        let domain = &self.trust_domain;
        let (uri, common, hosts, usage) = match kind {
            Kind::Server { name, hosts } => {
                let local = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
                let hosts = local.into_iter().chain(hosts.iter().cloned()).collect();
                let uri = format!("spiffe://{domain}/control-plane/{name}");
                (uri, (*name).to_owned(), hosts, ExtendedKeyUsagePurpose::ServerAuth)
            }
            Kind::Sidecar { namespace, id } => {
                let uri = format!("spiffe://{domain}/ns/{namespace}/sidecar/{id}");
                (uri, (*id).to_owned(), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
            }
            Kind::Client { name } => {
                let uri = format!("spiffe://{domain}/client/{name}");
                (uri, (*name).to_owned(), Vec::new(), ExtendedKeyUsagePurpose::ClientAuth)
            }
        };
        let mut params = CertificateParams::new(hosts).map_err(failed)?;
        params.subject_alt_names.push(SanType::URI(uri.as_str().try_into().map_err(failed)?));
        params.distinguished_name = named(&common);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        valid(&mut params, days);
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed)?;
        Ok((certificate.pem(), key.serialize_pem(), uri))
    }
}

fn root(trust_domain: &str, days: u16) -> Result<CertificateParams, Failure> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = named(&format!("Hive development CA of {trust_domain}"));
    valid(&mut params, days);
    Ok(params)
}

fn named(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

fn valid(params: &mut CertificateParams, days: u16) {
    let now = UNIX_EPOCH + clock::wall();
    params.not_before = (now - LEEWAY).into();
    params.not_after = (now + DAY * u32::from(days)).into();
}

/// As SPIFFE allows it.
fn check(trust_domain: &str) -> Result<(), Failure> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if (1..=200).contains(&trust_domain.len()) && trust_domain.bytes().all(plain) {
        return Ok(());
    }
    let why = "it must be 1 to 200 of a-z, 0-9, '.', '-' and '_'";
    Err(Failure::usage(format!("trust domain {trust_domain:?} is not usable"), why))
}
