//! The folder of a development CA: nothing is overwritten, keys are their owner's alone.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::failure::Failure;

/// Writes all files, or none if one of them is there.
pub(super) fn write(folder: &Path, files: &[(&str, &str)]) -> Result<(), Failure> {
    for (name, _) in files {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(Failure::error(format!("{} exists", path.display()), "nothing is overwritten")
                .next("name another folder with --out, or move the file away"));
        }
    }
    for (name, text) in files {
        let path = folder.join(name);
        let written = put(&path, text);
        written.map_err(|error| Failure::error(format!("cannot write {}", path.display()), error))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> io::Result<()> {
    let secret = path.extension().is_some_and(|extension| extension == "key");
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())
}

/// Reads a file that `init` wrote.
pub(super) fn read(folder: &Path, name: &str) -> Result<String, Failure> {
    let path = folder.join(name);
    std::fs::read_to_string(&path).map_err(|error| {
        Failure::error(format!("cannot read {}", path.display()), error)
            .next(format!("make a CA with `hive certs init --out {}`", folder.display()))
    })
}
