//! The list of a job's tasks, written and synced before the first of them is submitted: what makes
//! a second run go on with the same ids instead of doing the work again.
//!
//! One JSON object per line: a head, the tasks, and a last one once the job is complete.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::agent::input::{FileInput, decode, encode};
use crate::args::Capability;
use crate::dev::write_atomically;

const VERSION: u32 = 1;

/// One task.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) task_id: Uuid,
    pub(crate) capability: String,
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) path_encoded: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct Head {
    hive_demo: u32,
    job: Uuid,
    folder: String,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    folder_encoded: bool,
    tasks: usize,
}

#[derive(Debug, Deserialize, Serialize)]
struct Tail {
    complete: bool,
}

/// A job.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) job: Uuid,
    /// Absolute.
    pub(crate) folder: PathBuf,
    pub(crate) entries: Vec<Entry>,
}

/// Why a manifest can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("it can't be read or written")]
    Io(#[from] io::Error),
    #[error("line {0} is not understood")]
    Line(usize),
    #[error("it was written by another version")]
    Version,
    #[error("it is cut short")]
    Short,
}

/// The file of the current job.
pub(crate) fn path(data: &Path) -> PathBuf {
    data.join("manifest.jsonl")
}

/// Where the unfinished job of another folder waits.
fn parked(data: &Path, folder: &Path) -> PathBuf {
    let digest = Sha256::digest(folder.as_os_str().as_encoded_bytes());
    let short: String = digest.iter().take(6).map(|b| format!("{b:02x}")).collect();
    data.join(format!("manifest.{short}.jsonl"))
}

/// The unfinished job of `folder`, if there is one. The unfinished job of another folder is put
/// aside for when that folder's turn comes.
pub(crate) fn unfinished(data: &Path, folder: &Path) -> Result<Option<Manifest>, Error> {
    let current = path(data);
    if let Some(manifest) = read(&current)? {
        if manifest.folder == folder {
            return Ok(Some(manifest));
        }
        fs::rename(&current, parked(data, &manifest.folder))?;
    }
    let parked = parked(data, folder);
    let Some(manifest) = read(&parked)?.filter(|manifest| manifest.folder == folder) else { return Ok(None) };
    fs::rename(parked, current)?;
    Ok(Some(manifest))
}

/// Reads a manifest; `None` if there is none or its job is complete.
fn read(path: &Path) -> Result<Option<Manifest>, Error> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    parse(&text)
}

fn parse(text: &str) -> Result<Option<Manifest>, Error> {
    let mut lines = text.lines().enumerate();
    let (_, first) = lines.next().ok_or(Error::Short)?;
    let head: Head = serde_json::from_str(first).map_err(|_| Error::Line(1))?;
    if head.hive_demo != VERSION {
        return Err(Error::Version);
    }
    let mut entries = Vec::new();
    for (number, line) in lines {
        if entries.len() == head.tasks {
            // The last line may be torn: then the job counts as unfinished, which does no harm.
            let complete = serde_json::from_str::<Tail>(line).is_ok_and(|tail| tail.complete);
            if complete {
                return Ok(None);
            }
            break;
        }
        entries.push(serde_json::from_str(line).map_err(|_| Error::Line(number + 1))?);
    }
    if entries.len() < head.tasks {
        return Err(Error::Short);
    }
    Ok(Some(Manifest { job: head.job, folder: decode(&head.folder, head.folder_encoded).into(), entries }))
}

impl Manifest {
    /// Plans a job: every file with every capability, each task under an id of its own.
    pub(crate) fn plan(
        folder: &Path,
        files: &[PathBuf],
        capabilities: &[Capability],
        mut new_id: impl FnMut() -> Uuid,
    ) -> Self {
        let job = new_id();
        let mut entries = Vec::with_capacity(files.len() * capabilities.len());
        for file in files {
            let (path, path_encoded) = encode(file.as_os_str());
            for capability in capabilities {
                entries.push(Entry {
                    task_id: new_id(),
                    capability: capability.name().to_owned(),
                    path: path.clone(),
                    path_encoded,
                });
            }
        }
        Self { job, folder: folder.to_owned(), entries }
    }

    /// Writes it so that it is whole and on disk before this returns.
    pub(crate) fn write(&self, data: &Path) -> Result<(), Error> {
        let (folder, folder_encoded) = encode(self.folder.as_os_str());
        let head = Head { hive_demo: VERSION, job: self.job, folder, folder_encoded, tasks: self.entries.len() };
        let mut text = serde_json::to_vec(&head).map_err(io::Error::other)?;
        for entry in &self.entries {
            text.push(b'\n');
            serde_json::to_writer(&mut text, entry).map_err(io::Error::other)?;
        }
        text.push(b'\n');
        Ok(write_atomically(&path(data), &text)?)
    }

    /// What a task is given.
    pub(crate) fn input(&self, entry: &Entry) -> FileInput {
        let file = decode(&entry.path, entry.path_encoded);
        FileInput::new(&self.folder, Path::new::<OsStr>(&file))
    }
}

/// Marks the current job as complete: the next run starts a new one.
pub(crate) fn complete(data: &Path) -> Result<(), Error> {
    let mut file = File::options().append(true).open(path(data))?;
    let tail = serde_json::to_string(&Tail { complete: true }).map_err(io::Error::other)?;
    writeln!(file, "{tail}")?;
    Ok(file.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    fn ids() -> impl FnMut() -> Uuid {
        let mut next = 0;
        move || {
            next += 1;
            Uuid::from_u128(next)
        }
    }

    fn plan(folder: &str) -> Manifest {
        let files = [PathBuf::from("a"), PathBuf::from(OsStr::from_bytes(b"b\xff"))];
        Manifest::plan(Path::new(folder), &files, &[Capability::Wc, Capability::Todo], ids())
    }

    #[test]
    fn comes_back_as_written_until_complete() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = plan("/f");
        assert_eq!(manifest.entries.len(), 4);
        manifest.write(dir.path()).unwrap();
        assert_eq!(unfinished(dir.path(), Path::new("/f")).unwrap().as_ref(), Some(&manifest));
        complete(dir.path()).unwrap();
        assert_eq!(unfinished(dir.path(), Path::new("/f")).unwrap(), None);
        manifest.write(dir.path()).unwrap();
        assert!(unfinished(dir.path(), Path::new("/f")).unwrap().is_some(), "a new one replaces it");
    }

    #[test]
    fn another_folders_job_waits_for_its_turn() {
        let dir = tempfile::tempdir().unwrap();
        plan("/one").write(dir.path()).unwrap();
        assert_eq!(unfinished(dir.path(), Path::new("/two")).unwrap(), None);
        plan("/two").write(dir.path()).unwrap();
        let one = unfinished(dir.path(), Path::new("/one")).unwrap().unwrap();
        assert_eq!(one.folder, Path::new("/one"));
        let two = unfinished(dir.path(), Path::new("/two")).unwrap().unwrap();
        assert_eq!(two.folder, Path::new("/two"));
    }

    #[test]
    fn damage_is_named_and_a_torn_end_is_not_damage() {
        let dir = tempfile::tempdir().unwrap();
        plan("/f").write(dir.path()).unwrap();
        let text = fs::read_to_string(path(dir.path())).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(parse(&format!("{text}{{\"compl")).unwrap().is_some());
        assert!(matches!(parse(&lines[..3].join("\n")), Err(Error::Short)));
        assert!(matches!(parse(&text.replacen("\"capability\"", "\"x\"", 1)), Err(Error::Line(2))));
        assert!(matches!(parse(&text.replace("\"hive_demo\":1", "\"hive_demo\":2")), Err(Error::Version)));
        assert!(matches!(parse(""), Err(Error::Short)));
    }

    #[test]
    fn inputs_name_the_file() {
        let manifest = plan("/f");
        assert_eq!(manifest.input(&manifest.entries[0]).file(), Path::new("/f/a"));
        assert_eq!(manifest.input(&manifest.entries[2]).file().as_os_str().as_bytes(), b"/f/b\xff");
    }
}
