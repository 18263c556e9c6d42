//! Other processes, as `/proc` shows them.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal; a process that is gone already is fine.
pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _gone = kill_process(pid, signal);
    }
}

/// Its state letter, such as `S`, `T` or `Z`.
fn state(pid: u32) -> Option<char> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces and parentheses; what follows its last one does not.
    text.rsplit_once(')')?.1.trim_start().chars().next()
}

/// It runs, or could; a zombie does not.
pub(crate) fn alive(pid: u32) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Live processes other than this one in whose command line or environment the text stands, with
/// their command lines.
pub(crate) fn processes_with(text: &str) -> Vec<(u32, String)> {
    let needle = text.as_bytes();
    let own = std::process::id();
    let mut found = Vec::new();
    for pid in all().into_iter().filter(|pid| *pid != own) {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let env = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |hay: &[u8]| hay.windows(needle.len()).any(|window| window == needle);
        if alive(pid) && (has(&line) || has(&env)) {
            found.push((pid, String::from_utf8_lossy(&line).replace('\0', " ").trim().to_owned()));
        }
    }
    found
}
