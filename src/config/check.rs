//! One value at a time: text in, a checked value out, or what is wrong and allowed in half a sentence.
//!
//! Values that are or may hold secrets (keys, tokens, addresses with passwords) are never quoted.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use url::{Host, Url};

use super::fault;
use super::source::ShopKind;

/// The value as a message can show it.
fn shown(text: &str) -> String {
    format!("`{}`", fault::beginning(text).escape_debug())
}

/// A whole number within `range`.
pub(super) fn number<T>(text: &str, range: &RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    text.trim().parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        format!("{} is not allowed: write a whole number from {} to {}", shown(text), range.start(), range.end())
    })
}

/// A duration with its unit; the limits are written as a person would.
pub(super) fn duration(text: &str, shortest: &str, longest: &str) -> Result<Duration, String> {
    let limit = |text| humantime::parse_duration(text).expect("limits are constants");
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| format!("{} is not a duration: write one such as 500ms, 10s, 15m, 1h or 30d", shown(text)))?;
    if duration < limit(shortest) || duration > limit(longest) {
        return Err(format!("{} is not allowed: write a duration from {shortest} to {longest}", shown(text)));
    }
    Ok(duration)
}

/// Yes or no.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(format!("{} is not allowed: write true or false", shown(text))),
    }
}

/// One of the words of an enum, by its `Deserialize`.
pub(super) fn word<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, String> {
    let lower = text.trim().to_ascii_lowercase();
    let deserializer: serde::de::value::StrDeserializer<'_, NotOneOf> = lower.as_str().into_deserializer();
    T::deserialize(deserializer).map_err(|NotOneOf(words)| {
        let (last, others) = words.split_last().unwrap_or((&"", &[]));
        let allowed = if others.is_empty() { (*last).to_owned() } else { format!("{} or {last}", others.join(", ")) };
        format!("{} is not allowed: write {allowed}", shown(text))
    })
}

/// The words an enum knows, taken from serde's refusal, so that they are listed in one place only.
#[derive(Debug)]
struct NotOneOf(&'static [&'static str]);

impl std::fmt::Display for NotOneOf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("unknown word")
    }
}

impl std::error::Error for NotOneOf {}

impl serde::de::Error for NotOneOf {
    fn custom<T: Display>(_: T) -> Self {
        Self(&[])
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected)
    }
}

/// `ip:port`; `localhost` is taken as 127.0.0.1, since a name could mean several addresses.
pub(super) fn listen_addr(text: &str) -> Result<SocketAddr, String> {
    let trimmed = text.trim();
    let numeric = trimmed.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    numeric.as_deref().unwrap_or(trimmed).parse().map_err(|_| {
        format!("{} is not an address: write ip:port, such as 127.0.0.1:8080 or 0.0.0.0:8080", shown(text))
    })
}

/// An address of a Postgres database. Not quoted: it holds the password.
pub(super) fn database_url(text: &str) -> Result<SecretString, String> {
    let is_postgres = Url::parse(text.trim())
        .is_ok_and(|url| matches!(url.scheme(), "postgres" | "postgresql") && url.has_authority());
    if is_postgres {
        return Ok(text.trim().into());
    }
    Err("is not an address of a Postgres database: write postgres://user:password@host:5432/database \
         (in the password, write @ as %40, / as %2F, # as %23)"
        .into())
}

/// Where FlexPortal's API answers.
pub(super) fn base_url(text: &str) -> Result<Url, String> {
    http_url(text, "https://api-eu.flexportal.io", "the API key is set on its own")
}

/// Where a collector takes traces.
pub(super) fn collector_url(text: &str) -> Result<Url, String> {
    http_url(text, "http://127.0.0.1:4318", "headers are set by OTEL_EXPORTER_OTLP_HEADERS")
}

/// An address to ask; without a slash at its end, except for the root. Not quoted: it may hold a password.
fn http_url(text: &str, example: &str, instead_of_a_password: &str) -> Result<Url, String> {
    let example = format!("write one such as {example}");
    let mut url = Url::parse(text.trim()).map_err(|_| format!("is not an address: {example}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("must begin with https:// or http:// and name a host: {example}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("must not hold a user or password: {instead_of_a_password}"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not hold a query (?…) or fragment (#…)".into());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// Whether what is sent there in plain HTTP can be read on the way by strangers.
pub(super) fn is_exposed(url: &Url) -> bool {
    const PRIVATE_ENDINGS: [&str; 5] = [".localhost", ".local", ".internal", ".lan", ".home.arpa"];
    url.scheme() == "http"
        && match url.host() {
            Some(Host::Domain(name)) => {
                name.contains('.') && !PRIVATE_ENDINGS.iter().any(|ending| name.ends_with(ending))
            }
            Some(Host::Ipv4(ip)) => !(ip.is_loopback() || ip.is_private() || ip.is_link_local()),
            Some(Host::Ipv6(ip)) => !(ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local()),
            None => true,
        }
}

/// A text that can stand in an HTTP header as it is. Not quoted.
pub(super) fn header_value(text: &str) -> Result<&str, String> {
    if text.trim() != text {
        return Err("begins or ends with white space: remove it".into());
    }
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("may only hold visible ASCII characters, without spaces".into());
    }
    Ok(text)
}

/// A key that deliveries are signed with. Not quoted.
pub(super) fn webhook_secret(kind: Option<ShopKind>, text: &str) -> Result<SecretString, String> {
    if text.trim().is_empty() {
        return Err("is empty, and with an empty key anybody could sign: set the shop's secret, or remove it".into());
    }
    if kind == Some(ShopKind::Generic)
        && let Some(encoded) = text.strip_prefix("whsec_")
    {
        match STANDARD.decode(encoded) {
            Ok(key) if key.is_empty() => return Err("has no key after whsec_: set the whole secret".into()),
            Ok(_) => {}
            Err(_) => {
                return Err("must be base64 (standard alphabet, with = at the end) after whsec_: copy the whole \
                            secret, or leave whsec_ off to use the text itself as the key"
                    .into());
            }
        }
    }
    Ok(text.into())
}

/// Directives of `tracing`.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    // tracing-subscriber 0.3.23 slices at bytes, and panics where a directive is not ASCII.
    match text.is_ascii().then(|| tracing_subscriber::EnvFilter::try_new(text)) {
        Some(Ok(_)) => Ok(text.to_owned()),
        None | Some(Err(_)) => {
            Err(format!("{} is not a log filter: write info, debug or flexportal_sync=debug", shown(text)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CountryFormat, Identity, StatusPolicy};

    #[test]
    fn a_log_filter_that_cannot_be_read_is_refused_without_a_panic() {
        assert_eq!(log_filter("info,flexportal_sync=debug"), Ok("info,flexportal_sync=debug".to_owned()));
        for bad in ["flexportal_sync=loud", "A\u{a1}=", "\u{fc}"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units_and_limits() {
        let read = |text| duration(text, "100ms", "5m");
        assert_eq!(read("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(read(" 2m 30s "), Ok(Duration::from_secs(150)));
        assert_eq!(duration("30d", "1m", "365d"), Ok(Duration::from_hours(720)));
        for bad in ["10", "", "ten", "-1s", "50ms", "6m", "99999999999999999999d"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert_eq!(read("6m"), Err("`6m` is not allowed: write a duration from 100ms to 5m".into()));
    }

    #[test]
    fn words_are_listed_when_one_is_wrong() {
        assert_eq!(word::<CountryFormat>(" ISO "), Ok(CountryFormat::Iso));
        assert_eq!(word::<Identity>("same_id"), Ok(Identity::SameId));
        assert_eq!(word::<StatusPolicy>("x"), Err("`x` is not allowed: write inactive or ignore".into()));
        assert_eq!(
            word::<ShopKind>("etsy"),
            Err("`etsy` is not allowed: write shopify, woocommerce or generic".into())
        );
    }

    #[test]
    fn booleans_and_numbers() {
        for (text, value) in [("true", true), ("ON", true), ("yes", true), ("1", true), ("0", false), ("off", false)] {
            assert_eq!(boolean(text), Ok(value));
        }
        assert!(boolean("maybe").is_err());
        assert_eq!(number("256", &(1..=256)), Ok(256));
        for bad in ["0", "257", "-1", "1.0", "", "1_0"] {
            assert!(number(bad, &(1_usize..=256)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_listening_address_is_ip_and_port() {
        assert_eq!(listen_addr("localhost:8080"), listen_addr("127.0.0.1:8080"));
        assert!(listen_addr("[::1]:80").is_ok());
        for bad in ["8080", ":8080", "localhost", "example.org:80", "127.0.0.1:99999"] {
            assert!(listen_addr(bad).is_err_and(|message| message.contains("ip:port")), "{bad}");
        }
    }

    #[test]
    fn a_database_address_is_checked_and_never_quoted() {
        for good in ["postgres://u:p@h/db", "postgresql://localhost", "postgres:///db?host=/run/postgresql"] {
            assert!(database_url(good).is_ok(), "{good}");
        }
        for bad in ["hunter2", "mysql://u:hunter2@h/db", "postgres:hunter2", "host=h password=hunter2"] {
            assert!(database_url(bad).is_err_and(|message| !message.contains("hunter2")), "{bad}");
        }
    }

    #[test]
    fn a_base_address_is_http_and_bare() {
        let read = |text| base_url(text).map(|url| url.to_string());
        assert_eq!(read("https://api-eu.flexportal.io"), Ok("https://api-eu.flexportal.io/".into()));
        assert_eq!(read(" http://proxy:9090/fp// "), Ok("http://proxy:9090/fp".into()));
        for bad in ["api.example", "ftp://h", "https://u@h", "https://h?a=1", "https://h#f", "https://", "/v1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_http_is_remarkable_only_where_strangers_can_listen() {
        for (url, expected) in [
            ("https://api.example.org", false),
            ("http://api.example.org", true),
            ("http://8.8.8.8", true),
            ("http://fake-flexportal:9090", false),
            ("http://localhost:9090", false),
            ("http://proxy.internal", false),
            ("http://10.0.0.5", false),
            ("http://[::1]:9090", false),
            ("http://[2001:db8::1]", true),
        ] {
            assert_eq!(is_exposed(&Url::parse(url).expect("valid")), expected, "{url}");
        }
    }

    #[test]
    fn secrets_are_never_empty_and_whsec_is_base64() {
        let generic = |text| webhook_secret(Some(ShopKind::Generic), text);
        for good in ["plain text", "whsec_AAEC", "whsec_AA=="] {
            assert!(generic(good).is_ok(), "{good}");
        }
        for bad in ["", "  ", "whsec_", "whsec_hunter2!", "whsec_AA", "whsec_-_8="] {
            assert!(generic(bad).is_err_and(|message| !message.contains("hunter2")), "{bad}");
        }
        assert!(webhook_secret(Some(ShopKind::Shopify), "whsec_!").is_ok());
    }

    #[test]
    fn what_goes_into_a_header_is_visible_ascii() {
        assert_eq!(header_value("12345"), Ok("12345"));
        for bad in ["", "a b", "ä", "a\n", " a"] {
            assert!(header_value(bad).is_err(), "{bad:?}");
        }
    }
}
