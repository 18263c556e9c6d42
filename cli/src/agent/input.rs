//! What a task about a file is given: where the file is. Names that are not UTF-8 are
//! percent-encoded, and said to be.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The payload of a task about a file. The order of members is fixed: the same file always gives
/// the same bytes, so that a repeated submit finds itself.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct FileInput {
    /// Path of the file, below `root` if that is given.
    pub(crate) path: String,
    /// `path` is percent-encoded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) path_encoded: bool,
    /// Folder that `path` is relative to; the agent's working folder unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<String>,
    /// `root` is percent-encoded.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) root_encoded: bool,
}

impl FileInput {
    pub(crate) fn new(root: &Path, path: &Path) -> Self {
        let (path, path_encoded) = encode(path.as_os_str());
        let (root, root_encoded) = encode(root.as_os_str());
        Self { path, path_encoded, root: Some(root), root_encoded }
    }

    /// The file.
    pub(crate) fn file(&self) -> PathBuf {
        let path = decode(&self.path, self.path_encoded);
        match &self.root {
            Some(root) => Path::new(&decode(root, self.root_encoded)).join(path),
            None => path.into(),
        }
    }
}

/// A name as text, and whether it had to be percent-encoded: bytes that are not part of valid UTF-8
/// become `%XX`, and so does `%` itself; a name that is UTF-8 stays as it is.
pub(crate) fn encode(name: &OsStr) -> (String, bool) {
    if let Some(text) = name.to_str() {
        return (text.to_owned(), false);
    }
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('%', "%25"));
        for byte in chunk.invalid() {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    (text, true)
}

/// The name that [`encode`] was given.
pub(crate) fn decode(text: &str, encoded: bool) -> OsString {
    if !encoded {
        return text.into();
    }
    let bytes = text.as_bytes();
    let mut name = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                name.push(byte);
                at += 3;
            }
            None => {
                name.push(bytes[at]);
                at += 1;
            }
        }
    }
    OsString::from_vec(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utf8_names_stay() {
        for name in ["a.rs", "100%.txt", "grün/ß", "line\nbreak", "%FF"] {
            assert_eq!(encode(OsStr::new(name)), (name.to_owned(), false));
            assert_eq!(decode(name, false), OsStr::new(name));
        }
    }

    #[test]
    fn other_names_are_encoded_and_come_back() {
        let cases: [(&[u8], &str); 4] = [
            (b"caf\xe9.txt", "caf%E9.txt"),
            (b"\xff\xfe", "%FF%FE"),
            (b"50%\xff", "50%25%FF"),
            ("grün\u{0}".as_bytes().split_last().map_or(&[][..], |(_, head)| head), "grün"),
        ];
        for (bytes, text) in &cases[..3] {
            let name = OsStr::from_bytes(bytes);
            assert_eq!(encode(name), ((*text).to_owned(), true));
            assert_eq!(decode(text, true), name);
        }
        assert_eq!(encode(OsStr::from_bytes(cases[3].0)), (cases[3].1.to_owned(), false));
    }

    #[test]
    fn any_bytes_come_back() {
        let all: Vec<u8> = (1..=255).filter(|b| *b != b'/').collect();
        let name = OsStr::from_bytes(&all);
        let (text, encoded) = encode(name);
        assert!(encoded);
        assert_eq!(decode(&text, encoded), name);
    }

    #[test]
    fn the_payload_is_small_and_stable() {
        let input = FileInput::new(Path::new("/r"), Path::new("a/b"));
        assert_eq!(serde_json::to_string(&input).unwrap(), r#"{"path":"a/b","root":"/r"}"#);
        assert_eq!(input.file(), Path::new("/r/a/b"));
        let input: FileInput = serde_json::from_str(r#"{"path":"README.md"}"#).unwrap();
        assert_eq!(input.file(), Path::new("README.md"));
        let odd = FileInput::new(Path::new("/r"), Path::new(OsStr::from_bytes(b"\xff")));
        assert_eq!(serde_json::to_string(&odd).unwrap(), r#"{"path":"%FF","path_encoded":true,"root":"/r"}"#);
        assert_eq!(odd.file().as_os_str().as_bytes(), b"/r/\xff");
    }
}
