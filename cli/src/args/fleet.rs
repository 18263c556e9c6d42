//! Options of the verbs that run a fleet: `dev` and `demo`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::value::duration;

/// Size and shape of a fleet.
#[derive(Args, Clone, Debug)]
pub(crate) struct FleetArgs {
    /// Sidecars; each hosts one SDK agent and one `command` agent.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) sidecars: u16,
    /// Tasks at a time, per agent.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) slots: u16,
    /// Write a JSON file with endpoints and process ids once all agents are ready, and whenever a
    /// process is replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) ready_file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// Data folder [default: $XDG_STATE_HOME/hive/dev, or ~/.local/state/hive/dev].
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Keep nothing: data in a temporary folder that is removed at the end.
    #[arg(long, conflicts_with = "data")]
    pub(crate) ephemeral: bool,
    /// Address for clients and sidecars.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7070")]
    pub(crate) listen: SocketAddr,
    /// Address for health and metrics [default: the port after --listen].
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) ops_listen: Option<SocketAddr>,
    /// Port for clients and sidecars, in place of that of --listen; 0 means any free one.
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}

#[derive(Args, Debug)]
pub(crate) struct Demo {
    /// Folder whose files the job is about; .git and target are skipped.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Folder for the fleet's data, the manifest and results.jsonl.
    #[arg(long, value_name = "DIR", default_value = "target/demo")]
    pub(crate) data: PathBuf,
    /// Start over instead of resuming an unfinished job.
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Only these capabilities; may be repeated.
    #[arg(long, short, value_enum, value_name = "NAME")]
    pub(crate) capability: Vec<Capability>,
    /// Give up when no task has moved for this long.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub(crate) stall: Duration,
    #[command(flatten)]
    pub(crate) fleet: FleetArgs,
}

/// What the demo does with each file.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, ValueEnum)]
pub(crate) enum Capability {
    Wc,
    Sha256,
    Todo,
    Syntax,
}

impl Capability {
    pub(crate) const ALL: [Self; 4] = [Self::Wc, Self::Sha256, Self::Todo, Self::Syntax];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Wc => "wc",
            Self::Sha256 => "sha256",
            Self::Todo => "todo",
            Self::Syntax => "syntax",
        }
    }
}
