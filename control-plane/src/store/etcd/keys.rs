//! Where a cluster's keys are in etcd.
//!
//! `/hive/<cluster>/s/…` records and the stamp of the last commit, under one prefix so that one watch
//! sees whole transactions; `…/b/…` blobs; `…/r/leader` who leads; `…/format` what the keys are.

use bytes::Bytes;

use crate::store::RECORDS;

/// Key of the stamp, as a record's key would be. Sorts behind all records.
const STAMP: &[u8] = b"s/~seq";

/// The keys of one cluster.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Bytes,
}

impl Keys {
    /// A cluster's name must be free of `/`, so that no cluster's prefix is another's.
    pub(super) fn new(cluster: &str) -> Option<Self> {
        let fits = !cluster.is_empty() && cluster.len() <= 63 && !cluster.contains('/');
        fits.then(|| Self { prefix: format!("/hive/{cluster}/").into() })
    }

    pub(super) fn prefix(&self) -> String {
        String::from_utf8_lossy(&self.prefix).into_owned()
    }

    /// Where a record or a blob is.
    pub(super) fn of(&self, key: &[u8]) -> Bytes {
        [&self.prefix, key].concat().into()
    }

    pub(super) fn stamp(&self) -> Bytes {
        self.of(STAMP)
    }

    pub(super) fn leader(&self) -> Bytes {
        self.of(b"r/leader")
    }

    pub(super) fn format(&self) -> Bytes {
        self.of(b"format")
    }

    /// First key of the records.
    pub(super) fn records(&self) -> Bytes {
        self.of(RECORDS)
    }

    /// First key behind the records: the prefix with its last byte raised.
    pub(super) fn records_end(&self) -> Bytes {
        self.of(b"s0")
    }

    /// The record's own key again.
    pub(super) fn record(&self, full: &Bytes) -> Option<Bytes> {
        full.starts_with(&self.prefix).then(|| full.slice(self.prefix.len()..))
    }

    /// Keys that the store keeps for itself.
    pub(super) fn reserved(key: &[u8]) -> bool {
        key == STAMP
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_keys_are_under_its_prefix_and_come_back() {
        let keys = Keys::new("prod").expect("a name");
        assert_eq!(keys.of(b"s/n/default"), "/hive/prod/s/n/default");
        assert_eq!(keys.leader(), "/hive/prod/r/leader");
        assert_eq!(keys.record(&keys.of(b"b/x")).as_deref(), Some(&b"b/x"[..]));
        assert_eq!(keys.record(&Keys::new("other").expect("a name").of(b"b/x")), None);
    }

    #[test]
    fn records_and_stamp_are_one_range_and_nothing_else_is_in_it() {
        let keys = Keys::new("c").expect("a name");
        let within = |key: Bytes| key >= keys.records() && key < keys.records_end();
        assert!(within(keys.of(b"s/")) && within(keys.of(b"s/t/\xff\xff")) && within(keys.stamp()));
        assert!(!within(keys.of(b"b/x")) && !within(keys.leader()) && !within(keys.format()));
        assert!(Keys::reserved(b"s/~seq") && !Keys::reserved(b"s/t/x"));
    }

    #[test]
    fn a_name_that_would_reach_into_another_cluster_is_refused() {
        for bad in ["", "a/b", "/", &"x".repeat(64)] {
            assert!(Keys::new(bad).is_none(), "{bad}");
        }
    }
}
