//! `make bench`: measures Hive's figures beside their yardsticks in one run, prints a table and writes
//! `target/bench/report.json`. `ROWS=1,2` picks rows, `QUICK=1` shortens them (for seeing that they
//! work, not for citing).

#![allow(
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a measuring program: it reads clocks, spawns, and stops at the first surprise"
)]

mod child;
mod cold;
mod core;
mod fleet;
mod hive;
mod report;
mod rows;
mod sessions;
mod yardstick;

use std::path::{Path, PathBuf};

use report::{Line, table, targets};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match arguments.split_first() {
        Some((part, rest)) if part == "core" => core::measure(rest[0].parse().expect("a number")),
        Some((part, rest)) if part == "sessions" => {
            let count = rest[1].parse().expect("a number");
            runtime().block_on(sessions::hold(rest[0].clone(), count));
        }
        Some((part, rest)) if part.starts_with("yardstick-") => runtime().block_on(yardstick::part(part, rest)),
        _ => run(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn run() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let quick = set("QUICK").is_some_and(|value| value != "0");
    let wanted = set("ROWS").unwrap_or_else(|| "1,2,3,4,5,6,7,8".to_owned());
    let wanted: Vec<u32> = wanted.split(',').map(|row| row.trim().parse().expect("ROWS=1,2,…")).collect();
    let bench = rows::Bench { targets: targets(&root), quick, root: root.clone() };
    let mut lines: Vec<Line> = Vec::new();
    for row in wanted {
        eprintln!("== row {row}");
        lines.extend(bench.row(row));
    }
    println!("{}", table(&lines));
    write(&rows::report_path(&root), &lines);
    let below: Vec<&Line> = lines.iter().filter(|line| line.is_below_floor()).collect();
    // Shortened runs are too short to judge by.
    if !below.is_empty() && !quick {
        eprintln!("bench: {} figures are below their floor", below.len());
        std::process::exit(1);
    }
}

fn write(path: &Path, lines: &[Line]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, serde_json::to_vec_pretty(lines).expect("written")).expect("written");
    eprintln!("bench: wrote {}", path.display());
}
