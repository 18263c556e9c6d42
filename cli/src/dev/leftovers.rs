//! After an unclean end of `hive` its children stop by themselves, which takes a while: wait for
//! that instead of fighting them for the store and the ports.

use std::path::Path;
use std::time::Duration;

use super::folder::Folder;
use super::ready::Ready;
use crate::clock;
use crate::failure::{Exit, Failure};
use crate::output;

/// Drain and hard stop of a sidecar, and a margin.
const LIMIT: Duration = Duration::from_secs(60);

/// Waits until nothing of an earlier run of this folder is left.
pub(crate) async fn wait(folder: &Folder) -> Result<(), Failure> {
    let record = std::fs::read(folder.record()).ok();
    let Some(earlier) = record.and_then(|text| serde_json::from_slice::<Ready>(&text).ok()) else { return Ok(()) };
    let started = clock::now();
    let mut told = false;
    loop {
        let left: Vec<_> = std::iter::once(&earlier.control_plane)
            .chain(&earlier.sidecars)
            .filter(|process| process.pid != 0 && is_ours(process.pid))
            .map(|process| format!("{} (pid {})", process.id, process.pid))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        if !told {
            told = true;
            output::say(&format!("the last run did not end cleanly; waiting for {}", left.join(", ")));
        }
        if clock::now().duration_since(started) > LIMIT {
            return Err(Failure::new(Exit::Timeout, "an earlier run still holds the data folder", left.join(", "))
                .next("end those processes, then try again"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whether a process with this id is one of Hive's: ids are used again.
fn is_ours(pid: u32) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = line.split(|b| *b == 0).next().unwrap_or_default();
    let program = String::from_utf8_lossy(program).into_owned();
    Path::new(&program).file_name().is_some_and(|name| name.to_string_lossy().starts_with("hive-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn somebody_elses_process_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        wait(&folder).await.unwrap();
        let record = serde_json::json!({
            "endpoint": "", "ops": "", "data": "", "pid": 1,
            "control_plane": {"id": "control-plane", "pid": std::process::id()}, "sidecars": [],
        });
        std::fs::write(folder.record(), record.to_string()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), wait(&folder)).await.unwrap().unwrap();
    }
}
