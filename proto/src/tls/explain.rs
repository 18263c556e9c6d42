//! Why a connection failed, in words that say what to do.

use std::error::Error;
use std::io;

use rustls::CertificateError;

/// A failure already put into words; found again below whatever is wrapped around it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Explained(pub(super) String);

/// What rustls says of an alert, before the alert's name.
const ALERTED: &str = "received fatal alert: ";

/// What a TLS failure among an error and its causes means; none if there is none.
#[must_use]
pub fn explain(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(Explained(words)) = error.downcast_ref() {
            return Some(words.clone());
        }
        if let Some(found) = of_tls(error) {
            return Some(words(found));
        }
        // With TLS 1.3 a server judges our certificate after we think the connection stands. The alert then
        // comes through HTTP/2, which keeps an error's text alone.
        if let Some((_, alert)) = error.to_string().split_once(ALERTED) {
            let name = alert.split(|c: char| !c.is_ascii_alphanumeric()).next();
            return Some(alerted(name.unwrap_or_default()));
        }
        next = error.source();
    }
    None
}

/// An `io::Error` hides what it wraps from `source`.
fn of_tls<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match wrapped {
        Some(inner) => inner.downcast_ref().or_else(|| of_tls(inner)),
        None => error.downcast_ref(),
    }
}

fn words(error: &rustls::Error) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage};
    match error {
        AlertReceived(alert) => alerted(&format!("{alert:?}")),
        InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is not of the CA given".to_owned()
        }
        InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the server's certificate has expired".to_owned()
        }
        InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }) => {
            format!("the server's certificate is for another name: {error}")
        }
        InvalidMessage(_) => "the server does not speak TLS here; if it serves plain text, use http://".to_owned(),
        other => format!("TLS: {other}"),
    }
}

fn alerted(alert: &str) -> String {
    match alert {
        "CertificateRequired" => "the server wants a client certificate, and none was given".to_owned(),
        "CertificateExpired" => "the server refuses our certificate: it has expired or is not valid yet".to_owned(),
        "UnknownCA" | "BadCertificate" | "DecryptError" | "UnsupportedCertificate" | "CertificateUnknown" => {
            format!("the server refuses our certificate ({alert}): is it of the CA that the server trusts?")
        }
        "ProtocolVersion" => "the server speaks no TLS 1.3; if it serves plain text, use http://".to_owned(),
        other => format!("the server ended the TLS connection: {other}"),
    }
}
