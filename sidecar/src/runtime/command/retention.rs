//! Which attempts' output is kept: the last ones, within a count and a size.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::Path;

use crate::attempt::AttemptKey;
use crate::shim::files::{self, Identity};
use crate::tasks::Tasks;

/// Attempts of one agent whose output is kept after their release.
const ATTEMPTS: usize = 200;
/// Bytes of output of one agent kept after its attempts' release.
const BYTES: u64 = 256 << 20;

/// Released attempts, oldest first.
#[derive(Debug, Default)]
pub(super) struct Retention {
    kept: VecDeque<(AttemptKey, u64)>,
    bytes: u64,
}

impl Retention {
    /// Finds what former sidecars left. Returns also the attempts that run though nobody intends them.
    /// Blocks for a walk over the folder.
    pub(super) fn scan(attempts: &Path, adopt: &[AttemptKey]) -> (Self, Vec<AttemptKey>) {
        let adopt: BTreeSet<_> = adopt.iter().collect();
        let (mut found, mut strays) = (Vec::new(), Vec::new());
        let entries = fs::read_dir(attempts).into_iter().flatten().flatten();
        for entry in entries {
            let key = entry.file_name().to_str().and_then(|name| AttemptKey::from_dir_name(name).ok());
            let Some(key) = key.filter(|key| !adopt.contains(key)) else { continue };
            let dir = entry.path();
            let ended = fs::metadata(dir.join(files::EXIT)).and_then(|meta| meta.modified()).ok();
            let shim = files::read::<Identity>(&dir, files::SHIM).ok().flatten();
            if ended.is_none() && shim.is_some_and(|shim| shim.is_alive()) {
                strays.push(key);
            } else {
                found.push((ended, key, size(&dir)));
            }
        }
        found.sort();
        let bytes = found.iter().map(|(_, _, bytes)| bytes).sum();
        let mut retention = Self { kept: found.into_iter().map(|(_, key, bytes)| (key, bytes)).collect(), bytes };
        for old in retention.surplus() {
            let _ = fs::remove_dir_all(attempts.join(old.dir_name()));
        }
        (retention, strays)
    }

    /// An attempt is released: its working files go, and the oldest output beyond the bounds.
    pub(super) fn release(&mut self, attempts: &Path, key: AttemptKey, tasks: &Tasks) {
        if self.kept.iter().any(|(kept, _)| *kept == key) {
            return;
        }
        let dir = attempts.join(key.dir_name());
        let bytes = size(&dir);
        self.kept.push_back((key, bytes));
        self.bytes += bytes;
        let surplus: Vec<_> = self.surplus().into_iter().map(|key| attempts.join(key.dir_name())).collect();
        // Nobody waits for it: what a crash leaves is found by the next scan.
        drop(tasks.spawn_blocking(move || {
            for name in [files::SPEC, files::SHIM, files::STARTED, files::CANCEL, super::follow::PAYLOAD] {
                let _ = fs::remove_file(dir.join(name));
            }
            let _ = fs::remove_dir_all(dir.join("work"));
            for old in surplus {
                let _ = fs::remove_dir_all(old);
            }
        }));
    }

    fn surplus(&mut self) -> Vec<AttemptKey> {
        let mut surplus = Vec::new();
        while self.kept.len() > ATTEMPTS || self.bytes > BYTES {
            let Some((key, bytes)) = self.kept.pop_front() else { break };
            self.bytes -= bytes;
            surplus.push(key);
        }
        surplus
    }
}

/// Bytes of output in an attempt's folder.
fn size(dir: &Path) -> u64 {
    let streams = ["stdout.0", "stderr.0"];
    streams.iter().filter_map(|name| fs::metadata(dir.join(name)).ok()).map(|meta| meta.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first_and_the_rest_stays() {
        let dir = tempfile::tempdir().expect("a folder");
        let key = |n: u8| AttemptKey { task: [n; 16], attempt: 1 };
        let tasks = Tasks::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut retention = Retention::default();
            for n in 0..=200 {
                let place = dir.path().join(key(n).dir_name());
                fs::create_dir_all(&place).expect("made");
                fs::write(place.join("payload"), "x").expect("written");
                retention.release(dir.path(), key(n), &tasks);
            }
            tasks.finish().await;
        });
        assert!(!dir.path().join(key(0).dir_name()).exists());
        assert!(dir.path().join(key(1).dir_name()).exists());
        assert!(!dir.path().join(key(200).dir_name()).join("payload").exists());
    }
}
