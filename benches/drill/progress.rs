//! A bar on a terminal, plain lines elsewhere; on standard error, beside the report.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// How far something is.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
    told: Instant,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64);
            if let Ok(style) = ProgressStyle::with_template("{msg:8} {bar:40} {pos}/{len} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(what);
            bar
        });
        Self { bar, what, total, told: Instant::now() }
    }

    pub(crate) fn at(&mut self, position: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(position as u64),
            None if position == self.total || self.told.elapsed() >= LINE_EVERY => {
                eprintln!("{}: {position} of {}", self.what, self.total);
                self.told = Instant::now();
            }
            None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}
