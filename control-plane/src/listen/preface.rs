//! What a new connection says first, and what that means.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// RFC 9113, section 3.4.
const HTTP2: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A TLS handshake record of any version since SSL 3.
const TLS: [u8; 2] = [0x16, 0x03];
/// What a port understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/2 with prior knowledge, nothing else.
    Http2,
    /// HTTP/1 and HTTP/2.
    Http,
}

/// What a connection turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// What the port speaks.
    Expected,
    /// A TLS ClientHello.
    Tls,
    /// An HTTP/1 request on a port that speaks HTTP/2.
    Http1,
    /// Nothing known.
    Garbage,
    /// It ended before it said enough.
    Closed,
}

/// Looks at the beginning; `None` until there is enough to tell.
fn judge(speaks: Speaks, seen: &[u8]) -> Option<Found> {
    match seen {
        [] => None,
        [0x16] => None,
        _ if seen.starts_with(&TLS) => Some(Found::Tls),
        _ if speaks == Speaks::Http => Some(Found::Expected),
        _ if seen.len() >= HTTP2.len() => Some(if seen.starts_with(HTTP2) {
            Found::Expected
        } else {
            http1_or_garbage(seen).unwrap_or(Found::Garbage)
        }),
        _ if HTTP2.starts_with(seen) => None,
        _ => http1_or_garbage(seen),
    }
}

/// A method in capitals, a space and a path, as far as there is any of it.
fn http1_or_garbage(seen: &[u8]) -> Option<Found> {
    const LONGEST_METHOD: usize = 16;
    let method = seen.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    match seen.get(method..) {
        Some([]) | None if method <= LONGEST_METHOD => None,
        Some([b' ']) if method > 0 => None,
        Some([b' ', b'/' | b'*' | b'h', ..]) if method > 0 => Some(Found::Http1),
        _ => Some(Found::Garbage),
    }
}

/// Reads until it is clear what the peer speaks. The bytes read are appended to `seen`.
pub(super) async fn identify<I>(io: &mut I, speaks: Speaks, seen: &mut Vec<u8>) -> io::Result<Found>
where
    I: AsyncRead + Unpin,
{
    let mut buffer = [0; HTTP2.len()];
    loop {
        if let Some(found) = judge(speaks, seen) {
            return Ok(found);
        }
        // Never past the preface: the rest belongs to the HTTP/2 implementation.
        let room = buffer.len().saturating_sub(seen.len()).max(1);
        match io.read(&mut buffer[..room]).await? {
            0 => return Ok(Found::Closed),
            read => seen.extend_from_slice(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    async fn found(speaks: Speaks, said: &[u8]) -> (Found, usize) {
        let (mut ours, mut theirs) = tokio::io::duplex(256);
        theirs.write_all(said).await.expect("write");
        drop(theirs);
        let mut seen = Vec::new();
        (identify(&mut ours, speaks, &mut seen).await.expect("read"), seen.len())
    }

    #[tokio::test]
    async fn every_beginning_has_its_meaning() {
        let preface_and_more = [HTTP2.as_slice(), b"\0\0\0\x04\0\0\0\0\0"].concat();
        assert_eq!(found(Speaks::Http2, &preface_and_more).await, (Found::Expected, 24));
        assert_eq!(found(Speaks::Http2, &[0x16, 0x03, 0x01, 0x02]).await.0, Found::Tls);
        assert_eq!(found(Speaks::Http, &[0x16, 0x03, 0x01, 0x02]).await.0, Found::Tls);
        for request in [
            "GET / HTTP/1.1\r\n\r\n",
            "POST /x HTTP/1.0\r\n",
            "PRI /x HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ] {
            assert_eq!(found(Speaks::Http2, request.as_bytes()).await.0, Found::Http1, "{request}");
            assert_eq!(found(Speaks::Http, request.as_bytes()).await.0, Found::Expected, "{request}");
        }
        for garbage in [&b"\x00\x00"[..], b"hello", b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &[0x16, 0x16]] {
            assert_eq!(found(Speaks::Http2, garbage).await.0, Found::Garbage, "{garbage:?}");
        }
        for short in [&b""[..], b"PRI * HTTP", b"GET", &[0x16]] {
            assert_eq!(found(Speaks::Http2, short).await.0, Found::Closed, "{short:?}");
        }
    }
}
