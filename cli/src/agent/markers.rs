//! The marker scan: TODO, FIXME, XXX and HACK as whole words, and the first lines that hold one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};

use serde::Serialize;

const MARKERS: [&str; 4] = ["TODO", "FIXME", "XXX", "HACK"];
const LINES_KEPT: usize = 5;
const TEXT_KEPT: usize = 120;
/// A longer line is scanned in pieces; a marker cut in two by that is missed.
const PIECE: u64 = 64 * 1024;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Found {
    /// All markers; what `LC_ALL=C grep -aowE 'TODO|FIXME|XXX|HACK' FILE | wc -l` counts.
    pub(crate) markers: u64,
    /// By marker; those not found are left out.
    pub(crate) by_marker: BTreeMap<&'static str, u64>,
    /// The first lines that hold one.
    pub(crate) first: Vec<Line>,
}

/// A line that holds a marker.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Line {
    /// From 1.
    pub(crate) line: u64,
    /// Its beginning.
    pub(crate) text: String,
}

/// Scans all of `from`.
pub(crate) fn scan(from: impl Read) -> std::io::Result<Found> {
    let mut from = BufReader::new(from);
    let mut found = Found::default();
    let mut piece = Vec::new();
    let mut line = 1;
    loop {
        piece.clear();
        if from.by_ref().take(PIECE).read_until(b'\n', &mut piece)? == 0 {
            return Ok(found);
        }
        let mut any = false;
        for marker in MARKERS {
            let count = occurrences(&piece, marker.as_bytes());
            if count > 0 {
                any = true;
                found.markers += count;
                *found.by_marker.entry(marker).or_default() += count;
            }
        }
        if any && found.first.len() < LINES_KEPT {
            let text = String::from_utf8_lossy(&piece);
            found.first.push(Line { line, text: text.trim().chars().take(TEXT_KEPT).collect() });
        }
        line += u64::from(piece.last() == Some(&b'\n'));
    }
}

/// How often `marker` stands in `text` with no letter, digit or underscore beside it.
fn occurrences(text: &[u8], marker: &[u8]) -> u64 {
    let is_word = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
    let mut count = 0;
    for (at, window) in text.windows(marker.len()).enumerate() {
        let before = at.checked_sub(1).and_then(|i| text.get(i));
        if window == marker && !is_word(before) && !is_word(text.get(at + marker.len())) {
            count += 1;
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_whole_words() {
        let text = b"// TODO: one\nTODOS XXXL MY_HACK\n# FIXME TODO\nfine\n  HACK(me)\n";
        let found = scan(&text[..]).unwrap();
        assert_eq!(found.markers, 4);
        assert_eq!(found.by_marker, BTreeMap::from([("FIXME", 1), ("HACK", 1), ("TODO", 2)]));
        let lines: Vec<_> = found.first.iter().map(|l| (l.line, l.text.as_str())).collect();
        assert_eq!(lines, [(1, "// TODO: one"), (3, "# FIXME TODO"), (5, "HACK(me)")]);
    }

    #[test]
    fn keeps_only_the_beginning() {
        let text = format!("TODO {}\n", "x".repeat(1_000)).repeat(20);
        let found = scan(text.as_bytes()).unwrap();
        assert_eq!(found.markers, 20);
        assert_eq!(found.first.len(), LINES_KEPT);
        assert!(found.first.iter().all(|l| l.text.len() <= TEXT_KEPT));
    }

    #[test]
    fn binary_is_scanned_too() {
        assert_eq!(scan(&b"\xff\x00TODO\xff"[..]).unwrap().markers, 1);
        assert_eq!(scan(&b""[..]).unwrap(), Found::default());
    }
}
