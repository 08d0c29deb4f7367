//! The figures as a table, with the aims, and the evidence where something is not as it should be.

use std::fmt::Write;

use chrono::TimeDelta;
use comfy_table::{Cell, Table, presets};

/// Figures and what was aimed at.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<[Cell; 3]>,
    evidence: Vec<String>,
}

impl Report {
    /// A figure without an aim.
    pub(crate) fn figure(&mut self, name: &str, value: impl Into<Cell>) {
        self.rows.push([name.into(), value.into(), "".into()]);
    }

    /// A figure with an aim.
    pub(crate) fn aim(&mut self, name: &str, value: impl Into<Cell>, aim: &str, is_reached: bool) {
        let verdict = if is_reached { "reached" } else { "NOT REACHED" };
        self.rows.push([name.into(), value.into(), format!("{aim}: {verdict}").into()]);
    }

    /// Something to look into; of many the first few.
    pub(crate) fn evidence<T>(&mut self, what: &str, of: &[T], tell: impl Fn(&T) -> String) {
        const SHOWN: usize = 10;
        for one in of.iter().take(SHOWN) {
            self.evidence.push(format!("{what}: {}", tell(one)));
        }
        if of.len() > SHOWN {
            self.evidence.push(format!("{what}: and {} more", of.len() - SHOWN));
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN).set_header(["figure", "measured", "aim"]);
        for row in &self.rows {
            table.add_row(row.clone());
        }
        writeln!(f, "{table}")?;
        self.evidence.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// `12.3 s`, below a second `4.5 ms`.
pub(crate) fn time(time: TimeDelta) -> String {
    if time.abs() < TimeDelta::seconds(1) {
        format!("{:.1} ms", time.as_seconds_f64() * 1_000.0)
    } else {
        seconds(time)
    }
}

/// `12.3 s`
pub(crate) fn seconds(time: TimeDelta) -> String {
    format!("{:.1} s", time.as_seconds_f64())
}

/// `1.2 s / 3.4 s / 5.6 s`
pub(crate) fn times(times: &[TimeDelta]) -> String {
    let mut told = String::new();
    for (place, one) in times.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(told, "{}{}", if place > 0 { " / " } else { "" }, time(*one));
    }
    told
}
