//! Which tasks a list or a watch is about, and where a list goes on.

use hive_core::id::TaskId;
use hive_core::leader::TaskSoft;
use hive_core::record::TaskRecord;
use hive_proto::v1;
use tonic::Status;

use super::error::{Reason, invalid};
use super::{check, convert};

/// See the module. Conditions add up.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    states: Vec<v1::TaskState>,
    capability: String,
    agent: String,
    labels: std::collections::BTreeMap<String, String>,
    digest: u32,
}

impl Filter {
    pub(super) fn new(filter: Option<v1::TaskFilter>) -> Result<Self, Status> {
        let filter = filter.unwrap_or_default();
        let digest = check::digest(&filter);
        let state = |state: &i32| {
            v1::TaskState::try_from(*state)
                .ok()
                .filter(|state| *state != v1::TaskState::Unspecified)
                .ok_or_else(|| invalid("filter.states", format!("{state} is not a state")))
        };
        Ok(Self {
            states: filter.states.iter().map(state).collect::<Result<_, _>>()?,
            capability: filter.capability,
            agent: filter.agent_id,
            labels: filter.labels,
            digest: u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]),
        })
    }

    /// It leaves something out.
    pub(super) fn is_narrow(&self) -> bool {
        !(self.states.is_empty() && self.capability.is_empty() && self.agent.is_empty() && self.labels.is_empty())
    }

    /// Only what has ended is asked for: nothing softly known can make a task match.
    pub(super) fn is_of_the_ended(&self) -> bool {
        use v1::TaskState as S;
        let ended = |state: &S| matches!(state, S::Succeeded | S::Failed | S::Cancelled | S::Expired);
        !self.states.is_empty() && self.states.iter().all(ended)
    }

    pub(super) fn matches(&self, task: &TaskRecord, soft: &TaskSoft) -> bool {
        let label =
            |(key, value): (&String, &String)| task.spec.labels.get(key.as_str()).is_some_and(|v| **v == **value);
        (self.states.is_empty() || self.states.contains(&convert::task_state(task, soft)))
            && (self.capability.is_empty() || task.spec.requirement.capabilities.contains(self.capability.as_str()))
            && (self.agent.is_empty() || task.agent.as_ref().is_some_and(|a| a.as_str() == self.agent))
            && self.labels.iter().all(label)
    }

    /// A page token: where to go on, bound to the filter.
    pub(super) fn token(&self, last: TaskId) -> String {
        format!("{:08x}{last}", self.digest)
    }

    pub(super) fn open(&self, token: &str) -> Result<TaskId, Status> {
        let wrong = || Reason::PageTokenInvalid.status("the page token is not one of this list's");
        let (digest, id) = token.split_at_checked(8).ok_or_else(wrong)?;
        if u32::from_str_radix(digest, 16) != Ok(self.digest) {
            return Err(wrong());
        }
        TaskId::parse(id).map_err(|_| wrong())
    }
}
