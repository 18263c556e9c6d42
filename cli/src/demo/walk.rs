//! The files of a folder: regular ones, without `.git` and `target`, symbolic links not followed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Folders that are skipped wherever they stand.
pub(crate) const SKIPPED: [&str; 2] = [".git", "target"];

/// What a walk found.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Regular files, relative to the folder, in the order of their bytes.
    pub(crate) files: Vec<PathBuf>,
    /// Symbolic links left out.
    pub(crate) links: u64,
    /// Pipes, sockets and devices left out.
    pub(crate) special: u64,
    /// Folders that can't be read, relative, and why.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
}

/// Walks `root`, leaving out the folder `except` if it lies below. Fails only for `root` itself.
pub(crate) fn walk(root: &Path, except: &Path) -> io::Result<Walked> {
    let mut walked = Walked::default();
    let mut waiting = vec![PathBuf::new()];
    while let Some(folder) = waiting.pop() {
        let entries = match fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if folder.as_os_str().is_empty() => return Err(error),
            Err(error) => {
                walked.unreadable.push((folder, error));
                continue;
            }
        };
        for entry in entries {
            let (entry, kind) = match entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind))) {
                Ok(found) => found,
                Err(error) => {
                    walked.unreadable.push((folder.clone(), error));
                    continue;
                }
            };
            let name = entry.file_name();
            let path = folder.join(&name);
            if kind.is_symlink() {
                walked.links += 1;
            } else if kind.is_dir() {
                let skipped = SKIPPED.iter().any(|skipped| name == *skipped) || root.join(&path) == except;
                if !skipped {
                    waiting.push(path);
                }
            } else if kind.is_file() {
                walked.files.push(path);
            } else {
                walked.special += 1;
            }
        }
    }
    walked.files.sort_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
    Ok(walked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::net::UnixListener;

    #[test]
    fn finds_regular_files_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for folder in ["a/b", "a/target/deep", ".git", "out", ".github"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        for file in ["a/b/x", "a/target/deep/no", ".git/no", "out/no", ".github/yes", "z", "a/target.txt"] {
            fs::write(root.join(file), "").unwrap();
        }
        fs::write(root.join(OsStr::from_bytes(b"odd\xff")), "").unwrap();
        std::os::unix::fs::symlink("z", root.join("link")).unwrap();
        std::os::unix::fs::symlink("..", root.join("a/loop")).unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();

        let walked = walk(root, &root.join("out")).unwrap();
        let names: Vec<_> = walked.files.iter().map(|p| p.to_string_lossy().into_owned()).collect();
        assert_eq!(names, [".github/yes", "a/b/x", "a/target.txt", "odd\u{fffd}", "z"]);
        assert_eq!((walked.links, walked.special, walked.unreadable.len()), (2, 1, 0));
    }

    #[test]
    fn a_missing_root_is_an_error_and_an_empty_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert!(walk(&dir.path().join("absent"), Path::new("/")).is_err());
        assert!(walk(dir.path(), Path::new("/")).unwrap().files.is_empty());
    }
}
