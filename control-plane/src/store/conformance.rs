//! What every store must do, as checks over any [`Store`].
//!
//! Each check starts from a store that nobody has used. What only one store can do (crash, fill
//! its disk, lose its network) is for that store's own tests.

use std::collections::BTreeMap;

use bytes::Bytes;
use hive_core::id::{LeaderEpoch, Revision};
use hive_core::time::Time;

use super::{CommitError, Loaded, MAX_BYTES, MAX_KEY, Op, RefusedReason, Store, Transaction};

/// A put of two byte strings.
#[must_use]
pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op {
    Op::Put { key: Bytes::copy_from_slice(key.as_ref()), value: Bytes::copy_from_slice(value.as_ref()) }
}

/// A delete.
#[must_use]
pub fn delete(key: impl AsRef<[u8]>) -> Op {
    Op::Delete { key: Bytes::copy_from_slice(key.as_ref()) }
}

/// Keeps count for a test that leads.
#[derive(Debug)]
pub struct Leader<'a, S> {
    store: &'a S,
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Number of the last commit.
    pub seq: u64,
    /// Time it commits at.
    pub time: Time,
}

impl<'a, S: Store> Leader<'a, S> {
    /// Takes the lead.
    ///
    /// # Panics
    /// The store can't be taken over.
    pub async fn acquire(store: &'a S) -> (Self, Loaded) {
        let loaded = store.acquire().await.expect("the store can be taken over");
        let leader = Self { store, epoch: loaded.epoch, seq: loaded.seq, time: loaded.time };
        (leader, loaded)
    }

    /// The next transaction, not sent. Its nonce is derived from its number.
    #[must_use]
    pub fn next(&self, ops: Vec<Op>) -> Transaction {
        let seq = self.seq + 1;
        Transaction { fence: self.epoch, prev_seq: self.seq, seq, nonce: nonce(seq), time: self.time, ops }
    }

    /// Commits the next transaction and counts it if it is acknowledged.
    ///
    /// # Errors
    /// As the store says.
    pub async fn commit(&mut self, ops: Vec<Op>) -> Result<Revision, CommitError> {
        let revision = self.store.commit(self.next(ops)).await?;
        self.seq = revision.seq;
        Ok(revision)
    }

    /// Commits what must be taken.
    ///
    /// # Panics
    /// It is not taken.
    pub async fn write(&mut self, ops: Vec<Op>) {
        let seq = self.seq + 1;
        let revision = self.commit(ops).await.expect("the commit is taken");
        assert_eq!(revision, Revision { cluster_generation: self.epoch.cluster_generation, seq });
    }
}

/// The nonce [`Leader`] gives to commit `seq`.
#[must_use]
pub fn nonce(seq: u64) -> u64 {
    seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn records(of: &[(&str, &str)]) -> Vec<(Bytes, Bytes)> {
    of.iter().map(|(k, v)| (Bytes::copy_from_slice(k.as_bytes()), Bytes::copy_from_slice(v.as_bytes()))).collect()
}

/// A new store is empty and can be led.
pub async fn starts_empty(store: &impl Store) {
    let loaded = store.acquire().await.expect("acquire");
    assert_eq!((loaded.seq, loaded.nonce), (0, 0));
    assert!(loaded.records.is_empty());
    assert!(loaded.epoch > LeaderEpoch::default());
    assert!(store.health().open);
}

/// What was committed is loaded, in key order; a put replaces, a delete removes, the last
/// operation of a key wins, and deleting what is not there is no error.
pub async fn keeps_what_was_committed(store: &impl Store) {
    let (mut leader, _) = Leader::acquire(store).await;
    leader.write(vec![put("s/c", "1"), put("s/a", "1"), put("s/b", "1"), put("s/d", "")]).await;
    leader.write(vec![put("s/a", "2"), delete("s/b"), delete("s/never")]).await;
    leader.write(vec![put("s/e", "1"), delete("s/e"), delete("s/c"), put("s/c", "3")]).await;
    let loaded = store.acquire().await.expect("acquire");
    assert_eq!(loaded.records, records(&[("s/a", "2"), ("s/c", "3"), ("s/d", "")]));
    assert_eq!((loaded.seq, loaded.nonce), (3, nonce(3)));
}

/// Blobs are read one at a time and never loaded.
pub async fn keeps_blobs_apart(store: &impl Store) {
    let (mut leader, _) = Leader::acquire(store).await;
    let big = vec![7; 256 << 10];
    leader.write(vec![put("b/x", &big), put("b/y", "y"), put("s/x", "x")]).await;
    leader.write(vec![delete("b/y")]).await;
    assert_eq!(store.blob(b"b/x").await.expect("read").as_deref(), Some(&big[..]));
    assert_eq!(store.blob(b"b/y").await.expect("read"), None);
    assert_eq!(store.blob(b"b/never").await.expect("read"), None);
    let loaded = store.acquire().await.expect("acquire");
    assert_eq!(loaded.records, records(&[("s/x", "x")]));
}

/// A leader of an older epoch writes nothing, however right its number is.
pub async fn fences_old_leaders(store: &impl Store) {
    let (mut old, _) = Leader::acquire(store).await;
    old.write(vec![put("s/a", "old")]).await;
    let (mut new, _) = Leader::acquire(store).await;
    assert!(new.epoch > old.epoch);
    let refused = old.commit(vec![put("s/a", "late")]).await;
    assert!(matches!(refused, Err(CommitError::Fenced { current }) if current == new.epoch), "{refused:?}");
    new.write(vec![put("s/b", "new")]).await;
    let loaded = store.acquire().await.expect("acquire");
    assert_eq!(loaded.records, records(&[("s/a", "old"), ("s/b", "new")]));
}

/// A transaction decided upon another commit is refused, and the answer tells a repeated one
/// from a rival.
pub async fn commits_in_order(store: &impl Store) {
    let (mut leader, _) = Leader::acquire(store).await;
    let first = leader.next(vec![put("s/a", "1")]);
    leader.write(first.ops.clone()).await;
    let again = store.commit(first.clone()).await;
    assert!(matches!(again, Err(CommitError::SeqDiffers { found: 1, nonce }) if nonce == first.nonce), "{again:?}");
    leader.seq = 5;
    let early = leader.commit(vec![put("s/a", "6")]).await;
    assert!(matches!(early, Err(CommitError::SeqDiffers { found: 1, .. })), "{early:?}");
    leader.seq = 1;
    leader.write(vec![]).await;
    let loaded = store.acquire().await.expect("acquire");
    assert_eq!((loaded.seq, loaded.records), (2, records(&[("s/a", "1")])));
}

/// Cluster time is kept and never goes back.
pub async fn keeps_time(store: &impl Store) {
    let (mut leader, _) = Leader::acquire(store).await;
    let late = Time(leader.time.0 + 5_000);
    leader.time = late;
    leader.write(vec![]).await;
    leader.time = Time(1);
    leader.write(vec![]).await;
    assert_eq!(store.acquire().await.expect("acquire").time, late);
}

/// The limits hold at their edges, and a refusal leaves nothing behind.
pub async fn refuses_what_is_too_large(store: &impl Store) {
    let (mut leader, _) = Leader::acquire(store).await;
    let most = store.max_ops();
    let many = |n: usize| (0..n).map(|i| put(format!("s/{i:04}"), "v")).collect::<Vec<_>>();
    let wide = |n: usize| vec![put("b/w", vec![1; n - 3])];
    let long = |n: usize| vec![put([b"s/".as_slice(), &vec![b'k'; n - 2]].concat(), "v")];
    for (over, fits) in
        [(many(most + 1), many(most)), (wide(MAX_BYTES + 1), wide(MAX_BYTES)), (long(MAX_KEY + 1), long(MAX_KEY))]
    {
        let refused = leader.commit(over).await;
        assert!(matches!(refused, Err(CommitError::Refused(RefusedReason::TooLarge))), "{refused:?}");
        leader.write(fits).await;
    }
    for bad in ["x/a", "s", ""] {
        let refused = leader.commit(vec![put(bad, "v")]).await;
        assert!(matches!(refused, Err(CommitError::Refused(RefusedReason::Malformed))), "{refused:?}");
    }
    let skipping = Transaction { seq: leader.seq + 2, ..leader.next(vec![]) };
    let refused = store.commit(skipping).await;
    assert!(matches!(refused, Err(CommitError::Refused(RefusedReason::Malformed))), "{refused:?}");
    let loaded = store.acquire().await.expect("acquire");
    assert_eq!((loaded.seq, loaded.records.len()), (3, most + 1));
}

/// A store opened again holds the same and leads under a higher epoch.
pub async fn survives_reopening<S: Store>(mut open: impl FnMut() -> S) {
    let mut model = BTreeMap::new();
    let mut epoch = LeaderEpoch::default();
    let mut seq = 0;
    // A small fixed generator: the same history in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut draw = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    for _ in 0..5 {
        let store = open();
        let (mut leader, loaded) = Leader::acquire(&store).await;
        assert!(leader.epoch > epoch, "{} after {epoch}", leader.epoch);
        assert_eq!((loaded.seq, loaded.nonce), (seq, nonce(seq)));
        assert!(loaded.records.iter().map(|(k, v)| (k, v)).eq(model.iter()));
        for _ in 0..20 {
            let mut ops = Vec::new();
            for _ in 0..=draw(30) {
                let key = Bytes::from(format!("s/{:03}", draw(200)));
                if draw(3) == 0 {
                    model.remove(&key);
                    ops.push(Op::Delete { key });
                } else {
                    let value = Bytes::from(vec![b'v'; usize::try_from(draw(700)).unwrap_or(0)]);
                    model.insert(key.clone(), value.clone());
                    ops.push(Op::Put { key, value });
                }
            }
            leader.write(ops).await;
        }
        (epoch, seq) = (leader.epoch, leader.seq);
    }
}
