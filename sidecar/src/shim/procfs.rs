//! What `/proc` says of processes: the only place that reads it.

use std::fs;
use std::io;

/// The fields of `/proc/<pid>/stat` used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Dead and not yet waited for.
    pub zombie: bool,
    /// Parent.
    pub parent: i32,
    /// Process group.
    pub group: i32,
    /// Start in clock ticks since boot.
    pub start: u64,
}

/// Reads a process's state.
///
/// # Errors
/// There is no such process, or the kernel speaks another format.
pub fn stat(pid: i32) -> io::Result<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/<pid>/stat"))
}

/// The name in parentheses may hold anything, so fields are counted from the last one.
fn parse(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text[text.rfind(')')? + 1..].split_ascii_whitespace().collect();
    Some(Stat {
        zombie: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Random id of the host's boot.
///
/// # Errors
/// `/proc` is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Every process one can see now. Costs a read per process: for ends and repairs only.
///
/// # Errors
/// `/proc` is not mounted.
pub fn all() -> io::Result<Vec<(i32, Stat)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // It may have ended meanwhile.
        if let Ok(stat) = stat(pid) {
            found.push((pid, stat));
        }
    }
    Ok(found)
}

/// Whether a process was given the variable with this value when it was started.
#[must_use]
pub fn has_env(pid: i32, name: &str, value: &str) -> bool {
    let Ok(environ) = fs::read(format!("/proc/{pid}/environ")) else { return false };
    let wanted = format!("{name}={value}");
    environ.split(|&b| b == 0).any(|entry| entry == wanted.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_parentheses_and_spaces() {
        let text = "7 (a) Z (b) S 3 5 5 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(parse(text), Some(Stat { zombie: false, parent: 3, group: 5, start: 4711 }));
        assert_eq!(parse("7 (x) Z 1"), None);
    }

    #[test]
    fn this_process_is_found() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        assert!(!stat(pid).expect("own stat").zombie);
        assert!(all().expect("/proc").iter().any(|(found, _)| *found == pid));
    }
}
