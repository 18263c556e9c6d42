//! `hive demo-tool CAPABILITY`: an ordinary program, run once per task. Payload on standard input,
//! result on standard output, complaints on standard error; exit 0 is a result.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::input::FileInput;
use super::{markers, syntax};
use crate::failure::Failure;
use crate::output;

/// Does one task.
pub(crate) fn run(capability: &str) -> Result<(), Failure> {
    let mut payload = Vec::new();
    io::stdin()
        .lock()
        .take(1 << 20)
        .read_to_end(&mut payload)
        .map_err(|e| Failure::error("cannot read the payload from standard input", e))?;
    let input: FileInput = serde_json::from_slice(&payload)
        .map_err(|e| Failure::error("the payload is not understood", e).next("give it as {\"path\": \"…\"}"))?;
    let path = input.file();
    let result = match capability {
        "sha256" => sha256(&path),
        "todo" => File::open(&path).and_then(markers::scan).and_then(|found| Ok(serde_json::to_value(found)?)),
        "syntax" => syntax::check(&path).and_then(|checked| Ok(serde_json::to_value(checked)?)),
        other => {
            return Err(Failure::usage(
                format!("no capability {other:?}"),
                "this program knows sha256, todo and syntax",
            ));
        }
    };
    let value = result.map_err(|e| Failure::error(format!("{capability} of {} failed", input.path), e))?;
    output::line(&value.to_string())
}

/// The digest, by `sha256sum`.
fn sha256(path: &Path) -> io::Result<serde_json::Value> {
    // By standard input: no file name is taken for an option or escaped in the output.
    let output = Command::new("sha256sum").stdin(File::open(path)?).stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split_whitespace().next().unwrap_or_default();
    if !output.status.success() || digest.len() != 64 || !digest.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(io::Error::other(format!("sha256sum gave no digest ({})", output.status)));
    }
    Ok(serde_json::json!({ "sha256": digest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("--odd \\ name\n");
        std::fs::write(&path, "abc").unwrap();
        assert_eq!(
            sha256(&path).unwrap(),
            serde_json::json!({"sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"})
        );
        assert!(sha256(&dir.path().join("absent")).is_err());
        assert!(sha256(dir.path()).is_err(), "a folder");
    }
}
