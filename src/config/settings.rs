//! The settings there are: names, defaults and meaning in one table, from which the loader knows its keys.

/// One setting: a variable of the environment, or the same name, in lower or upper case, in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What counts when it is not set, as one would write it; `None` where there is no such value.
    pub default: Option<&'static str>,
    /// What it is for, in one line.
    pub meaning: &'static str,
}

/// Names the configuration file; not a setting of the file itself.
pub const CONFIG_FILE_VARIABLE: &str = "FLEXPORTAL_SYNC_CONFIG";

const fn setting(name: &'static str, default: Option<&'static str>, meaning: &'static str) -> Setting {
    Setting { name, default, meaning }
}

/// Every setting, in the order of the README.
pub const SETTINGS: &[Setting] = &[
    setting("DATABASE_URL", None, "Postgres 13 or later"),
    setting("LISTEN_ADDR", Some("127.0.0.1:8080"), "intake, health, metrics, admin"),
    setting("ADMIN_TOKEN", None, "bearer token of the admin API and the console; unset: both are off"),
    setting("FLEXPORTAL_API_KEY", None, "FlexPortal's API key"),
    setting("FLEXPORTAL_TENANT_ID", None, "FlexPortal's tenant"),
    setting("FLEXPORTAL_REGION", Some("eu"), "`eu`, `us` or `qatar`"),
    setting("FLEXPORTAL_BASE_URL", None, "overrides the region: test servers, proxies"),
    setting("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", Some("100"), "requests of all replicas together; 0: no limit"),
    setting("FLEXPORTAL_MAX_CONCURRENCY", Some("8"), "requests in flight per worker process"),
    setting("FLEXPORTAL_TIMEOUT", Some("10s"), "one request"),
    setting("FLEXPORTAL_COUNTRY_FORMAT", Some("name"), "countries as English names (`name`) or codes (`iso`)"),
    setting("FLEXPORTAL_SEND_EMAIL", Some("false"), "sends a changed e-mail, which the documented schema lacks"),
    setting("SHOPIFY_WEBHOOK_SECRET", None, "turns on the source `shopify`"),
    setting("SHOPIFY_WEBHOOK_SECRET_PREVIOUS", None, "the secret being rotated out, also accepted"),
    setting("WOOCOMMERCE_WEBHOOK_SECRET", None, "turns on the source `woocommerce`"),
    setting("WOOCOMMERCE_WEBHOOK_SECRET_PREVIOUS", None, "the secret being rotated out, also accepted"),
    setting("SHOPIFY_SHOP", None, "the one shop that is heard, `example.myshopify.com`; several names with commas"),
    setting("WOOCOMMERCE_SHOP", None, "the one shop that is heard, by its address; several names with commas"),
    setting("SHOPWARE_WEBHOOK_SECRET", None, "no adapter yet in this version"),
    setting("SHOPWARE_WEBHOOK_SECRET_PREVIOUS", None, "no adapter yet in this version"),
    setting("BIGCOMMERCE_WEBHOOK_SECRET", None, "no adapter yet in this version"),
    setting("BIGCOMMERCE_WEBHOOK_SECRET_PREVIOUS", None, "no adapter yet in this version"),
    setting("GENERIC_WEBHOOK_SECRET", None, "turns on the source `generic` (Standard Webhooks)"),
    setting("GENERIC_WEBHOOK_SECRET_PREVIOUS", None, "the secret being rotated out, also accepted"),
    setting("RETRY_BASE_DELAY", Some("1s"), "first delay of the exponential backoff"),
    setting("RETRY_MAX_DELAY", Some("15m"), "longest delay of the exponential backoff"),
    setting("RETRY_MAX_AGE", Some("1d"), "for so long attempts fail before the event does; 0: no such limit"),
    setting("RETRY_MAX_ATTEMPTS", Some("0"), "so many attempts fail before the event does; 0: no such limit"),
    setting("UNMATCHED_RETRY_INTERVAL", Some("1h"), "how often FlexPortal is asked again for a customer it lacks"),
    setting("UNMATCHED_MAX_AGE", Some("30d"), "how long it is asked"),
    setting("RETENTION", Some("30d"), "finished events older than this are removed; failed ones never are"),
    setting("MAX_BODY_BYTES", Some("1048576"), "larger bodies get 413"),
    setting("LOG_FORMAT", None, "`text` or `json`; unset: text on a terminal, else json"),
    setting("RUST_LOG", Some("info"), "which log lines, on stderr"),
    setting("OTEL_EXPORTER_OTLP_ENDPOINT", None, "where traces go; unset: nothing is traced"),
];

/// The setting of that name, in upper case.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// The default as the table has it.
///
/// # Panics
/// Where the table has none: a mistake in the program, which the tests of `config` would show.
pub(super) fn default_of(name: &str) -> &'static str {
    find(name).and_then(|setting| setting.default).expect("only asked for settings with a default")
}

/// Whether an empty value of it would turn a signature into something everybody can make.
pub(super) fn is_webhook_secret(name: &str) -> bool {
    name.ends_with("_WEBHOOK_SECRET") || name.ends_with("_WEBHOOK_SECRET_PREVIOUS")
}

/// The known name that `written` was probably meant to be.
pub(super) fn nearest<'a>(written: &str, known: impl Iterator<Item = &'a str> + Clone) -> Option<&'a str> {
    let written = written.to_ascii_lowercase();
    // `timeout` for `FLEXPORTAL_TIMEOUT`: far apart letter by letter, yet plainly the same.
    let tail = format!("_{written}");
    if let Some(longer) = known.clone().find(|name| name.to_ascii_lowercase().ends_with(&tail)) {
        return Some(longer);
    }
    known
        .map(|name| (strsim::jaro_winkler(&written, &name.to_ascii_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.85)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_pen_finds_its_setting() {
        let known = || SETTINGS.iter().map(|setting| setting.name);
        for (written, meant) in [
            ("database_ur", Some("DATABASE_URL")),
            ("FLEXPORTAL_APIKEY", Some("FLEXPORTAL_API_KEY")),
            ("shopify_secret", Some("SHOPIFY_WEBHOOK_SECRET")),
            ("timeout", Some("FLEXPORTAL_TIMEOUT")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(written, known()), meant, "{written}");
        }
    }

    #[test]
    fn no_setting_is_listed_twice() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
