//! Keys as bytes.

use bytes::Bytes;
use hive_core::id::{AgentId, SidecarId, TaskId};
use hive_core::record::{BlobKey, BlobPart, Key};

use super::namespace;

/// Where a record is stored.
#[must_use]
pub fn record_key(key: &Key) -> Bytes {
    match key {
        Key::Namespace(ns) => join(b"s/n/", &[ns.as_str().as_bytes()]),
        Key::Sidecar(ns, id) => join(b"s/s/", &[ns.as_str().as_bytes(), id.as_str().as_bytes()]),
        Key::Agent(ns, id) => join(b"s/a/", &[ns.as_str().as_bytes(), id.as_str().as_bytes()]),
        Key::Task(ns, id) => join(b"s/t/", &[ns.as_str().as_bytes(), &id.0]),
    }
}

/// Where a blob is stored.
#[must_use]
pub fn blob_key(key: &BlobKey) -> Bytes {
    let part = match key.part {
        BlobPart::Payload => "p".to_owned(),
        BlobPart::Result => "r".to_owned(),
        BlobPart::Question(number) => format!("q{number}"),
        BlobPart::Answer(number) => format!("a{number}"),
    };
    join(b"b/", &[key.namespace.as_str().as_bytes(), &key.task.0, part.as_bytes()])
}

fn join(prefix: &[u8], parts: &[&[u8]]) -> Bytes {
    let mut key = prefix.to_vec();
    for (nth, part) in parts.iter().enumerate() {
        if nth > 0 {
            key.push(b'/');
        }
        key.extend_from_slice(part);
    }
    key.into()
}

/// Reads a record's key; none if it has no known form.
#[must_use]
pub fn decode_key(key: &[u8]) -> Option<Key> {
    let (kind, rest) = key.strip_prefix(b"s/")?.split_at_checked(2)?;
    if kind == b"n/" {
        return Some(Key::Namespace(namespace(rest)?));
    }
    let slash = rest.iter().position(|b| *b == b'/')?;
    let (ns, id) = (namespace(&rest[..slash])?, &rest[slash + 1..]);
    let text = || std::str::from_utf8(id).ok();
    match kind {
        b"s/" => Some(Key::Sidecar(ns, SidecarId::parse(text()?).ok()?)),
        b"a/" => Some(Key::Agent(ns, AgentId::parse(text()?).ok()?)),
        b"t/" => Some(Key::Task(ns, TaskId::from_bytes(id.try_into().ok()?).ok()?)),
        _ => None,
    }
}
