//! What the commands share in showing things: tables that fit the terminal, JSON for scripts, times, a progress bar.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use comfy_table::{ColumnConstraint, ContentArrangement, LineStyle, Table, TableStyle, Width, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::configure;
use crate::config::{Config, Needs};
use crate::domain::{Clock, ShopCustomerId, SourceName};
use crate::inspect;
use crate::outbox::{Outbox, StoreError};

/// Where the output is no terminal, lines are as long as they need to be.
const NO_TERMINAL: u16 = u16::MAX;

/// The outbox that the configuration names, for a command that asks one thing at a time.
pub(super) async fn outbox(file: Option<&Path>) -> anyhow::Result<(Config, Outbox)> {
    let config = configure(file, Needs::DATABASE)?;
    let database_url = config.database_url.as_ref().context("DATABASE_URL is not set")?;
    let outbox = Outbox::for_people(database_url, 1, Clock::System).map_err(anyhow::Error::msg)?;
    let outbox = outbox.of_targets(&config.targets);
    if outbox.missing_migrations().await? > 0 {
        return Err(StoreError::NotMigrated.into());
    }
    Ok((config, outbox))
}

/// Says, beside the output, whom else the same e-mail leads to, and the command for them.
pub(super) fn tell_namesakes(namesakes: &[(SourceName, ShopCustomerId)], command: &str) {
    for (source, customer) in namesakes {
        // Shops choose these ids, and people paste this line into a shell.
        let customer = plain(customer.as_str()).replace('\'', r"'\''");
        eprintln!(
            "the same e-mail is held of customer {customer} of {source}: flexportal-sync {command} --source {source} --customer '{customer}'"
        );
    }
}

/// Rows under a header. Where the terminal is too narrow for them side by side, each row is shown on lines of its own.
pub(super) struct Rows {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A table that fits the terminal.
pub(super) fn table(header: &[&str]) -> Rows {
    Rows { header: header.iter().map(|name| (*name).to_owned()).collect(), rows: vec![] }
}

impl Rows {
    pub(super) fn add_row<const N: usize>(&mut self, row: [String; N]) {
        self.rows.push(row.into());
    }

    /// As it looks on a terminal of that width.
    fn on(&self, width: u16) -> String {
        let mut table = lines(width);
        table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
        table.set_header(&self.header);
        for (n, name) in self.header.iter().enumerate() {
            let words = [name].into_iter().chain(self.rows.iter().map(|row| &row[n])).flat_map(|cell| cell.split(' '));
            let longest = words.map(|word| word.chars().count()).max().unwrap_or(0);
            // An id or a name is of no use in pieces.
            let least = Width::Fixed(u16::try_from(longest.min(LONGEST_WORD)).unwrap_or(u16::MAX) + 2);
            if let Some(column) = table.column_mut(n) {
                column.set_constraint(ColumnConstraint::LowerBoundary(least));
            }
        }
        table.add_rows(&self.rows);
        let table = trimmed(&table);
        if table.lines().all(|line| line.chars().count() <= usize::from(width)) {
            return table;
        }
        let cards = self.rows.iter().map(|row| {
            let names = self.header.iter().map(String::as_str);
            trimmed(&facts_on(width, names.zip(row.iter().cloned())))
        });
        cards.collect::<Vec<_>>().join("\n\n")
    }
}

impl std::fmt::Display for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.on(width()))
    }
}

/// As long as an event's id; a longer word may be broken.
const LONGEST_WORD: usize = 36;

fn width() -> u16 {
    let terminal = console::Term::stdout();
    if terminal.is_term() { terminal.size().1 } else { NO_TERMINAL }
}

/// Without the blanks that fill up the last column.
fn trimmed(table: &Table) -> String {
    table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// What is known of one thing, a line each; what is not known is left out.
pub(super) fn facts<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    trimmed(&facts_on(width(), facts))
}

fn facts_on<'a>(width: u16, facts: impl IntoIterator<Item = (&'a str, String)>) -> Table {
    let mut table = lines(width);
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        table.add_row([name.to_owned(), value]);
    }
    table
}

fn lines(width: u16) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    table
}

/// A source that was never configured is a slip of the pen, and no good news.
pub(super) async fn check_source(outbox: &Outbox, source: Option<&SourceName>) -> anyhow::Result<()> {
    let known = outbox.source_names().await?;
    match source {
        Some(source) if !known.contains(source) => {
            let known: Vec<_> = known.iter().map(SourceName::as_str).collect();
            bail!("there is no source `{source}`: {}", known.join(", "))
        }
        _ => Ok(()),
    }
}

/// Something for a script to read.
pub(super) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("it cannot be written as JSON")?);
    Ok(())
}

/// `2026-11-23 10:00:00`, in UTC.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

/// The same, or nothing.
pub(super) fn time_or_none(at: Option<DateTime<Utc>>) -> String {
    at.map(time).unwrap_or_default()
}

/// Text of somebody else's for a terminal: what could steer it, or turn the direction of writing, is shown by its number.
pub(super) fn plain(text: &str) -> String {
    let is_unsafe = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if is_unsafe(c) { format!("<U+{:04X}>", u32::from(c)) } else { c.to_string() }).collect()
}

/// The same, or nothing.
pub(super) fn plain_or_none(text: Option<&str>) -> String {
    text.map(plain).unwrap_or_default()
}

/// Seconds as people say them, in two units at most.
pub(super) fn span(seconds: f64) -> String {
    inspect::span(Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX))
}

/// JSON for people: indented, where it is JSON; else as it is.
pub(super) fn indented(text: &str) -> String {
    let value = serde_json::from_str::<serde_json::Value>(text).and_then(|value| serde_json::to_string_pretty(&value));
    let lines = value.unwrap_or_else(|_| text.to_owned());
    lines.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// Parts under headings, as wide as they need to be.
pub(super) fn part(title: &str, text: &str) {
    if !text.is_empty() {
        println!("\n{title}\n{text}");
    }
}

/// A bar on a terminal, plain lines elsewhere.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            if let Ok(style) = ProgressStyle::with_template("{msg:8} {bar:40} {pos}/{len}") {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        Self { bar, what, total }
    }

    pub(super) fn at(&self, position: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(position as u64);
        }
    }

    pub(super) fn done(&self) {
        match &self.bar {
            Some(bar) => bar.finish(),
            None => eprintln!("{}: {} of {}", self.what, self.total, self.total),
        }
        let _ = std::io::stdout().flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_do_not_fit_side_by_side_are_shown_one_below_the_other() {
        let mut rows = table(&["event", "status", "note"]);
        rows.add_row(["01a211de-3c09-7688-b20a-0e9d0206c039".into(), "failed".into(), "not a phone number".into()]);
        let (wide, narrow, long) = (rows.on(120), rows.on(50), "x".repeat(100));
        assert_eq!(wide.lines().count(), 3, "{wide}");
        assert_eq!(narrow.lines().count(), 3, "{narrow}");
        assert!(narrow.starts_with(" event") && narrow.contains("01a211de-3c09-7688"), "{narrow}");
        rows.add_row([String::new(), String::new(), long]);
        for width in [80, 120] {
            assert!(
                rows.on(width).lines().all(|line| line.chars().count() <= usize::from(width)),
                "{}",
                rows.on(width)
            );
        }
    }

    #[test]
    fn what_could_steer_a_terminal_is_shown_by_its_number() {
        assert_eq!(plain("Ada\u{1b}[2J\u{202e}evil\u{7}"), "Ada<U+001B>[2J<U+202E>evil<U+0007>");
        assert_eq!(plain("Zoë 李 👩‍👩"), "Zoë 李 👩<U+200D>👩");
    }
}
