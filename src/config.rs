//! Configuration: the file, then the environment over it, then validation; one error lists every fault.
//!
//! ```text
//! process environment ─┐
//! .env ────────────────┴▶ Variables ─┐
//! --config FILE ─────────▶ Written ──┴▶ Layers ─targets, sources, the rest─▶ Config | ConfigError
//! ```
//! The real environment wins over `.env`, both win over the file. What must be there depends on what the
//! process will do ([`Needs`]), and is checked in the same go, so that nobody mends one fault to meet the next.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::domain::RetryPolicy;

mod check;
mod env;
mod fault;
mod file;
mod layers;
mod settings;
pub mod source;
pub mod target;

pub use env::Variables;
pub use fault::{ConfigError, Fault, Origin};
pub use file::{SOURCE_KEYS, TARGET_KEYS};
pub use settings::{CONFIG_FILE_VARIABLE, SETTINGS, Setting};
pub use source::{CustomerTypePolicy, Identity, Policies, ShopKind, SingleAddress, Source, StatusPolicy};
pub use target::{CountryFormat, Region, Target};

use fault::Findings;
use layers::Layers;

/// What the process is going to do, and so what its configuration must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// Postgres: `DATABASE_URL` must be set.
    pub database: bool,
    /// Takes webhooks in: at least one source, each with its secret.
    pub intake: bool,
    /// Calls FlexPortal: credentials of every target that is configured or that a source uses, at least one.
    pub worker: bool,
}

impl Needs {
    /// Nothing must be set; what is set must still be valid.
    pub const NOTHING: Self = Self { database: false, intake: false, worker: false };
    /// The database only: migrations, looking things up.
    pub const DATABASE: Self = Self { database: true, intake: false, worker: false };
    /// The whole service in one process.
    pub const EVERYTHING: Self = Self { database: true, intake: true, worker: true };
}

/// Everything the service needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DATABASE_URL`: Postgres 13 or later.
    pub database_url: Option<SecretString>,
    /// `LISTEN_ADDR`, default `127.0.0.1:8080`.
    pub listen_addr: SocketAddr,
    /// `ADMIN_TOKEN`: bearer token of the admin API.
    pub admin_token: Option<SecretString>,
    /// The shops, those of the file first.
    pub sources: Vec<Source>,
    /// The FlexPortal tenants that there are credentials for.
    pub targets: Vec<Target>,
    /// `FLEXPORTAL_MAX_CONCURRENCY`, default 8: requests in flight per worker process.
    pub max_concurrency: usize,
    /// `RETRY_BASE_DELAY`, `RETRY_MAX_DELAY`, `RETRY_MAX_AGE`, `RETRY_MAX_ATTEMPTS`, default `1s`, `15m`, `1d`, `0`.
    pub retry: RetryPolicy,
    /// `UNMATCHED_RETRY_INTERVAL`, default `1h`.
    pub unmatched_retry_interval: Duration,
    /// `UNMATCHED_MAX_AGE`, default `30d`.
    pub unmatched_max_age: Duration,
    /// `RETENTION`, default `30d`.
    pub retention: Duration,
    /// `MAX_BODY_BYTES`, default 1 MiB, at most 16 MiB.
    pub max_body_bytes: usize,
    /// `LOG_FORMAT`; unset: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// `RUST_LOG`; unset: `info`.
    pub log_filter: Option<String>,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: the collector of traces.
    pub otlp_endpoint: Option<Url>,
    /// What is allowed but should be known, for the log at the start. Never holds secrets.
    pub notices: Vec<String>,
}

/// `LOG_FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads file and environment for a process that will do what `needs` says.
    ///
    /// The file is the given one, else the one that `FLEXPORTAL_SYNC_CONFIG` names, else none. `.env` is looked
    /// for in the working directory only. Nothing of it changes the process's environment.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong or missing.
    pub fn load(file: Option<&Path>, needs: Needs) -> Result<Self, ConfigError> {
        let variables = Variables::of_this_process();
        let named = match (file, variables.get(CONFIG_FILE_VARIABLE)) {
            (Some(path), _) => Some(("--config".to_owned(), Origin::CommandLine, path.to_owned())),
            (None, Some(given)) => Some((given.key.clone(), given.origin.clone(), PathBuf::from(&given.text))),
            (None, None) => None,
        };
        let mut findings = Findings::default();
        let written = match named {
            None => file::Written::default(),
            Some((key, origin, path)) => match std::fs::read_to_string(&path) {
                Ok(text) => file::read(&path.display().to_string(), &text, &mut findings),
                Err(error) => {
                    let message = format!("cannot read {}: {error}; name a readable TOML file", path.display());
                    findings.fault(key, origin, message);
                    file::Written { has_gaps: true, ..file::Written::default() }
                }
            },
        };
        assemble(&variables, written, needs, findings)
    }

    /// The same from given variables and the text of a file (with the name that faults call it by).
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_parts(variables: &Variables, file: Option<(&str, &str)>, needs: Needs) -> Result<Self, ConfigError> {
        let mut findings = Findings::default();
        let written = file.map(|(name, text)| file::read(name, text, &mut findings)).unwrap_or_default();
        assemble(variables, written, needs, findings)
    }
}

fn assemble(
    variables: &Variables,
    written: file::Written,
    needs: Needs,
    mut findings: Findings,
) -> Result<Config, ConfigError> {
    variables.report(&mut findings);
    // Of a file that was read in part, nobody can say what it lacks.
    let needs = if written.has_gaps { Needs::NOTHING } else { needs };
    let layers = Layers::new(variables, written.settings);
    let found = &mut findings;

    let targets = target::read(&layers, &written.targets, found);
    let must_know_targets = !written.has_gaps && (needs.worker || !written.targets.is_empty());
    let surroundings = source::Surroundings { layers: &layers, needs, targets: must_know_targets.then_some(&targets) };
    let sources = source::read(&surroundings, &written.sources, found);
    let has_sources =
        !written.sources.is_empty() || ShopKind::ALL.iter().any(|kind| layers.get(kind.secret_variable()).is_some());

    let config = Config {
        database_url: layers.optional("DATABASE_URL", found, check::database_url),
        listen_addr: layers.value("LISTEN_ADDR", found, check::listen_addr),
        admin_token: admin_token(&layers, found),
        max_concurrency: layers.value("FLEXPORTAL_MAX_CONCURRENCY", found, |text| check::number(text, &(1..=256))),
        retry: retry_policy(&layers, found),
        unmatched_retry_interval: duration(&layers, "UNMATCHED_RETRY_INTERVAL", ("1s", "365d"), found),
        unmatched_max_age: duration(&layers, "UNMATCHED_MAX_AGE", ("1s", "3650d"), found),
        retention: duration(&layers, "RETENTION", ("1m", "36500d"), found),
        max_body_bytes: layers.value("MAX_BODY_BYTES", found, |text| check::number(text, &(1024..=16 * 1024 * 1024))),
        log_format: layers.optional("LOG_FORMAT", found, check::word),
        log_filter: layers.optional("RUST_LOG", found, check::log_filter),
        otlp_endpoint: layers.optional("OTEL_EXPORTER_OTLP_ENDPOINT", found, check::collector_url),
        sources,
        targets: Vec::new(),
        notices: Vec::new(),
    };
    require(needs, &layers, has_sources, &config.sources, &targets, found);
    let notices = findings.into_notices()?;
    Ok(Config { targets: targets.targets, notices, ..config })
}

fn admin_token(layers: &Layers, findings: &mut Findings) -> Option<SecretString> {
    let token = layers.optional("ADMIN_TOKEN", findings, |text| check::header_value(text).map(str::to_owned))?;
    layers.get("ADMIN_TOKEN").into_iter().for_each(|given| findings.notice_quotes(given));
    if token.len() < SHORTEST_GOOD_TOKEN {
        findings.notice("ADMIN_TOKEN is short enough to be guessed: use 32 random characters, say");
    }
    Some(token.into())
}

/// Characters. 16 hexadecimal digits are 64 bits, beyond guessing over a network.
const SHORTEST_GOOD_TOKEN: usize = 16;

fn duration(layers: &Layers, variable: &str, (shortest, longest): (&str, &str), findings: &mut Findings) -> Duration {
    layers.value(variable, findings, |text| check::duration(text, shortest, longest))
}

fn retry_policy(layers: &Layers, findings: &mut Findings) -> RetryPolicy {
    let base_delay = duration(layers, "RETRY_BASE_DELAY", ("1ms", "1d"), findings);
    let max_delay = duration(layers, "RETRY_MAX_DELAY", ("1ms", "30d"), findings);
    let max_age = duration(layers, "RETRY_MAX_AGE", ("0s", "365d"), findings);
    let max_attempts = layers.value("RETRY_MAX_ATTEMPTS", findings, |text| check::number(text, &(0..=1_000_000)));
    RetryPolicy::new(base_delay, max_delay, max_age, max_attempts).unwrap_or_else(|| {
        let written = ["RETRY_MAX_DELAY", "RETRY_BASE_DELAY"].into_iter().find_map(|name| layers.get(name));
        let message = format!(
            "the longest delay ({}) is shorter than the first ({}): RETRY_MAX_DELAY must be at least RETRY_BASE_DELAY",
            humantime::format_duration(max_delay),
            humantime::format_duration(base_delay)
        );
        if let Some(given) = written {
            findings.fault(given.key.clone(), given.origin.clone(), message);
        }
        RetryPolicy::default()
    })
}

/// What the process needs and is not there.
fn require(
    needs: Needs,
    layers: &Layers,
    has_sources: bool,
    sources: &[Source],
    targets: &target::Read,
    findings: &mut Findings,
) {
    if needs.database && layers.get("DATABASE_URL").is_none() {
        findings.missing(
            "DATABASE_URL",
            "is missing: set it to the Postgres to keep events in, such as postgres://user:password@host:5432/database",
        );
    }
    if needs.intake && !has_sources {
        let variables = ShopKind::ALL.map(ShopKind::secret_variable).join(", ");
        findings.missing(
            "[[source]]",
            format!("no shop is configured: set one of {variables}, or add a [[source]] to the file"),
        );
    }
    if needs.worker {
        let is_first = targets.targets.is_empty() && !targets.incomplete.values().any(|target| target.is_begun);
        for (name, target) in &targets.incomplete {
            let is_used = target.is_begun || sources.iter().any(|source| source.target == *name);
            if is_used || is_first {
                for (key, origin) in &target.missing {
                    let message = "is missing: the sync worker cannot call FlexPortal without it";
                    findings.fault(key.clone(), origin.clone(), message);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    const FILE: &str = "sync.toml";

    fn load(variables: &[(&str, &str)], file: &str, needs: Needs) -> Result<Config, ConfigError> {
        let variables: Variables = variables.iter().copied().collect();
        Config::from_parts(&variables, Some((FILE, file)), needs)
    }

    /// The faults' lines, or nothing.
    fn faults(variables: &[(&str, &str)], file: &str, needs: Needs) -> Vec<String> {
        load(variables, file, needs)
            .map_or_else(|error| error.to_string().lines().map(str::to_owned).collect(), |_| Vec::new())
    }

    fn secrets(source: &Source) -> Vec<&str> {
        source.secrets.iter().map(ExposeSecret::expose_secret).collect()
    }

    const CREDENTIALS: [(&str, &str); 2] = [("FLEXPORTAL_API_KEY", "key-1"), ("FLEXPORTAL_TENANT_ID", "12345")];

    #[test]
    fn the_defaults_are_valid_and_those_of_the_contract() {
        let config = load(&CREDENTIALS, "", Needs::NOTHING).expect("valid");
        assert_eq!(config.listen_addr.to_string(), "127.0.0.1:8080");
        assert_eq!(config.max_concurrency, 8);
        assert_eq!(config.retry, RetryPolicy::default());
        assert_eq!(config.unmatched_retry_interval.as_secs(), 3_600);
        assert_eq!(config.unmatched_max_age.as_secs(), 30 * 86_400);
        assert_eq!(config.retention.as_secs(), 30 * 86_400);
        assert_eq!(config.max_body_bytes, 1_048_576);
        assert_eq!(config.log_format, None);
        assert!(config.sources.is_empty() && config.notices.is_empty() && config.admin_token.is_none());
        let target = &config.targets[0];
        assert_eq!(target.name.as_str(), "default");
        assert_eq!(target.base_url.as_str(), "https://api-eu.flexportal.io/");
        assert_eq!(target.tenant_id, "12345");
        assert_eq!(target.api_key.expose_secret(), "key-1");
        assert_eq!((target.rate_limit_per_minute, target.timeout), (100, Duration::from_secs(10)));
        assert_eq!((target.country_format, target.send_email), (CountryFormat::Name, false));
    }

    #[test]
    fn every_region_has_an_address() {
        for (region, host) in
            [("eu", "api-eu.flexportal.io"), ("US", "api-us.flexportal.io"), ("qatar", "api-qatar.flexportal.io")]
        {
            let config = load(&CREDENTIALS, &format!("flexportal_region = '{region}'"), Needs::NOTHING).expect("valid");
            assert_eq!(config.targets[0].base_url.host_str(), Some(host));
        }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let file = "retention = '7d'\nMAX_BODY_BYTES = 2048\nLog_Format = 'x'";
        assert_eq!(faults(&[], file, Needs::NOTHING).len(), 1);
        let file = "retention = '7d'\nMAX_BODY_BYTES = 2048\nRUST_LOG = 'debug'";
        let config = load(&[("RETENTION", "8d"), ("MAX_BODY_BYTES", "")], file, Needs::NOTHING).expect("valid");
        assert_eq!(config.retention.as_secs(), 8 * 86_400);
        assert_eq!(config.max_body_bytes, 2_048);
        assert_eq!(config.log_filter.as_deref(), Some("debug"));
    }

    #[test]
    fn all_faults_come_at_once_each_with_key_place_and_mend() {
        let variables = [
            ("LISTEN_ADDR", "example.org:80"),
            ("DATABASE_URL", "mysql://root:hunter2@h/db"),
            ("ADMIN_TOKEN", "hunter2 hunter2"),
            ("FLEXPORTAL_API_KEY", "hunter2\n"),
            ("FLEXPORTAL_BASE_URL", "https://hunter2@h"),
            ("GENERIC_WEBHOOK_SECRET", "whsec_hunter2!"),
            ("SHOPIFY_WEBHOOK_SECRET", " "),
            ("WOOCOMMERCE_WEBHOOK_SECRET_PREVIOUS", "hunter2"),
        ];
        let file = "retention = 30\nflexportal_timout = '1s'\nflexportal_timeout = '1h'\nretry_max_delay = '10ms'\n\
                    [[target]]\nname = 'b'\nregion = 'mars'";
        let lines = faults(&variables, file, Needs::EVERYTHING);
        for expected in [
            "flexportal_timout (sync.toml, line 2): unknown key; did you mean flexportal_timeout?",
            "[[target]] b region (sync.toml, line 7): `mars` is not allowed: write eu, us or qatar",
            "FLEXPORTAL_BASE_URL (environment): must not hold a user",
            "flexportal_timeout (sync.toml, line 3): `1h` is not allowed: write a duration from 100ms to 20s",
            "FLEXPORTAL_API_KEY (environment): begins or ends with white space",
            "SHOPIFY_WEBHOOK_SECRET (environment): is empty",
            "WOOCOMMERCE_WEBHOOK_SECRET_PREVIOUS (environment): is set without WOOCOMMERCE_WEBHOOK_SECRET",
            "GENERIC_WEBHOOK_SECRET (environment): must be base64",
            "DATABASE_URL (environment): is not an address of a Postgres database",
            "LISTEN_ADDR (environment): `example.org:80` is not an address",
            "ADMIN_TOKEN (environment): may only hold visible ASCII",
            "retention (sync.toml, line 1): `30` is not a duration",
            "retry_max_delay (sync.toml, line 4): the longest delay (10ms) is shorter than the first (1s)",
            "[[target]] b api_key (sync.toml, line 5): is missing",
            "[[target]] b tenant_id (sync.toml, line 5): is missing",
            "FLEXPORTAL_TENANT_ID: is missing",
        ] {
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected}\nin\n{}", lines.join("\n"));
        }
        assert_eq!(lines.len(), 16, "{}", lines.join("\n"));
        assert!(lines.iter().all(|line| !line.contains("hunter2")), "{}", lines.join("\n"));
    }

    #[test]
    fn what_must_be_there_depends_on_what_the_process_does() {
        let shop = ("SHOPIFY_WEBHOOK_SECRET", "s");
        let intake = Needs { intake: true, ..Needs::DATABASE };
        let worker = Needs { worker: true, ..Needs::NOTHING };
        let missing = |variables: &[(&str, &str)], file: &str, needs| {
            let error = load(variables, file, needs).err();
            error.map_or_else(Vec::new, |error| error.faults().iter().map(|fault| fault.key.clone()).collect())
        };
        assert!(missing(&[], "", Needs::NOTHING).is_empty());
        assert_eq!(missing(&[], "", Needs::DATABASE), ["DATABASE_URL"]);
        assert_eq!(
            missing(&[], "", Needs::EVERYTHING),
            ["DATABASE_URL", "[[source]]", "FLEXPORTAL_API_KEY", "FLEXPORTAL_TENANT_ID"]
        );
        assert!(missing(&[shop, ("DATABASE_URL", "postgres://h/db")], "", intake).is_empty());
        assert_eq!(missing(&[shop], "", worker), ["FLEXPORTAL_API_KEY", "FLEXPORTAL_TENANT_ID"]);
        assert_eq!(missing(&[CREDENTIALS[0]], "", worker), ["FLEXPORTAL_TENANT_ID"]);
        assert!(missing(&CREDENTIALS, "", worker).is_empty());

        let tenant = "[[target]]\nname = 'b'\napi_key = 'k'\ntenant_id = 't'\n";
        assert!(missing(&[], tenant, worker).is_empty(), "no source uses the target `default`");
        let keys = missing(&[shop], tenant, worker);
        assert_eq!(keys, ["FLEXPORTAL_API_KEY", "FLEXPORTAL_TENANT_ID"], "the variable's source uses `default`");
    }

    #[test]
    fn a_source_names_a_target_that_there_is() {
        let source = "[[source]]\nname = 'eu'\nkind = 'shopify'\nsecret = 's'\ntarget = 'b'\n";
        let tenant = |name| format!("{source}[[target]]\nname = '{name}'\napi_key = 'k'\ntenant_id = 't'\n");
        let intake = Needs { intake: true, ..Needs::NOTHING };
        let worker = Needs { worker: true, ..Needs::NOTHING };
        let unknown = "[[source]] eu target (sync.toml, line 5): there is no target `b`";
        for (file, needs, is_fault) in [
            (source.to_owned(), intake, false),
            (source.to_owned(), worker, true),
            (tenant("b"), worker, false),
            (tenant("c"), intake, true),
        ] {
            let lines = faults(&[], &file, needs);
            assert_eq!(lines.first().is_some_and(|line| line.starts_with(unknown)), is_fault, "{lines:?}");
            assert!(is_fault || lines.is_empty(), "{lines:?}");
        }
        assert!(faults(&[], &tenant("c").replace("'b'", "'default'"), intake).is_empty());
    }

    #[test]
    fn policies_live_in_the_file_and_secrets_in_the_environment() {
        let file = "[[source]]\nname = 'shopify'\nkind = 'shopify'\non_delete = 'ignore'\nidentity = 'same_id'\n\
                    single_address = 'billing'\ncustomer_type = 'from_company'\nflexportal_id_field = 'fp'\n";
        let config = load(&[("SHOPIFY_WEBHOOK_SECRET", "env")], file, Needs::NOTHING).expect("valid");
        let [source] = config.sources.as_slice() else { panic!("{:?}", config.sources) };
        assert_eq!(secrets(source), ["env"]);
        assert_eq!(source.identity, Identity::SameId);
        assert_eq!(source.flexportal_id_field.as_deref(), Some("fp"));
        assert_eq!(
            source.policies,
            Policies {
                customer_type: CustomerTypePolicy::FromCompany,
                on_delete: StatusPolicy::Ignore,
                on_disable: StatusPolicy::Inactive,
                single_address: SingleAddress::Billing,
            }
        );

        let both = format!("{file}secret = 'file'\nprevious_secret = 'old'\n");
        let config = load(&[("SHOPIFY_WEBHOOK_SECRET", "env")], &both, Needs::NOTHING).expect("valid");
        assert_eq!(secrets(&config.sources[0]), ["env", "old"]);
        let config = load(&[("SHOPIFY_WEBHOOK_SECRET_PREVIOUS", "env")], &both, Needs::NOTHING).expect("valid");
        assert_eq!(secrets(&config.sources[0]), ["file", "env"]);
    }

    #[test]
    fn faults_of_sources() {
        let intake = Needs { intake: true, ..Needs::NOTHING };
        let shop = ("SHOPIFY_WEBHOOK_SECRET", "s");
        for (variables, file, expected) in [
            (
                vec![],
                "[[source]]\nname='shopify'\nkind='shopify'",
                "[[source]] shopify secret (sync.toml, line 1): is missing: set the shop's webhook secret here, or SHOPIFY_WEBHOOK_SECRET in the environment",
            ),
            (
                vec![],
                "[[source]]\nname='eu'\nkind='shopify'",
                "[[source]] eu secret (sync.toml, line 1): is missing: set the shop's webhook secret here",
            ),
            (
                vec![],
                "[[source]]\nname='eu'\nkind='shopify'\nsecret=''",
                "[[source]] eu secret (sync.toml, line 4): is empty",
            ),
            (
                vec![],
                "[[source]]\nname='eu'\nkind='shopify'\nprevious_secret='a'",
                "[[source]] eu previous_secret (sync.toml, line 4): is set without",
            ),
            (
                vec![],
                "[[source]]\nname='eu'\nsecret='a'",
                "[[source]] eu kind (sync.toml, line 1): is missing: write one of shopify, woocommerce, generic",
            ),
            (
                vec![],
                "[[source]]\nname='eu'\nkind='shopware'\nsecret='a'",
                "[[source]] eu kind (sync.toml, line 3): `shopware` is not allowed",
            ),
            (
                vec![],
                "[[source]]\nkind='shopify'\nsecret='a'",
                "[[source]] number 1 name (sync.toml, line 1): is missing",
            ),
            (
                vec![],
                "[[source]]\nname='E U'\nkind='shopify'\nsecret='a'",
                "[[source]] \"E U\" name (sync.toml, line 2): may only hold",
            ),
            (
                vec![],
                "[[source]]\nname='eu'\nkind='shopify'\nsecret='a'\n[[source]]\nname='eu'\nkind='generic'\nsecret='a'",
                "[[source]] eu (sync.toml, line 5): there is a source of this name already (sync.toml, line 1)",
            ),
            (
                vec![shop],
                "[[source]]\nname='shopify'\nkind='generic'\nsecret='a'",
                "[[source]] shopify kind (sync.toml, line 1): SHOPIFY_WEBHOOK_SECRET (environment) turns on a source `shopify` of kind shopify, this one is of kind generic",
            ),
            (
                vec![],
                "shopify_webhook_secret='a'\n[[source]]\nname='shopify'\nkind='shopify'\nsecret='b'",
                "[[source]] shopify secret (sync.toml, line 5): is given twice, also as shopify_webhook_secret (sync.toml, line 1)",
            ),
        ] {
            let lines = faults(&variables, file, intake);
            assert_eq!(lines.len(), 1, "{file}: {lines:?}");
            assert!(lines[0].starts_with(expected), "{file}:\n{}\n{expected}", lines[0]);
        }
        // Who only looks at the database needs no shop's secret.
        assert!(faults(&[], "[[source]]\nname='eu'\nkind='shopify'", Needs::NOTHING).is_empty());
    }

    #[test]
    fn the_target_default_joins_variables_and_file() {
        let file = "flexportal_timeout = '20s'\n[[target]]\nname = 'default'\nregion = 'us'\nrate_limit_per_minute = 0\n\
                    tenant_id = 7\nsend_email = true\ncountry_format = 'iso'\n";
        let config = load(&CREDENTIALS, file, Needs { worker: true, ..Needs::NOTHING }).expect("valid");
        let [target] = config.targets.as_slice() else { panic!("{:?}", config.targets) };
        assert_eq!(target.tenant_id, "12345", "the environment wins");
        assert_eq!(target.base_url.host_str(), Some("api-us.flexportal.io"));
        assert_eq!((target.rate_limit_per_minute, target.timeout), (0, Duration::from_secs(20)));
        assert_eq!((target.country_format, target.send_email), (CountryFormat::Iso, true));

        let lines =
            faults(&[], "flexportal_region = 'eu'\n[[target]]\nname = 'default'\nregion = 'us'", Needs::NOTHING);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("is given twice"), "{lines:?}");
    }

    #[test]
    fn other_targets_do_not_take_over_the_variables() {
        let file = "[[target]]\nname = 'b'\napi_key = 'k'\ntenant_id = 't'\nbase_url = 'https://proxy.example.org/fp/'";
        let config = load(&[("FLEXPORTAL_TIMEOUT", "1s")], file, Needs::NOTHING).expect("valid");
        let [target] = config.targets.as_slice() else { panic!("{:?}", config.targets) };
        assert_eq!(target.timeout, Duration::from_secs(10));
        assert_eq!(target.base_url.as_str(), "https://proxy.example.org/fp");
    }

    #[test]
    fn what_is_allowed_but_odd_is_a_notice() {
        let variables = [
            ("SHOPWARE_WEBHOOK_SECRET", "hunter2"),
            ("FLEXPORTAL_BASE_URL", "http://api.example.org"),
            ("FLEXPORTAL_APIKEY", "hunter2"),
            ("ADMIN_TOKEN", "hunter2"),
            ("SHOPIFY_WEBHOOK_SECRET", "hunter2 "),
        ];
        let notices = load(&variables, "", Needs::NOTHING).expect("valid").notices;
        for expected in [
            "FLEXPORTAL_APIKEY (environment) is not a setting of this version and has no effect; did you mean FLEXPORTAL_API_KEY?",
            "FLEXPORTAL_BASE_URL (environment) is plain HTTP",
            "SHOPIFY_WEBHOOK_SECRET (environment) begins or ends with white space",
            "SHOPWARE_WEBHOOK_SECRET is set, but this version has no adapter for Shopware",
            "ADMIN_TOKEN is short enough to be guessed",
        ] {
            assert!(notices.iter().any(|notice| notice.starts_with(expected)), "{expected}: {notices:?}");
        }
        assert_eq!(notices.len(), 5, "{notices:?}");
        assert!(!notices.concat().contains("hunter2"), "{notices:?}");
    }

    #[test]
    fn a_secret_that_is_still_in_quotes_is_noticed() {
        let variables = [
            ("SHOPIFY_WEBHOOK_SECRET", "'hunter2'"),
            ("WOOCOMMERCE_WEBHOOK_SECRET", "\"hunter2\""),
            ("GENERIC_WEBHOOK_SECRET", "hunter2'"),
            ("FLEXPORTAL_API_KEY", "\"hunter2\""),
            ("FLEXPORTAL_TENANT_ID", "t"),
        ];
        let notices = load(&variables, "", Needs::NOTHING).expect("valid").notices;
        let quoted: Vec<_> = notices.iter().filter(|notice| notice.contains("in quotes")).collect();
        assert_eq!(quoted.len(), 3, "{notices:?}");
        assert!(!notices.concat().contains("hunter2"), "{notices:?}");
    }

    #[test]
    fn a_shop_and_roles_are_named_in_one_text_or_in_a_list() {
        let file = "[[source]]\nname = 'a'\nkind = 'woocommerce'\nsecret = 's'\nshop = 'https://www.a.example/, b.example'\n\
                    roles = ['customer', 'subscriber']\n\
                    [[source]]\nname = 'b'\nkind = 'shopify'\nsecret = 's'\nshop = ['c.example']";
        let sources = load(&[], file, Needs::NOTHING).expect("valid").sources;
        let names = |at: usize| sources[at].shop.iter().map(crate::domain::ShopName::as_str).collect::<Vec<_>>();
        assert_eq!((names(0), names(1)), (vec!["a.example", "b.example"], vec!["c.example"]));
        assert_eq!(sources[0].roles, ["customer", "subscriber"]);
        let of_variable = [("SHOPIFY_WEBHOOK_SECRET", "s"), ("SHOPIFY_SHOP", "a.myshopify.com")];
        assert_eq!(load(&of_variable, "", Needs::NOTHING).expect("valid").sources[0].shop.len(), 1);

        let lines = faults(
            &[],
            "[[source]]\nname = 'a'\nkind = 'generic'\nsecret = 's'\nshop = 'x'\nroles = ['customer']\n\
             [[source]]\nname = 'b'\nkind = 'woocommerce'\nsecret = 's'\nshop = 'a,,b'\nroles = ['a/b']\n\
             on_delete = ['ignore']",
            Needs::NOTHING,
        );
        for (key, why) in [
            ("[[source]] a shop", "do not say which shop speaks"),
            ("[[source]] a roles", "only WooCommerce"),
            ("[[source]] b shop", "empty name"),
            ("[[source]] b roles", "no role"),
            ("[[source]] b on_delete", "must be a text"),
        ] {
            assert!(lines.iter().any(|line| line.starts_with(key) && line.contains(why)), "{key}: {lines:?}");
        }
    }

    #[test]
    fn of_a_file_with_a_syntax_error_nothing_is_called_missing() {
        let lines = faults(&[("RETENTION", "x")], "database_url = \n", Needs::EVERYTHING);
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("syntax (sync.toml, line 1)") && lines[1].starts_with("RETENTION"), "{lines:?}");
    }

    #[test]
    fn debug_shows_no_secret() {
        let variables = [
            ("DATABASE_URL", "postgres://u:hunter2@h/db"),
            ("ADMIN_TOKEN", "hunter2-hunter2-hunter2"),
            ("FLEXPORTAL_API_KEY", "hunter2"),
            ("FLEXPORTAL_TENANT_ID", "t"),
            ("SHOPIFY_WEBHOOK_SECRET", "hunter2"),
            ("SHOPIFY_WEBHOOK_SECRET_PREVIOUS", "hunter2"),
        ];
        let file = "[[source]]\nname = 'eu'\nkind = 'generic'\nsecret = 'hunter2'\n\
                    [[target]]\nname = 'b'\napi_key = 'hunter2'\ntenant_id = 't'\n";
        let config = load(&variables, file, Needs::EVERYTHING).expect("valid");
        let shown = format!("{config:?} {config:#?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_value_that_swallowed_the_next_line_is_shown_without_it() {
        let variables = [("LOG_FORMAT", "jsonADMIN_TOKEN=hunter2"), ("RETENTION", "30d\nADMIN_TOKEN hunter2")];
        let file = "[[source]]\nname = \"\"\"eu\nsecret hunter2\"\"\"\n[[source]]\nname = 'eu secret = hunter2'";
        let lines = faults(&variables, file, Needs::NOTHING);
        for expected in [
            "LOG_FORMAT (environment): `jsonADMIN_TOKEN=…` is not allowed",
            "RETENTION (environment): `30d\\n…` is not a duration",
            "[[source]] \"eu\\n…\" name (sync.toml, line 2): may only hold",
            "[[source]] \"eu secret =…\" name (sync.toml, line 5): may only hold",
        ] {
            assert!(lines.iter().any(|line| line.starts_with(expected)), "{expected}\nin\n{}", lines.join("\n"));
        }
        assert!(lines.iter().all(|line| !line.contains("hunter2")), "{}", lines.join("\n"));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = Config::load(Some(Path::new("/nowhere/sync.toml")), Needs::NOTHING).expect_err("not there");
        assert!(error.to_string().contains("--config (command line): cannot read /nowhere/sync.toml"), "{error}");
    }

    proptest! {
        #[test]
        fn no_file_makes_loading_panic(text in "(?s).{0,200}") {
            let _config = load(&[], &text, Needs::EVERYTHING);
        }

        #[test]
        fn no_value_makes_loading_panic(
            name in proptest::sample::select(SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>()),
            value in "(?s).{0,40}",
        ) {
            let _config = load(&[(name, &value)], "", Needs::NOTHING);
        }

        #[test]
        fn no_value_of_a_table_makes_loading_panic(
            word in proptest::sample::select(vec!["source", "target"]),
            key in proptest::sample::select([SOURCE_KEYS, TARGET_KEYS].concat()),
            value in "[^'\\n\\r]{0,40}",
        ) {
            let file = format!("[[{word}]]\nname = 'default'\nkind = 'generic'\n{key} = '{value}'\n");
            let _config = load(&[], &file, Needs::EVERYTHING);
        }
    }
}
