//! Where a store stands: who leads it and what its last commit was, and what that says of a
//! transaction that was not taken.

use hive_core::id::LeaderEpoch;
use hive_core::time::Time;
use hive_etcd::etcdserverpb::{ResponseOp, response_op::Response};
use hive_etcd::mvccpb::KeyValue;
use hive_proto::store_v1 as pb;
use prost::Message as _;

use crate::store::{CommitError, Transaction};

/// The last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) seq: u64,
    pub(super) nonce: u64,
    pub(super) time: Time,
    pub(super) epoch: LeaderEpoch,
    /// etcd's revision of it; 0 if there has been no commit.
    pub(super) revision: i64,
}

impl Stamp {
    pub(super) fn encode(&self) -> Vec<u8> {
        let LeaderEpoch { cluster_generation, number } = self.epoch;
        pb::SeqRecord { seq: self.seq, nonce: self.nonce, time: self.time.0, cluster_generation, epoch: number }
            .encode_to_vec()
    }

    pub(super) fn decode(kv: &KeyValue) -> Result<Self, Unreadable> {
        let r = pb::SeqRecord::decode(kv.value.clone()).map_err(|_| Unreadable("the stamp of the last commit"))?;
        Ok(Self {
            seq: r.seq,
            nonce: r.nonce,
            time: Time(r.time),
            epoch: LeaderEpoch { cluster_generation: r.cluster_generation, number: r.epoch },
            revision: kv.mod_revision,
        })
    }
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lead {
    /// Number 0 if nobody does.
    pub(super) epoch: LeaderEpoch,
    /// Of the transaction that won it.
    pub(super) nonce: u64,
}

/// A value that this version can't read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} can't be read")]
pub(super) struct Unreadable(pub(super) &'static str);

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) lead: Lead,
    pub(super) last: Stamp,
}

impl Position {
    /// Reads what [`super::request::position`] asks for.
    pub(super) fn read(responses: &[ResponseOp]) -> Result<Self, Unreadable> {
        let found = |nth: usize| match responses.get(nth).map(|op| &op.response) {
            Some(Some(Response::ResponseRange(range))) => Ok(range.kvs.first()),
            _ => Err(Unreadable("an answer of another form")),
        };
        let lead = match found(0)? {
            None => Lead::default(),
            Some(kv) => {
                let r = pb::LeaderRecord::decode(kv.value.clone()).map_err(|_| Unreadable("the leader's key"))?;
                let number = kv.mod_revision.unsigned_abs();
                Lead { epoch: LeaderEpoch { cluster_generation: r.cluster_generation, number }, nonce: r.nonce }
            }
        };
        let last = found(1)?.map(Stamp::decode).transpose()?.unwrap_or_default();
        Ok(Self { lead, last })
    }

    /// It was `tx` that wrote the last commit.
    pub(super) fn holds(&self, tx: &Transaction) -> bool {
        (self.last.seq, self.last.nonce, self.last.epoch) == (tx.seq, tx.nonce, tx.fence)
    }

    /// Why `tx` was not taken by a store that stands here.
    pub(super) fn refusal(&self, tx: &Transaction) -> CommitError {
        if self.lead.epoch == tx.fence {
            CommitError::SeqDiffers { found: self.last.seq, nonce: self.last.nonce }
        } else {
            CommitError::Fenced { current: self.lead.epoch }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(number: u64) -> LeaderEpoch {
        LeaderEpoch { cluster_generation: 1, number }
    }

    fn at(lead: u64, seq: u64, nonce: u64, by: u64) -> Position {
        Position {
            lead: Lead { epoch: epoch(lead), nonce: 0 },
            last: Stamp { seq, nonce, epoch: epoch(by), ..Stamp::default() },
        }
    }

    const TX: Transaction = Transaction {
        fence: LeaderEpoch { cluster_generation: 1, number: 7 },
        prev_seq: 4,
        seq: 5,
        nonce: 50,
        time: Time::ZERO,
        ops: Vec::new(),
    };

    #[test]
    fn a_stamp_comes_back() {
        let stamp = Stamp { seq: 3, nonce: u64::MAX, time: Time(9), epoch: epoch(8), revision: 77 };
        let kv = KeyValue { value: stamp.encode().into(), mod_revision: 77, ..KeyValue::default() };
        assert_eq!(Stamp::decode(&kv), Ok(stamp));
        let torn = KeyValue { value: vec![0xff].into(), ..KeyValue::default() };
        assert!(Stamp::decode(&torn).is_err());
    }

    #[test]
    fn only_its_own_number_nonce_and_epoch_show_that_it_landed() {
        assert!(at(7, 5, 50, 7).holds(&TX));
        assert!(at(9, 5, 50, 7).holds(&TX), "also after the lead was lost");
        for other in [at(7, 4, 50, 7), at(7, 5, 51, 7), at(7, 5, 50, 6), at(7, 6, 50, 7)] {
            assert!(!other.holds(&TX), "{other:?}");
        }
    }

    #[test]
    fn a_lost_fence_is_told_from_another_commit() {
        assert!(matches!(at(9, 4, 40, 7).refusal(&TX), CommitError::Fenced { current } if current == epoch(9)));
        assert!(matches!(at(7, 5, 51, 7).refusal(&TX), CommitError::SeqDiffers { found: 5, nonce: 51 }));
        assert!(matches!(Position::default().refusal(&TX), CommitError::Fenced { .. }));
    }

    #[test]
    fn an_empty_store_has_no_leader_and_no_commit() {
        let nothing = ResponseOp { response: Some(Response::ResponseRange(Default::default())) };
        assert_eq!(Position::read(&[nothing.clone(), nothing.clone()]), Ok(Position::default()));
        assert!(Position::read(&[nothing]).is_err());
    }
}
