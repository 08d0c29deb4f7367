//! A shop: `[[source]]` in the file, or a `…_WEBHOOK_SECRET` in the environment.
//!
//! A variable turns on the source named after its kind. A `[[source]]` of that name and kind joins with it, so
//! that policies can live in the file and secrets in the environment; where both give a secret, the
//! environment wins.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde::Deserialize;

use super::Needs;
use super::check;
use super::fault::{Findings, Given, Origin};
use super::file::Entry;
use super::layers::{self, Layers};
use super::target;
use crate::domain::{ShopName, SourceName, TargetName};

/// One configured shop.
#[derive(Debug, Clone)]
pub struct Source {
    /// As in `POST /webhooks/{source}`.
    pub name: SourceName,
    /// Which adapter verifies and parses.
    pub kind: ShopKind,
    /// The webhook secret and, while it is rotated, the previous one. Never empty texts; none at all only
    /// where the process takes no webhooks in ([`Needs::intake`] is false) and was given none.
    pub secrets: Vec<SecretString>,
    /// Which tenant its customers belong to.
    pub target: TargetName,
    /// The one shop that is heard, by each of its names; without any, the first that speaks is.
    pub shop: Vec<ShopName>,
    /// How its customers are found in FlexPortal.
    pub identity: Identity,
    /// Name of a field of the payload that carries FlexPortal's customer id, besides the generic source's
    /// `flexportalCustomerId`: a key of WooCommerce's `meta_data`, a top-level key elsewhere.
    pub flexportal_id_field: Option<String>,
    /// The `WordPress` roles whose users are customers (`WooCommerce`); none: all but staff.
    pub roles: Vec<String>,
    /// What to make of the things shops leave open.
    pub policies: Policies,
}

impl Source {
    /// The source that the variables of this kind define, as far as a process without its secret can know it.
    #[must_use]
    pub fn of_kind(kind: ShopKind) -> Self {
        Self {
            name: SourceName::parse(kind.as_str()).unwrap_or_else(|_| unreachable!("a kind is a name")),
            kind,
            secrets: vec![],
            target: TargetName::parse("default").unwrap_or_else(|_| unreachable!("it is a name")),
            shop: vec![],
            identity: Identity::default(),
            flexportal_id_field: None,
            roles: vec![],
            policies: Policies::default(),
        }
    }
}

/// The shop systems there is an adapter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ShopKind {
    /// Shopify.
    Shopify,
    /// `WooCommerce`.
    #[value(name = "woocommerce")]
    WooCommerce,
    /// Anything that signs as Standard Webhooks says.
    Generic,
}

impl ShopKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Shopify, Self::WooCommerce, Self::Generic];

    /// The variable that turns on the source named after this kind.
    #[must_use]
    pub fn secret_variable(self) -> &'static str {
        match self {
            Self::Shopify => "SHOPIFY_WEBHOOK_SECRET",
            Self::WooCommerce => "WOOCOMMERCE_WEBHOOK_SECRET",
            Self::Generic => "GENERIC_WEBHOOK_SECRET",
        }
    }

    /// The variable that names the shop of that source; none where its webhooks do not say which shop speaks.
    #[must_use]
    pub fn shop_variable(self) -> Option<&'static str> {
        match self {
            Self::Shopify => Some("SHOPIFY_SHOP"),
            Self::WooCommerce => Some("WOOCOMMERCE_SHOP"),
            Self::Generic => None,
        }
    }

    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shopify => "shopify",
            Self::WooCommerce => "woocommerce",
            Self::Generic => "generic",
        }
    }
}

/// How a shop's customer is found in FlexPortal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The event's id, else the link, else the e-mail.
    #[default]
    Email,
    /// The shop's id is FlexPortal's.
    SameId,
}

/// The policies a source can set in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policies {
    /// `customer_type`.
    pub customer_type: CustomerTypePolicy,
    /// `on_delete`: the customer was deleted in the shop.
    pub on_delete: StatusPolicy,
    /// `on_disable`: the customer's account was disabled in the shop (Shopify).
    pub on_disable: StatusPolicy,
    /// `single_address`.
    pub single_address: SingleAddress,
}

/// `customer_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerTypePolicy {
    /// Sent only when the shop says it.
    #[default]
    Explicit,
    /// `business` when a company is set.
    FromCompany,
}

/// `on_delete`, `on_disable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusPolicy {
    /// Sends `status: inactive`.
    #[default]
    Inactive,
    /// Says nothing; the event ends as `unchanged`.
    Ignore,
}

/// `single_address`: where a shop's one default address goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SingleAddress {
    /// To both addresses.
    #[default]
    Both,
    /// To the billing address only.
    Billing,
    /// To the shipping address only.
    Shipping,
}

/// Variables of shops that this version has no adapter for.
const WITHOUT_ADAPTER: [(&str, &str); 2] =
    [("SHOPWARE_WEBHOOK_SECRET", "Shopware"), ("BIGCOMMERCE_WEBHOOK_SECRET", "BigCommerce")];

/// A variable's secret and the one being rotated out, as written.
struct Secrets<'a> {
    current: Option<&'a Given>,
    previous: Option<&'a Given>,
}

/// What sources are checked against.
pub(super) struct Surroundings<'a> {
    /// The variables over the file's top level.
    pub(super) layers: &'a Layers,
    /// What the process will do.
    pub(super) needs: Needs,
    /// The targets there are, where a source must name one of them; a process that only takes webhooks in need
    /// not know them.
    pub(super) targets: Option<&'a target::Read>,
}

/// The sources of file and environment together.
pub(super) fn read(surroundings: &Surroundings<'_>, entries: &[Entry], findings: &mut Findings) -> Vec<Source> {
    let layers = surroundings.layers;
    let mut sources = Vec::new();
    let mut first_lines: BTreeMap<SourceName, Origin> = BTreeMap::new();
    for entry in entries {
        let Some(name) = name(entry, findings) else { continue };
        if let Some(first) = first_lines.get(&name) {
            let message = format!("there is a source of this name already ({first}): names must differ");
            findings.fault(entry.title.clone(), entry.origin.clone(), message);
            continue;
        }
        first_lines.insert(name.clone(), entry.origin.clone());
        sources.extend(from_entry(name, surroundings, entry, findings));
    }
    for kind in ShopKind::ALL {
        let written = variables(layers, kind.secret_variable());
        let is_in_file = first_lines.keys().any(|name| name.as_str() == kind.as_str());
        if !is_in_file {
            report_lone_previous(kind.secret_variable(), &written, findings);
            let secrets = secrets(Some(kind), written.current, written.previous, findings);
            if written.current.is_some() {
                sources.push(from_variable(kind, secrets, shop(Some(kind), shop_variable(layers, kind), findings)));
            }
        }
    }
    for (variable, shop) in WITHOUT_ADAPTER {
        let written = variables(layers, variable);
        report_lone_previous(variable, &written, findings);
        secrets(None, written.current, written.previous, findings);
        if written.current.is_some() {
            findings.notice(format!(
                "{variable} is set, but this version has no adapter for {shop}: its source stays off; its webhooks \
                 can be passed on through the generic source"
            ));
        }
    }
    sources
}

fn name(entry: &Entry, findings: &mut Findings) -> Option<SourceName> {
    let Some(given) = entry.get("name") else {
        let message = "is missing: name the source as its address shall end, /webhooks/{name}";
        findings.fault(entry.key("name"), entry.origin.clone(), message);
        return None;
    };
    findings.read(given, |text| SourceName::parse(text).map_err(|error| error.to_string()))
}

fn from_variable(kind: ShopKind, secrets: Vec<SecretString>, shop: Vec<ShopName>) -> Source {
    Source {
        name: SourceName::parse(kind.as_str()).expect("kinds are short lower-case words"),
        kind,
        secrets,
        target: TargetName::parse("default").expect("a short lower-case word"),
        shop,
        identity: Identity::default(),
        flexportal_id_field: None,
        roles: vec![],
        policies: Policies::default(),
    }
}

fn from_entry(
    name: SourceName,
    surroundings: &Surroundings<'_>,
    entry: &Entry,
    findings: &mut Findings,
) -> Option<Source> {
    if entry.get("kind").is_none() {
        let kinds = ShopKind::ALL.map(ShopKind::as_str).join(", ");
        findings.fault(entry.key("kind"), entry.origin.clone(), format!("is missing: write one of {kinds}"));
    }
    let kind = entry.get("kind").and_then(|given| findings.read(given, check::word::<ShopKind>));
    let secrets = joined_secrets(&name, kind, surroundings, entry, findings);
    let target = entry.get("target").map_or_else(
        || TargetName::parse("default").ok(),
        |given| findings.read(given, |text| target_name(text, surroundings.targets)),
    );
    let namesake = kind.filter(|kind| kind.as_str() == name.as_str());
    let in_environment = namesake.and_then(|kind| shop_variable(surroundings.layers, kind));
    let shop = shop(kind, layers::join(in_environment, entry.get("shop"), findings), findings);
    let identity = word_or_default(entry, "identity", findings);
    let policies = Policies {
        customer_type: word_or_default(entry, "customer_type", findings),
        on_delete: word_or_default(entry, "on_delete", findings),
        on_disable: word_or_default(entry, "on_disable", findings),
        single_address: word_or_default(entry, "single_address", findings),
    };
    let flexportal_id_field = entry.get("flexportal_id_field").map(|given| given.text.trim().to_owned());
    let roles = roles(kind, entry.get("roles"), findings);
    Some(Source { name, kind: kind?, secrets, target: target?, shop, identity, flexportal_id_field, roles, policies })
}

fn shop_variable(layers: &Layers, kind: ShopKind) -> Option<&Given> {
    layers.get(kind.shop_variable()?)
}

/// The names of one shop, with commas between them.
fn shop(kind: Option<ShopKind>, given: Option<&Given>, findings: &mut Findings) -> Vec<ShopName> {
    let Some(given) = given else { return vec![] };
    if kind == Some(ShopKind::Generic) {
        let message = "is of no use here: a generic source's webhooks do not say which shop speaks";
        findings.fault(given.key.clone(), given.origin.clone(), message);
        return vec![];
    }
    let names = |text: &str| text.split(',').map(ShopName::of).collect::<Option<_>>();
    let names = |text: &str| names(text).ok_or_else(|| "holds an empty name between its commas".to_owned());
    findings.read(given, names).unwrap_or_default()
}

/// Roles, with commas between them.
fn roles(kind: Option<ShopKind>, given: Option<&Given>, findings: &mut Findings) -> Vec<String> {
    let Some(given) = given else { return vec![] };
    if kind.is_some_and(|kind| kind != ShopKind::WooCommerce) {
        let message = "is of no use here: only WooCommerce's customers have roles";
        findings.fault(given.key.clone(), given.origin.clone(), message);
        return vec![];
    }
    let roles = |text: &str| -> Result<Vec<String>, String> {
        let roles: Vec<_> = text.split(',').map(|role| role.trim().to_owned()).collect();
        let is_role = |role: &String| {
            (1..=64).contains(&role.len()) && role.chars().all(|c| c.is_ascii_alphanumeric() || "_-:. ".contains(c))
        };
        if roles.iter().all(is_role) { Ok(roles) } else { Err("holds what is no role of WordPress".to_owned()) }
    };
    findings.read(given, roles).unwrap_or_default()
}

fn target_name(text: &str, targets: Option<&target::Read>) -> Result<TargetName, String> {
    let name = TargetName::parse(text).map_err(|error| error.to_string())?;
    if targets.is_some_and(|targets| !targets.knows(&name)) {
        return Err(format!("there is no target `{name}`: add a [[target]] of that name, or name another"));
    }
    Ok(name)
}

fn word_or_default<T: Default + for<'de> Deserialize<'de>>(entry: &Entry, key: &str, findings: &mut Findings) -> T {
    entry.get(key).and_then(|given| findings.read(given, check::word)).unwrap_or_default()
}

/// The secrets of a `[[source]]` and of the variable of the same name.
fn joined_secrets(
    name: &SourceName,
    kind: Option<ShopKind>,
    surroundings: &Surroundings<'_>,
    entry: &Entry,
    findings: &mut Findings,
) -> Vec<SecretString> {
    let layers = surroundings.layers;
    let namesake = ShopKind::ALL.into_iter().find(|kind| kind.as_str() == name.as_str());
    let written =
        namesake.map_or(Secrets { current: None, previous: None }, |kind| variables(layers, kind.secret_variable()));
    if let (Some(variable), Some(namesake), Some(kind)) = (written.current.or(written.previous), namesake, kind)
        && namesake != kind
    {
        let message = format!(
            "{} ({}) turns on a source `{name}` of kind {}, this one is of kind {}: give it another name",
            variable.key,
            variable.origin,
            namesake.as_str(),
            kind.as_str()
        );
        findings.fault(entry.key("kind"), entry.origin.clone(), message);
        return Vec::new();
    }
    let current = layers::join(written.current, entry.get("secret"), findings);
    let previous = layers::join(written.previous, entry.get("previous_secret"), findings);
    if current.is_none() {
        if let Some(previous) = previous {
            let message = "is set without the secret that replaces it: set that as well, or remove this one";
            findings.fault(previous.key.clone(), previous.origin.clone(), message);
        } else if surroundings.needs.intake {
            let variable = namesake.filter(|namesake| kind.is_none_or(|kind| kind == *namesake));
            let or =
                variable.map_or(String::new(), |kind| format!(", or {} in the environment", kind.secret_variable()));
            let message = format!("is missing: set the shop's webhook secret here{or}");
            findings.fault(entry.key("secret"), entry.origin.clone(), message);
        }
    }
    secrets(kind, current, previous, findings)
}

fn variables<'a>(layers: &'a Layers, variable: &str) -> Secrets<'a> {
    Secrets { current: layers.get(variable), previous: layers.get(&format!("{variable}_PREVIOUS")) }
}

fn report_lone_previous(variable: &str, written: &Secrets<'_>, findings: &mut Findings) {
    if let Secrets { current: None, previous: Some(previous) } = written {
        let message = format!("is set without {variable}, the secret that replaces it: set both, or remove this one");
        findings.fault(previous.key.clone(), previous.origin.clone(), message);
    }
}

fn secrets(
    kind: Option<ShopKind>,
    current: Option<&Given>,
    previous: Option<&Given>,
    findings: &mut Findings,
) -> Vec<SecretString> {
    let mut secrets = Vec::new();
    for given in [current, previous].into_iter().flatten() {
        secrets.extend(findings.read(given, |text| check::webhook_secret(kind, text)));
        findings.notice_quotes(given);
        if given.text.trim() != given.text && !given.text.trim().is_empty() {
            findings.notice(format!(
                "{} ({}) begins or ends with white space, which counts as part of the secret",
                given.key, given.origin
            ));
        }
    }
    secrets
}
