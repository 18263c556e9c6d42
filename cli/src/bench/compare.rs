//! `hive bench compare`: is the new report worse than the old one by more than noise?
//!
//! Noise is the larger of what was allowed and of half the spread, (max - min) / value, that the runs
//! of either report show themselves.

use std::path::Path;

use super::figure::{Better, Figure};
use crate::args::BenchCompare;
use crate::failure::Failure;
use crate::output;

/// What a figure did, as a share of what it was: above zero is better.
#[derive(Debug, PartialEq)]
struct Change {
    gain: f64,
    noise: f64,
}

impl Change {
    fn between(before: &Figure, after: &Figure, least: f64) -> Option<Self> {
        if !(before.value > 0.0 && after.value.is_finite()) {
            return None;
        }
        let ratio = after.value / before.value;
        let gain = match before.better {
            Better::Higher => ratio - 1.0,
            Better::Lower => 1.0 - ratio,
        };
        // Quantiles keep the extremes of single times, which say nothing of how well they repeat.
        let spread = |f: &Figure| if f.p50.is_none() && f.value > 0.0 { (f.max - f.min) / f.value / 2.0 } else { 0.0 };
        Some(Self { gain, noise: least.max(spread(before)).max(spread(after)) })
    }

    fn is_worse(&self) -> bool {
        self.gain < -self.noise
    }

    fn verdict(&self) -> &'static str {
        match self.gain {
            gain if gain < -self.noise => "WORSE",
            gain if gain > self.noise => "better",
            _ => "same",
        }
    }
}

pub(crate) fn run(args: &BenchCompare) -> Result<(), Failure> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let mut rows = Vec::new();
    let mut worse = Vec::new();
    let mut missing = Vec::new();
    for old in &before {
        let Some(new) = after.iter().find(|new| (new.row, &new.name) == (old.row, &old.name)) else {
            missing.push(old.name.clone());
            continue;
        };
        let Some(change) = Change::between(old, new, args.noise / 100.0) else { continue };
        rows.push(vec![
            old.name.clone(),
            format!("{:.3} {}", old.value, old.unit),
            format!("{:.3} {}", new.value, new.unit),
            format!("{:+.1} %", change.gain * 100.0),
            format!("{:.1} %", change.noise * 100.0),
            change.verdict().to_owned(),
        ]);
        if change.is_worse() {
            worse.push(old.name.clone());
        }
    }
    output::line(&output::table(&["FIGURE", "BEFORE", "AFTER", "CHANGE", "NOISE", ""], &rows))?;
    if !missing.is_empty() {
        output::say(&format!("not in the new report: {}", missing.join(", ")));
    }
    if worse.is_empty() {
        return Ok(());
    }
    Err(Failure::error("the new report is worse", worse.join(", ")))
}

fn read(path: &Path) -> Result<Vec<Figure>, Failure> {
    let fail = |e: &dyn std::fmt::Display| Failure::error(format!("cannot read the report {}", path.display()), e);
    let text = std::fs::read(path).map_err(|e| fail(&e))?;
    serde_json::from_slice(&text).map_err(|e| fail(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(better: Better, before: &[f64], after: &[f64]) -> Change {
        let figure = |values| Figure::of_runs("x", "u", better, values);
        Change::between(&figure(before), &figure(after), 0.1).unwrap()
    }

    #[test]
    fn worse_is_worse_in_both_directions() {
        assert!(change(Better::Higher, &[100.0], &[80.0]).is_worse());
        assert!(!change(Better::Higher, &[100.0], &[95.0]).is_worse());
        assert!(change(Better::Lower, &[100.0], &[120.0]).is_worse());
        assert_eq!(change(Better::Lower, &[100.0], &[80.0]).verdict(), "better");
    }

    #[test]
    fn runs_that_differ_widen_the_bound() {
        assert!(!change(Better::Higher, &[100.0, 160.0, 100.0], &[80.0, 80.0, 80.0]).is_worse());
    }
}
