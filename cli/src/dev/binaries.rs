//! Finds the other two programs: beside this one, else on the search path.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Where `name` is.
pub(crate) fn find(name: &str) -> Result<PathBuf, Failure> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    beside
        .iter()
        .cloned()
        .chain(std::env::split_paths(&path))
        .map(|dir| dir.join(name))
        .find(|p| is_program(p))
        .ok_or_else(|| {
            let place = beside.as_deref().unwrap_or(Path::new("?")).display();
            Failure::error(format!("cannot find {name}"), format!("it is neither in {place} nor on PATH"))
                .next("build all three programs with `cargo build`, or install them side by side")
        })
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}
