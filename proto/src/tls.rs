//! TLS for both ends of a connection: reading certificates, dialling with them, and saying in words why a
//! handshake failed. Serving is the control plane's business.
//!
//! TLS 1.3 with ring, nothing else. Files are read again for each connection that is made, so that a renewed
//! certificate is used from the next one on.

mod dial;
mod explain;
mod pem;

pub use dial::{ClientTls, endpoint};
pub use explain::explain;
pub use pem::{Error, Pem};

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// The protocol negotiated: gRPC needs HTTP/2.
pub const ALPN: &[u8] = b"h2";

/// Where all cryptography comes from. Named everywhere instead of installed, so that no other crate's
/// choice can matter.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
