//! Who a peer is by its certificate, and what that lets it call.
//!
//! A sidecar's name is `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sidecar/ID` (ADR 9). It may speak for that sidecar,
//! and for nobody else. Whoever has any other name is a client.

use std::fmt;
use std::sync::Arc;

use hive_core::id::{Namespace, SidecarId};
use rustls::pki_types::CertificateDer;
use tonic::Status;

use crate::api::error::Reason;

/// A peer, as far as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Who {
    /// Nobody asked: plain text, or no client CA.
    Unasked,
    /// By its certificate.
    Known(Identity),
    /// It has a certificate of our CA, but no name.
    Nameless(Fault),
}

/// A name from a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A sidecar.
    Sidecar {
        /// Its namespace.
        namespace: Namespace,
        /// Its id.
        id: SidecarId,
    },
    /// A client, by its URI.
    Client(Arc<str>),
}

/// Why a certificate names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It can't be read.
    Malformed,
    /// It holds this many URIs instead of one.
    Uris(usize),
    /// Its URI is no SPIFFE id.
    NotSpiffe,
    /// Its URI looks like a sidecar's, but namespace or id can't be one.
    NotASidecar,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the certificate cannot be read"),
            Self::Uris(found) => write!(f, "the certificate holds {found} URI names, exactly one is needed"),
            Self::NotSpiffe => f.write_str("the certificate's URI is not spiffe://TRUST-DOMAIN/PATH"),
            Self::NotASidecar => {
                f.write_str("the certificate's URI is not spiffe://TRUST-DOMAIN/ns/NAMESPACE/sidecar/ID")
            }
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sidecar { namespace, id } => write!(f, "sidecar {id} of namespace {namespace}"),
            Self::Client(uri) => f.write_str(uri),
        }
    }
}

/// What sidecars call, and nobody else.
const OF_SIDECARS: &str = "/hive.sidecar.v1.";
/// What anybody with a name may call.
const OF_ALL: [&str; 2] = ["/grpc.health.v1.", "/grpc.reflection."];

impl Who {
    /// Reads a verified certificate.
    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Self {
        let read = || {
            let read = webpki::EndEntityCert::try_from(certificate).map_err(|_| Fault::Malformed)?;
            let uris: Vec<&str> = read.valid_uri_names().collect();
            let [uri] = uris[..] else { return Err(Fault::Uris(uris.len())) };
            identity(uri)
        };
        read().map_or_else(Self::Nameless, Self::Known)
    }

    /// Whether it may call a method at all.
    pub(crate) fn may_call(&self, path: &str) -> Result<(), Status> {
        let identity = match self {
            Self::Unasked => return Ok(()),
            Self::Nameless(fault) => return Err(Reason::IdentityInvalid.status(fault.to_string())),
            Self::Known(identity) => identity,
        };
        let of_sidecars = path.starts_with(OF_SIDECARS);
        let of_all = OF_ALL.iter().any(|service| path.starts_with(service));
        match identity {
            _ if of_all => Ok(()),
            Identity::Sidecar { .. } if !of_sidecars => Err(Reason::IdentityNotAllowed
                .status(format!("{identity} may speak for that sidecar only; clients have certificates of their own"))),
            Identity::Client(_) if of_sidecars => {
                Err(Reason::IdentityNotAllowed.status(format!("{identity} names no sidecar")))
            }
            _ => Ok(()),
        }
    }

    /// Whether it may speak for a sidecar.
    pub(crate) fn may_speak_for(&self, namespace: &Namespace, sidecar: &SidecarId) -> Result<(), Status> {
        match self {
            Self::Unasked => Ok(()),
            Self::Known(Identity::Sidecar { namespace: ns, id }) if (ns, id) == (namespace, sidecar) => Ok(()),
            Self::Known(other) => Err(Reason::IdentityNotAllowed
                .status(format!("{other} may not speak for sidecar {sidecar} of namespace {namespace}"))),
            Self::Nameless(fault) => Err(Reason::IdentityInvalid.status(fault.to_string())),
        }
    }
}

fn identity(uri: &str) -> Result<Identity, Fault> {
    let rest = uri.strip_prefix("spiffe://").ok_or(Fault::NotSpiffe)?;
    let (domain, path) = rest.split_once('/').ok_or(Fault::NotSpiffe)?;
    if domain.is_empty() || path.is_empty() {
        return Err(Fault::NotSpiffe);
    }
    let parts: Vec<&str> = path.split('/').collect();
    let ["ns", namespace, "sidecar", rest @ ..] = &parts[..] else { return Ok(Identity::Client(uri.into())) };
    let ([id], Ok(namespace)) = (rest, Namespace::parse(namespace)) else { return Err(Fault::NotASidecar) };
    let id = SidecarId::parse(id).map_err(|_| Fault::NotASidecar)?;
    Ok(Identity::Sidecar { namespace, id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn who(uris: &[&str]) -> Who {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("params");
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().expect("uri"))));
        let certificate = params.self_signed(&KeyPair::generate().expect("key")).expect("certificate");
        Who::of(certificate.der())
    }

    fn sidecar(namespace: &str, id: &str) -> Who {
        let namespace = Namespace::parse(namespace).expect("namespace");
        Who::Known(Identity::Sidecar { namespace, id: SidecarId::parse(id).expect("id") })
    }

    #[test]
    fn exactly_one_uri_names_a_peer() {
        assert_eq!(who(&["spiffe://hive.test/ns/red/sidecar/s1"]), sidecar("red", "s1"));
        assert_eq!(who(&["spiffe://t/client/ada"]), Who::Known(Identity::Client("spiffe://t/client/ada".into())));
        assert_eq!(who(&[]), Who::Nameless(Fault::Uris(0)));
        let two = ["spiffe://t/ns/red/sidecar/s1", "spiffe://t/ns/red/sidecar/s2"];
        assert_eq!(who(&two), Who::Nameless(Fault::Uris(2)));
        for uri in ["https://t/ns/red/sidecar/s1", "spiffe://t", "spiffe:///ns/red/sidecar/s1", "spiffe://t/"] {
            assert_eq!(who(&[uri]), Who::Nameless(Fault::NotSpiffe), "{uri}");
        }
        for uri in ["spiffe://t/ns/red/sidecar/", "spiffe://t/ns/red/sidecar/s1/x", "spiffe://t/ns/RED/sidecar/s1"] {
            assert_eq!(who(&[uri]), Who::Nameless(Fault::NotASidecar), "{uri}");
        }
    }

    #[test]
    fn a_sidecar_speaks_for_itself_and_a_client_for_no_sidecar() {
        let (red, s1) = (Namespace::parse("red").expect("ns"), SidecarId::parse("s1").expect("id"));
        let code = |result: Result<(), Status>| result.err().map(|status| status.code());
        let denied = Some(tonic::Code::PermissionDenied);
        assert_eq!(code(sidecar("red", "s1").may_speak_for(&red, &s1)), None);
        assert_eq!(code(sidecar("red", "s2").may_speak_for(&red, &s1)), denied);
        assert_eq!(code(sidecar("default", "s1").may_speak_for(&red, &s1)), denied);
        assert_eq!(code(who(&["spiffe://t/x"]).may_speak_for(&red, &s1)), denied);
        assert_eq!(code(Who::Unasked.may_speak_for(&red, &s1)), None);

        let (session, submit) = ("/hive.sidecar.v1.SidecarService/Session", "/hive.v1.TaskService/SubmitTask");
        let health = "/grpc.health.v1.Health/Check";
        assert_eq!(code(sidecar("red", "s1").may_call(session)), None);
        assert_eq!(code(sidecar("red", "s1").may_call(submit)), denied);
        assert_eq!(code(who(&["spiffe://t/x"]).may_call(session)), denied);
        assert_eq!(code(who(&["spiffe://t/x"]).may_call(submit)), None);
        for path in [session, submit, health] {
            assert_eq!(code(who(&[]).may_call(path)), Some(tonic::Code::Unauthenticated));
        }
        assert_eq!(code(sidecar("red", "s1").may_call(health)), None);
    }
}
