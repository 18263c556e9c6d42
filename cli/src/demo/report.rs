//! The end of a job: totals that a person can check by hand, and how to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use super::results::Row;
use crate::output::{printable, table};
use crate::verbs::task::human;

/// Most failures and languages listed.
const LISTED: usize = 10;

/// How the run went, beside what the store holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// From the first submission to the last end, in this run.
    pub(crate) took: Duration,
    /// Tasks that ended in this run.
    pub(crate) ended: usize,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Sums {
    files: usize,
    lines: u64,
    words: u64,
    bytes: u64,
    markers: u64,
    digests: usize,
    verdicts: BTreeMap<String, u64>,
    /// Files and lines by language.
    languages: BTreeMap<String, (u64, u64)>,
    /// Tasks, succeeded, failed, attempts beyond the first.
    capabilities: BTreeMap<String, [u64; 4]>,
    agents: BTreeMap<String, u64>,
    retried: u64,
}

fn sum(rows: &[Row]) -> Sums {
    let mut sums = Sums::default();
    let mut files = BTreeSet::new();
    let mut digests = BTreeSet::new();
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or(0);
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
    for row in rows {
        files.insert(&row.input.path);
        let succeeded = row.state == "SUCCEEDED";
        let retries = u64::from(row.attempts.saturating_sub(1));
        let per = sums.capabilities.entry(row.capability.clone()).or_default();
        per[0] += 1;
        per[1] += u64::from(succeeded);
        per[2] += u64::from(!succeeded);
        per[3] += retries;
        sums.retried += retries;
        if !row.agent.is_empty() {
            *sums.agents.entry(row.agent.clone()).or_default() += 1;
        }
        if !succeeded {
            continue;
        }
        match row.capability.as_str() {
            "wc" => {
                let lines = number(&row.output, "lines");
                sums.lines += lines;
                sums.words += number(&row.output, "words");
                sums.bytes += number(&row.output, "bytes");
                let language = sums.languages.entry(text(&row.output, "language")).or_default();
                language.0 += 1;
                language.1 += lines;
            }
            "sha256" => {
                digests.insert(text(&row.output, "sha256"));
            }
            "todo" => sums.markers += number(&row.output, "markers"),
            "syntax" => *sums.verdicts.entry(text(&row.output, "verdict")).or_default() += 1,
            _ => {}
        }
    }
    sums.files = files.len();
    sums.digests = digests.len();
    sums
}

/// The whole report.
pub(crate) fn report(rows: &[Row], folder: &Path, data: &Path, run: Run) -> String {
    let sums = sum(rows);
    let mut parts = Vec::new();

    let mut capabilities: Vec<_> = sums
        .capabilities
        .iter()
        .map(|(name, n)| {
            let said = match name.as_str() {
                "wc" => format!("{} lines, {} words, {} bytes", sums.lines, sums.words, sums.bytes),
                "sha256" => format!("{} different digests", sums.digests),
                "todo" => format!("{} markers", sums.markers),
                "syntax" => sums.verdicts.iter().map(|(v, n)| format!("{n} {v}")).collect::<Vec<_>>().join(", "),
                _ => String::new(),
            };
            let mut row = vec![name.clone()];
            row.extend(n.iter().map(u64::to_string));
            row.push(said);
            row
        })
        .collect();
    let all = |column: usize| sums.capabilities.values().map(|n| n[column]).sum::<u64>().to_string();
    capabilities.push(vec!["all".into(), all(0), all(1), all(2), all(3), format!("{} files", sums.files)]);
    parts.push(table(&["CAPABILITY", "TASKS", "SUCCEEDED", "FAILED", "RETRIES", "FOUND"], &capabilities));

    let agents: Vec<_> = sums.agents.iter().map(|(agent, n)| vec![agent.clone(), n.to_string()]).collect();
    parts.push(table(&["AGENT", "TASKS"], &agents));

    if !sums.languages.is_empty() {
        let mut languages: Vec<_> = sums.languages.iter().collect();
        languages.sort_by_key(|(name, (files, lines))| (std::cmp::Reverse((*lines, *files)), *name));
        let rest = languages.len().saturating_sub(LISTED);
        let mut rows: Vec<_> = languages
            .iter()
            .take(LISTED)
            .map(|(name, (files, lines))| vec![(*name).clone(), files.to_string(), lines.to_string()])
            .collect();
        if rest > 0 {
            let (files, lines) = languages.iter().skip(LISTED).fold((0, 0), |sum, (_, n)| (sum.0 + n.0, sum.1 + n.1));
            rows.push(vec![format!("{rest} more"), files.to_string(), lines.to_string()]);
        }
        parts.push(table(&["LANGUAGE", "FILES", "LINES"], &rows));
    }
    parts.extend(failures(rows));

    let seconds = run.took.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
    let rate = run.ended as f64 / seconds;
    parts.push(format!(
        "Totals: {} files, {} lines, {} words, {} bytes; {} tasks, {} retries.\n\
         This run: {} tasks ended in {} ({rate:.0} tasks/s).",
        sums.files,
        sums.lines,
        sums.words,
        sums.bytes,
        rows.len(),
        sums.retried,
        run.ended,
        human(run.took),
    ));
    parts.push(check(folder, data));
    parts.join("\n\n")
}

fn failures(rows: &[Row]) -> Option<String> {
    let failed: Vec<_> = rows.iter().filter(|row| row.state != "SUCCEEDED").collect();
    if failed.is_empty() {
        return None;
    }
    let rows: Vec<_> = failed
        .iter()
        .take(LISTED)
        .map(|row| {
            let text = |name: &str| row.output.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let why: String = text("error").chars().take(80).collect();
            vec![row.state.clone(), row.capability.clone(), row.input.path.clone(), format!("{} {why}", text("reason"))]
        })
        .collect();
    let mut text = table(&["NOT SUCCEEDED", "CAPABILITY", "PATH", "WHY"], &rows);
    if failed.len() > LISTED {
        text.push_str(&format!("\n… and {} more, see results.jsonl", failed.len() - LISTED));
    }
    Some(text)
}

/// Commands that come to the same figures without Hive.
fn check(folder: &Path, data: &Path) -> String {
    let results = quoted(&data.join("results.jsonl").display().to_string());
    let except = match data.strip_prefix(folder) {
        Ok(below) if !below.as_os_str().is_empty() => {
            format!(" -o -path {}", quoted(&format!("./{}", below.display())))
        }
        _ => String::new(),
    };
    let find = format!("find . -type d \\( -name .git -o -name target{except} \\) -prune -o -type f -print0");
    format!(
        "Results: {results}, one JSON object per task. Check by hand, in {}:
    files               {find} | tr -dc '\\0' | wc -c
    lines words bytes   {find} | LC_ALL=C.UTF-8 wc --files0-from=- | tail -n 1
    markers             {find} | LC_ALL=C xargs -0 grep -aohwE 'TODO|FIXME|XXX|HACK' | wc -l
    tasks               wc -l < {results}
(wc counts a word only if something in it can be printed: in binary files it may find fewer.)",
        quoted(&folder.display().to_string()),
    )
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", printable(text).replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::results::Input;
    use serde_json::json;

    fn row(capability: &str, path: &str, state: &str, attempts: u32, output: Value) -> Row {
        Row {
            task_id: "t".into(),
            capability: capability.into(),
            input: Input { path: path.into() },
            state: state.into(),
            attempts,
            agent: "sdk-1".into(),
            output,
        }
    }

    fn rows() -> Vec<Row> {
        vec![
            row("wc", "a", "SUCCEEDED", 1, json!({"lines": 2, "words": 3, "bytes": 10, "language": "Rust"})),
            row("wc", "b", "SUCCEEDED", 3, json!({"lines": 1, "words": 1, "bytes": 5, "language": "Rust"})),
            row("sha256", "a", "SUCCEEDED", 1, json!({"sha256": "x"})),
            row("sha256", "b", "SUCCEEDED", 1, json!({"sha256": "x"})),
            row("todo", "a", "SUCCEEDED", 1, json!({"markers": 4})),
            row("syntax", "a", "SUCCEEDED", 1, json!({"verdict": "no checker"})),
            row("syntax", "b", "FAILED", 3, json!({"error": "gone", "reason": "EXIT_CODE"})),
        ]
    }

    #[test]
    fn sums_are_those_of_the_rows() {
        let sums = sum(&rows());
        assert_eq!((sums.files, sums.lines, sums.words, sums.bytes), (2, 3, 4, 15));
        assert_eq!((sums.markers, sums.digests, sums.retried), (4, 1, 4));
        assert_eq!(sums.capabilities["wc"], [2, 2, 0, 2]);
        assert_eq!(sums.capabilities["syntax"], [2, 1, 1, 2]);
        assert_eq!(sums.languages["Rust"], (2, 3));
        assert_eq!(sums.agents["sdk-1"], 7);
    }

    #[test]
    fn the_report_names_figures_failures_and_checks() {
        let run = Run { took: Duration::from_secs(2), ended: 7 };
        let text = report(&rows(), Path::new("/it's here"), Path::new("/it's here/out"), run);
        for part in [
            "Totals: 2 files, 3 lines, 4 words, 15 bytes; 7 tasks, 4 retries.",
            "7 tasks ended in 2.0 s (4 tasks/s)",
            "EXIT_CODE gone",
            "in '/it'\\''s here'",
            "-o -path ./out",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn an_empty_job_has_a_report_too() {
        let run = Run { took: Duration::ZERO, ended: 0 };
        assert!(report(&[], Path::new("/f"), Path::new("/d"), run).contains("Totals: 0 files"));
    }
}
