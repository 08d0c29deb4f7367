//! A FlexPortal tenant: `[[target]]` in the file, or the `FLEXPORTAL_…` variables, which define `default`.
//!
//! A `[[target]]` named `default` joins with the variables, key by key; the environment wins. The variables
//! say nothing of other targets.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::fault::{Findings, Given, Origin};
use super::file::Entry;
use super::layers::{self, Layers};
use super::{check, settings};
use crate::domain::{TargetName, Tenant};

/// A claim lasts 30 s and must outlast the longest request, so that nobody takes a customer over whose request
/// can still arrive.
const LONGEST_TIMEOUT: &str = "20s";

/// One FlexPortal tenant (Business Unit).
#[derive(Debug, Clone)]
pub struct Target {
    /// `default`, or the name in the file.
    pub name: TargetName,
    /// `FLEXPORTAL_BASE_URL`, or the region's host. The path, if there is one, has no slash at its end.
    pub base_url: Url,
    /// `FLEXPORTAL_API_KEY`, sent as bearer token.
    pub api_key: SecretString,
    /// `FLEXPORTAL_TENANT_ID`, sent as `Tenant-ID`.
    pub tenant_id: String,
    /// `FLEXPORTAL_RATE_LIMIT_PER_MINUTE`, default 100; 0 means none.
    pub rate_limit_per_minute: u32,
    /// `FLEXPORTAL_TIMEOUT`, default 10 s: one request, from connecting to the last byte.
    pub timeout: Duration,
    /// `FLEXPORTAL_COUNTRY_FORMAT`.
    pub country_format: CountryFormat,
    /// `FLEXPORTAL_SEND_EMAIL`: sends `email`, which the documented schema does not have.
    pub send_email: bool,
}

impl Target {
    /// Whose links and acknowledgements are looked at.
    #[must_use]
    pub fn tenant(&self) -> Tenant {
        let base_url = self.base_url.as_str().trim_end_matches('/').to_owned();
        Tenant { base_url, tenant_id: self.tenant_id.clone() }
    }
}

/// `FLEXPORTAL_COUNTRY_FORMAT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountryFormat {
    /// English names: `Germany`.
    #[default]
    Name,
    /// ISO 3166-1 alpha-2: `DE`.
    Iso,
}

/// `FLEXPORTAL_REGION`: where a tenant's data is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Region {
    /// European Union.
    Eu,
    /// United States.
    Us,
    /// Qatar.
    Qatar,
}

impl Region {
    /// Where FlexPortal's API answers for this region.
    #[must_use]
    pub fn base_url(self) -> &'static str {
        match self {
            Self::Eu => "https://api-eu.flexportal.io",
            Self::Us => "https://api-us.flexportal.io",
            Self::Qatar => "https://api-qatar.flexportal.io",
        }
    }
}

/// The targets of file and environment together.
#[derive(Default)]
pub(super) struct Read {
    /// Those with credentials.
    pub(super) targets: Vec<Target>,
    /// Those that lack credentials, with what is missing; only a worker needs it.
    pub(super) incomplete: BTreeMap<TargetName, Incomplete>,
}

/// A target that cannot be called.
pub(super) struct Incomplete {
    /// The keys to set, and where.
    pub(super) missing: Vec<(String, Origin)>,
    /// Something was written for it, so that it is meant to work.
    pub(super) is_begun: bool,
}

impl Read {
    /// Whether a target of that name is configured, with or without its credentials.
    pub(super) fn knows(&self, name: &TargetName) -> bool {
        self.incomplete.contains_key(name) || self.targets.iter().any(|target| target.name == *name)
    }
}

/// The targets of file and environment together; `default` is always among them.
pub(super) fn read(layers: &Layers, entries: &[Entry], findings: &mut Findings) -> Read {
    let mut read = Read::default();
    let mut first_lines: BTreeMap<TargetName, Origin> = BTreeMap::new();
    for entry in entries {
        let Some(name) = name(entry, findings) else { continue };
        if let Some(first) = first_lines.get(&name) {
            let message = format!("there is a target of this name already ({first}): names must differ");
            findings.fault(entry.title.clone(), entry.origin.clone(), message);
            continue;
        }
        first_lines.insert(name.clone(), entry.origin.clone());
        let layers = (name.as_str() == "default").then_some(layers);
        TargetReader { name, layers, entry: Some(entry) }.read_into(&mut read, findings);
    }
    let default = TargetName::parse("default").expect("a short lower-case word");
    if !first_lines.contains_key(&default) {
        TargetReader { name: default, layers: Some(layers), entry: None }.read_into(&mut read, findings);
    }
    read
}

fn name(entry: &Entry, findings: &mut Findings) -> Option<TargetName> {
    let Some(given) = entry.get("name") else {
        let message = "is missing: name the target as the sources shall call it";
        findings.fault(entry.key("name"), entry.origin.clone(), message);
        return None;
    };
    findings.read(given, |text| TargetName::parse(text).map_err(|error| error.to_string()))
}

/// One target, from the variables (`default` only) and its `[[target]]` (if it has one).
struct TargetReader<'a> {
    name: TargetName,
    layers: Option<&'a Layers>,
    entry: Option<&'a Entry>,
}

impl<'a> TargetReader<'a> {
    fn given(&self, key: &str, findings: &mut Findings) -> Option<&'a Given> {
        let variable = self.layers.and_then(|layers| layers.get(&variable_of(key)));
        let written = self.entry.and_then(|entry| entry.get(key));
        layers::join(variable, written, findings)
    }

    /// The value, or the default that the variable has, for every target alike.
    fn value<T>(&self, key: &str, findings: &mut Findings, parse: impl Fn(&str) -> Result<T, String>) -> T {
        let given = self.given(key, findings);
        given.and_then(|given| findings.read(given, &parse)).unwrap_or_else(|| {
            parse(settings::default_of(&variable_of(key))).expect("defaults are valid, as a test of config shows")
        })
    }

    fn base_url(&self, findings: &mut Findings) -> Url {
        let region: Region = self.value("region", findings, check::word);
        let regional = Url::parse(region.base_url()).expect("a constant, which a test of config reads");
        let Some(given) = self.given("base_url", findings) else { return regional };
        let base_url = findings.read(given, check::base_url);
        if base_url.as_ref().is_some_and(check::is_exposed) {
            findings.notice(format!(
                "{} ({}) is plain HTTP: API key and customers' data can be read on the way; use https",
                given.key, given.origin
            ));
        }
        base_url.unwrap_or(regional)
    }

    fn read_into(self, read: &mut Read, findings: &mut Findings) {
        let (api_key, tenant_id) = (self.given("api_key", findings), self.given("tenant_id", findings));
        [api_key, tenant_id].into_iter().flatten().for_each(|given| findings.notice_quotes(given));
        let base_url = self.base_url(findings);
        let rate_limit_per_minute =
            self.value("rate_limit_per_minute", findings, |text| check::number(text, &(0..=1_000_000)));
        let timeout = self.value("timeout", findings, |text| check::duration(text, "100ms", LONGEST_TIMEOUT));
        let country_format = self.value("country_format", findings, check::word);
        let send_email = self.value("send_email", findings, check::boolean);
        let header = |given: &Given, findings: &mut Findings| {
            findings.read(given, |text| check::header_value(text).map(str::to_owned)).unwrap_or_default()
        };
        let texts = (api_key.map(|given| header(given, findings)), tenant_id.map(|given| header(given, findings)));
        if let (Some(api_key), Some(tenant_id)) = texts {
            read.targets.push(Target {
                name: self.name,
                base_url,
                api_key: api_key.into(),
                tenant_id,
                rate_limit_per_minute,
                timeout,
                country_format,
                send_email,
            });
            return;
        }
        let is_begun = self.entry.is_some() || api_key.is_some() || tenant_id.is_some();
        let missing = [("api_key", api_key), ("tenant_id", tenant_id)]
            .into_iter()
            .filter(|(_, given)| given.is_none())
            .map(|(key, _)| match (self.layers, self.entry) {
                (None, Some(entry)) => (entry.key(key), entry.origin.clone()),
                _ => (variable_of(key), Origin::Unset),
            })
            .collect();
        read.incomplete.insert(self.name, Incomplete { missing, is_begun });
    }
}

fn variable_of(key: &str) -> String {
    format!("FLEXPORTAL_{}", key.to_ascii_uppercase())
}
