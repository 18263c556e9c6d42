//! Which attempts a long-lived agent worked on, since when, and where its output stood: an append-only
//! text file, because a folder per attempt would cost more than the attempt. Its owner works in rounds:
//! attempts that start or end in one share a look at the output and a write, see [`Ledger::settle`].
//!
//! `S <token> <started_ms> <timeout_ms> <stdout> <stderr>` and `E <token> <stdout> <stderr>`. Lost lines
//! cost a start time or log lines, never a result.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::attempt::AttemptKey;
use crate::shim::{files, keep};

/// Ended attempts whose place in the output is remembered.
const ENDED: usize = 200;
/// Size at which the file is rewritten.
const LIMIT: u64 = 256 * 1024;

/// An attempt's place in its agent's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its start, wall clock in ms since the Unix epoch.
    pub(crate) started_ms: u64,
    /// Its timeout.
    pub(crate) timeout_ms: u64,
    /// Positions of standard output and standard error at its start.
    pub(crate) from: [u64; 2],
    /// And at its end.
    pub(crate) to: Option<[u64; 2]>,
}

/// The folder of a long-lived agent's process.
pub(crate) fn process_dir(agent_dir: &Path) -> PathBuf {
    agent_dir.join("process")
}

/// Looks an attempt up, without the ledger's owner.
pub(crate) fn find(agent_dir: &Path, key: AttemptKey) -> io::Result<Option<Span>> {
    match fs::read_to_string(agent_dir.join(NAME)) {
        Ok(text) => Ok(parse(&text).0.remove(&key)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

const NAME: &str = "attempts.log";

fn parse(text: &str) -> (BTreeMap<AttemptKey, Span>, VecDeque<AttemptKey>) {
    let (mut spans, mut ended) = (BTreeMap::new(), VecDeque::new());
    for line in text.lines() {
        // A torn last line reads as nothing.
        let fields: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
        let Some(key) = fields.get(1).and_then(|token| AttemptKey::parse(token).ok()) else { continue };
        match (fields.first().copied(), number(2), number(3), number(4), number(5)) {
            (Some("S"), Some(started_ms), Some(timeout_ms), Some(out), Some(err)) => {
                spans.insert(key, Span { started_ms, timeout_ms, from: [out, err], to: None });
            }
            (Some("E"), Some(out), Some(err), ..) => {
                if let Some(span) = spans.get_mut(&key) {
                    span.to = Some([out, err]);
                    ended.push_back(key);
                }
            }
            _ => {}
        }
    }
    (spans, ended)
}

/// The file and what it says, for its one writer.
#[derive(Debug)]
pub(super) struct Ledger {
    agent_dir: PathBuf,
    file: Option<File>,
    size: u64,
    spans: BTreeMap<AttemptKey, Span>,
    ended: VecDeque<AttemptKey>,
    /// Newest known segment of each stream: where it begins, and the file, kept open.
    newest: [Option<(u64, File)>; 2],
    segment_limit: u64,
    /// Where the output stands in this round, once somebody asked.
    positions: Option<[u64; 2]>,
    /// Lines of this round.
    lines: String,
}

impl Ledger {
    /// Reads what a former sidecar wrote. `segment_limit` is the size at which output is rotated.
    /// What nobody intends any more, being not in `adopt`, ends here.
    pub(super) fn open(agent_dir: &Path, segment_limit: u64, adopt: &[AttemptKey]) -> Self {
        let text = fs::read_to_string(agent_dir.join(NAME)).unwrap_or_default();
        let (spans, ended) = parse(&text);
        let mut ledger = Self {
            agent_dir: agent_dir.to_owned(),
            file: None,
            size: LIMIT,
            spans,
            ended,
            newest: [None, None],
            segment_limit,
            positions: None,
            lines: String::new(),
        };
        let to = ledger.look();
        for (key, span) in ledger.spans.iter_mut().filter(|(key, span)| span.to.is_none() && !adopt.contains(key)) {
            span.to = Some(to);
            ledger.ended.push_back(*key);
        }
        ledger.trim();
        ledger
    }

    pub(super) fn get(&self, key: AttemptKey) -> Option<Span> {
        self.spans.get(&key).copied()
    }

    pub(super) fn started(&mut self, key: AttemptKey, started_ms: u64, timeout_ms: u64) {
        let from = self.positions();
        self.spans.insert(key, Span { started_ms, timeout_ms, from, to: None });
        self.lines += &format!("S {key} {started_ms} {timeout_ms} {} {}\n", from[0], from[1]);
    }

    pub(super) fn ended(&mut self, key: AttemptKey) {
        let to = self.positions();
        let Some(span) = self.spans.get_mut(&key).filter(|span| span.to.is_none()) else { return };
        span.to = Some(to);
        self.ended.push_back(key);
        self.trim();
        self.lines += &format!("E {key} {} {}\n", to[0], to[1]);
    }

    fn trim(&mut self) {
        while self.ended.len() > ENDED {
            if let Some(old) = self.ended.pop_front() {
                self.spans.remove(&old);
            }
        }
    }

    /// Ends a round: what was said in it is written, before anybody else runs.
    pub(super) fn settle(&mut self) {
        self.positions = None;
        if self.lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let written = match &mut self.file {
            Some(file) if self.size < LIMIT => file.write_all(lines.as_bytes()),
            _ => self.rewrite(),
        };
        self.size += lines.len() as u64;
        if let Err(error) = written {
            tracing::warn!(%error, "an agent's attempts cannot be written down");
            self.file = None;
        }
    }

    fn rewrite(&mut self) -> io::Result<()> {
        let mut text = String::new();
        let order = |span: &Span| (span.to.is_none(), span.started_ms);
        let mut spans: Vec<_> = self.spans.iter().collect();
        spans.sort_by_key(|(_, span)| order(span));
        for (key, span) in spans {
            text += &format!("S {key} {} {} {} {}\n", span.started_ms, span.timeout_ms, span.from[0], span.from[1]);
            if let Some(to) = span.to {
                text += &format!("E {key} {} {}\n", to[0], to[1]);
            }
        }
        let path = self.agent_dir.join(NAME);
        let tmp = path.with_extension("tmp");
        fs::create_dir_all(&self.agent_dir)?;
        files::private(&tmp)?.write_all(text.as_bytes())?;
        fs::rename(tmp, &path)?;
        self.file = Some(OpenOptions::new().append(true).mode(0o600).open(path)?);
        self.size = text.len() as u64;
        Ok(())
    }

    fn positions(&mut self) -> [u64; 2] {
        let positions = self.positions.unwrap_or_else(|| self.look());
        self.positions = Some(positions);
        positions
    }

    /// Where both outputs stand: no path is looked up as long as neither was rotated.
    fn look(&mut self) -> [u64; 2] {
        let dir = process_dir(&self.agent_dir);
        let limit = self.segment_limit;
        let mut position = |at: usize, stream: &str| {
            let known = self.newest[at].as_ref().and_then(|(base, file)| {
                let meta = file.metadata().ok()?;
                (meta.len() < limit && meta.nlink() > 0).then_some(base + meta.len())
            });
            known.unwrap_or_else(|| {
                let last = keep::segments(&dir, stream).ok().and_then(|mut all| all.pop());
                self.newest[at] = last.and_then(|last| Some((last.base, File::open(last.path).ok()?)));
                let size = |file: &File| file.metadata().map_or(0, |meta| meta.len());
                self.newest[at].as_ref().map_or(0, |(base, file)| base + size(file))
            })
        };
        [position(0, "stdout"), position(1, "stderr")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_survive_a_reopening_and_a_torn_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let process = process_dir(dir.path());
        fs::create_dir_all(&process).expect("made");
        let key = |n: u8| AttemptKey { task: [n; 16], attempt: 1 };
        let mut ledger = Ledger::open(dir.path(), 1 << 20, &[]);
        ledger.started(key(1), 5, 60);
        ledger.settle();
        fs::write(process.join("stdout.10"), "abc").expect("written");
        ledger.started(key(2), 6, 60);
        ledger.ended(key(1));
        ledger.settle();
        fs::write(dir.path().join("torn"), "").expect("written");
        let mut file = OpenOptions::new().append(true).open(dir.path().join(NAME)).expect("opens");
        file.write_all(b"S 01890a5d-ac96").expect("written");
        let again = Ledger::open(dir.path(), 1 << 20, &[key(2)]);
        let first = Span { started_ms: 5, timeout_ms: 60, from: [0, 0], to: Some([13, 0]) };
        assert_eq!(again.get(key(1)), Some(first));
        assert_eq!(find(dir.path(), key(2)).expect("reads").map(|span| (span.from, span.to)), Some(([13, 0], None)));
    }

    #[test]
    fn a_round_is_one_write_and_the_next_looks_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let process = process_dir(dir.path());
        fs::create_dir_all(&process).expect("made");
        fs::write(process.join("stdout.0"), "abc").expect("written");
        let key = |n: u8| AttemptKey { task: [n; 16], attempt: 1 };
        let mut ledger = Ledger::open(dir.path(), 1 << 20, &[]);
        ledger.started(key(1), 5, 60);
        ledger.started(key(2), 5, 60);
        assert_eq!(find(dir.path(), key(1)).expect("reads"), None, "the round is not over");
        ledger.settle();
        fs::write(process.join("stdout.0"), "abcdef").expect("written");
        ledger.ended(key(2));
        ledger.settle();
        let span = |n| find(dir.path(), key(n)).expect("reads").map(|span| (span.from, span.to));
        assert_eq!((span(1), span(2)), (Some(([3, 0], None)), Some(([3, 0], Some([6, 0])))));
    }

    #[test]
    fn the_file_stays_small() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut ledger = Ledger::open(dir.path(), 1 << 20, &[]);
        for attempt in 1..5_000 {
            let key = AttemptKey { task: [1; 16], attempt };
            ledger.started(key, 5, 60);
            ledger.ended(key);
            ledger.settle();
        }
        assert!(fs::metadata(dir.path().join(NAME)).expect("there").len() <= LIMIT + 1024);
        assert_eq!(ledger.spans.len(), ENDED);
    }
}
