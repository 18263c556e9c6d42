//! The syntax check: the language's own program parses the file where that program is installed. An
//! error in the file is a finding, not a failure of the task.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

const DETAIL: usize = 400;
const LARGEST: u64 = 4 << 20;

/// What a check came to.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Checked {
    /// "ok", "error", "no checker" or "too large".
    pub(crate) verdict: &'static str,
    /// The program that judged; absent if none did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) checker: Option<String>,
    /// What it said; or why there is no checker.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) detail: String,
}

impl Checked {
    fn none(detail: String) -> Self {
        Self { verdict: "no checker", checker: None, detail }
    }
}

/// A program that parses without running. The file is its standard input unless `by_path`.
struct Checker {
    program: &'static str,
    /// Tried in turn; the file is good if one of them takes it.
    variants: &'static [&'static [&'static str]],
    by_path: bool,
}

const PYTHON: &[&str] = &["-I", "-c", "import ast,sys; ast.parse(sys.stdin.buffer.read(), 'stdin')"];
const JSON: &[&str] = &["-I", "-c", "import json,sys; json.load(sys.stdin.buffer)"];
const TOML: &[&str] = &["-I", "-c", "import sys; import tomllib; tomllib.load(sys.stdin.buffer)"];
// An edition that knows fewer keywords may take what the latest does not.
const RUST: &[&[&str]] =
    &[&["--edition", "2024", "--emit", "stdout", "--quiet"], &["--edition", "2018", "--emit", "stdout", "--quiet"]];

fn checker(path: &Path, head: &[u8]) -> Option<Checker> {
    let by_stdin = |program, variants| Some(Checker { program, variants, by_path: false });
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let first_line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    let first_line = String::from_utf8_lossy(first_line);
    let script = first_line.strip_prefix("#!").unwrap_or_default();
    match extension.as_str() {
        "py" | "pyi" => by_stdin("python3", &[PYTHON]),
        "json" => by_stdin("python3", &[JSON]),
        "toml" => by_stdin("python3", &[TOML]),
        "rs" => by_stdin("rustfmt", RUST),
        "bash" => by_stdin("bash", &[&["-n"]]),
        "sh" if script.contains("bash") => by_stdin("bash", &[&["-n"]]),
        "sh" => by_stdin("sh", &[&["-n"]]),
        // node tells modules from scripts by the name and what lies around it.
        "js" | "mjs" | "cjs" => Some(Checker { program: "node", variants: &[&["--check"]], by_path: true }),
        "rb" => by_stdin("ruby", &[&["-c"]]),
        "php" => by_stdin("php", &[&["-l"]]),
        "xml" | "svg" => by_stdin("xmllint", &[&["--noout", "--nonet", "-"]]),
        "" if script.contains("python") => by_stdin("python3", &[PYTHON]),
        "" if script.contains("bash") => by_stdin("bash", &[&["-n"]]),
        "" if script.contains("/sh") => by_stdin("sh", &[&["-n"]]),
        _ => None,
    }
}

/// Checks one file.
pub(crate) fn check(path: &Path) -> io::Result<Checked> {
    let mut head = Vec::new();
    let file = File::open(path)?;
    if file.metadata()?.len() > LARGEST {
        let detail = format!("more than {} MiB", LARGEST >> 20);
        return Ok(Checked { verdict: "too large", checker: None, detail });
    }
    file.take(256).read_to_end(&mut head)?;
    let Some(checker) = checker(path, &head) else {
        let kind = path.extension().map_or_else(|| "such a file".to_owned(), |e| format!(".{}", e.display()));
        return Ok(Checked::none(format!("none known for {kind}")));
    };
    let mut detail = String::new();
    for variant in checker.variants {
        match run(&checker, variant, path)? {
            Verdict::Ok => {
                return Ok(Checked { verdict: "ok", checker: Some(checker.program.to_owned()), detail: String::new() });
            }
            Verdict::Absent => return Ok(Checked::none(format!("{} is not installed", checker.program))),
            // The first variant is the one to be told about.
            Verdict::Error(said) if detail.is_empty() => detail = said,
            Verdict::Error(_) => {}
        }
    }
    // A checker that can't even say its version is broken or a stub; a finding would be a lie.
    if detail.contains("No module named 'tomllib'") || !works(checker.program) {
        return Ok(Checked::none(format!("{} does not work here", checker.program)));
    }
    Ok(Checked { verdict: "error", checker: Some(checker.program.to_owned()), detail })
}

enum Verdict {
    Ok,
    Error(String),
    Absent,
}

fn run(checker: &Checker, variant: &[&str], path: &Path) -> io::Result<Verdict> {
    let mut command = Command::new(checker.program);
    // Away from the file: no configuration lying beside it takes part.
    command.args(variant).current_dir("/").stdout(Stdio::null()).stderr(Stdio::piped());
    if checker.by_path {
        command.arg(std::path::absolute(path)?).stdin(Stdio::null());
    } else {
        command.stdin(File::open(path)?);
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Verdict::Absent),
        Err(error) => return Err(error),
    };
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.by_ref().take(64 * 1024).read_to_end(&mut said)?;
        // The rest is not kept, but must be read for the program to go on.
        io::copy(&mut stderr, &mut io::sink())?;
    }
    if child.wait()?.success() { Ok(Verdict::Ok) } else { Ok(Verdict::Error(tell(&said))) }
}

/// The last lines of what a checker said: that is where parsers put the point.
fn tell(said: &[u8]) -> String {
    let text = String::from_utf8_lossy(said);
    let text = text.trim();
    let start = text.char_indices().rev().nth(DETAIL - 1).map_or(0, |(at, _)| at);
    let tail = &text[start..];
    if tail.is_empty() { "it gave no reason".to_owned() } else { tail.to_owned() }
}

fn works(program: &str) -> bool {
    let version = if matches!(program, "sh") { &["-c", ":"][..] } else { &["--version"][..] };
    Command::new(program)
        .args(version)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(name: &str, text: &str) -> Checked {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        check(&path).unwrap()
    }

    #[test]
    fn shell_is_judged_by_the_shell() {
        assert_eq!(verdict("a.sh", "if true; then echo hi; fi\n").verdict, "ok");
        let bad = verdict("a.sh", "if true; then\n");
        assert_eq!((bad.verdict, bad.checker.as_deref()), ("error", Some("sh")));
        assert!(!bad.detail.is_empty());
    }

    #[test]
    fn an_unknown_kind_has_no_checker() {
        let checked = verdict("a.unknown", "(((");
        assert_eq!(checked.verdict, "no checker");
        assert_eq!(
            serde_json::to_string(&checked).unwrap(),
            r#"{"verdict":"no checker","detail":"none known for .unknown"}"#
        );
    }

    #[test]
    fn the_others_are_judged_where_they_are_installed() {
        for (name, good, bad) in [
            ("a.py", "def f():\n    return 1\n", "def f(:\n"),
            ("a.json", "{\"a\": [1]}", "{\"a\": [1}"),
            ("a.toml", "[a]\nb = 1\n", "[a\nb = 1\n"),
            ("a.rs", "mod elsewhere;\nfn main() { let x = 1; }\n", "fn main( {\n"),
            ("a.js", "const a = () => 1;\n", "const = ;\n"),
        ] {
            let (good, bad) = (verdict(name, good), verdict(name, bad));
            if good.verdict != "no checker" {
                assert_eq!((good.verdict, bad.verdict), ("ok", "error"), "{name}: {good:?} {bad:?}");
            }
        }
    }

    #[test]
    fn long_complaints_keep_their_end() {
        let text = format!("{}ü the point\n", "x".repeat(1_000));
        let told = tell(text.as_bytes());
        assert!(told.ends_with("ü the point") && told.chars().count() == DETAIL);
        assert_eq!(tell(b"  \n"), "it gave no reason");
    }
}
