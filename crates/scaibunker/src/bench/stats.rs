//! Figures of many measurements.

use serde::Serialize;

/// Nearest-rank figures: each is a value that was measured, none is interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    pub min: f64,
    pub median: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// `None` of nothing.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            min: *sorted.first()?,
            median: percentile(&sorted, 50)?,
            p95: percentile(&sorted, 95)?,
            p99: percentile(&sorted, 99)?,
            max: *sorted.last()?,
        })
    }
}

/// The smallest value that at least `percent` of all values do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_figures() {
        let hundred = Summary::of((1..=100).rev().map(f64::from)).unwrap();
        let expected = Summary { min: 1.0, median: 50.0, p95: 95.0, p99: 99.0, max: 100.0 };
        assert_eq!(hundred, expected);
        let two = Summary::of([2.0, 1.0]).unwrap();
        assert_eq!((two.median, two.p95), (1.0, 2.0));
        assert_eq!(Summary::of([]), None);
    }

    proptest! {
        #[test]
        fn figures_are_measured_values_in_order(values in prop::collection::vec(0.0..1e6, 1..300)) {
            let s = Summary::of(values.iter().copied()).unwrap();
            let figures = [s.min, s.median, s.p95, s.p99, s.max];
            prop_assert!(figures.is_sorted());
            prop_assert!(figures.iter().all(|figure| values.contains(figure)));
        }

        #[test]
        fn a_percentile_covers_its_share_and_no_smaller_value_does(
            mut values in prop::collection::vec(0.0..100.0, 1..200),
            percent in 1usize..=100,
        ) {
            values.sort_by(f64::total_cmp);
            let found = percentile(&values, percent).unwrap();
            let up_to = |limit: f64| values.iter().filter(|&&value| value <= limit).count() * 100;
            let share = values.len() * percent;
            prop_assert!(up_to(found) >= share);
            let mut smaller = values.iter().copied().filter(|&value| value < found);
            prop_assert!(smaller.all(|value| up_to(value) < share));
        }
    }
}
