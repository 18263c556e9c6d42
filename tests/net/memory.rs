//! A store in memory for simulated hosts: what it holds outlives the host's crash, what was in flight
//! may or may not have landed, and it can be slow, in doubt, full or out of reach. It passes the
//! conformance suite (`control-plane/tests/memory_conformance.rs` runs this very file).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use hive_control_plane::store::{
    BLOBS, CommitError, Health, Loaded, MAX_OPS, Op, OpenError, ReadError, RefusedReason, Store, Transaction,
};
use hive_core::id::{LeaderEpoch, Revision};
use hive_core::time::Time;

/// What happens to a commit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Fate {
    /// Time it takes.
    pub(crate) takes: Duration,
    /// It lands when it is sent, not when it is answered: a crash between the two does not undo it.
    pub(crate) early: bool,
    /// Its outcome is not told, and this is it.
    pub(crate) unknown: Option<bool>,
    /// There is no space.
    pub(crate) full: bool,
}

/// Draws the fate of a commit.
pub(crate) type Draw = Box<dyn FnMut(&Transaction) -> Fate + Send>;
/// Hears of a transaction that has landed, and sees the records as they were before it.
pub(crate) type Landed = Box<dyn FnMut(&Transaction, &BTreeMap<Bytes, Bytes>) + Send>;

#[derive(Default)]
struct Inner {
    records: BTreeMap<Bytes, Bytes>,
    blobs: BTreeMap<Bytes, Bytes>,
    epoch: u64,
    seq: u64,
    nonce: u64,
    time: Time,
    open: bool,
    /// It can't be opened.
    away: bool,
    draw: Option<Draw>,
    landed: Option<Landed>,
}

/// See the module. Clones share what they hold.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Inner>>);

impl Inner {
    fn epoch(&self) -> LeaderEpoch {
        LeaderEpoch { cluster_generation: 1, number: self.epoch }
    }

    fn admit(&self, tx: &Transaction) -> Result<(), CommitError> {
        tx.check(MAX_OPS).map_err(CommitError::Refused)?;
        if !self.open {
            return Err(CommitError::Unknown("closed after a failed commit".into()));
        }
        if tx.fence != self.epoch() {
            return Err(CommitError::Fenced { current: self.epoch() });
        }
        if tx.prev_seq != self.seq {
            return Err(CommitError::SeqDiffers { found: self.seq, nonce: self.nonce });
        }
        Ok(())
    }

    fn land(&mut self, tx: &Transaction) {
        if let Some(landed) = &mut self.landed {
            landed(tx, &self.records);
        }
        (self.seq, self.nonce, self.time) = (tx.seq, tx.nonce, self.time.max(tx.time));
        for op in &tx.ops {
            let values = if op.key().starts_with(BLOBS) { &mut self.blobs } else { &mut self.records };
            match op {
                Op::Put { key, value } => values.insert(key.clone(), value.clone()),
                Op::Delete { key } => values.remove(key),
            };
        }
    }
}

impl Memory {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().expect("the store")
    }

    #[allow(dead_code, reason = "the conformance suite has no trouble to make")]
    pub(crate) fn watched(draw: Draw, landed: Landed) -> Self {
        let memory = Self::default();
        (memory.inner().draw, memory.inner().landed) = (Some(draw), Some(landed));
        memory
    }

    /// From now on it can't be opened, or can again.
    #[allow(dead_code, reason = "the conformance suite has no trouble to make")]
    pub(crate) fn set_away(&self, away: bool) {
        self.inner().away = away;
    }

    /// Somebody else takes the lead.
    #[allow(dead_code, reason = "the conformance suite takes it through the trait")]
    pub(crate) fn usurp(&self) {
        self.inner().epoch += 1;
    }

    #[allow(dead_code, reason = "the conformance suite has no trouble to make")]
    pub(crate) fn is_away(&self) -> bool {
        self.inner().away
    }

    #[allow(dead_code, reason = "the conformance suite reads through the trait")]
    pub(crate) fn records(&self) -> BTreeMap<Bytes, Bytes> {
        self.inner().records.clone()
    }
}

impl Store for Memory {
    async fn acquire(&self) -> Result<Loaded, OpenError> {
        let mut inner = self.inner();
        if inner.away {
            let source = io::Error::other("out of reach");
            return Err(OpenError::Io { step: "open", path: "memory".into(), source });
        }
        inner.epoch += 1;
        inner.open = true;
        let records = inner.records.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Ok(Loaded { epoch: inner.epoch(), seq: inner.seq, nonce: inner.nonce, time: inner.time, records })
    }

    async fn commit(&self, tx: Transaction) -> Result<Revision, CommitError> {
        let fate = {
            let mut inner = self.inner();
            inner.admit(&tx)?;
            let fate = inner.draw.as_mut().map(|draw| draw(&tx)).unwrap_or_default();
            if fate.full {
                return Err(CommitError::Refused(RefusedReason::NoSpace));
            }
            if fate.early && fate.unknown != Some(false) {
                inner.land(&tx);
            }
            fate
        };
        if !fate.takes.is_zero() {
            tokio::time::sleep(fate.takes).await;
        }
        let mut inner = self.inner();
        if !fate.early {
            // Somebody may have taken the lead meanwhile.
            inner.admit(&tx)?;
            if fate.unknown != Some(false) {
                inner.land(&tx);
            }
        }
        if fate.unknown.is_some() {
            inner.open = false;
            return Err(CommitError::Unknown("the answer was lost".into()));
        }
        Ok(Revision { cluster_generation: 1, seq: tx.seq })
    }

    async fn blob(&self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let inner = self.inner();
        if inner.open { Ok(inner.blobs.get(key).cloned()) } else { Err(ReadError::Closed) }
    }

    fn health(&self) -> Health {
        let open = self.inner().open;
        Health { free_bytes: 1 << 40, store_bytes: 0, shedding: false, ballast_released: false, open }
    }
}
