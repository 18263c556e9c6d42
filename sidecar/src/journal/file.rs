//! The file itself: open and replay, append, sync, rewrite. Blocking; see [`super::thread`].

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Error, HEADER, Refused, codec};
use crate::clock;
use crate::session::record::{Entry, Recovered};

/// Length and checksum before each record.
const PREFIX: usize = 8;
/// Longest record; a result is at most 256 KiB and a bit.
const MAX_RECORD: usize = 1 << 20;
/// The disk is asked for its free bytes this often; the limit leaves room for what comes meanwhile.
const ASK_SPACE_MS: u64 = 50;
/// A torn end is at most what 100 ms may have written without sync.
const MAX_TORN: usize = 16 << 20;

/// How large it may grow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the file from which intents are refused.
    pub full: u64,
    /// Bytes free on the disk below which intents are refused.
    pub min_free: u64,
    /// Bytes below which a rewrite is not worth it.
    pub rewrite: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { full: 64 << 20, min_free: 128 << 20, rewrite: 4 << 20 }
    }
}

/// An open journal; this process alone holds it.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    path: PathBuf,
    file: Arc<File>,
    len: u64,
    /// Length after the last rewrite.
    base: u64,
    limits: Limits,
    /// A failed write may have left half a record, and it could not be cut off.
    torn: bool,
    /// When the disk was last asked for its free bytes, and whether they were too few.
    space: Option<(u64, bool)>,
    _lock: File,
}

impl Journal {
    /// Opens or creates the journal in `dir` and replays it.
    ///
    /// # Errors
    /// Another sidecar holds it, it is of another format, damaged before its end, or cannot be read.
    pub fn open(dir: &Path, limits: Limits) -> Result<(Self, Recovered), Error> {
        fs::create_dir_all(dir).map_err(|source| failed("create the folder", dir, source))?;
        let lock_path = dir.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|source| failed("open", &lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path, source)),
        }
        let path = dir.join("journal");
        let io = |doing, source| failed(doing, &path, source);
        let mut file = open_append(&path).map_err(|source| io("open", source))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|source| io("read", source))?;
        if bytes.len() < HEADER.len() && HEADER.starts_with(&bytes) {
            bytes.clear();
            file.set_len(0).and_then(|()| file.write_all(HEADER)).map_err(|source| io("write", source))?;
            bytes.extend_from_slice(HEADER);
        }
        let (state, len) = replay(&path, &bytes)?;
        if len < bytes.len() {
            tracing::warn!(path = %path.display(), offset = len, cut = bytes.len() - len, "the journal's last write was torn; cut it off");
            file.set_len(len as u64).map_err(|source| io("cut", source))?;
        }
        let dir = dir.to_owned();
        let len = len as u64;
        let file = Arc::new(file);
        Ok((Self { dir, path, file, len, base: 0, limits, torn: false, space: None, _lock: lock }, state))
    }

    /// Appends batches, each whole or not at all, in order, with one write. One answer per batch.
    pub fn append<'a>(&mut self, batches: impl IntoIterator<Item = &'a [Entry]>) -> Vec<Result<(), Refused>> {
        let full = self.is_full();
        let mut bytes = Vec::new();
        let mut answers = Vec::new();
        for batch in batches {
            if full && batch.iter().any(|entry| matches!(entry, Entry::Intent { .. })) {
                answers.push(Err(Refused::Full));
            } else {
                batch.iter().for_each(|entry| record(entry, &mut bytes));
                answers.push(Ok(()));
            }
        }
        if let Err(error) = self.write(&bytes) {
            tracing::error!(path = %self.path.display(), %error, "cannot write the journal");
            for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
                *answer = Err(Refused::Io(io::Error::new(error.kind(), error.to_string())));
            }
        }
        answers
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        if self.torn {
            self.file.set_len(self.len)?;
            self.torn = false;
        }
        match (&*self.file).write_all(bytes) {
            Ok(()) => {
                self.len += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.torn = self.file.set_len(self.len).is_err();
                Err(error)
            }
        }
    }

    /// Intents are refused.
    fn is_full(&mut self) -> bool {
        self.len >= self.limits.full || self.lacks_space()
    }

    fn lacks_space(&mut self) -> bool {
        let now = clock::boot_ms();
        if let Some((at, lacks)) = self.space
            && now < at + ASK_SPACE_MS
        {
            return lacks;
        }
        let free = rustix::fs::fstatvfs(&*self.file).map(|s| s.f_bavail.saturating_mul(s.f_frsize));
        let lacks = free.is_ok_and(|free| free < self.limits.min_free);
        self.space = Some((now, lacks));
        lacks
    }

    /// Makes what was appended survive the loss of the host.
    ///
    /// # Errors
    /// The disk failed.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// The same for whoever may block: what was appended so far is synced when it is called.
    pub fn syncer(&self) -> impl FnOnce() -> io::Result<()> + Send + use<> {
        let file = Arc::clone(&self.file);
        move || file.sync_data()
    }

    /// A rewrite is worth it.
    #[must_use]
    pub fn wants_rewrite(&self) -> bool {
        let grown = self.len >= self.limits.rewrite.max(2 * self.base);
        let pressed = self.len >= self.limits.full && self.len >= self.base + self.base / 4;
        grown || pressed
    }

    /// Rewrites the file with what is still of use, if that is worth it.
    ///
    /// # Errors
    /// It could not be rewritten; the old one is still in place.
    pub fn tidy(&mut self) -> Result<bool, Error> {
        if !self.wants_rewrite() {
            return Ok(false);
        }
        // Should it fail, it is tried again only after as much again was appended.
        self.base = self.len;
        self.rewrite()?;
        Ok(true)
    }

    fn rewrite(&mut self) -> Result<(), Error> {
        let bytes = fs::read(&self.path).map_err(|source| failed("read", &self.path, source))?;
        let (state, _) = replay(&self.path, &bytes)?;
        drop(bytes);
        let mut bytes = HEADER.to_vec();
        state.entries().iter().for_each(|entry| record(entry, &mut bytes));
        let new = self.dir.join("journal.new");
        let io = |doing, source| failed(doing, &new, source);
        let mut file = File::create(&new).map_err(|source| io("create", source))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(|source| io("write", source))?;
        let file = open_append(&new).map_err(|source| io("open", source))?;
        fs::rename(&new, &self.path).map_err(|source| io("rename", source))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(|source| failed("sync", &self.dir, source))?;
        tracing::debug!(before = self.len, after = bytes.len(), "rewrote the journal");
        self.len = bytes.len() as u64;
        (self.base, self.file, self.torn) = (self.len, Arc::new(file), false);
        Ok(())
    }

    /// Bytes of the file.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.len
    }
}

fn failed(doing: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io { doing, path: path.to_owned(), source }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).append(true).open(path)
}

fn record(entry: &Entry, into: &mut Vec<u8>) {
    frame(&codec::encode(entry), into);
}

/// Appends a record of these bytes as they stand in the file.
pub fn frame(bytes: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    into.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
    into.extend_from_slice(bytes);
}

/// The record at the beginning of `bytes`, if a whole and sound one is there.
fn sound(bytes: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = bytes.split_at_checked(PREFIX)?;
    let len = u32::from_le_bytes(prefix[..4].try_into().ok()?) as usize;
    let crc = u32::from_le_bytes(prefix[4..].try_into().ok()?);
    let body = rest.get(..len).filter(|body| (1..=MAX_RECORD).contains(&body.len()))?;
    (crc32fast::hash(body) == crc).then_some(body)
}

/// What the bytes of the file at `path` add up to, and how many of them are sound. Only the end may be
/// unsound.
///
/// # Errors
/// They are of another format, or damaged before their end.
pub fn replay(path: &Path, bytes: &[u8]) -> Result<(Recovered, usize), Error> {
    let foreign = || Error::Foreign { path: path.to_owned() };
    if !bytes.starts_with(HEADER) {
        return Err(foreign());
    }
    let mut state = Recovered::default();
    let mut at = HEADER.len();
    while at < bytes.len() {
        let Some(body) = sound(&bytes[at..]) else {
            // A torn write has nothing sound behind it.
            let rest = &bytes[at + 1..];
            if rest.len() > MAX_TORN || (0..rest.len()).any(|skip| sound(&rest[skip..]).is_some()) {
                return Err(Error::Damaged { path: path.to_owned(), offset: at as u64 });
            }
            break;
        };
        state.apply(codec::decode(body).ok_or_else(foreign)?);
        at += PREFIX + body.len();
    }
    Ok((state, at))
}

#[cfg(test)]
mod tests {
    use super::super::codec::tests::one_of_each;
    use super::*;
    use crate::attempt::AttemptKey;
    use crate::session::settled::Settlement;
    use crate::session::{Connection, Revision};
    use proptest::prelude::*;

    fn roomy() -> Limits {
        Limits { min_free: 0, ..Limits::default() }
    }

    fn sum(entries: &[Entry]) -> Recovered {
        let mut state = Recovered::default();
        entries.iter().cloned().for_each(|entry| state.apply(entry));
        state
    }

    fn written(dir: &Path) -> Vec<Entry> {
        let (mut journal, state) = Journal::open(dir, roomy()).expect("opens");
        assert_eq!(state, Recovered::default());
        let entries = one_of_each();
        assert!(journal.append([&entries[..4], &entries[4..]]).iter().all(Result::is_ok));
        entries
    }

    #[test]
    fn what_was_appended_is_there_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let entries = written(dir.path());
        let (_, state) = Journal::open(dir.path(), roomy()).expect("opens again");
        assert_eq!(state, sum(&entries));
    }

    #[test]
    fn one_sidecar_per_folder() {
        let dir = tempfile::tempdir().expect("a folder");
        let held = Journal::open(dir.path(), roomy()).expect("opens");
        assert!(matches!(Journal::open(dir.path(), roomy()), Err(Error::Locked { .. })));
        drop(held);
        Journal::open(dir.path(), roomy()).expect("free again");
    }

    #[test]
    fn every_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().expect("a folder");
        written(dir.path());
        let path = dir.path().join("journal");
        let whole = fs::read(&path).expect("read");
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).expect("write");
            let (mut journal, before) = Journal::open(dir.path(), roomy()).expect("a torn end is no error");
            assert!(journal.append([&[Entry::Connection(Connection(99))][..]])[0].is_ok());
            drop(journal);
            let (_, after) = Journal::open(dir.path(), roomy()).expect("and it goes on");
            assert_eq!((after.connection, after.attempts.len()), (Connection(99), before.attempts.len()));
        }
        let mut zeros = whole;
        zeros.extend([0; 700]);
        fs::write(&path, zeros).expect("write");
        Journal::open(dir.path(), roomy()).expect("space that was never written is a torn end");
    }

    #[test]
    fn damage_before_the_end_is_an_error_that_says_how_to_go_on() {
        let dir = tempfile::tempdir().expect("a folder");
        written(dir.path());
        let path = dir.path().join("journal");
        let mut bytes = fs::read(&path).expect("read");
        bytes[HEADER.len() + PREFIX + 2] ^= 1;
        fs::write(&path, &bytes).expect("write");
        let error = Journal::open(dir.path(), roomy()).expect_err("damaged");
        assert!(error.to_string().contains("truncate -s 16 "), "{error}");
        fs::write(&path, b"something else entirely").expect("write");
        assert!(matches!(Journal::open(dir.path(), roomy()), Err(Error::Foreign { .. })));
        fs::write(&path, b"hive-sidecar/2\r\n").expect("write");
        assert!(matches!(Journal::open(dir.path(), roomy()), Err(Error::Foreign { .. })));
    }

    #[test]
    fn a_full_one_refuses_intents_takes_ends_and_recovers_by_a_rewrite() {
        let dir = tempfile::tempdir().expect("a folder");
        let limits = Limits { full: 600, min_free: 0, rewrite: 300 };
        let (mut journal, _) = Journal::open(dir.path(), limits).expect("opens");
        let entries = one_of_each();
        let (intent, ended) = (&entries[3..4], &entries[4..5]);
        assert!(journal.append([intent])[0].is_ok());
        while journal.size() < 600 {
            assert!(journal.append([ended])[0].is_ok());
        }
        let answers = journal.append([intent, ended, intent]);
        assert!(matches!(answers[..], [Err(Refused::Full), Ok(()), Err(Refused::Full)]), "{answers:?}");
        assert!(journal.tidy().expect("rewritten"));
        assert!(journal.size() < 300);
        assert!(journal.append([intent])[0].is_ok());
        drop(journal);
        let starved = Limits { min_free: u64::MAX, ..limits };
        let (mut journal, state) = Journal::open(dir.path(), starved).expect("opens");
        assert_eq!(state.attempts.len(), 1);
        assert!(matches!(journal.append([intent])[..], [Err(Refused::Full)]));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_damage_either_loses_an_end_or_is_an_error(at in 0usize..600, bits in 1u8..) {
            let dir = tempfile::tempdir().expect("a folder");
            let entries = written(dir.path());
            let path = dir.path().join("journal");
            let mut bytes = fs::read(&path).expect("read");
            let at = at % bytes.len();
            bytes[at] ^= bits;
            fs::write(&path, &bytes).expect("write");
            if let Ok((_, state)) = Journal::open(dir.path(), roomy()) {
                let prefix = (0..entries.len()).any(|n| sum(&entries[..n]) == state);
                prop_assert!(prefix, "the state of no moment");
            }
        }

        #[test]
        fn a_rewrite_changes_nothing(settled in prop::collection::vec((1u8..9, 1u64..50), 0..60)) {
            let dir = tempfile::tempdir().expect("a folder");
            let limits = Limits { rewrite: 1, min_free: 0, ..Limits::default() };
            let (mut journal, _) = Journal::open(dir.path(), limits).expect("opens");
            let mut all = one_of_each();
            all.extend(settled.into_iter().map(|(task, seq)| Entry::Settled {
                key: AttemptKey { task: [task; 16], attempt: 1 },
                settlement: Settlement::Lost,
                revision: Revision { cluster_generation: 1, seq },
            }));
            for entry in &all {
                prop_assert!(journal.append([std::slice::from_ref(entry)])[0].is_ok());
                journal.tidy().expect("rewritten");
            }
            drop(journal);
            prop_assert_eq!(Journal::open(dir.path(), limits).expect("opens").1, sum(&all));
        }
    }
}
