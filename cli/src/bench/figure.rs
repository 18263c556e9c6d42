//! A figure of a report, and what a report is.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Which way is better.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// One measured figure. `min` and `max` are over runs; `p50` and `p99` within them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Figure {
    /// Number by which the figure is cited; absent for one that has no target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) row: Option<u32>,
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    pub(crate) better: Better,
    #[serde(default)]
    pub(crate) p50: Option<f64>,
    #[serde(default)]
    pub(crate) p99: Option<f64>,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: u64,
}

impl Figure {
    /// The median of runs.
    pub(super) fn of_runs(name: &str, unit: &str, better: Better, values: &[f64]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
        Self {
            row: None,
            name: name.to_owned(),
            value: median,
            unit: unit.to_owned(),
            better,
            p50: None,
            p99: None,
            min: sorted.first().copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
            runs: values.len() as u64,
        }
    }

    /// One value.
    pub(super) fn of(name: &str, unit: &str, better: Better, value: f64) -> Self {
        Self::of_runs(name, unit, better, &[value])
    }

    /// A quantile of times in nanoseconds, in milliseconds; `min` and `max` are of the single times.
    pub(super) fn of_times(name: &str, quantile: f64, times: &Histogram<u64>) -> Self {
        let at = |q| ms(times.value_at_quantile(q));
        Self {
            p50: Some(at(0.5)),
            p99: Some(at(0.99)),
            min: ms(times.min()),
            max: ms(times.max()),
            runs: times.len(),
            ..Self::of(name, "ms", Better::Lower, at(quantile))
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds for people")]
pub(super) fn ms(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}
