//! `hive` as a person types it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;

use super::HIVE;

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) line: String,
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// It must have ended so.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\nout: {}\nerr: {}", self.line, self.out, self.err);
        self
    }

    /// Its data, which must be JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{}: {error}\n{}", self.line, self.out))
    }

    /// Its lines of data, each of which must be JSON.
    #[track_caller]
    pub(crate) fn json_lines(&self) -> Vec<Value> {
        let parse =
            |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{}: {error}\n{line}", self.line));
        self.out.lines().map(parse).collect()
    }
}

/// Runs `hive` with these arguments in a folder to its end, within two minutes.
pub(crate) async fn hive_in(folder: &Path, args: &[&str]) -> Ended {
    let mut command = tokio::process::Command::new(HIVE);
    command.args(args).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"HIVE_") {
            command.env_remove(name);
        }
    }
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    let output = output.await.unwrap_or_else(|_| panic!("hive {args:?} did not end")).expect("run hive");
    Ended {
        line: format!("hive {}", args.join(" ")),
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// [`hive_in`] the system's folder for temporary things.
pub(crate) async fn hive(args: &[&str]) -> Ended {
    hive_in(&std::env::temp_dir(), args).await
}
