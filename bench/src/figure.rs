//! Figures: samples, their median and 90th percentile, the goal, and how they are shown.

use serde_json::{Value, json};
use std::time::Duration;

/// Condition that a figure has to meet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// The median is at most so many times the floor's median.
    RatioAtMost(f64),
    /// The floor's median is at least so many times the figure's.
    TimesFasterAtLeast(f64),
    /// The median is at least so many times the floor's median.
    RatioAtLeast(f64),
    /// The median is below this, in the figure's unit.
    Below(f64),
    /// The median is at most this, in the figure's unit.
    AtMost(f64),
    /// Figure without a goal, only shown.
    Shown,
}

/// Some values of one kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a time, in milliseconds.
    pub fn push_ms(&mut self, time: Duration) {
        self.0.push(time.as_secs_f64() * 1e3);
    }

    /// Adds a value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Returns the number of samples.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The middle one, or the mean of the two in the middle; 0 without samples.
    pub fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(middle)) {
            (_, None) => 0.0,
            (0, Some(upper)) => f64::midpoint(sorted[middle - 1], *upper),
            (_, Some(value)) => *value,
        }
    }

    /// The smallest value that at least nine in ten do not exceed; 0 without samples.
    pub fn p90(&self) -> f64 {
        let sorted = self.sorted();
        let rank = (sorted.len() * 9).div_ceil(10);
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of the figure, with the unit last where it has one.
    pub name: &'static str,
    /// `ms`, `s`, `/s`, `cores`, `MiB` or `%`.
    pub unit: &'static str,
    /// Measured values.
    pub samples: Samples,
    /// Samples that the figure is compared with, measured in the same run.
    pub floor: Option<Samples>,
    /// Condition that the figure has to meet.
    pub goal: Goal,
    /// Description of what the samples consist of.
    pub note: String,
}

impl Figure {
    /// The figure's median.
    pub fn value(&self) -> f64 {
        self.samples.median()
    }

    /// Against the floor: how many times slower, or (for [`Goal::TimesFasterAtLeast`]) faster.
    pub fn ratio(&self) -> Option<f64> {
        let floor = self.floor.as_ref()?.median();
        Some(match self.goal {
            Goal::TimesFasterAtLeast(_) => floor / self.value(),
            Goal::RatioAtMost(_) | Goal::RatioAtLeast(_) | Goal::Below(_) | Goal::AtMost(_) | Goal::Shown => {
                self.value() / floor
            }
        })
    }

    /// Whether the goal is reached.
    pub fn met(&self) -> bool {
        if self.samples.count() == 0 {
            return false;
        }
        match self.goal {
            Goal::RatioAtMost(limit) => self.ratio().is_some_and(|ratio| ratio <= limit),
            Goal::TimesFasterAtLeast(limit) | Goal::RatioAtLeast(limit) => {
                self.ratio().is_some_and(|ratio| ratio >= limit)
            }
            Goal::Below(limit) => self.value() < limit,
            Goal::AtMost(limit) => self.value() <= limit,
            Goal::Shown => true,
        }
    }

    /// The goal in words.
    pub fn goal_text(&self) -> String {
        match self.goal {
            Goal::RatioAtMost(limit) => format!("ratio <= {limit}"),
            Goal::TimesFasterAtLeast(limit) | Goal::RatioAtLeast(limit) => format!("ratio >= {limit}"),
            Goal::Below(limit) => format!("< {limit} {}", self.unit),
            Goal::AtMost(limit) => format!("<= {limit} {}", self.unit),
            Goal::Shown => "shown".to_owned(),
        }
    }

    /// `{name, value, unit, floor, ratio, goal, met}` and `{p90, samples, floor_p90, floor_samples, note}`.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "value": rounded(self.value()),
            "unit": self.unit,
            "floor": self.floor.as_ref().map(|floor| rounded(floor.median())),
            "ratio": self.ratio().map(rounded),
            "goal": self.goal_text(),
            "met": self.met(),
            "p90": rounded(self.samples.p90()),
            "samples": self.samples.count(),
            "floor_p90": self.floor.as_ref().map(|floor| rounded(floor.p90())),
            "floor_samples": self.floor.as_ref().map(Samples::count),
            "note": self.note,
        })
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// The table for people.
pub fn table(figures: &[Figure]) -> String {
    let heading = ["figure", "median", "p90", "n", "floor", "floor p90", "ratio", "goal", "met"];
    let mut rows = vec![heading.map(str::to_owned)];
    for figure in figures {
        let digits = if matches!(figure.unit, "s" | "cores") { 3 } else { 1 };
        let with_unit = |value: f64| format!("{value:.digits$} {}", figure.unit);
        let of_floor = |of: fn(&Samples) -> f64| figure.floor.as_ref().map(of).map(with_unit);
        rows.push([
            figure.name.to_owned(),
            with_unit(figure.value()),
            with_unit(figure.samples.p90()),
            figure.samples.count().to_string(),
            of_floor(Samples::median).unwrap_or_default(),
            of_floor(Samples::p90).unwrap_or_default(),
            figure.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            figure.goal_text(),
            if figure.met() { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut lines: Vec<String> = rows
        .iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
                let left = matches!(column, 0 | 7 | 8);
                if left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
            });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect();
    lines.push(String::new());
    lines.extend(figures.iter().map(|figure| format!("{}: {}", figure.name, figure.note)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples(values.to_vec())
    }

    fn figure(values: &[f64], floor: Option<&[f64]>, goal: Goal) -> Figure {
        let floor = floor.map(samples);
        Figure { name: "x_ms", unit: "ms", samples: samples(values), floor, goal, note: String::new() }
    }

    #[test]
    fn the_median_and_the_90th_percentile_ignore_the_order() {
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        let ten: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(samples(&ten).p90(), 9.0);
        assert_eq!(samples(&[7.0]).p90(), 7.0);
    }

    #[test]
    fn a_ratio_goal_compares_medians() {
        let slow = figure(&[30.0, 29.0, 900.0], Some(&[20.0]), Goal::RatioAtMost(1.5));
        assert!(slow.met(), "{:?}", slow.ratio());
        assert!(!figure(&[31.0], Some(&[20.0]), Goal::RatioAtMost(1.5)).met());
    }

    #[test]
    fn times_faster_is_the_floor_over_the_figure() {
        let fast = figure(&[10.0], Some(&[150.0]), Goal::TimesFasterAtLeast(15.0));
        assert_eq!((fast.ratio(), fast.met()), (Some(15.0), true));
        assert!(!figure(&[10.1], Some(&[150.0]), Goal::TimesFasterAtLeast(15.0)).met());
    }

    #[test]
    fn a_ratio_that_has_to_be_large_is_the_figure_over_the_floor() {
        let most = figure(&[90.0], Some(&[100.0]), Goal::RatioAtLeast(0.9));
        assert_eq!((most.ratio(), most.met()), (Some(0.9), true));
        assert!(!figure(&[89.0], Some(&[100.0]), Goal::RatioAtLeast(0.9)).met());
    }

    #[test]
    fn a_limit_that_is_reached_exactly_is_kept_and_a_figure_without_a_goal_has_no_limit() {
        assert!(figure(&[0.25], None, Goal::AtMost(0.25)).met());
        assert!(!figure(&[0.26], None, Goal::AtMost(0.25)).met());
        assert!(figure(&[9e9], Some(&[1.0]), Goal::Shown).met());
    }

    #[test]
    fn a_figure_without_samples_has_not_reached_its_goal() {
        assert!(!figure(&[], None, Goal::Below(5.0)).met());
        assert!(figure(&[4.9], None, Goal::Below(5.0)).met());
        assert!(!figure(&[5.0], None, Goal::Below(5.0)).met());
    }

    #[test]
    fn the_json_object_has_the_promised_keys() {
        let json = figure(&[30.0], Some(&[20.0]), Goal::RatioAtMost(1.5)).to_json();
        for key in ["name", "value", "unit", "floor", "ratio", "goal", "met"] {
            assert!(!json[key].is_null(), "{key}");
        }
        assert!(figure(&[30.0], None, Goal::Below(1.0)).to_json()["floor"].is_null());
    }

    #[test]
    fn the_table_says_what_was_missed() {
        let text = table(&[figure(&[31.0], Some(&[20.0]), Goal::RatioAtMost(1.5))]);
        let row = text.lines().nth(1).expect("a row");
        assert!(row.starts_with("x_ms") && row.ends_with("NO") && row.contains("1.55"), "{row}");
    }
}
