//! A child's log file: bounded, with its warnings and errors picked out for the person who watches.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::output::printable;

/// Past this the file is put aside, and the one put aside before is lost.
const MOST: u64 = 4 << 20;
/// Most that is read at once; a child that writes faster is not followed word by word.
const GULP: u64 = 256 * 1024;
/// Most lines told in one window, so that a child in trouble does not drown the rest.
const LINES: u32 = 6;
const WINDOW: Duration = Duration::from_secs(10);
const WIDTH: usize = 300;
/// What a sidecar says of an agent that is no longer ready: no fault of the sidecar's own, but the
/// death of an agent's process is worth seeing.
const AGENT_CHANGED: &str = "an agent changed";

/// Follows the log of one child.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    at: u64,
    rest: Vec<u8>,
    window: Option<Instant>,
    told: u32,
    /// Where the present child began to write.
    began: u64,
}

impl Log {
    /// Follows `path` from its present end.
    pub(crate) fn new(path: PathBuf) -> Self {
        let at = fs::metadata(&path).map_or(0, |meta| meta.len());
        Self { path, at, rest: Vec::new(), window: None, told: 0, began: at }
    }

    /// Takes note that another child begins to write.
    pub(crate) fn begin(&mut self) {
        self.began = fs::metadata(&self.path).map_or(0, |meta| meta.len());
    }

    /// The file for a child to write to. Appending, so that it may be cut while the child writes.
    pub(crate) fn writer(&self) -> io::Result<File> {
        File::options().append(true).create(true).open(&self.path)
    }

    /// What the child warned of since the last time.
    pub(crate) fn news(&mut self, now: Instant) -> Vec<String> {
        let Ok(fresh) = self.read() else { return Vec::new() };
        self.rest.extend_from_slice(&fresh);
        let mut news = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let Some(text) = digest(&String::from_utf8_lossy(&line)) else { continue };
            if self.window.is_none_or(|start| now.duration_since(start) > WINDOW) {
                self.window = Some(now);
                self.told = 0;
            }
            self.told += 1;
            match self.told {
                ..=LINES => news.push(text),
                told if told == LINES + 1 => news.push(format!("… more in {}", self.path.display())),
                _ => {}
            }
        }
        if self.rest.len() > WIDTH * 64 {
            self.rest.clear();
        }
        news
    }

    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        if length < self.at || length - self.at > GULP {
            self.at = length.saturating_sub(GULP);
            self.rest.clear();
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut fresh = Vec::new();
        self.at += file.take(GULP).read_to_end(&mut fresh)? as u64;
        if length > MOST {
            // Lines written between copy and cut are lost, which a log may.
            fs::copy(&self.path, self.path.with_extension("log.1"))?;
            File::options().write(true).open(&self.path)?.set_len(0)?;
            self.at = 0;
            self.began = 0;
        }
        Ok(fresh)
    }

    /// The last lines of the present child, to say why it died.
    pub(crate) fn last(&self, lines: usize) -> Vec<String> {
        last_lines(&self.path, self.began, lines)
    }
}

fn last_lines(path: &Path, from: u64, lines: usize) -> Vec<String> {
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(8 * 1024).max(from)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let all: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| cut(line)).collect()
}

fn cut(text: &str) -> String {
    printable(text.trim()).chars().take(WIDTH).collect()
}

/// A log line's level and text if it warns of something; both forms of the log are understood.
fn digest(line: &str) -> Option<String> {
    if let Ok(serde_json::Value::Object(entry)) = serde_json::from_str(line) {
        let level = entry.get("level")?.as_str()?;
        let nested = entry.get("fields").and_then(|f| f.as_object()).unwrap_or(&entry);
        let message = nested.get("message").and_then(|m| m.as_str()).unwrap_or_default();
        let agent_gone =
            message == AGENT_CHANGED && nested.get("ready").and_then(serde_json::Value::as_bool) == Some(false);
        if !matches!(level, "WARN" | "ERROR") && !agent_gone {
            return None;
        }
        let mut text = format!("{level} {message}");
        for (name, value) in nested {
            if !matches!(name.as_str(), "message" | "level" | "timestamp" | "target" | "span" | "spans") {
                text.push_str(&match value.as_str() {
                    Some(value) => format!(" {name}={value}"),
                    None => format!(" {name}={value}"),
                });
            }
        }
        return Some(cut(&text));
    }
    // "2026-01-01T00:00:00Z  WARN target: text"
    let mut words = line.split_whitespace();
    // Every agent begins with "starting"; what made it start again was told before.
    let agent_gone = line.contains(AGENT_CHANGED)
        && line.contains("ready=false")
        && !line.trim_end().ends_with("ready=false starting");
    let level = [words.next(), words.next()]
        .into_iter()
        .flatten()
        .find(|w| matches!(*w, "WARN" | "ERROR") || (agent_gone && *w == "INFO"))?;
    Some(cut(&line[line.find(level)?..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn picks_out_warnings() {
        for (line, text) in [
            ("2026-01-01T00:00:00Z  INFO hive: up", None),
            ("2026-01-01T00:00:00Z  WARN hive: agent died pid=4", Some("WARN hive: agent died pid=4")),
            ("ERROR cannot listen", Some("ERROR cannot listen")),
            ("it is an ERROR to say so", None),
            ("2026 INFO an agent changed agent=\"a\" ready=true", None),
            ("2026 INFO an agent changed agent=\"a\" ready=false starting", None),
            (
                "2026 INFO an agent changed agent=\"a\" ready=false",
                Some("INFO an agent changed agent=\"a\" ready=false"),
            ),
            (r#"{"level":"INFO","fields":{"message":"up"}}"#, None),
            (
                r#"{"level":"INFO","fields":{"message":"an agent changed","agent":"a","ready":false}}"#,
                Some("INFO an agent changed agent=a ready=false"),
            ),
            (r#"{"timestamp":"t","level":"WARN","fields":{"message":"died","pid":4}}"#, Some("WARN died pid=4")),
            (r#"{"level":"ERROR","message":"full","disk":"/d"}"#, Some("ERROR full disk=/d")),
        ] {
            assert_eq!(digest(line).as_deref(), text, "{line}");
        }
    }

    #[test]
    fn tells_news_once_and_not_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "ERROR old\n").unwrap();
        let mut log = Log::new(path);
        let now = crate::clock::now();
        assert!(log.news(now).is_empty());
        let mut writer = log.writer().unwrap();
        write!(writer, "INFO a\nERROR b\nERR").unwrap();
        assert_eq!(log.news(now), ["ERROR b"]);
        writeln!(writer, "OR c").unwrap();
        assert_eq!(log.news(now), ["ERROR c"]);
        for _ in 0..50 {
            writeln!(writer, "WARN again").unwrap();
        }
        let news = log.news(now);
        assert_eq!(news.len() as u32, LINES - 2 + 1);
        assert!(news.last().unwrap().starts_with("… more in"));
        writeln!(writer, "WARN later").unwrap();
        assert_eq!(log.news(now + WINDOW * 2), ["WARN later"]);
        assert_eq!(log.last(1), ["WARN later"]);
    }

    #[test]
    fn the_file_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::new(dir.path().join("x.log"));
        let mut writer = log.writer().unwrap();
        writer.write_all(&vec![b'\n'; usize::try_from(MOST).unwrap() + 1]).unwrap();
        log.news(crate::clock::now());
        assert_eq!(writer.metadata().unwrap().len(), 0);
        writeln!(writer, "ERROR after").unwrap();
        assert_eq!(log.news(crate::clock::now()), ["ERROR after"]);
    }
}
