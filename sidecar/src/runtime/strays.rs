//! What runs for agents that are declared no longer: it is ended, for nobody else would.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use super::ledger::process_dir;
use super::run::{Found, Run};
use super::{Dirs, Tasks};
use crate::shim::files::{self, Identity};
use crate::tasks::Kind;

const GRACE: Duration = Duration::from_secs(10);

/// Ends what former sidecars of this folder left running for agents other than `declared`. To be called
/// once the folder is this sidecar's alone.
pub fn end(dirs: &Dirs, declared: &[String], tasks: &Tasks) {
    let (agents, declared, hands) = (dirs.state_dir.join("agents"), declared.to_vec(), tasks.clone());
    tasks.spawn(Kind::Attendant, "strays", async move {
        let found = hands.spawn_blocking(move || running(&agents, &declared)).await.unwrap_or_default();
        for (agent, dir) in found {
            tracing::warn!(agent, dir = %dir.display(), "ending what runs for an agent that is declared no longer");
            hands.spawn(Kind::Attendant, "stray", async move {
                if let Ok(Found::Running(mut run)) = Run::find(&dir)
                    && run.cancel(GRACE).is_ok()
                {
                    let _ = run.ended().await;
                }
            });
        }
    });
}

/// Folders of live runs, with their agents. Blocks for a walk over the folder.
fn running(agents: &std::path::Path, declared: &[String]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(agents).into_iter().flatten().flatten() {
        let Ok(agent) = entry.file_name().into_string() else { continue };
        if declared.contains(&agent) {
            continue;
        }
        let attempts = fs::read_dir(entry.path().join("attempts")).into_iter().flatten().flatten();
        let runs = attempts.map(|attempt| attempt.path()).chain([process_dir(&entry.path())]);
        for dir in runs {
            let shim = files::read::<Identity>(&dir, files::SHIM).ok().flatten();
            if !dir.join(files::EXIT).exists() && shim.is_some_and(|shim| shim.is_alive()) {
                found.push((agent.clone(), dir));
            }
        }
    }
    found
}
