//! Clients that are not ours, against a running fleet: what they find by reflection is all they know.

mod buf;
mod python;

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

/// Where `make services` puts other people's programs.
fn services() -> PathBuf {
    match std::env::var_os("TEST_SERVICES") {
        Some(dir) => dir.into(),
        None => concat!(env!("CARGO_MANIFEST_DIR"), "/target/services").into(),
    }
}

/// Says that a test could not run; `make test` shows it, and counts it as a failure in CI.
pub(crate) fn skip(test: &str, why: &str, how: &str) {
    println!("skipped {test}: {why}; {how}");
    if let Some(path) = std::env::var_os("TEST_SKIPS") {
        let mut file = File::options().create(true).append(true).open(path).expect("open the list of skips");
        writeln!(file, "{test}: {why}; {how}").expect("write the list of skips");
    }
}

/// A program of `make services`, or a skip.
fn program(test: &str, name: &str) -> Option<PathBuf> {
    let path = services().join(name);
    if !path.exists() {
        skip(test, &format!("{name} is missing"), "make services");
        return None;
    }
    Some(path)
}
