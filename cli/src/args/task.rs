//! Options of the verbs about tasks and agents.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hive_proto::v1;
use uuid::Uuid;

use super::value::{duration, pair};

/// Where a payload comes from.
#[derive(Args, Debug, Default)]
pub(crate) struct PayloadSource {
    /// Payload, as text.
    #[arg(long, value_name = "TEXT", conflicts_with = "payload_file")]
    pub(crate) payload: Option<String>,
    /// Payload from a file; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) payload_file: Option<PathBuf>,
    /// Media type of the payload; found out unless given.
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Submit {
    /// What the agent must be able to do; may be repeated, the first one names the work.
    #[arg(long, short, required = true, value_name = "NAME")]
    pub(crate) capability: Vec<String>,
    #[command(flatten)]
    pub(crate) payload: PayloadSource,
    /// Label of the task; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
    /// Label the agent must carry; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) agent_label: Vec<(String, String)>,
    /// Urgency.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) priority: PriorityArg,
    /// Pool the agent must be in.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) pool: String,
    /// Id of the task, a UUIDv7; submitting it again finds the first one.
    #[arg(long, value_name = "UUID")]
    pub(crate) id: Option<Uuid>,
    /// Longest run of one attempt [server's default: 10m].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) attempt_timeout: Option<Duration>,
    /// Longest wait for an agent [server's default: 24h].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) queue_timeout: Option<Duration>,
    /// Longest wait for input [server's default: 24h].
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) input_timeout: Option<Duration>,
    /// Failures after which the task ends FAILED [server's default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) max_failures: Option<u32>,
    /// What to do with a running attempt whose host is cut off.
    #[arg(long, value_enum)]
    pub(crate) on_disconnect: Option<DisconnectArg>,
    /// Wait until the task has ended, and show it.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Longest time to wait.
    #[arg(long, requires = "wait", value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum PriorityArg {
    Low,
    #[default]
    Normal,
    High,
    Critical,
}

impl From<PriorityArg> for v1::Priority {
    fn from(arg: PriorityArg) -> Self {
        match arg {
            PriorityArg::Low => Self::Low,
            PriorityArg::Normal => Self::Normal,
            PriorityArg::High => Self::High,
            PriorityArg::Critical => Self::Critical,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DisconnectArg {
    Replace,
    Stop,
    Wait,
}

impl From<DisconnectArg> for v1::DisconnectPolicy {
    fn from(arg: DisconnectArg) -> Self {
        match arg {
            DisconnectArg::Replace => Self::Replace,
            DisconnectArg::Stop => Self::Stop,
            DisconnectArg::Wait => Self::Wait,
        }
    }
}

#[derive(Args, Debug)]
pub(crate) struct TaskId {
    /// The task.
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct TaskIds {
    /// The tasks.
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
}

/// Which tasks.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Only tasks in this state; may be repeated.
    #[arg(long, short, value_enum, value_name = "STATE")]
    pub(crate) state: Vec<StateArg>,
    /// Only tasks that require this capability.
    #[arg(long, short, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) capability: String,
    /// Only tasks whose current or last attempt is on this agent.
    #[arg(long, short, default_value = "", hide_default_value = true, value_name = "AGENT")]
    pub(crate) agent: String,
    /// Only tasks that carry this label; may be repeated.
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    pub(crate) label: Vec<(String, String)>,
}

impl From<Filter> for v1::TaskFilter {
    fn from(filter: Filter) -> Self {
        Self {
            states: filter.state.into_iter().map(|state| v1::TaskState::from(state).into()).collect(),
            capability: filter.capability,
            agent_id: filter.agent,
            labels: filter.label.into_iter().collect(),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StateArg {
    Pending,
    Assigned,
    Running,
    InputRequired,
    Succeeded,
    Failed,
    Cancelled,
    Expired,
}

impl From<StateArg> for v1::TaskState {
    fn from(arg: StateArg) -> Self {
        match arg {
            StateArg::Pending => Self::Pending,
            StateArg::Assigned => Self::Assigned,
            StateArg::Running => Self::Running,
            StateArg::InputRequired => Self::InputRequired,
            StateArg::Succeeded => Self::Succeeded,
            StateArg::Failed => Self::Failed,
            StateArg::Cancelled => Self::Cancelled,
            StateArg::Expired => Self::Expired,
        }
    }
}

/// Which page.
#[derive(Args, Debug)]
pub(crate) struct Page {
    /// Most rows in all.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) limit: u32,
    /// Everything, page by page.
    #[arg(long, conflicts_with = "limit")]
    pub(crate) all: bool,
    /// Go on where an earlier list ended.
    #[arg(long, default_value = "", hide_default_value = true, value_name = "TOKEN")]
    pub(crate) page_token: String,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) page: Page,
    /// Payloads and results too (JSON only).
    #[arg(long)]
    pub(crate) full: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// The task; all that match the filter unless given.
    #[arg(conflicts_with_all = ["state", "capability", "agent", "label", "changes_only"])]
    pub(crate) id: Option<String>,
    #[command(flatten)]
    pub(crate) filter: Filter,
    /// Leave out what is there already.
    #[arg(long)]
    pub(crate) changes_only: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// The tasks.
    #[arg(required = true)]
    pub(crate) ids: Vec<String>,
    /// Longest time to wait, for all of them together.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Input {
    /// The task.
    pub(crate) id: String,
    #[command(flatten)]
    pub(crate) payload: PayloadSource,
    /// Number of the question answered; 0 means the open one.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) number: u32,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// The task.
    pub(crate) id: String,
    /// Go on until the attempt has ended.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Which attempt; 0 means the last.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(crate) attempt: u32,
    /// Only this stream; both unless given.
    #[arg(long, value_enum)]
    pub(crate) stream: Option<StreamArg>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StreamArg {
    Stdout,
    Stderr,
}

#[derive(Args, Debug)]
pub(crate) struct Agents {
    /// The agent; all unless given.
    pub(crate) id: Option<String>,
    /// Only agents that have this capability.
    #[arg(long, short, default_value = "", hide_default_value = true, value_name = "NAME")]
    pub(crate) capability: String,
    /// Removed ones too.
    #[arg(long)]
    pub(crate) removed: bool,
    #[command(flatten)]
    pub(crate) page: Page,
}

#[derive(Args, Debug)]
pub(crate) struct Drain {
    /// The agent.
    pub(crate) agent: String,
    /// Let it take work again.
    #[arg(long)]
    pub(crate) undo: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Remove {
    /// The agent.
    pub(crate) agent: String,
    /// End what runs instead of waiting for it.
    #[arg(long)]
    pub(crate) force: bool,
    /// Bring a removed agent back as it was.
    #[arg(long, conflicts_with = "force")]
    pub(crate) undo: bool,
}
