//! What language a file is in, by its name and, without a telling one, by its first line.

use std::path::Path;

/// The language, or "other".
pub(crate) fn of(path: &Path, head: &[u8]) -> &'static str {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    by_name(name)
        .or_else(|| by_extension(extension))
        .or_else(|| by_shebang(head))
        .unwrap_or_else(|| if head.contains(&0) { "binary" } else { "other" })
}

fn by_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "Makefile" | "makefile" | "GNUmakefile" => "Make",
        "Dockerfile" | "Containerfile" => "Dockerfile",
        "Cargo.lock" => "TOML",
        "LICENSE" | "NOTICE" | "COPYING" => "text",
        ".gitignore" | ".dockerignore" => "ignore list",
        _ => return None,
    })
}

fn by_extension(extension: &str) -> Option<&'static str> {
    Some(match extension.to_ascii_lowercase().as_str() {
        "rs" => "Rust",
        "py" | "pyi" => "Python",
        "proto" => "Protocol Buffers",
        "toml" => "TOML",
        "json" | "jsonl" => "JSON",
        "yaml" | "yml" => "YAML",
        "md" | "markdown" => "Markdown",
        "sh" | "bash" => "Shell",
        "js" | "mjs" | "cjs" | "jsx" => "JavaScript",
        "ts" | "tsx" | "mts" => "TypeScript",
        "c" | "h" => "C",
        "cc" | "cpp" | "cxx" | "hpp" | "hh" => "C++",
        "go" => "Go",
        "java" => "Java",
        "rb" => "Ruby",
        "php" => "PHP",
        "pl" | "pm" => "Perl",
        "lua" => "Lua",
        "html" | "htm" => "HTML",
        "css" => "CSS",
        "xml" | "svg" => "XML",
        "sql" => "SQL",
        "tpl" => "template",
        "txt" => "text",
        "csv" | "tsv" => "table",
        _ => return None,
    })
}

fn by_shebang(head: &[u8]) -> Option<&'static str> {
    let line = head.strip_prefix(b"#!")?.split(|b| *b == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    ["python", "bash", "node", "perl", "ruby", "sh"].into_iter().find(|p| line.contains(p)).map(|p| match p {
        "python" => "Python",
        "node" => "JavaScript",
        "perl" => "Perl",
        "ruby" => "Ruby",
        _ => "Shell",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_name_then_extension_then_first_line() {
        for (path, head, language) in [
            ("a/Makefile", &b""[..], "Make"),
            ("a/b.RS", b"", "Rust"),
            (".ci/run", b"#!/usr/bin/env bash\nset -e\n", "Shell"),
            ("tool", b"#!/usr/bin/python3\n", "Python"),
            ("blob", b"\x7fELF\0", "binary"),
            ("notes", b"hello", "other"),
        ] {
            assert_eq!(of(Path::new(path), head), language, "{path}");
        }
    }
}
