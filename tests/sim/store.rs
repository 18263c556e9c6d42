//! The simulated store: records and blobs as the bytes the real codec makes of them, the same fence
//! and order as any store, and a clock's worth of trouble.

use std::collections::BTreeMap;

use bytes::Bytes;
use hive_control_plane::store::{BLOBS, Loaded, MAX_OPS, Op, Transaction, codec};
use hive_core::id::{AgentId, LeaderEpoch, Namespace, TaskId};
use hive_core::record::{AgentRecord, BlobKey, BlobPart, Key, Record, TaskRecord};
use hive_core::time::Time;
use std::sync::Arc;

/// What will become of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Lands,
    Refused,
    /// Its outcome is not told; whether it landed is.
    Unknown(bool),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) namespace: Namespace,
    bytes: BTreeMap<Bytes, Bytes>,
    blobs: BTreeMap<Bytes, Bytes>,
    /// The same records, decoded.
    pub(crate) records: BTreeMap<Key, Record>,
    pub(crate) seq: u64,
    nonce: u64,
    time: Time,
    epoch: LeaderEpoch,
    /// A transaction of unknown outcome that lands by the time the store is open again.
    pub(crate) late: Option<Transaction>,
    /// False between a commit of unknown outcome and the next takeover.
    pub(crate) open: bool,
    /// The next commit's outcome is unknown.
    pub(crate) doubt: bool,
    pub(crate) full_until: u64,
    pub(crate) slow_until: u64,
}

/// One record's change.
pub(crate) type Succession = (Key, Option<Record>, Option<Record>);

impl Store {
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self {
            namespace,
            bytes: BTreeMap::new(),
            blobs: BTreeMap::new(),
            records: BTreeMap::new(),
            seq: 0,
            nonce: 0,
            time: Time::ZERO,
            epoch: LeaderEpoch { cluster_generation: 1, number: 0 },
            late: None,
            open: true,
            doubt: false,
            full_until: 0,
            slow_until: 0,
        }
    }

    pub(crate) fn acquire(&mut self) -> Loaded {
        self.epoch.number += 1;
        self.open = true;
        let records = self.bytes.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Loaded { epoch: self.epoch, seq: self.seq, nonce: self.nonce, time: self.time, records }
    }

    pub(crate) fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// Makes a transaction durable and says what it changed.
    pub(crate) fn apply(&mut self, tx: Transaction) -> Result<Vec<Succession>, String> {
        tx.check(MAX_OPS).map_err(|why| format!("the store refuses {}: {why}", tx.seq))?;
        if tx.fence != self.epoch {
            return Err(format!("I3: a write of epoch {} under epoch {}", tx.fence, self.epoch));
        }
        if tx.prev_seq != self.seq {
            return Err(format!("commit {} follows {}, the last one is {}", tx.seq, tx.prev_seq, self.seq));
        }
        if tx.time < self.time {
            return Err(format!("commit {} is made at {}, the last one at {}", tx.seq, tx.time, self.time));
        }
        (self.seq, self.nonce, self.time) = (tx.seq, tx.nonce, tx.time);
        let mut changed = Vec::new();
        for op in tx.ops {
            if op.key().starts_with(BLOBS) {
                match op {
                    Op::Put { key, value } => self.blobs.insert(key, value),
                    Op::Delete { key } => self.blobs.remove(&key),
                };
                continue;
            }
            let key = codec::decode_key(op.key()).ok_or("a key that can't be read")?;
            let (before, after) = match op {
                Op::Put { key: raw, value } => {
                    let change = codec::decode(&raw, &value).map_err(|error| format!("can't be read back: {error}"))?;
                    let record = change.value.ok_or("a put without a value")?;
                    self.bytes.insert(raw, value);
                    (self.records.insert(key.clone(), record.clone()), Some(record))
                }
                Op::Delete { key: raw } => {
                    self.bytes.remove(&raw);
                    (self.records.remove(&key), None)
                }
            };
            changed.push((key, before, after));
        }
        Ok(changed)
    }

    pub(crate) fn task(&self, id: TaskId) -> Option<&Arc<TaskRecord>> {
        match self.records.get(&Key::Task(self.namespace.clone(), id)) {
            Some(Record::Task(task)) => Some(task),
            _ => None,
        }
    }

    pub(crate) fn tasks(&self) -> impl Iterator<Item = &Arc<TaskRecord>> {
        self.records.values().filter_map(|record| if let Record::Task(task) = record { Some(task) } else { None })
    }

    pub(crate) fn agent(&self, id: &AgentId) -> Option<&Arc<AgentRecord>> {
        match self.records.get(&Key::Agent(self.namespace.clone(), id.clone())) {
            Some(Record::Agent(agent)) => Some(agent),
            _ => None,
        }
    }

    pub(crate) fn floor(&self) -> Time {
        match self.records.get(&Key::Namespace(self.namespace.clone())) {
            Some(Record::Namespace(record)) => record.floor,
            _ => Time::ZERO,
        }
    }

    pub(crate) fn blob(&self, task: TaskId, part: BlobPart) -> Option<Bytes> {
        self.blobs.get(&codec::blob_key(&BlobKey { namespace: self.namespace.clone(), task, part })).cloned()
    }

    /// A body's bytes, wherever they are.
    pub(crate) fn body(&self, task: TaskId, part: BlobPart, body: &hive_core::record::Body) -> Option<Bytes> {
        match &body.inline {
            Some(inline) => Some(inline.clone()),
            None if body.size == 0 => Some(Bytes::new()),
            None => self.blob(task, part),
        }
    }
}
