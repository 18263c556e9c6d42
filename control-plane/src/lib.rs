//! The control plane: keeps agents and tasks, decides, and serves clients and sidecars.
//!
//! The rules themselves are in `hive-core`, the wire formats in `hive-proto`.

pub mod api;
pub mod assemble;
pub mod clock;
pub mod config;
pub mod driver;
pub mod listen;
pub mod metrics;
pub mod ops;
mod program;
pub mod run;
pub mod server;
pub mod session;
pub mod store;
pub mod tasks;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod tls;

/// Runs the program.
#[must_use]
pub fn main() -> std::process::ExitCode {
    main_with(std::env::args_os())
}

/// Runs the program with these arguments, the first of them its name.
#[must_use]
pub fn main_with(args: impl IntoIterator<Item = std::ffi::OsString>) -> std::process::ExitCode {
    program::main(args)
}
