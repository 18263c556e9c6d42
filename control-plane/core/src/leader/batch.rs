//! A batch: changes that become one transaction, and what waits for it.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::message::{CloseCause, Welcome};
use super::{CallError, CallId, Connection};
use crate::command::{Effect, Release, Reply};
use crate::id::{AttemptId, LeaderEpoch, Namespace};
use crate::record::{BlobKey, Key, Record};
use crate::time::Time;

/// What the store is to write, all or nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    /// The leader's fence.
    pub fence: LeaderEpoch,
    /// The commit it follows.
    pub prev_seq: u64,
    /// Its own number.
    pub seq: u64,
    /// Cluster time.
    pub time: Time,
    /// Records, one entry a key; none deletes.
    pub records: Vec<(Key, Option<Record>)>,
    /// Bodies beside them; none deletes.
    pub blobs: Vec<(BlobKey, Option<Bytes>)>,
}

/// Something to tell once a batch has committed.
#[derive(Debug)]
pub(super) enum Parked {
    Reply(CallId, Result<Reply, CallError>),
    Effect(Namespace, Effect),
    Release { connection: Connection, token: AttemptId, release: Release },
    Welcome { connection: Connection, welcome: Box<Welcome> },
    Close { connection: Connection, cause: CloseCause },
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// What stood under each changed key before this batch.
    pub before: BTreeMap<Key, Option<Record>>,
    /// What stands there after it; filled when the batch takes off.
    pub written: Vec<(Key, Option<Record>)>,
    pub blobs: BTreeMap<BlobKey, Option<Bytes>>,
    pub parked: Vec<Parked>,
    /// Commit even without changes.
    pub forced: bool,
    bytes: usize,
}

/// Rough size of an encoded record with its key, texts and bodies aside.
const RECORD_BYTES: usize = 400;

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty() && self.blobs.is_empty() && !self.forced
    }

    /// One more command of so many operations fits.
    pub(super) fn has_room(&self, command: usize, ops: usize, bytes: usize) -> bool {
        let used = self.before.len() + self.blobs.len();
        self.bytes < bytes && (used == 0 || used + command <= ops)
    }

    /// A record of so many bytes of texts and bodies is written under a key.
    pub(super) fn touch(&mut self, key: Key, before: Option<Record>, bytes: usize) {
        self.bytes += bytes;
        self.before.entry(key).or_insert_with(|| {
            self.bytes += RECORD_BYTES;
            before
        });
    }

    pub(super) fn attach(&mut self, key: BlobKey, bytes: Option<Bytes>) {
        self.bytes += bytes.as_ref().map_or(64, Bytes::len);
        self.blobs.insert(key, bytes);
    }
}
