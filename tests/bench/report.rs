//! The report: figures held against their targets, as a table and as JSON.

use std::path::Path;

use serde::Serialize;

/// A target as `docs/targets.toml` has it.
#[derive(Debug, serde::Deserialize)]
pub struct Target {
    pub row: u32,
    pub part: Option<String>,
    pub name: String,
    pub unit: String,
    pub better: String,
    /// Absent where any value is accepted.
    pub floor: Option<f64>,
    pub goal: f64,
}

#[derive(serde::Deserialize)]
struct Targets {
    target: Vec<Target>,
}

/// All targets.
pub fn targets(root: &Path) -> Vec<Target> {
    let text = std::fs::read_to_string(root.join("docs/targets.toml")).expect("docs/targets.toml");
    toml::from_str::<Targets>(&text).expect("targets").target
}

/// What was measured of one figure. All in the target's unit.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub value: f64,
    pub p50: Option<f64>,
    pub p99: Option<f64>,
    pub min: f64,
    pub max: f64,
    pub runs: u64,
    pub yardstick: Option<f64>,
    pub command: String,
}

impl Measured {
    /// The median of runs.
    pub fn median(values: &[f64], command: &str) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let value = sorted.get(sorted.len() / 2).copied().expect("a value");
        let (min, max) = (sorted[0], sorted[sorted.len() - 1]);
        Self { value, min, max, runs: values.len() as u64, command: command.to_owned(), ..Self::default() }
    }

    /// A quantile of single times.
    pub fn quantile(times: &[f64], quantile: f64, command: &str) -> Self {
        let mut sorted = times.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q).round() as usize];
        let (p50, p99) = (Some(at(0.5)), Some(at(0.99)));
        Self { value: at(quantile), p50, p99, ..Self::median(times, command) }
    }

    pub fn against(self, yardstick: f64) -> Self {
        Self { yardstick: Some(yardstick), ..self }
    }
}

/// One object of the report.
#[derive(Debug, Serialize)]
pub struct Line {
    row: u32,
    name: String,
    value: f64,
    unit: String,
    better: &'static str,
    p50: Option<f64>,
    p99: Option<f64>,
    min: f64,
    max: f64,
    runs: u64,
    yardstick: Option<f64>,
    ratio: Option<f64>,
    floor: Option<f64>,
    goal: Option<f64>,
    command: String,
}

impl Line {
    /// A figure with a target; `part` where a row has several.
    pub fn held(targets: &[Target], row: u32, part: Option<&str>, measured: Measured) -> Self {
        let target = targets.iter().find(|t| t.row == row && t.part.as_deref() == part).expect("a target");
        let name = part.map_or_else(|| target.name.clone(), |part| format!("{}.{part}", target.name));
        let mut line = Self::free(row, &name, &target.unit, target.better == "more", measured);
        (line.floor, line.goal) = (target.floor, Some(target.goal));
        line
    }

    /// A figure beside a row, without a target of its own.
    pub fn free(row: u32, name: &str, unit: &str, higher: bool, m: Measured) -> Self {
        Self {
            row,
            name: name.to_owned(),
            value: m.value,
            unit: unit.to_owned(),
            better: if higher { "higher" } else { "lower" },
            p50: m.p50,
            p99: m.p99,
            min: m.min,
            max: m.max,
            runs: m.runs,
            yardstick: m.yardstick,
            ratio: m.yardstick.map(|yardstick| m.value / yardstick),
            floor: None,
            goal: None,
            command: m.command,
        }
    }

    pub fn yardstick(&self) -> Option<f64> {
        self.yardstick
    }

    fn reaches(&self, bound: Option<f64>) -> Option<bool> {
        bound.map(|bound| if self.better == "higher" { self.value >= bound } else { self.value <= bound })
    }

    /// The floor is not reached.
    pub fn is_below_floor(&self) -> bool {
        self.reaches(self.floor) == Some(false)
    }

    fn verdict(&self) -> &'static str {
        match (self.reaches(self.floor), self.reaches(self.goal)) {
            (Some(false), _) => "BELOW FLOOR",
            (_, Some(true)) => "goal",
            (Some(true), _) => "floor",
            _ => "",
        }
    }
}

/// The table, for people and for `docs/benchmarks.md`.
pub fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| row | figure | value | min–max | runs | yardstick | ratio | floor | goal | |\n|---|---|---|---|---|---|---|---|---|---|\n",
    );
    let short = |value: f64| match value.abs() {
        v if v >= 1000.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    };
    let maybe = |value: Option<f64>| value.map(short).unwrap_or_default();
    for line in lines {
        text += &format!(
            "| {} | {} | {} {} | {}–{} | {} | {} | {} | {} | {} | {} |\n",
            line.row,
            line.name,
            short(line.value),
            line.unit,
            short(line.min),
            short(line.max),
            line.runs,
            maybe(line.yardstick),
            maybe(line.ratio),
            maybe(line.floor),
            maybe(line.goal),
            line.verdict(),
        );
    }
    text
}
