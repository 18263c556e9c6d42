//! What a watch has told so far, as a machine without stream or clock: it makes one story of many
//! streams.
//!
//! Each stream begins with a snapshot. What is already known is left out of it, what is known and
//! missing is told as deleted, and changes from before the last known revision are left out. That
//! takes 8 bytes and the id per matching item.
//!
//! A snapshot at a lower revision than seen before means a store that was emptied or put back; it
//! is taken as the new truth.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};

use hive_proto::v1::{self, Revision};
use prost::Message as _;

use super::Error;

/// What a watch tells.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<T> {
    /// An item is new to this watch, or changed.
    Changed {
        /// As it stands.
        item: T,
        /// The commit it is told at.
        revision: Revision,
        /// Part of a snapshot: it may have stood like this for long.
        snapshot: bool,
    },
    /// An item's record was deleted; after a gap also: it no longer matches.
    Deleted {
        /// Its id.
        id: String,
        /// The commit it is told at.
        revision: Revision,
    },
    /// All there was has been told; what follows is change. Comes again after each gap.
    Synced {
        /// The snapshot's commit.
        revision: Revision,
    },
    /// Out of contact. The watch dials on and catches up; nothing need be done.
    Interrupted {
        /// Why.
        cause: Error,
    },
}

/// A thing that can be watched.
pub(super) trait Item {
    fn id(&self) -> &str;
    /// Differs when anything told of the item differs.
    fn fingerprint(&self) -> u64;
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

impl Item for v1::Task {
    fn id(&self) -> &str {
        &self.id
    }

    fn fingerprint(&self) -> u64 {
        hash(&self.encode_to_vec())
    }
}

impl Item for v1::Agent {
    fn id(&self) -> &str {
        &self.id
    }

    fn fingerprint(&self) -> u64 {
        hash(&self.encode_to_vec())
    }
}

/// One message of a stream.
#[derive(Debug)]
pub(super) struct Heard<T> {
    pub(super) kind: v1::TaskEventKind,
    pub(super) item: Option<T>,
    pub(super) revision: Revision,
}

/// What follows from a message.
#[derive(Debug)]
pub(super) struct Told<T> {
    pub(super) events: Vec<Event<T>>,
    /// The server wants the watch to be made anew.
    pub(super) again: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Follow {
    known: BTreeMap<String, u64>,
    last: (u64, u64),
    /// Ids of the snapshot under way.
    snapshot: Option<BTreeSet<String>>,
}

impl Follow {
    /// A new stream begins.
    pub(super) fn begin(&mut self) {
        self.snapshot = Some(BTreeSet::new());
    }

    /// `matches` says whether an item is one the watch asked for.
    pub(super) fn step<T: Item>(&mut self, heard: Heard<T>, matches: impl Fn(&T) -> bool) -> Told<T> {
        use v1::TaskEventKind as Kind;
        let revision = heard.revision;
        let at = (revision.cluster_generation, revision.seq);
        let mut events = Vec::new();
        match (heard.kind, heard.item) {
            (Kind::Snapshot, Some(item)) => {
                if let Some(snapshot) = &mut self.snapshot {
                    snapshot.insert(item.id().to_owned());
                }
                events.extend(self.changed(item, revision, true, matches));
            }
            (Kind::Sync, _) => {
                let snapshot = self.snapshot.take().unwrap_or_default();
                let gone: Vec<String> = self.known.keys().filter(|id| !snapshot.contains(*id)).cloned().collect();
                for id in gone {
                    self.known.remove(&id);
                    events.push(Event::Deleted { id, revision });
                }
                self.last = at;
                events.push(Event::Synced { revision });
            }
            (Kind::Changed, Some(item)) if at >= self.last => {
                self.last = at;
                events.extend(self.changed(item, revision, false, matches));
            }
            (Kind::Deleted, Some(item)) if at >= self.last => {
                self.last = at;
                if self.known.remove(item.id()).is_some() {
                    events.push(Event::Deleted { id: item.id().to_owned(), revision });
                }
            }
            (Kind::Bookmark, _) => self.last = self.last.max(at),
            (Kind::Resync, _) => return Told { events, again: true },
            // Too old, or of a later version.
            _ => {}
        }
        Told { events, again: false }
    }

    fn changed<T: Item>(
        &mut self,
        item: T,
        revision: Revision,
        snapshot: bool,
        matches: impl Fn(&T) -> bool,
    ) -> Option<Event<T>> {
        let print = item.fingerprint();
        if self.known.get(item.id()) == Some(&print) {
            return None;
        }
        if matches(&item) {
            self.known.insert(item.id().to_owned(), print);
        } else {
            // Its last word; kept, it would be missing from the next snapshot and told as deleted.
            self.known.remove(item.id());
        }
        Some(Event::Changed { item, revision, snapshot })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::TaskEventKind as Kind;

    fn task(id: &str, attempt: u32) -> Option<v1::Task> {
        Some(v1::Task { id: id.to_owned(), attempt, ..Default::default() })
    }

    fn feed(follow: &mut Follow, kind: Kind, item: Option<v1::Task>, seq: u64) -> Vec<String> {
        let revision = Revision { cluster_generation: 1, seq };
        let told = follow.step(Heard { kind, item, revision }, |task| task.attempt < 9);
        let name = |event: Event<v1::Task>| match event {
            Event::Changed { item, snapshot, .. } => {
                format!("{}{}{}", if snapshot { "has " } else { "" }, item.id(), item.attempt)
            }
            Event::Deleted { id, .. } => format!("-{id}"),
            Event::Synced { revision } => format!("sync {}", revision.seq),
            Event::Interrupted { .. } => "interrupted".to_owned(),
        };
        told.events.into_iter().map(name).collect()
    }

    fn synced() -> Follow {
        let mut follow = Follow::default();
        follow.begin();
        assert_eq!(feed(&mut follow, Kind::Snapshot, task("a", 1), 5), ["has a1"]);
        assert_eq!(feed(&mut follow, Kind::Snapshot, task("b", 1), 5), ["has b1"]);
        assert_eq!(feed(&mut follow, Kind::Sync, None, 5), ["sync 5"]);
        follow
    }

    #[test]
    fn a_second_stream_tells_only_what_is_new() {
        let mut follow = synced();
        assert_eq!(feed(&mut follow, Kind::Changed, task("a", 2), 7), ["a2"]);
        follow.begin();
        assert!(feed(&mut follow, Kind::Snapshot, task("a", 2), 8).is_empty());
        assert_eq!(feed(&mut follow, Kind::Snapshot, task("c", 1), 8), ["has c1"]);
        assert_eq!(feed(&mut follow, Kind::Sync, None, 8), ["-b", "sync 8"]);
    }

    #[test]
    fn old_and_repeated_changes_are_left_out_but_soft_ones_at_the_same_revision_are_told() {
        let mut follow = synced();
        assert!(feed(&mut follow, Kind::Changed, task("a", 2), 4).is_empty());
        assert_eq!(feed(&mut follow, Kind::Changed, task("a", 2), 6), ["a2"]);
        assert!(feed(&mut follow, Kind::Changed, task("a", 2), 6).is_empty());
        assert_eq!(feed(&mut follow, Kind::Changed, task("a", 3), 6), ["a3"]);
        assert!(feed(&mut follow, Kind::Bookmark, None, 9).is_empty());
        assert!(feed(&mut follow, Kind::Changed, task("a", 4), 8).is_empty());
    }

    #[test]
    fn what_stops_matching_is_told_once_and_not_as_deleted() {
        let mut follow = synced();
        assert_eq!(feed(&mut follow, Kind::Changed, task("a", 9), 6), ["a9"]);
        assert!(feed(&mut follow, Kind::Deleted, task("a", 0), 7).is_empty());
        follow.begin();
        assert!(feed(&mut follow, Kind::Snapshot, task("b", 1), 8).is_empty());
        assert_eq!(feed(&mut follow, Kind::Sync, None, 8), ["sync 8"]);
        assert_eq!(feed(&mut follow, Kind::Deleted, task("b", 0), 9), ["-b"]);
    }

    #[test]
    fn a_store_that_starts_over_is_believed() {
        let mut follow = synced();
        follow.begin();
        assert_eq!(feed(&mut follow, Kind::Sync, None, 1), ["-a", "-b", "sync 1"]);
        assert_eq!(feed(&mut follow, Kind::Changed, task("z", 1), 2), ["z1"]);
    }

    #[test]
    fn a_resync_asks_for_another_stream() {
        let heard = Heard::<v1::Task> { kind: Kind::Resync, item: None, revision: Revision::default() };
        assert!(synced().step(heard, |_| true).again);
    }
}
