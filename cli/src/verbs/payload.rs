//! Where a payload comes from on the command line, and what type it has.

use std::io::{IsTerminal as _, Read as _};
use std::path::Path;

use hive_proto::v1;

use crate::args::PayloadSource;
use crate::failure::Failure;

/// Largest payload; the server's limit, checked early for a better message.
const MOST: usize = 256 * 1024;

/// The payload given, if any.
pub(super) fn read(source: &PayloadSource) -> Result<Option<v1::Payload>, Failure> {
    let data = match (&source.payload, &source.payload_file) {
        (Some(text), _) => text.clone().into_bytes(),
        (None, Some(path)) if path == Path::new("-") => stdin()?,
        (None, Some(path)) => file(path)?,
        (None, None) => return Ok(None),
    };
    Ok(Some(payload(data, source.content_type.as_deref())?))
}

/// All of standard input.
pub(super) fn stdin() -> Result<Vec<u8>, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        crate::output::say("reading from the terminal; end with Ctrl-D");
    }
    bounded(input.lock()).map_err(|e| Failure::error("cannot read standard input", e))
}

fn file(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::File::open(path)
        .and_then(bounded)
        .map_err(|e| Failure::usage(format!("cannot read the payload from {}", path.display()), e))
}

/// One byte past the limit is enough to know that it is too much.
fn bounded(from: impl std::io::Read) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    from.take(MOST as u64 + 1).read_to_end(&mut data)?;
    Ok(data)
}

pub(super) fn payload(data: Vec<u8>, content_type: Option<&str>) -> Result<v1::Payload, Failure> {
    if data.len() > MOST {
        return Err(Failure::usage("the payload is too large", "at most 256 KiB are accepted")
            .next("pass a reference to it, such as a path or a URL"));
    }
    let content_type = content_type.map_or_else(|| guess(&data).to_owned(), str::to_owned);
    Ok(v1::Payload { data: data.into(), content_type })
}

fn guess(data: &[u8]) -> &'static str {
    if data.is_empty() {
        ""
    } else if serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok() {
        "application/json"
    } else if std::str::from_utf8(data).is_ok() {
        "text/plain; charset=utf-8"
    } else {
        "application/octet-stream"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_guessed() {
        assert_eq!(guess(b"{\"a\": 1}"), "application/json");
        assert_eq!(guess(b"hello"), "text/plain; charset=utf-8");
        assert_eq!(guess(b"\xff\xfe"), "application/octet-stream");
        assert_eq!(guess(b""), "");
    }

    #[test]
    fn the_limit_is_the_servers() {
        assert!(payload(vec![b'x'; MOST], None).is_ok());
        assert!(payload(vec![b'x'; MOST + 1], None).is_err());
    }
}
