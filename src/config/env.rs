//! Variables as strings: the only place that reads the process environment, and the seam that tests fill.
//!
//! `.env` is read beside the environment, never into it: changing a process's environment is not safe once
//! threads run. An empty variable counts as unset (as `NAME=` in a compose file means it), except for webhook
//! secrets: with an empty key anybody could sign.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use super::fault::{Findings, Given, Origin};
use super::settings::{self, CONFIG_FILE_VARIABLE, SETTINGS};

/// The variables a configuration is read from. `Debug` shows their names only.
#[derive(Clone, Default)]
pub struct Variables {
    set: BTreeMap<String, Given>,
    /// Values that are not UTF-8 and lines of `.env` that cannot be read.
    unreadable: Vec<(String, Origin, String)>,
}

impl Variables {
    /// The variables of this process over those of `.env` in its working directory, if there is one.
    #[must_use]
    pub fn of_this_process() -> Self {
        let mut variables = Self::default();
        match std::fs::read(Path::new(".env")) {
            Ok(bytes) => variables.add_dot_env(&bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => variables.unreadable.push((
                ".env".into(),
                Origin::DotEnv { line: None },
                format!("cannot be read: {error}; mend its permissions or remove it"),
            )),
        }
        variables.add_environment(std::env::vars_os());
        variables
    }

    /// The variables of this process alone.
    #[must_use]
    pub fn without_dot_env() -> Self {
        let mut variables = Self::default();
        variables.add_environment(std::env::vars_os());
        variables
    }

    /// What it would be with this `.env` and these variables.
    #[must_use]
    pub fn from_dot_env(dot_env: &str, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut variables = Self::default();
        variables.add_dot_env(dot_env.as_bytes());
        variables.add_environment(environment);
        variables
    }

    fn add_environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in variables {
            // A name that is not UTF-8 is none of ours.
            let Some(name) = name.to_str().filter(|name| concerns_us(name)) else { continue };
            match value.into_string() {
                Ok(value) => self.set(name, value, Origin::Environment),
                Err(_) => self.unreadable.push((name.into(), Origin::Environment, "is not UTF-8 text".into())),
            }
        }
    }

    fn add_dot_env(&mut self, bytes: &[u8]) {
        let Ok(text) = std::str::from_utf8(bytes) else {
            let message = "is not UTF-8 text; save it as UTF-8".into();
            self.unreadable.push((".env".into(), Origin::DotEnv { line: None }, message));
            return;
        };
        let text = text.trim_start_matches('\u{feff}');
        // The reader wants a line end after the last line, too.
        for entry in dotenvy::from_read_iter(format!("{text}\n").as_bytes()) {
            match entry {
                Ok((name, value)) if concerns_us(&name) => self.set(&name, value, Origin::DotEnv { line: None }),
                Ok(_) => {}
                // The error holds the line, and the line may hold a secret.
                Err(error) => self.unreadable.push((
                    ".env".into(),
                    Origin::DotEnv { line: line_of(&error, text) },
                    "cannot be read: write NAME=value, in single quotes if it holds spaces, quotes, # or $".into(),
                )),
            }
        }
    }

    fn set(&mut self, name: &str, value: String, origin: Origin) {
        if !value.trim().is_empty() || settings::is_webhook_secret(name) {
            self.set.insert(name.to_owned(), Given { key: name.to_owned(), text: value, origin });
        }
    }

    /// The value of one variable, for what needs no more than that.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.set.get(name).map(|given| given.text.as_str())
    }

    /// The value and where it was set.
    pub(super) fn get(&self, name: &str) -> Option<&Given> {
        self.set.get(name)
    }

    /// What could not be read, and what looks like a setting but is none.
    pub(super) fn report(&self, findings: &mut Findings) {
        for (key, origin, message) in &self.unreadable {
            findings.fault(key.clone(), origin.clone(), message.clone());
        }
        for given in self.set.values().filter(|given| !is_known(&given.key)) {
            let known = SETTINGS.iter().map(|setting| setting.name);
            let hint = settings::nearest(&given.key, known).map(|name| format!("; did you mean {name}?"));
            findings.notice(format!(
                "{} ({}) is not a setting of this version and has no effect{}",
                given.key,
                given.origin,
                hint.unwrap_or_default()
            ));
        }
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.set.keys()).finish()
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Variables {
    /// As if the process had these variables and no `.env`.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let mut variables = Self::default();
        variables.add_environment(pairs.into_iter().map(|(k, v)| (k.into().into(), v.into().into())));
        variables
    }
}

/// Whether a variable is a setting or looks like one; the rest of the environment is nobody's business here.
fn concerns_us(name: &str) -> bool {
    is_known(name) || name.starts_with("FLEXPORTAL_") || settings::is_webhook_secret(name)
}

fn is_known(name: &str) -> bool {
    name == CONFIG_FILE_VARIABLE || settings::find(name).is_some()
}

fn line_of(error: &dotenvy::Error, text: &str) -> Option<usize> {
    let dotenvy::Error::LineParse(unreadable, _) = error else { return None };
    let first = unreadable.lines().next()?;
    text.lines().position(|line| line.trim_end() == first.trim_end()).map(|index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    #[test]
    fn the_environment_wins_over_dot_env_unless_it_is_empty_there() {
        let dot_env = "\u{feff}ADMIN_TOKEN=file\nexport RETENTION='7d'\nLOG_FORMAT=json\nHOME=/elsewhere\n";
        let variables = Variables::from_dot_env(dot_env, environment(&[("RETENTION", "8d"), ("LOG_FORMAT", "")]));
        let text = |name| variables.get(name).map(|given| given.text.as_str());
        assert_eq!(text("ADMIN_TOKEN"), Some("file"));
        assert_eq!(text("RETENTION"), Some("8d"));
        assert_eq!(text("LOG_FORMAT"), Some("json"));
        assert_eq!(text("HOME"), None);
    }

    #[test]
    fn a_broken_line_of_dot_env_is_named_by_its_number_and_not_quoted() {
        let variables = Variables::from_dot_env("RETENTION=7d\nADMIN TOKEN hunter2\nLOG_FORMAT=json", []);
        let mut findings = Findings::default();
        variables.report(&mut findings);
        let error = findings.into_notices().expect_err("the second line is broken").to_string();
        assert!(error.starts_with(".env (.env, line 2): cannot be read"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
        assert_eq!(variables.get("LOG_FORMAT").map(|given| given.text.as_str()), Some("json"));
    }

    #[test]
    fn debug_shows_names_only() {
        let variables = Variables::from_iter([("ADMIN_TOKEN", "hunter2")]);
        assert_eq!(format!("{variables:?}"), r#"{"ADMIN_TOKEN"}"#);
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_text_is_a_fault_and_no_panic() {
        use std::os::unix::ffi::OsStringExt;
        let bad = OsString::from_vec(vec![0xff]);
        let variables = Variables::from_dot_env("", [("ADMIN_TOKEN".into(), bad.clone()), ("LANG".into(), bad)]);
        let mut findings = Findings::default();
        variables.report(&mut findings);
        let error = findings.into_notices().expect_err("not text");
        assert_eq!(error.to_string(), "ADMIN_TOKEN (environment): is not UTF-8 text");
    }
}
