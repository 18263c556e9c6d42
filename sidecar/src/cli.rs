//! The command line, signals and logs around [`crate::run`].

use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use crate::clock;
use crate::config::{self, Flags, SidecarConfig};
use crate::session::ExitReason;
use crate::tasks;

/// Speaks to the control plane for the agents beside it and owns their processes.
///
/// Runs until it is stopped: the first SIGTERM or SIGINT (or end of standard input, if asked for)
/// takes no new work and waits up to 30 s for what runs; the second one ends what still runs. Exit
/// code 0: stopped; 1: failed, or fenced by the control plane; 2: wrong flags or configuration.
///
/// Logs go to standard error. HIVE_LOG filters them (default: info), HIVE_LOG_FORMAT is text or json.
#[derive(Debug, Parser)]
#[command(name = "hive-sidecar", version)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// About the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the effective configuration, secrets masked
    Print,
}

const FAILED: u8 = 1;
const USAGE: u8 = 2;

pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are answers, not errors.
            let code = if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
            return error.print().map_or(ExitCode::from(FAILED), |()| code);
        }
    };
    let config = match config::load(&arguments.flags) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    if let Some(Command::Config(ConfigCommand::Print)) = arguments.command {
        print(&config);
        return ExitCode::SUCCESS;
    }
    log();
    // One thread: with a task at a time per wake-up, handing it between threads would cost more than
    // the work.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => {
            let outcome = runtime.block_on(serve(config));
            // A program that reads standard input may block for ever.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => return fail(FAILED, &error),
    };
    match outcome {
        Ok(ExitReason::Stopped) => ExitCode::SUCCESS,
        Ok(ExitReason::Fenced) => {
            eprintln!("hive-sidecar: the control plane has given this sidecar's place to another; not going on");
            ExitCode::from(FAILED)
        }
        Err(error) => fail(FAILED, &error),
    }
}

/// Two requests closer than this are one: a terminal's Ctrl-C reaches a supervisor and its children
/// alike, and the supervisor passes it on.
const ONE_REQUEST_MS: u64 = 500;

async fn serve(config: SidecarConfig) -> Result<ExitReason, crate::Error> {
    let (stop, stopped) = mpsc::channel(4);
    let mut terminate = signal(SignalKind::terminate()).map_err(crate::Error::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(crate::Error::Signals)?;
    let (input_ended, mut end_of_input) = mpsc::channel(1);
    if config.stop_on_stdin_eof {
        let watch = move || {
            let mut buffer = [0; 256];
            while std::io::stdin().read(&mut buffer).is_ok_and(|read| read > 0) {}
            let _gone = input_ended.blocking_send(());
        };
        tasks::thread("stdin", watch).map_err(crate::Error::Signals)?;
    }
    let requests = async move {
        let mut last: Option<u64> = None;
        loop {
            // The end of the input never makes a stop a hard one: it happens once, for good.
            let escalates = tokio::select! {
                _ = terminate.recv() => true,
                _ = interrupt.recv() => true,
                Some(()) = end_of_input.recv() => false,
            };
            let now = clock::boot_ms();
            let again = last.is_some_and(|last| !escalates || now < last + ONE_REQUEST_MS);
            if !again && stop.send(()).await.is_err() {
                std::future::pending::<()>().await;
            }
            last = last.or(Some(now));
        }
    };
    tokio::select! {
        outcome = crate::run(config, stopped) => outcome,
        () = requests => Ok(ExitReason::Stopped),
    }
}

fn print(config: &SidecarConfig) {
    use std::io::Write as _;
    // A reader that has gone is no fault of ours.
    let _gone = std::io::stdout().write_all(config.print().as_bytes());
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    eprint!("hive-sidecar: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        eprint!(": {cause}");
        source = cause.source();
    }
    eprintln!();
    ExitCode::from(code)
}

fn log() {
    let filter = EnvFilter::try_from_env("HIVE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let json = std::env::var("HIVE_LOG_FORMAT").is_ok_and(|format| format == "json");
    let outcome =
        if json { logs.json().try_init() } else { logs.with_ansi(std::io::stderr().is_terminal()).try_init() };
    if let Err(error) = outcome {
        eprintln!("hive-sidecar: cannot log: {error}");
    }
}
