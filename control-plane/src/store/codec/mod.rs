//! Records and keys as bytes: `hive.store.v1` on one side, `hive-core`'s records on the other.
//!
//! Keys: `s/n/<ns>`, `s/s/<ns>/<sidecar>`, `s/a/<ns>/<agent>`, `s/t/<ns>/<16 bytes of task id>` for
//! records and `b/<ns>/<16 bytes of task id>/<part>` for blobs. Names hold no `/`, so nothing is
//! escaped.

mod agent;
mod key;
mod task;

pub use key::{blob_key, decode_key, record_key};

use std::sync::Arc;

use bytes::Bytes;
use hive_core::id::{BootId, Generation, MoveNumber, Namespace, SidecarId};
use hive_core::leader;
use hive_core::record::{Change, Key, NamespaceRecord, Record, SidecarRecord};
use hive_core::time::Time;
use hive_proto::store_v1 as pb;
use prost::Message as _;

use super::{Op, Transaction};

/// A stored record that can't be read. The store is of another version, or corrupt.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The key has no known form.
    #[error("key {0:?} has no known form")]
    Key(Bytes),
    /// The value is no valid message.
    #[error("value of {key:?} is not a valid record")]
    Value {
        /// Its key.
        key: Bytes,
        /// What the decoder says.
        #[source]
        source: prost::DecodeError,
    },
    /// A field has a value that this version does not know.
    #[error("value of {key:?} has a bad {field}")]
    Field {
        /// Its key.
        key: Bytes,
        /// Which field.
        field: &'static str,
    },
}

/// A field that could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadField(pub &'static str);

/// Encodes a record.
#[must_use]
pub fn encode(record: &Record) -> Bytes {
    match record {
        Record::Namespace(r) => {
            pb::NamespaceRecord { floor: r.floor.0, generation: r.generation.0, moved: r.moved.0 }.encode_to_vec()
        }
        Record::Sidecar(r) => pb::SidecarRecord {
            boot_id: Bytes::copy_from_slice(&r.boot.0.to_be_bytes()),
            generation: r.generation.0,
            update_time: r.updated.0,
        }
        .encode_to_vec(),
        Record::Agent(r) => agent::encode(r).encode_to_vec(),
        Record::Task(r) => task::encode(r).encode_to_vec(),
    }
    .into()
}

/// Decodes what is stored under a key.
///
/// # Errors
/// The key or the value is not one this version writes.
pub fn decode(key: &Bytes, value: &Bytes) -> Result<Change, DecodeError> {
    let parsed = decode_key(key).ok_or_else(|| DecodeError::Key(key.clone()))?;
    let broken = |source| DecodeError::Value { key: key.clone(), source };
    let bad = |BadField(field)| DecodeError::Field { key: key.clone(), field };
    let record = match &parsed {
        Key::Namespace(_) => {
            let r = pb::NamespaceRecord::decode(value.clone()).map_err(broken)?;
            Record::Namespace(Arc::new(NamespaceRecord {
                floor: Time(r.floor),
                generation: Generation(r.generation),
                moved: MoveNumber(r.moved),
            }))
        }
        Key::Sidecar(_, id) => {
            let r = pb::SidecarRecord::decode(value.clone()).map_err(broken)?;
            Record::Sidecar(Arc::new(sidecar(id, &r).map_err(bad)?))
        }
        Key::Agent(_, id) => {
            let r = pb::AgentRecord::decode(value.clone()).map_err(broken)?;
            Record::Agent(Arc::new(agent::decode(id, r).map_err(bad)?))
        }
        Key::Task(_, id) => {
            let r = pb::TaskRecord::decode(value.clone()).map_err(broken)?;
            Record::Task(Arc::new(task::decode(*id, r).map_err(bad)?))
        }
    };
    Ok(Change { key: parsed, value: Some(record) })
}

fn sidecar(id: &SidecarId, r: &pb::SidecarRecord) -> Result<SidecarRecord, BadField> {
    let boot = <[u8; 16]>::try_from(&r.boot_id[..]).map_err(|_| BadField("boot_id"))?;
    Ok(SidecarRecord {
        id: id.clone(),
        boot: BootId(u128::from_be_bytes(boot)),
        generation: Generation(r.generation),
        updated: Time(r.update_time),
    })
}

/// Turns a leader's transaction into a store's.
#[must_use]
pub fn transaction(tx: leader::Transaction, nonce: u64) -> Transaction {
    let mut ops = Vec::with_capacity(tx.records.len() + tx.blobs.len());
    for (key, record) in &tx.records {
        let key = record_key(key);
        ops.push(match record {
            Some(record) => Op::Put { key, value: encode(record) },
            None => Op::Delete { key },
        });
    }
    for (key, bytes) in tx.blobs {
        let key = blob_key(&key);
        ops.push(match bytes {
            Some(value) => Op::Put { key, value },
            None => Op::Delete { key },
        });
    }
    Transaction { fence: tx.fence, prev_seq: tx.prev_seq, seq: tx.seq, nonce, time: tx.time, ops }
}

/// A namespace's name in a key, checked.
fn namespace(bytes: &[u8]) -> Option<Namespace> {
    Namespace::parse(std::str::from_utf8(bytes).ok()?).ok()
}

#[cfg(test)]
mod tests;
