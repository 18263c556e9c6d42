//! What was seen from outside: every call of a client with its begin and its end, what the watch
//! told, what the agents wrote down, and which agents were disturbed when. No part of it comes from
//! logs or metrics of Hive. Times are microseconds since the machine's boot.

use std::collections::{BTreeMap, BTreeSet};

/// A task as somebody was told it stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct View {
    pub(crate) task: String,
    pub(crate) attempt: u32,
    /// How it ended, if it has.
    pub(crate) end: Option<End>,
    /// Cluster generation and number of the commit it was told at.
    pub(crate) revision: (u64, u64),
}

/// The end of a task.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct End {
    /// Such as `SUCCEEDED`.
    pub(crate) state: String,
    pub(crate) agent: String,
    /// Cluster time.
    pub(crate) at: (i64, i32),
    /// Where it was told: a watch leaves it out.
    pub(crate) result: Option<Vec<u8>>,
}

impl End {
    /// They may be the same end: nothing told by both differs.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        let result = self.result.is_none() || other.result.is_none() || self.result == other.result;
        result && (&self.state, &self.agent, self.at) == (&other.state, &other.agent, other.at)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Submit,
    Cancel,
    Get,
    Wait,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Answered.
    Told(View),
    /// NOT_FOUND.
    Absent,
    /// Certainly without effect.
    Refused(String),
    /// It may or may not have happened.
    Unknown,
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Op {
    pub(crate) task: String,
    pub(crate) call: Call,
    pub(crate) invoked: u64,
    pub(crate) returned: u64,
    pub(crate) outcome: Outcome,
}

/// One attempt as its agent wrote it down.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) task: String,
    pub(crate) attempt: u32,
    pub(crate) agent: String,
    pub(crate) begun: u64,
}

/// A time in which these agents, or what stands between them and the control plane, were tampered
/// with: whatever they ran may be tried again.
#[derive(Debug, Clone)]
pub(crate) struct Excuse {
    pub(crate) agents: BTreeSet<String>,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Tasks offered, with the payload that is their result.
    pub(crate) offered: BTreeMap<String, Vec<u8>>,
    pub(crate) ops: Vec<Op>,
    /// When, and what; in the order told.
    pub(crate) watched: Vec<(u64, View)>,
    pub(crate) runs: Vec<Run>,
    pub(crate) excuses: Vec<Excuse>,
    /// The store's last word, after everything was mended.
    pub(crate) listed: Vec<View>,
    /// Ended tasks may have been deleted by retention.
    pub(crate) forgets: bool,
}
