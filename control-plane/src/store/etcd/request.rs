//! Requests to etcd, built from what the store is asked. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use hive_etcd::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use hive_etcd::etcdserverpb::request_op::Request;
use hive_etcd::etcdserverpb::{Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use hive_proto::store_v1 as pb;
use prost::Message as _;

use super::keys::Keys;
use super::position::Stamp;
use crate::store::{Op, Transaction};

/// Records of one page of a load. They are a few KiB at most, so a page stays far below [`super::ring::MESSAGE`].
pub(super) const PAGE: i64 = 512;

/// A key's newest value.
pub(super) fn get(key: Bytes) -> RangeRequest {
    RangeRequest { key, ..RangeRequest::default() }
}

/// Who leads and what the last commit is, in one look.
pub(super) fn position(keys: &Keys) -> TxnRequest {
    TxnRequest { success: look(keys), ..TxnRequest::default() }
}

/// A transaction, upon the lead and the last commit as `last`; else [`position`]. The same every time.
pub(super) fn commit(keys: &Keys, tx: &Transaction, last: &Stamp) -> TxnRequest {
    let stamp = Stamp { seq: tx.seq, nonce: tx.nonce, time: tx.time.max(last.time), epoch: tx.fence, revision: 0 };
    // etcd refuses a key that is written twice; the last one wins.
    let changes: BTreeMap<&Bytes, &Op> = tx.ops.iter().map(|op| (op.key(), op)).collect();
    let mut success: Vec<RequestOp> = changes.into_values().map(|op| change(keys, op)).collect();
    success.push(put(keys.stamp(), stamp.encode().into()));
    let fence = i64::try_from(tx.fence.number).unwrap_or(i64::MAX);
    TxnRequest {
        compare: vec![unchanged(keys.leader(), fence), unchanged(keys.stamp(), last.revision)],
        success,
        failure: look(keys),
    }
}

/// Takes the lead from who had it at `was` (0: nobody had); else [`position`].
pub(super) fn raise(keys: &Keys, was: u64, nonce: u64, cluster_generation: u64, holder: &str) -> TxnRequest {
    let leader = pb::LeaderRecord { nonce, cluster_generation, holder: holder.to_owned() };
    TxnRequest {
        compare: vec![unchanged(keys.leader(), i64::try_from(was).unwrap_or(i64::MAX))],
        success: vec![put(keys.leader(), leader.encode_to_vec().into())],
        failure: look(keys),
    }
}

/// Names the format of a store that has none; else reads it.
pub(super) fn name_format(keys: &Keys, format: &pb::FormatRecord) -> TxnRequest {
    TxnRequest {
        compare: vec![unchanged(keys.format(), 0)],
        success: vec![put(keys.format(), format.encode_to_vec().into())],
        failure: vec![range(get(keys.format()))],
    }
}

/// The page of records from `key` on, as of `revision`.
pub(super) fn page(keys: &Keys, key: Bytes, revision: i64) -> RangeRequest {
    RangeRequest { key, range_end: keys.records_end(), limit: PAGE, revision, serializable: false }
}

/// The first key that can come after this one.
pub(super) fn behind(key: &Bytes) -> Bytes {
    [key, &[0][..]].concat().into()
}

fn look(keys: &Keys) -> Vec<RequestOp> {
    vec![range(get(keys.leader())), range(get(keys.stamp()))]
}

fn change(keys: &Keys, op: &Op) -> RequestOp {
    match op {
        Op::Put { key, value } => put(keys.of(key), value.clone()),
        Op::Delete { key } => {
            let delete = DeleteRangeRequest { key: keys.of(key), range_end: Bytes::new() };
            RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
        }
    }
}

fn put(key: Bytes, value: Bytes) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(PutRequest { key, value, lease: 0 })) }
}

fn range(get: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(get)) }
}

/// The key was last written at this revision; 0: it is not there.
fn unchanged(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Mod.into(),
        key,
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::{delete, put as write};
    use crate::store::{MAX_BYTES, MAX_KEY};
    use hive_core::id::LeaderEpoch;
    use hive_core::time::Time;

    fn keys() -> Keys {
        Keys::new("a-cluster").expect("a name")
    }

    fn tx(ops: Vec<Op>) -> Transaction {
        let fence = LeaderEpoch { cluster_generation: 1, number: 12 };
        Transaction { fence, prev_seq: 1, seq: 2, nonce: 3, time: Time(40), ops }
    }

    #[test]
    fn a_commit_compares_the_lead_and_the_last_commit_and_stamps_itself() {
        let last = Stamp { seq: 1, time: Time(50), revision: 33, ..Stamp::default() };
        let request = commit(&keys(), &tx(vec![write("s/a", "1")]), &last);
        assert_eq!(request.compare, [unchanged(keys().leader(), 12), unchanged(keys().stamp(), 33)]);
        let Some(Request::RequestPut(stamp)) = &request.success[1].request else { panic!("{request:?}") };
        let read = pb::SeqRecord::decode(stamp.value.clone()).expect("a stamp");
        assert_eq!(read, pb::SeqRecord { seq: 2, nonce: 3, time: 50, cluster_generation: 1, epoch: 12 });
        assert_eq!(stamp.key, keys().stamp());
    }

    #[test]
    fn a_key_is_written_once_and_the_last_operation_wins() {
        let ops = vec![write("s/e", "1"), delete("s/c"), delete("s/e"), write("s/c", "3")];
        let request = commit(&keys(), &tx(ops), &Stamp::default());
        assert_eq!(request.success.len(), 3);
        assert_eq!(request.success[0], put(keys().of(b"s/c"), "3".into()));
        assert!(matches!(request.success[1].request, Some(Request::RequestDeleteRange(_))));
    }

    #[test]
    fn the_largest_transaction_fits_into_etcds_default_limit() {
        let keys = Keys::new(&"c".repeat(63)).expect("a name");
        let most = super::super::MAX_OPS;
        let value = MAX_BYTES / most - MAX_KEY;
        let ops = (0..most).map(|n| write(format!("s/{n:0width$}", width = MAX_KEY - 2), vec![1; value])).collect();
        let request = commit(&keys, &tx(ops), &Stamp::default());
        assert!(request.encoded_len() <= 1_572_864 - 4_096, "{}", request.encoded_len());
        // etcd counts the longest of the three lists.
        assert_eq!(request.success.len(), 128);
    }

    #[test]
    fn paging_goes_on_right_behind_the_last_key() {
        let key = Bytes::from_static(b"s/a");
        assert!(behind(&key) > key && behind(&key) <= Bytes::from_static(b"s/a\0"));
        let page = page(&keys(), keys().records(), 9);
        assert_eq!((page.limit, page.revision, page.range_end), (PAGE, 9, keys().records_end()));
    }
}
