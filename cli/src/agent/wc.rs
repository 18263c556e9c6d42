//! Counting: lines, words and bytes as `wc` does, without holding the file.

use std::io::Read;

use serde::{Deserialize, Serialize};

/// What was counted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    /// Newlines.
    pub(crate) lines: u64,
    /// Runs of bytes that are not ASCII white space.
    pub(crate) words: u64,
    /// Bytes.
    pub(crate) bytes: u64,
}

/// Counts all of `from`; also gives the first bytes, by which a language may be known.
pub(crate) fn count(mut from: impl Read) -> std::io::Result<(Count, Vec<u8>)> {
    const HEAD: usize = 256;
    let mut count = Count::default();
    let mut head = Vec::new();
    let mut in_word = false;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok((count, head)),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let chunk = &buffer[..read];
        head.extend_from_slice(&chunk[..read.min(HEAD - head.len())]);
        count.bytes += read as u64;
        for byte in chunk {
            count.lines += u64::from(*byte == b'\n');
            let space = matches!(byte, b' ' | b'\t'..=b'\r');
            count.words += u64::from(!space && !in_word);
            in_word = !space;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &[u8]) -> (u64, u64, u64) {
        let (c, _) = count(text).unwrap();
        (c.lines, c.words, c.bytes)
    }

    #[test]
    fn counts_as_wc_does() {
        assert_eq!(counted(b""), (0, 0, 0));
        assert_eq!(counted(b"no newline"), (0, 2, 10));
        assert_eq!(counted(b"a b\n\n c\td\x0be\r\n"), (3, 5, 13));
        assert_eq!(counted("ein — Wort\n".as_bytes()), (1, 3, 13));
    }

    #[test]
    fn words_across_chunks_count_once() {
        struct OneByOne<'a>(&'a [u8]);
        impl Read for OneByOne<'_> {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
                into[0] = *first;
                self.0 = rest;
                Ok(1)
            }
        }
        let (c, head) = count(OneByOne(b"two words\n")).unwrap();
        assert_eq!((c.lines, c.words, c.bytes), (1, 2, 10));
        assert_eq!(head, b"two words\n");
    }
}
