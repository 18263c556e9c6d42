//! Keeps one output of a program in segment files, within a bound.
//!
//! A segment is named `<stream>.<position of its first byte>`. Of a run with an end the first bytes are
//! kept; of a long-lived agent the last ones, by rotation over two segments. Readers: [`crate::output`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::files::OutputEnd;

/// A segment on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Position of its first byte in the stream.
    pub base: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// A stream's segments, in order.
///
/// # Errors
/// The folder cannot be read.
pub fn segments(dir: &Path, stream: &str) -> io::Result<Vec<Segment>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let base = name.to_str().and_then(|n| n.strip_prefix(stream)?.strip_prefix('.')?.parse().ok());
        if let Some(base) = base {
            found.push(Segment { base, path: entry.path() });
        }
    }
    found.sort_by_key(|segment| segment.base);
    Ok(found)
}

/// Marks a stream of which bytes were dropped while it still runs.
#[must_use]
pub fn truncated_mark(dir: &Path, stream: &str) -> PathBuf {
    dir.join(format!("{stream}-truncated"))
}

/// Writes one stream.
pub(super) struct Keeper {
    dir: PathBuf,
    stream: &'static str,
    limit: u64,
    rotate: bool,
    file: File,
    base: u64,
    /// Bytes in the current segment.
    kept: u64,
    end: OutputEnd,
    error: Option<io::Error>,
}

impl Keeper {
    pub(super) fn open(dir: &Path, stream: &'static str, limit: u64, rotate: bool) -> io::Result<Self> {
        let (base, kept) = match segments(dir, stream)?.last() {
            Some(last) if rotate => (last.base, fs::metadata(&last.path)?.len()),
            _ => (0, 0),
        };
        let file = open(dir, stream, base, !rotate)?;
        let end = OutputEnd { bytes: base + kept, truncated: false };
        Ok(Self { dir: dir.to_owned(), stream, limit, rotate, file, base, kept, end, error: None })
    }

    /// Takes bytes from the program. Never fails: what cannot be kept is counted.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        self.end.bytes += bytes.len() as u64;
        while !bytes.is_empty() && self.error.is_none() {
            let room = usize::try_from(self.limit - self.kept.min(self.limit)).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if let Err(error) = self.file.write_all(now) {
                self.fail(error);
                return;
            }
            self.kept += now.len() as u64;
            bytes = later;
            if bytes.is_empty() {
                break;
            }
            if !self.rotate || self.limit == 0 {
                self.truncate();
                return;
            }
            if let Err(error) = self.next_segment() {
                self.fail(error);
            }
        }
    }

    /// The end of the stream, and why it could not be kept, if so.
    pub(super) fn finish(self) -> (OutputEnd, Option<String>) {
        let error = self.error.map(|error| format!("{} could not be kept: {error}", self.stream));
        (self.end, error)
    }

    fn next_segment(&mut self) -> io::Result<()> {
        let base = self.base + self.kept;
        self.file = open(&self.dir, self.stream, base, true)?;
        for old in segments(&self.dir, self.stream)?.into_iter().filter(|segment| segment.base < self.base) {
            fs::remove_file(old.path)?;
        }
        self.base = base;
        self.kept = 0;
        Ok(())
    }

    fn fail(&mut self, error: io::Error) {
        self.error = Some(error);
        self.truncate();
    }

    fn truncate(&mut self) {
        if !self.end.truncated {
            self.end.truncated = true;
            // A hint for readers meanwhile; the exit record says it for good.
            let _ = File::create(truncated_mark(&self.dir, self.stream));
        }
    }
}

fn open(dir: &Path, stream: &str, base: u64, new: bool) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .append(!new)
        .truncate(new)
        .create(true)
        .mode(0o600)
        .open(dir.join(format!("{stream}.{base}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_of_a_run_are_kept_and_the_rest_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut keeper = Keeper::open(dir.path(), "stdout", 5, false).expect("opens");
        keeper.take(b"abc");
        keeper.take(b"defgh");
        keeper.take(b"ij");
        assert_eq!(keeper.finish(), (OutputEnd { bytes: 10, truncated: true }, None));
        let kept = segments(dir.path(), "stdout").expect("lists");
        assert_eq!(fs::read(&kept[0].path).expect("reads"), b"abcde");
        assert!(truncated_mark(dir.path(), "stdout").exists());
    }

    #[test]
    fn the_last_bytes_of_an_agent_are_kept_across_its_restarts() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut keeper = Keeper::open(dir.path(), "stdout", 4, true).expect("opens");
        keeper.take(b"abcdefghij");
        drop(keeper);
        let mut keeper = Keeper::open(dir.path(), "stdout", 4, true).expect("opens");
        keeper.take(b"klm");
        assert_eq!(keeper.finish().0, OutputEnd { bytes: 13, truncated: false });
        let kept: Vec<_> = segments(dir.path(), "stdout")
            .expect("lists")
            .into_iter()
            .map(|s| (s.base, fs::read_to_string(s.path).expect("reads")))
            .collect();
        assert_eq!(kept, [(8, "ijkl".to_owned()), (12, "m".to_owned())]);
    }
}
