//! This test binary as another process: the program itself, or something done under its limits.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

const MODE: &str = "HIVE_SHELL_TEST_CHILD";
const ARGS: &str = "HIVE_SHELL_TEST_ARGS";
const SEPARATOR: char = '\x1f';

/// A command that runs the program with these arguments, or a mode of its own.
pub(crate) fn command(mode: &str, args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--exact", "child::entry", "--nocapture", "--test-threads=1"])
        .env(MODE, mode)
        .env(ARGS, args.join(&SEPARATOR.to_string()))
        .env("HOME", home)
        .env_remove("XDG_STATE_HOME")
        .env_remove("HIVE_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

pub(crate) fn program(args: &[&str], home: &Path) -> Child {
    command("program", args, home).spawn().expect("start the program")
}

pub(crate) fn output(args: &[&str], home: &Path) -> Output {
    program(args, home).wait_with_output().expect("run the program")
}

/// Not a test: where the other process begins.
#[test]
fn entry() {
    let Ok(mode) = std::env::var(MODE) else { return };
    match mode.as_str() {
        "program" => {
            let given = std::env::var(ARGS).unwrap_or_default();
            let args = given.split(SEPARATOR).filter(|arg| !arg.is_empty()).map(OsString::from);
            let code = hive_control_plane::main_with([OsString::from("hive-control-plane")].into_iter().chain(args));
            // `ExitCode` cannot be read, but it can be shown.
            let success = format!("{code:?}") == format!("{:?}", std::process::ExitCode::SUCCESS);
            let usage = format!("{code:?}") == format!("{:?}", std::process::ExitCode::from(2));
            std::process::exit(if success {
                0
            } else if usage {
                2
            } else {
                1
            });
        }
        "descriptors" => super::descriptors::inside(),
        other => panic!("no such mode: {other}"),
    }
}
