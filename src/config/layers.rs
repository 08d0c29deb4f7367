//! Environment, `.env` and file as one: which of them a value is taken from.

use std::collections::BTreeMap;

use super::env::Variables;
use super::fault::{Findings, Given, Origin};
use super::settings;

/// The settings of all layers, the winning one of each.
pub(super) struct Layers {
    settings: BTreeMap<String, Given>,
}

impl Layers {
    /// The variables over what the file says at its top level.
    pub(super) fn new(variables: &Variables, file: BTreeMap<String, Given>) -> Self {
        let mut settings = file;
        for setting in settings::SETTINGS {
            if let Some(given) = variables.get(setting.name) {
                settings.insert(setting.name.to_owned(), given.clone());
            }
        }
        Self { settings }
    }

    /// The setting as written, if it is written anywhere.
    pub(super) fn get(&self, variable: &str) -> Option<&Given> {
        self.settings.get(variable)
    }

    /// What `parse` makes of the setting; `None` if it is not set or faulty, which is then recorded.
    pub(super) fn optional<T>(
        &self,
        variable: &str,
        findings: &mut Findings,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        self.get(variable).and_then(|given| findings.read(given, parse))
    }

    /// The same, or its default.
    pub(super) fn value<T>(
        &self,
        variable: &str,
        findings: &mut Findings,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> T {
        self.optional(variable, findings, &parse).unwrap_or_else(|| {
            parse(settings::default_of(variable)).expect("defaults are valid, as a test of config shows")
        })
    }
}

/// A setting and the key of a table that means the same: the environment wins, twice in one file is a fault.
pub(super) fn join<'a>(
    setting: Option<&'a Given>,
    written: Option<&'a Given>,
    findings: &mut Findings,
) -> Option<&'a Given> {
    if let (Some(setting), Some(written)) = (setting, written)
        && matches!(setting.origin, Origin::File { .. })
    {
        let message = format!("is given twice, also as {} ({}): keep one", setting.key, setting.origin);
        findings.fault(written.key.clone(), written.origin.clone(), message);
    }
    setting.or(written)
}
