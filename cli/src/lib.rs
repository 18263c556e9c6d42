//! The `hive` command: the operator's client, and a fleet on one machine. This file turns the
//! command line into a verb and a failure into an exit code; each verb lives in a module of its own.

mod agent;
mod args;
mod bench;
mod certs;
mod clock;
mod connect;
mod demo;
mod dev;
mod failure;
mod output;
mod tasks;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use args::{Cli, Verb};
use failure::{Exit, Failure};

/// Runs the program: reads the command line, does the verb, and turns its end into an exit code
/// (0 ok, 1 error, 2 usage, 3 not found, 4 timeout, 5 unreachable, 6 a task failed).
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.quiet => ExitCode::SUCCESS,
        Err(failure) => {
            output::say(&failure.to_string());
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    // Neither needs a runtime, and the tool is started once per task.
    match &cli.verb {
        Verb::DemoTool { capability } => return agent::tool::run(capability),
        Verb::Completions { shell } => return completions(*shell),
        _ => {}
    }
    if let Verb::Certs(args) = cli.verb {
        return certs::run(args, &cli.global.namespace);
    }
    let runtime = match &cli.verb {
        // It is there by the dozen, each with next to nothing to do.
        Verb::Bench(bench) if matches!(bench.verb, args::BenchVerb::Agent) => {
            tokio::runtime::Builder::new_current_thread().enable_all().build()
        }
        Verb::Dev(_) | Verb::Demo(_) | Verb::Bench(_) | Verb::DemoAgent => {
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
        }
        _ => tokio::runtime::Builder::new_current_thread().enable_all().build(),
    }
    .map_err(|e| Failure::error("cannot start the asynchronous runtime", e))?;
    let result = runtime.block_on(verbs::run(cli));
    // A read of standard input that nobody waits for any more must not hold the exit.
    runtime.shutdown_background();
    result
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "hive", &mut script);
    output::bytes(&script)
}
