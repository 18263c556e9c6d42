//! Records and keys of the store: what is read back is what was written, and nothing else is taken.

use bytes::Bytes;
use hive_control_plane::store::codec;
use hive_core::id::{AgentId, Namespace, SidecarId, TaskId};
use hive_core::record::Key;
use hive_core::time::Time;

use super::source::Source;

/// A valid key of each kind, or one of the bytes themselves; then a value.
pub fn run(data: &[u8]) {
    let mut source = Source::new(data);
    let namespace = || Namespace::parse("default").expect("a name");
    let key = match source.below(5) {
        0 => Key::Namespace(namespace()),
        1 => Key::Sidecar(namespace(), SidecarId::parse("s").expect("a name")),
        2 => Key::Agent(namespace(), AgentId::parse("a").expect("a name")),
        3 => Key::Task(namespace(), TaskId::new(Time(1_800_000_000_000), 7)),
        _ => {
            let raw = source.chunk();
            let Some(key) = codec::decode_key(raw) else { return };
            assert_eq!(codec::record_key(&key), raw, "two keys for one record");
            key
        }
    };
    let raw = codec::record_key(&key);
    assert_eq!(codec::decode_key(&raw).as_ref(), Some(&key));
    let mut value = Vec::new();
    while !source.is_dry() {
        value.push(source.byte());
    }
    let Ok(change) = codec::decode(&raw, &Bytes::from(value)) else { return };
    assert_eq!(change.key, key);
    let record = change.value.expect("a put");
    let written = codec::encode(&record);
    let again = codec::decode(&raw, &written).expect("what we write we can read");
    assert_eq!(again.value.as_ref(), Some(&record), "another record than the one written");
}
