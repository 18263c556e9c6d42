//! The command line, as types. Everything is checked here; the verbs get values that make sense.

mod bench;
mod certs;
mod fleet;
mod task;
mod value;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub(crate) use bench::{Bench, BenchCompare, BenchPhase, BenchRun, BenchVerb, Kind, Mix};
pub(crate) use certs::{Certs, CertsVerb};
pub(crate) use fleet::{Capability, Demo, Dev};
pub(crate) use task::{
    Agents, Drain, Input, List, Logs, Page, PayloadSource, Remove, StreamArg, Submit, TaskId, TaskIds, Wait, Watch,
};
use value::duration;

use crate::output::Format;

/// Hive runs fleets of agents. `hive dev` starts one on this machine; `hive demo` gives it a job.
#[derive(Debug, Parser)]
#[command(name = "hive", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every verb.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Control plane to talk to, as http://HOST:PORT or https://HOST:PORT.
    #[arg(
        long,
        global = true,
        help_heading = "Options of every verb",
        env = "HIVE_SERVER",
        default_value = "http://127.0.0.1:7070"
    )]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) certificates: Certificates,
    /// Namespace; empty means "default".
    #[arg(
        long,
        global = true,
        help_heading = "Options of every verb",
        env = "HIVE_NAMESPACE",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) namespace: String,
    /// Form of the output.
    #[arg(short, long, global = true, help_heading = "Options of every verb", value_enum, default_value_t)]
    pub(crate) output: Format,
    /// Longest time a call may take, repeats included.
    #[arg(long, global = true, help_heading = "Options of every verb", value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) deadline: Duration,
}

/// Certificates to talk to an https:// server.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Certificates {
    /// CA (PEM) that signed the server's certificate, for https://.
    #[arg(long, global = true, help_heading = "Options of every verb", value_name = "FILE", env = "HIVE_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// Certificate (PEM) to show the server.
    #[arg(long, global = true, help_heading = "Options of every verb", value_name = "FILE", env = "HIVE_CERT")]
    pub(crate) cert: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, global = true, help_heading = "Options of every verb", value_name = "FILE", env = "HIVE_KEY")]
    pub(crate) key: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Submit a task.
    Submit(Box<Submit>),
    /// Show a task.
    Get(TaskId),
    /// List tasks, newest first.
    List(List),
    /// Follow a task until it ends, or all tasks that match.
    Watch(Watch),
    /// Wait until tasks have ended; exits 6 if one did not succeed, 4 if time ran out.
    Wait(Wait),
    /// Ask for tasks to end.
    Cancel(TaskIds),
    /// Answer a task's question.
    Input(Input),
    /// Show what a task's attempt wrote.
    Logs(Logs),
    /// List agents, or show one.
    Agents(Agents),
    /// Stop giving work to an agent; what runs goes on.
    Drain(Drain),
    /// Let an agent go once nothing of it runs.
    Remove(Remove),
    /// Show how the control plane stands.
    Status,
    /// Run a whole fleet on this machine until Ctrl-C.
    Dev(Dev),
    /// Run a real job over the files of a folder, on a fleet of its own.
    Demo(Demo),
    /// Measure a fleet under load, or compare two measurements.
    Bench(Bench),
    /// Make a CA and certificates for development.
    Certs(Certs),
    /// Write a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// The agent of `hive dev` that links the SDK.
    #[command(hide = true)]
    DemoAgent,
    /// The program behind the `command` agents of `hive dev`: payload on stdin, result on stdout.
    #[command(hide = true)]
    DemoTool {
        /// sha256, todo or syntax.
        capability: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn verbs_parse() {
        for line in [
            "hive submit --capability wc --payload x --label a=b --agent-label c=d --priority high --pool p --wait --timeout 5s",
            "hive submit -c wc --payload-file -",
            "hive get X -o json",
            "hive list --state pending --state failed --limit 5",
            "hive list --all",
            "hive watch",
            "hive watch X",
            "hive wait A B --timeout 10s",
            "hive cancel A B",
            "hive input X --payload yes",
            "hive logs X -f",
            "hive agents",
            "hive agents sdk-1 -o name",
            "hive drain sdk-1 --undo",
            "hive remove sdk-1 --force",
            "hive status --server 10.0.0.1:7070",
            "hive dev --ephemeral --port 0 --sidecars 2 --slots 1 --ready-file /tmp/r",
            "hive demo --dir /tmp --data /tmp/d --sidecars 2",
            "hive bench run --sidecars 2 --phases steady --mix noop=9,flaky=1 --json /tmp/r",
            "hive bench run --attach --server 10.0.0.1:7070",
            "hive bench compare a b --noise 5",
            "hive bench agent",
            "hive status --server https://h:1 --ca a --cert c --key k",
            "hive certs init --out d --trust-domain t --days 1",
            "hive certs server --out d --host a --host b",
            "hive certs sidecar s1 --out d --namespace red",
            "hive certs client --out d",
            "hive completions bash",
            "hive demo-agent",
            "hive demo-tool sha256",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn nonsense_is_usage() {
        for line in [
            "hive",
            "hive fly",
            "hive submit",
            "hive submit -c wc --payload a --payload-file b",
            "hive submit -c wc --label novalue",
            "hive submit -c wc --id not-a-uuid",
            "hive submit -c wc --timeout 5s",
            "hive wait",
            "hive wait A --timeout 5parsecs",
            "hive list --state asleep",
            "hive list --limit 0",
            "hive bench",
            "hive certs",
            "hive certs init",
            "hive certs sidecar --out d",
            "hive bench run --mix nap=1",
            "hive bench run --phases rest",
            "hive dev --sidecars 0",
            "hive dev --ephemeral --data /tmp/x",
            "hive demo --stall 0s",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
