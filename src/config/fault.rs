//! What is wrong with a configuration: every fault with its key, where it was written and the mend.
//!
//! Neither faults nor notices ever hold the value of a secret.

use std::fmt;

/// All that is wrong with a configuration; prints one line per fault. Becomes exit code 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    faults: Vec<Fault>,
}

impl ConfigError {
    /// The faults, in the order they were found; never empty.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The variable or key of the file.
    pub key: String,
    /// Where it was written.
    pub origin: Origin,
    /// What is wrong with it and what is allowed.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Unset => write!(f, "{}: {}", self.key, self.message),
            _ => write!(f, "{} ({}): {}", self.key, self.origin, self.message),
        }
    }
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A variable of the process.
    Environment,
    /// `.env` in the working directory.
    DotEnv {
        /// Line, counted from 1, where it is known.
        line: Option<usize>,
    },
    /// The configuration file.
    File {
        /// The file's name as given.
        name: String,
        /// Line, counted from 1, where it is known.
        line: Option<usize>,
    },
    /// An argument of the command line.
    CommandLine,
    /// Nowhere: it is missing.
    Unset,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, line) = match self {
            Self::Environment => ("environment", None),
            Self::DotEnv { line } => (".env", *line),
            Self::File { name, line } => (name.as_str(), *line),
            Self::CommandLine => ("command line", None),
            Self::Unset => ("not set", None),
        };
        f.write_str(name)?;
        line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// A value as written, with its key and place. No `Debug`: it may be a secret.
#[derive(Clone)]
pub(super) struct Given {
    /// As it is called in a fault.
    pub(super) key: String,
    /// The value.
    pub(super) text: String,
    /// Where it was written.
    pub(super) origin: Origin,
}

/// Collects what is found wrong or remarkable, so that one run shows all of it.
#[derive(Default)]
pub(super) struct Findings {
    faults: Vec<Fault>,
    notices: Vec<String>,
}

impl Findings {
    /// Something that must be mended.
    pub(super) fn fault(&mut self, key: impl Into<String>, origin: Origin, message: impl Into<String>) {
        self.faults.push(Fault { key: key.into(), origin, message: message.into() });
    }

    /// Something required that is not there.
    pub(super) fn missing(&mut self, key: impl Into<String>, message: impl Into<String>) {
        self.fault(key, Origin::Unset, message);
    }

    /// Something that is allowed but that somebody should know.
    pub(super) fn notice(&mut self, text: impl Into<String>) {
        self.notices.push(text.into());
    }

    /// What `parse` makes of the value; a refusal is recorded as a fault.
    pub(super) fn read<T>(&mut self, given: &Given, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(given.key.clone(), given.origin.clone(), message);
                None
            }
        }
    }

    /// Notices a secret that is still in quotes, as from a file whose reader does not take them off.
    pub(super) fn notice_quotes(&mut self, given: &Given) {
        let text = given.text.trim();
        let is_quoted = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
        if is_quoted('"') || is_quoted('\'') {
            self.notice(format!(
                "{} ({}) is in quotes, which count as part of it: take them off, unless they belong to it",
                given.key, given.origin
            ));
        }
    }

    /// The notices, if nothing was wrong.
    pub(super) fn into_notices(self) -> Result<Vec<String>, ConfigError> {
        if self.faults.is_empty() { Ok(self.notices) } else { Err(ConfigError { faults: self.faults }) }
    }
}

/// So much of a text as may stand in a fault.
///
/// No more than up to a `=` or a line break: where a line break or a quote was forgotten, the text runs on into
/// the next line, and that may hold a secret.
pub(super) fn beginning(text: &str) -> String {
    const LONGEST: usize = 60;
    let first = text.split_inclusive(['=', '\n', '\r']).next().unwrap_or_default();
    let cut: String = first.chars().take(LONGEST).collect();
    if cut.len() < text.len() { cut + "…" } else { cut }
}
