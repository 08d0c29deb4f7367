//! Configuration: a full one with slips in it, in the file, in `.env` and in single variables. None of it may
//! panic, and no secret may show.

use flexportal_sync::config::{Config, ConfigError, Needs, SETTINGS, Variables};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::{cases, edits};

/// Every secret holds it, more than once, so that one slip in it hides nothing.
const SECRET: &str = "hunter2";

const FILE: &str = r#"database_url = "postgres://hunter2:hunter2hunter2@127.0.0.1:5432/flexportal_sync"
listen_addr = "127.0.0.1:8080"
admin_token = "hunter2hunter2hunter2"
flexportal_api_key = "hunter2hunter2"
flexportal_tenant_id = 12345
flexportal_region = "eu"
flexportal_max_concurrency = 8
flexportal_timeout = "10s"
flexportal_send_email = false
shopify_webhook_secret = 'hunter2hunter2'
shopify_webhook_secret_previous = 'hunter2hunter2hunter2'
generic_webhook_secret = "whsec_hunter2hunter2hunter2hunter2"
retry_base_delay = "1s"
retention = "30d"
max_body_bytes = 1_048_576
log_format = "text"
rust_log = "info"

[[target]]
name = "nordics"
region = "eu"                       # or base_url
api_key = "hunter2hunter2"
tenant_id = "t-1"
rate_limit_per_minute = 100
country_format = "iso"

[[target]]
name = "proxied"
base_url = "https://proxy.example.org/fp/"
api_key = 'hunter2hunter2'
tenant_id = "t-2"

[[source]]
name = "shopify-se"
kind = "shopify"
secret = "hunter2hunter2"
previous_secret = "hunter2hunter2"
target = "nordics"
identity = "email"
flexportal_id_field = "fp_id"
customer_type = "from_company"
on_delete = "ignore"

[[source]]
name = "erp"
kind = "generic"
secret = "whsec_hunter2hunter2hunter2hunter2"
target = "proxied"
single_address = "billing"
"#;

const DOT_ENV: &str = r#"# Settings
DATABASE_URL='postgres://hunter2:hunter2hunter2@127.0.0.1:5432/flexportal_sync'
LISTEN_ADDR=127.0.0.1:8080
ADMIN_TOKEN=hunter2hunter2hunter2   # nobody knows
FLEXPORTAL_API_KEY="hunter2hunter2"
FLEXPORTAL_TENANT_ID=12345
FLEXPORTAL_REGION="eu"
FLEXPORTAL_TIMEOUT="10s"
export SHOPIFY_WEBHOOK_SECRET='hunter2 hunter2'
RETENTION='30d'
SHOPIFY_WEBHOOK_SECRET_PREVIOUS="hunter2hunter2"
LOG_FORMAT="json"
GENERIC_WEBHOOK_SECRET=whsec_hunter2hunter2hunter2hunter2
RUST_LOG=info
"#;

/// Variables that hold secrets.
const SECRETS: [&str; 9] = [
    "DATABASE_URL",
    "ADMIN_TOKEN",
    "FLEXPORTAL_API_KEY",
    "SHOPIFY_WEBHOOK_SECRET",
    "SHOPIFY_WEBHOOK_SECRET_PREVIOUS",
    "WOOCOMMERCE_WEBHOOK_SECRET",
    "GENERIC_WEBHOOK_SECRET",
    "GENERIC_WEBHOOK_SECRET_PREVIOUS",
    "SHOPWARE_WEBHOOK_SECRET",
];

fn any_name() -> impl Strategy<Value = &'static str> {
    select(SETTINGS.iter().map(|setting| setting.name).collect::<Vec<_>>())
}

fn any_needs() -> impl Strategy<Value = Needs> {
    any::<[bool; 3]>().prop_map(|[database, intake, worker]| Needs { database, intake, worker })
}

/// All that anybody gets to see of a configuration.
fn shown(loaded: &Result<Config, ConfigError>) -> String {
    match loaded {
        Ok(config) => format!("{config:?} {config:#?} {}", config.notices.join("\n")),
        Err(error) => format!("{error} {error:?}"),
    }
}

fn no_variables() -> Variables {
    Variables::from_iter([("", ""); 0])
}

#[test]
fn what_the_slips_are_made_in_is_valid() {
    let loaded = Config::from_parts(&no_variables(), Some(("sync.toml", FILE)), Needs::EVERYTHING);
    assert!(loaded.is_ok(), "{}", shown(&loaded));
    let loaded = Config::from_parts(&Variables::from_dot_env(DOT_ENV, []), None, Needs::EVERYTHING);
    assert!(loaded.is_ok(), "{}", shown(&loaded));
}

#[test]
fn a_text_that_runs_over_many_lines_shows_no_secret() {
    for (at, _) in FILE.match_indices(" = \"") {
        for end in ["", "\"\"\""] {
            let file = format!("{}\"\"{}{end}", &FILE[..at + 3], &FILE[at + 3..]);
            let error = Config::from_parts(&no_variables(), Some(("sync.toml", &file)), Needs::NOTHING).err();
            let error = error.map(|error| format!("{error} {error:?}")).unwrap_or_default();
            assert!(!error.contains(SECRET), "{error}");
        }
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn no_slip_in_a_file_shows_a_secret(slips in edits::of_text(4), needs in any_needs()) {
        let file = edits::text_with(FILE, &slips);
        let shown = shown(&Config::from_parts(&no_variables(), Some(("sync.toml", &file)), needs));
        prop_assert!(!shown.contains(SECRET), "{}", shown);
    }

    #[test]
    fn no_slip_in_dot_env_shows_a_secret(slips in edits::of_text(1), needs in any_needs()) {
        // A single one: without line break and `=`, value, name and secret are one word that nobody can part.
        let variables = Variables::from_dot_env(&edits::text_with(DOT_ENV, &slips), []);
        let loaded = Config::from_parts(&variables, None, needs);
        let shown = format!("{} {variables:?}", shown(&loaded));
        prop_assert!(!shown.contains(SECRET), "{}", shown);
    }

    #[test]
    fn no_secret_shows_whatever_is_wrong_with_it(
        names in vec(select(SECRETS.to_vec()), 1..4),
        (before, after) in ("(?s).{0,10}|whsec_|postgres://|https://u:", "(?s).{0,10}|@h/db|=| ?"),
        needs in any_needs(),
    ) {
        let variables: Variables = names.iter().map(|name| (*name, format!("{before}{SECRET}{after}"))).collect();
        let shown = shown(&Config::from_parts(&variables, None, needs));
        prop_assert!(!shown.contains(SECRET), "{}", shown);
    }

    #[test]
    fn nothing_in_variables_and_file_makes_it_panic(
        variables in vec((any_name(), "(?s).{0,20}|[0-9]{1,25}[a-z]{0,3}"), 0..8),
        slips in edits::of_text(6),
        needs in any_needs(),
    ) {
        let variables: Variables = variables.into_iter().collect();
        let loaded = Config::from_parts(&variables, Some(("sync.toml", &edits::text_with(FILE, &slips))), needs);
        prop_assert!(!shown(&loaded).is_empty());
    }
}
