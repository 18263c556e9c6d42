//! What watchers hear, and what metrics count.

use std::collections::BTreeMap;
use std::sync::Arc;

use hive_core::command::Release;
use hive_core::id::Revision;
use hive_core::leader::Leader;
use hive_core::record::{Key, Record};
use hive_core::state::Counts;

use crate::{api, metrics};

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
    /// Something softly known of records changed: read them again.
    Touched {
        /// The last commit.
        revision: Revision,
        /// Which records; each once.
        keys: Arc<[Key]>,
    },
}

/// The name of a release in metrics and logs.
pub(super) fn release_name(release: Release) -> &'static str {
    match release {
        Release::Committed => "committed",
        Release::Superseded => "superseded",
        Release::Gone => "gone",
    }
}

/// Sets the gauges that are counted, not followed.
pub(super) fn count(leader: &Leader) {
    metrics::sessions(leader.sessions() as u64);
    let view = leader.view();
    let mut tasks = Counts::default();
    let mut phases: BTreeMap<&'static str, u64> =
        api::AGENT_PHASES.iter().map(|phase| (api::phase_name(*phase), 0)).collect();
    for (namespace, _) in leader.state().spaces() {
        let counts = view.counts(namespace);
        tasks.pending += counts.pending;
        tasks.assigned += counts.assigned;
        tasks.input_required += counts.input_required;
        tasks.succeeded += counts.succeeded;
        tasks.failed += counts.failed;
        tasks.cancelled += counts.cancelled;
        tasks.expired += counts.expired;
        for id in view.agents_after(namespace, None) {
            let Some((record, entry)) = view.agent(namespace, &id) else { continue };
            *phases.entry(api::phase_name(api::phase(&record, &entry))).or_default() += 1;
        }
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
    for (phase, count) in phases {
        metrics::agents(phase, count);
    }
}
