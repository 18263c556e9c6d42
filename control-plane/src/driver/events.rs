//! What watchers hear, and what metrics count.

use std::sync::Arc;

use hive_core::id::Revision;
use hive_core::leader::Leader;
use hive_core::record::{Key, Record};

use crate::metrics;

/// Something happened. Everyone hears everything and takes what concerns them.
#[derive(Clone, Debug)]
pub enum Event {
    /// A commit.
    Committed {
        /// Which.
        revision: Revision,
        /// What it wrote; none deletes.
        changes: Arc<[(Key, Option<Record>)]>,
    },
    /// Something softly known of a record changed: read it again.
    Touched {
        /// The last commit.
        revision: Revision,
        /// Which record.
        key: Key,
    },
}

/// Sets the gauges that are counted, not followed.
pub(super) fn count(leader: &Leader) {
    metrics::sessions(leader.sessions() as u64);
    let view = leader.view();
    let mut tasks = hive_core::state::Counts::default();
    let mut contacts = (0, 0, 0);
    for (namespace, _) in leader.state().spaces() {
        let counts = view.counts(namespace);
        tasks.pending += counts.pending;
        tasks.assigned += counts.assigned;
        tasks.input_required += counts.input_required;
        tasks.succeeded += counts.succeeded;
        tasks.failed += counts.failed;
        tasks.cancelled += counts.cancelled;
        tasks.expired += counts.expired;
        let (connected, suspect, lost) = view.contacts(namespace);
        contacts = (contacts.0 + connected, contacts.1 + suspect, contacts.2 + lost);
    }
    for (state, count) in [
        ("pending", tasks.pending),
        ("assigned", tasks.assigned),
        ("input_required", tasks.input_required),
        ("succeeded", tasks.succeeded),
        ("failed", tasks.failed),
        ("cancelled", tasks.cancelled),
        ("expired", tasks.expired),
    ] {
        metrics::tasks(state, count);
    }
    for (phase, count) in [("connected", contacts.0), ("suspect", contacts.1), ("lost", contacts.2)] {
        metrics::agents(phase, u64::from(count));
    }
}
