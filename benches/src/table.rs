//! Figures as people read them: what was measured, against which target, and what that amounts to.

use std::fmt::Write as _;
use std::time::Duration;

/// What a figure amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The target is met.
    Met,
    /// It is not.
    Missed,
    /// There is no target.
    Reported,
}

/// One line of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Figure {
    what: String,
    target: String,
    measured: String,
    verdict: Verdict,
}

/// The table of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Section {
    /// Its name on the command line.
    pub(crate) subject: &'static str,
    /// Its lines.
    pub(crate) figures: Vec<Figure>,
}

impl Figure {
    /// A figure with a target, in words, and whether it is met.
    pub(crate) fn judged(what: &str, target: &str, measured: impl Into<String>, is_met: bool) -> Self {
        let verdict = if is_met { Verdict::Met } else { Verdict::Missed };
        Self { what: what.to_owned(), target: target.to_owned(), measured: measured.into(), verdict }
    }

    /// A figure without a target.
    pub(crate) fn reported(what: &str, measured: impl Into<String>) -> Self {
        let target = String::new();
        Self { what: what.to_owned(), target, measured: measured.into(), verdict: Verdict::Reported }
    }

    /// A subject that came to no figure.
    pub(crate) fn failed(why: &str) -> Self {
        let first = why.lines().next().unwrap_or_default();
        Self::judged("the measurement itself", "ends", format!("failed: {first}"), false)
    }

    /// Elections under load, from the terms before and after it.
    pub(crate) fn elections(before: u64, after: u64) -> Self {
        let elections = after.saturating_sub(before);
        Self::judged("elections meanwhile", "0", elections.to_string(), elections == 0)
    }
}

impl Section {
    /// Whether no target was missed.
    pub(crate) fn is_met(&self) -> bool {
        self.figures.iter().all(|figure| figure.verdict != Verdict::Missed)
    }

    /// The table as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = "| figure | target | measured | |\n|---|---|---|---|\n".to_owned();
        for figure in &self.figures {
            let verdict = match figure.verdict {
                Verdict::Met => "met",
                Verdict::Missed => "**missed**",
                Verdict::Reported => "",
            };
            let cell = |text: &str| text.replace('|', "\\|");
            let Figure { what, target, measured, .. } = figure;
            let _ = writeln!(text, "| {} | {} | {} | {verdict} |", cell(what), cell(target), cell(measured));
        }
        text
    }
}

/// The middle one; of an even number the upper of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `1,234,567`.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{:.0}", number.max(0.0));
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `12.3 ms`.
pub(crate) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

/// `12 MB`.
pub(crate) fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_target_figure_and_verdict() {
        let figures = vec![
            Figure::judged("rate", "≥ 1,000", "2,000", true),
            Figure::reported("size", "3 MB"),
            Figure::elections(4, 5),
        ];
        let section = Section { subject: "commit", figures };
        assert!(!section.is_met());
        assert_eq!(
            section.markdown(),
            "| figure | target | measured | |\n|---|---|---|---|\n| rate | ≥ 1,000 | 2,000 | met |\n\
             | size |  | 3 MB |  |\n| elections meanwhile | 0 | 1 | **missed** |\n"
        );
    }

    #[test]
    fn numbers_are_easy_to_read() {
        let seen = [0.4, 999.0, 1_000.0, 1_234_567.0].map(grouped);
        assert_eq!(seen, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(millis(Duration::from_micros(1_234)), "1.23 ms");
        assert_eq!(millis(Duration::from_millis(530)), "530 ms");
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert!(median(Vec::new()).is_nan());
    }
}
