//! One thing that is measured again and again, and what it has to reach.

use std::{collections::BTreeMap, time::Duration};

use comfy_table::Table;
use serde::Serialize;

use super::{
    milliseconds,
    report::{shown, shown_failures},
    stats::Summary,
};
use crate::{client::ClientError, tables::table};

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "µs")]
    Microseconds,
    /// Millions of bytes, not MiB.
    #[serde(rename = "MB/s")]
    Megabytes,
    /// Millions of bits.
    #[serde(rename = "Mbit/s")]
    Megabits,
    #[serde(rename = "MiB")]
    Mebibytes,
    #[serde(rename = "%")]
    Percent,
    #[serde(rename = "1/s")]
    PerSecond,
}

/// What the median of a figure has to reach: at most so much time, or at least such a rate.
type Target = Option<f64>;

/// A figure and its measurements.
#[derive(Debug, Serialize)]
pub struct Figure {
    name: &'static str,
    unit: Unit,
    target: Target,
    /// Whether the median reaches the target; `None` without a target or a measurement.
    met: Option<bool>,
    succeeded: usize,
    /// Failed attempts by error code.
    failures: BTreeMap<String, usize>,
    values: Option<Summary>,
    #[serde(skip)]
    measured: Vec<f64>,
}

impl Figure {
    pub fn new(name: &'static str, unit: Unit, target: Target) -> Self {
        Self {
            name,
            unit,
            target,
            met: None,
            succeeded: 0,
            failures: BTreeMap::new(),
            values: None,
            measured: Vec::new(),
        }
    }

    /// Takes one attempt, with the code of its failure.
    pub fn record(&mut self, attempt: Result<f64, String>) {
        match attempt {
            Ok(value) => self.measured.push(value),
            Err(code) => *self.failures.entry(code).or_default() += 1,
        }
    }

    /// Sums up what was recorded.
    pub fn finished(mut self) -> Self {
        self.succeeded = self.measured.len();
        self.values = Summary::of(self.measured.iter().copied());
        self.met = self.values.zip(self.target).map(|(values, target)| match self.unit {
            Unit::Milliseconds | Unit::Microseconds | Unit::Mebibytes | Unit::Percent => {
                values.median <= target
            }
            Unit::Megabytes | Unit::Megabits | Unit::PerSecond => values.median >= target,
        });
        self
    }

    /// A code of a failed attempt.
    pub fn first_failure(&self) -> Option<&str> {
        self.failures.keys().next().map(String::as_str)
    }

    pub fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    fn row(&self) -> [String; 7] {
        let attempts = self.succeeded + self.failures.values().sum::<usize>();
        let (sign, unit, worst): (_, _, fn(Summary) -> f64) = match self.unit {
            Unit::Milliseconds => ("≤", "ms", |values| values.p99),
            Unit::Microseconds => ("≤", "µs", |values| values.p99),
            Unit::Mebibytes => ("≤", "MiB", |values| values.max),
            Unit::Percent => ("≤", "%", |values| values.max),
            // Of up to 100 values the worst is what 99 % reach.
            Unit::Megabytes => ("≥", "MB/s", |values| values.min),
            Unit::Megabits => ("≥", "Mbit/s", |values| values.min),
            Unit::PerSecond => ("≥", "1/s", |values| values.min),
        };
        let target = self.target.map(|target| {
            let verdict = if self.met == Some(true) { "" } else { " missed" };
            format!("{sign} {target}{verdict}")
        });
        [
            self.name.to_owned(),
            format!("{}/{attempts}", self.succeeded),
            unit.to_owned(),
            shown(self.values, |values| values.median),
            shown(self.values, worst),
            target.unwrap_or_else(|| "-".to_owned()),
            shown_failures(&self.failures),
        ]
    }
}

/// Figures, a line each. The last 1 % of rates are the slow ones.
pub fn figures(figures: &[Figure]) -> Table {
    let header = ["WHAT", "OK", "UNIT", "MEDIAN", "P99", "TARGET", "FAILURES"];
    table(header, figures.iter().map(Figure::row))
}

/// The code to count a failed call by.
pub fn code(error: ClientError) -> String {
    error.code().to_owned()
}

/// Millions of bytes in a second.
pub fn rate(bytes: u64, time: Duration) -> f64 {
    let megabytes = bytes as f64 / 1e6;
    (megabytes / time.as_secs_f64().max(f64::EPSILON) * 10.0).round() / 10.0
}

/// A time as a value of [`Unit::Milliseconds`].
pub fn time(time: Duration) -> f64 {
    milliseconds(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_bounds_on_the_median() {
        let met = |unit, target, values: &[f64]| {
            let mut figure = Figure::new("x", unit, target);
            values.iter().for_each(|&value| figure.record(Ok(value)));
            figure.finished().met
        };
        assert_eq!(met(Unit::Milliseconds, Some(2.0), &[1.0, 2.0, 9.0]), Some(true));
        assert_eq!(met(Unit::Milliseconds, Some(2.0), &[1.0, 2.1, 9.0]), Some(false));
        assert_eq!(met(Unit::Megabytes, Some(2.0), &[1.0, 2.0, 9.0]), Some(true));
        assert_eq!(met(Unit::PerSecond, Some(2.0), &[1.0, 1.9, 9.0]), Some(false));
        assert_eq!(met(Unit::Milliseconds, None, &[1.0]), None);
        assert_eq!(met(Unit::Milliseconds, Some(1.0), &[]), None);
    }

    #[test]
    fn rates_are_in_millions_of_bytes() {
        assert_eq!(rate(1 << 20, Duration::from_millis(500)), 2.1);
        assert!(rate(1, Duration::ZERO).is_finite());
    }

    #[test]
    fn a_row_tells_attempts_and_failures() {
        let mut figure = Figure::new("x", Unit::Megabytes, Some(60.0));
        figure.record(Ok(50.0));
        figure.record(Err("BUNKER_LOST".to_owned()));
        let row = figure.finished().row();
        assert_eq!(row, ["x", "1/2", "MB/s", "50.0", "50.0", "≥ 60 missed", "1 × BUNKER_LOST"]);
    }
}
