//! What unit tests of this crate share.

use std::path::Path;

/// Fails unless the file at `path` (from the root of the repository) holds `text`.
/// With `UPDATE` set it writes the file instead.
pub(crate) fn same_as_file(path: &str, text: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, text).expect("write the page");
    }
    let found = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(found == text, "{path} differs from the code; run the test again with UPDATE=1");
}
