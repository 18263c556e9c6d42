//! The program around the server: flags, logging, ports, signals, exit code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::{self, Command, Config, ConfigVerb, Program, Sources};
use crate::listen::{self, Listener as _};
use crate::run::{Listeners, run};
use crate::{tasks, telemetry};

const USAGE: u8 = 2;

/// Runs the program. Exit codes: 0 ok, 1 error, 2 usage or configuration.
pub(crate) fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let program = match Program::try_parse_from(args) {
        Ok(program) => program,
        Err(asked) => {
            // Help and version are no faults; clap knows where each is printed.
            let _ = asked.print();
            return ExitCode::from(u8::try_from(asked.exit_code()).unwrap_or(USAGE));
        }
    };
    let loaded = match config::load(&Sources::of_process(&program.flags)) {
        Ok(loaded) => loaded,
        Err(faults) => {
            say(&format!(
                "hive-control-plane: {faults}\n  `hive-control-plane --help` lists the flags; docs/settings.md all settings"
            ));
            return ExitCode::from(USAGE);
        }
    };
    if let Some(Command::Config { verb: ConfigVerb::Print { effective } }) = program.command {
        // A closed pipe (`| head`) is no fault.
        let _ = std::io::stdout().write_all(loaded.print(effective).as_bytes());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = telemetry::start(&loaded.config.log) {
        say(&format!("hive-control-plane: {}", chain(&error)));
        return ExitCode::from(USAGE);
    }
    match serve(loaded.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = chain(&*error), "ended with an error");
            ExitCode::FAILURE
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn serve(config: Config) -> Result<(), BoxError> {
    let descriptors = listen::raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let listeners = Listeners {
            main: listen::bind("listen", config.listen)?,
            ops: listen::bind("ops_listen", config.ops_listen)?,
        };
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = %listeners.main.local_addr()?,
            ops_listen = %listeners.ops.local_addr()?,
            data = %config.data.display(),
            descriptors,
            "starting",
        );
        warn_of_plain_text(&config);
        if config.stop_on_stdin_eof {
            stop_on_stdin_eof(shutdown.clone())?;
        }
        let hard_stop = config.shutdown.hard_stop;
        let mut signals = Signals::new()?;
        let server = run(config, listeners, shutdown.clone());
        tokio::select! {
            served = server => served.map_err(BoxError::from),
            stopped = signals.stop(&shutdown, hard_stop) => Err(stopped.into()),
        }
    });
    // Blocking threads, such as one that waits for a disk, must not hold the exit up.
    runtime.shutdown_timeout(Duration::from_millis(500));
    served
}

fn warn_of_plain_text(config: &Config) {
    for (setting, address) in [("listen", config.listen), ("ops_listen", config.ops_listen)] {
        let secured = setting == "listen" && config.tls.is_some();
        if !address.ip().is_loopback() && !secured {
            tracing::warn!(setting, %address, "INSECURE: plain text beyond this machine; whoever reaches this port reads and changes everything");
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Begins the shutdown at the first signal; returns why it must not be waited for any longer.
    async fn stop(&mut self, shutdown: &CancellationToken, hard_stop: Duration) -> &'static str {
        tokio::select! {
            name = self.next() => {
                tracing::info!(signal = name, "asked to stop; a second signal stops at once");
                shutdown.cancel();
            }
            () = shutdown.cancelled() => {}
        }
        tokio::select! {
            _ = self.next() => "a second signal came: stopped at once",
            () = tokio::time::sleep(hard_stop) => "the time to stop was over: stopped at once",
        }
    }
}

/// The parent holds the other end: however it dies, the kernel closes it.
fn stop_on_stdin_eof(shutdown: CancellationToken) -> std::io::Result<()> {
    tasks::detached_thread("stdin", move || {
        let mut ignored = [0; 256];
        while std::io::stdin().read(&mut ignored).is_ok_and(|read| read > 0) {}
        tracing::info!("standard input ended: stopping");
        shutdown.cancel();
    })
}

/// An error and its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn say(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
}
