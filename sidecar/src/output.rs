//! Reads the output kept of attempts, from its beginning or what is left of it.
//!
//! Who writes it is [`crate::shim`]; where a long-lived agent's output belongs to an attempt is told by
//! its ledger: what was written between the attempt's start and end, its neighbours' lines included.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use crate::attempt::AttemptKey;
use crate::runtime::ledger::{self, Span};
use crate::shim::{files, keep};

/// Largest chunk, in bytes.
pub const CHUNK: usize = 16 * 1024;
/// Between looks at output that is followed.
const STEP: Duration = Duration::from_millis(100);

/// One of a program's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }

    fn of(self, span: [u64; 2]) -> u64 {
        match self {
            Self::Stdout => span[0],
            Self::Stderr => span[1],
        }
    }
}

/// A piece of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// At most [`CHUNK`] bytes; may be empty where only the truncation is told.
    pub data: Bytes,
    /// Position of the first byte in what the attempt wrote.
    pub offset: u64,
    /// Bytes before (`process`) or after (`command`) this one were not kept.
    pub truncated: bool,
}

/// A reader of one output of one attempt.
#[derive(Debug)]
pub struct Tail {
    dir: PathBuf,
    stream: Stream,
    /// Of an attempt among others in one stream.
    ledger: Option<(PathBuf, AttemptKey)>,
    origin: u64,
    position: u64,
    end: Option<u64>,
    told: bool,
}

impl Tail {
    /// Looks for an attempt's output among all agents' folders; `None` if nothing is known of it.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn open(state_dir: &Path, key: AttemptKey, stream: Stream) -> io::Result<Option<Self>> {
        let agents = match std::fs::read_dir(state_dir.join("agents")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            agents => agents?,
        };
        for agent in agents {
            let agent = agent?.path();
            let dir = agent.join("attempts").join(key.dir_name());
            if dir.is_dir() {
                let (origin, position, end) = (0, 0, None);
                return Ok(Some(Self { dir, stream, ledger: None, origin, position, end, told: false }));
            }
            if let Some(span) = ledger::find(&agent, key)? {
                let origin = stream.of(span.from);
                return Ok(Some(Self {
                    dir: ledger::process_dir(&agent),
                    stream,
                    ledger: Some((agent, key)),
                    origin,
                    position: origin,
                    end: span.to.map(|to| stream.of(to)),
                    told: false,
                }));
            }
        }
        Ok(None)
    }

    /// The next piece; `None` at the end. With `follow`, waits for more until the attempt has ended.
    /// Cancel-safe.
    ///
    /// # Errors
    /// The output cannot be read.
    pub async fn next(&mut self, follow: bool) -> io::Result<Option<Chunk>> {
        loop {
            // Before reading: what was written before the end is then read too.
            let ended = self.has_ended()?;
            if let Some(chunk) = self.read()? {
                return Ok(Some(chunk));
            }
            if ended || !follow {
                return Ok(self.last());
            }
            tokio::time::sleep(STEP).await;
        }
    }

    fn has_ended(&mut self) -> io::Result<bool> {
        let Some((agent, key)) = &self.ledger else { return Ok(self.dir.join(files::EXIT).exists()) };
        if self.end.is_none() {
            match ledger::find(agent, *key)? {
                Some(Span { to, .. }) => self.end = to.map(|to| self.stream.of(to)),
                // Forgotten meanwhile.
                None => self.end = Some(self.position),
            }
        }
        Ok(self.end.is_some())
    }

    fn read(&mut self) -> io::Result<Option<Chunk>> {
        let segments = match keep::segments(&self.dir, self.stream.name()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            segments => segments?,
        };
        let mut truncated = false;
        if let Some(first) = segments.first().filter(|first| first.base > self.position) {
            self.position = first.base;
            truncated = true;
        }
        let room = self.end.map_or(u64::MAX, |end| end.saturating_sub(self.position)).min(CHUNK as u64);
        let Some(segment) = segments.iter().rev().find(|segment| segment.base <= self.position) else {
            return Ok(None);
        };
        let mut data = Vec::new();
        match File::open(&segment.path) {
            Ok(mut file) => {
                file.seek(SeekFrom::Start(self.position - segment.base))?;
                file.take(room).read_to_end(&mut data)?;
            }
            // Rotated away between the two looks; the next one sees what is left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        if data.is_empty() {
            return Ok(None);
        }
        let offset = self.position - self.origin;
        self.position += data.len() as u64;
        Ok(Some(Chunk { data: data.into(), offset, truncated }))
    }

    /// Tells once that the rest was not kept.
    fn last(&mut self) -> Option<Chunk> {
        let cut = self.ledger.is_none() && keep::truncated_mark(&self.dir, self.stream.name()).exists();
        (cut && !std::mem::replace(&mut self.told, true)).then(|| Chunk {
            data: Bytes::new(),
            offset: self.position - self.origin,
            truncated: true,
        })
    }
}
