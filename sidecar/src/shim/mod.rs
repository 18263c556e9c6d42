//! `hive-sidecar shim DIR`: stands between the sidecar and one program.
//!
//! It starts the program in a group of its own, keeps its output, enforces time and memory, ends the
//! whole group, and writes down how it ended. It outlives the sidecar, so a restarted one adopts the
//! run and reads the truth. One thread, no allocator pressure, no network; it knows nothing of tasks.
//!
//! Of its standard output one line reaches the sidecar: `started <ms>` or `failed <text>`.

mod child;
pub mod files;
pub mod keep;
pub mod procfs;
mod run;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the hidden subcommand on the process's own arguments (`<program> shim DIR`).
#[must_use]
pub fn main() -> ExitCode {
    run_args(std::env::args_os().skip(2))
}

/// As [`main`], with the arguments that follow the subcommand's name.
#[must_use]
pub fn run_args(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (Some(dir), None) = (args.next().map(PathBuf::from), args.next()) else {
        say("failed shim needs one argument, its folder");
        return ExitCode::from(2);
    };
    match run::run(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("failed {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Tells the sidecar, if it still listens.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
