//! Attempts that are over here, so that a late offer of one starts nothing.
//!
//! Bounded: past [`KEPT`] the one assigned longest ago (by revision) is forgotten and the *floor*
//! rises to it; whatever was assigned up to the floor counts as over.

use std::collections::{BTreeMap, BTreeSet};

use hive_proto::sidecar_v1::DeclineReason;

use super::types::Revision;
use crate::attempt::AttemptKey;

/// Most settlements remembered one by one.
pub const KEPT: usize = 4096;

/// What a repeated offer is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// It will never start here.
    Declined(DeclineReason),
    /// It neither runs nor finished.
    Lost,
    /// Its end was released. An offer of it is stale; answered as lost.
    Released,
}

/// The attempts that are over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settled {
    by_key: BTreeMap<AttemptKey, (Settlement, Revision)>,
    by_age: BTreeSet<(Revision, AttemptKey)>,
    floor: Revision,
}

impl Settled {
    /// Remembers one; a second word on the same attempt is ignored.
    pub fn insert(&mut self, key: AttemptKey, settlement: Settlement, revision: Revision) {
        if self.by_key.contains_key(&key) {
            return;
        }
        self.by_key.insert(key, (settlement, revision));
        self.by_age.insert((revision, key));
        while self.by_age.len() > KEPT {
            let Some((revision, key)) = self.by_age.pop_first() else { return };
            self.by_key.remove(&key);
            self.raise_floor(revision);
        }
    }

    /// Everything assigned up to here is over, too.
    pub fn raise_floor(&mut self, revision: Revision) {
        self.floor = self.floor.max(revision);
    }

    /// How an attempt was settled, if that is remembered.
    #[must_use]
    pub fn get(&self, key: AttemptKey) -> Option<Settlement> {
        self.by_key.get(&key).map(|(settlement, _)| *settlement)
    }

    /// Whether an attempt assigned at `revision` must not start: it was settled, a later one of its
    /// task was, or it is too old to tell.
    #[must_use]
    pub fn rules_out(&self, key: AttemptKey, revision: Revision) -> bool {
        let newest = AttemptKey { task: key.task, attempt: u32::MAX };
        let below_floor = revision <= self.floor && self.floor > Revision::default();
        below_floor || self.by_key.range(key..=newest).next().is_some()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (AttemptKey, Settlement, Revision)> + '_ {
        self.by_key.iter().map(|(&key, &(settlement, revision))| (key, settlement, revision))
    }

    /// Up to where settlements were forgotten.
    #[must_use]
    pub fn floor(&self) -> Revision {
        self.floor
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Revision {
        Revision { cluster_generation: 1, seq }
    }

    fn key(n: u64, attempt: u32) -> AttemptKey {
        let mut task = [0; 16];
        task[..8].copy_from_slice(&n.to_be_bytes());
        AttemptKey { task, attempt }
    }

    #[test]
    fn stays_bounded_and_forgets_into_the_floor() {
        let mut settled = Settled::default();
        for n in 0..KEPT as u64 + 10 {
            settled.insert(key(n, 1), Settlement::Released, at(n + 1));
        }
        assert_eq!((settled.len(), settled.floor()), (KEPT, at(10)));
        assert!(settled.rules_out(key(3, 1), at(4)), "forgotten, but below the floor");
        assert_eq!(settled.get(key(3, 1)), None);
        assert!(!settled.rules_out(key(999_999, 1), at(99_999)));
    }

    #[test]
    fn an_earlier_attempt_of_a_settled_one_is_over() {
        let mut settled = Settled::default();
        settled.insert(key(1, 3), Settlement::Lost, at(9));
        assert_eq!(settled.get(key(1, 3)), Some(Settlement::Lost));
        assert!(settled.rules_out(key(1, 2), at(5)));
        assert!(!settled.rules_out(key(1, 4), at(12)));
    }
}
