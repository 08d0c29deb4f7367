//! The TOML file as written: top-level settings, `[[source]]` and `[[target]]`, each value with its line.
//!
//! Values are kept as text, whether written as string, integer or boolean, so that a tenant id `12345` stays
//! what it is and one set of rules serves the file and the environment. Syntax: <https://toml.io/en/v1.0.0>.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{self, Findings, Given, Origin};
use super::settings::{self, SETTINGS};

/// Keys of `[[source]]`.
pub const SOURCE_KEYS: &[&str] = &[
    "name",
    "kind",
    "secret",
    "previous_secret",
    "target",
    "shop",
    "identity",
    "flexportal_id_field",
    "roles",
    "customer_type",
    "on_delete",
    "on_disable",
    "single_address",
];

/// Keys whose value may be a list of texts.
const LIST_KEYS: &[&str] = &["shop", "roles"];

/// Keys of `[[target]]`.
pub const TARGET_KEYS: &[&str] = &[
    "name",
    "region",
    "base_url",
    "api_key",
    "tenant_id",
    "rate_limit_per_minute",
    "timeout",
    "country_format",
    "send_email",
];

/// What a file says, before anything is made of it.
#[derive(Default)]
pub(super) struct Written {
    /// Top-level settings by the name of their variable.
    pub(super) settings: BTreeMap<String, Given>,
    /// `[[source]]`.
    pub(super) sources: Vec<Entry>,
    /// `[[target]]`.
    pub(super) targets: Vec<Entry>,
    /// Part of the file could not be read, so that nothing can be said of what it lacks.
    pub(super) has_gaps: bool,
}

/// One `[[source]]` or `[[target]]`.
pub(super) struct Entry {
    /// How faults call it: `[[source]] "eu"`, or by its number if it has no name.
    pub(super) title: String,
    /// Its first line.
    pub(super) origin: Origin,
    values: BTreeMap<&'static str, Given>,
}

impl Entry {
    /// The value of one of its keys; an empty one counts as not written, as in the environment.
    pub(super) fn get(&self, key: &str) -> Option<&Given> {
        self.values.get(key)
    }

    /// How faults call one of its keys.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{} {key}", self.title)
    }
}

/// Reads the text of a file called `name`.
pub(super) fn read(name: &str, text: &str, findings: &mut Findings) -> Written {
    let reader = Reader { name, text };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut written = Written { has_gaps: !errors.is_empty(), ..Written::default() };
    for error in errors {
        // The error's own display would quote the line, which may hold a secret.
        findings.fault("syntax", reader.origin(error.span()), error.message().replace('\n', ", "));
    }
    for (key, value) in table.get_ref() {
        match key.get_ref().as_ref() {
            "source" => written.sources = reader.entries("source", SOURCE_KEYS, value, findings),
            "target" => written.targets = reader.entries("target", TARGET_KEYS, value, findings),
            name => reader.setting(name, key.span(), value, &mut written.settings, findings),
        }
    }
    written
}

struct Reader<'a> {
    name: &'a str,
    text: &'a str,
}

impl Reader<'_> {
    fn origin(&self, span: Option<Range<usize>>) -> Origin {
        let before = |offset: usize| &self.text.as_bytes()[..offset.min(self.text.len())];
        #[expect(clippy::naive_bytecount, reason = "once per value of a short file")]
        let line = span.map(|span| before(span.start).iter().filter(|byte| **byte == b'\n').count() + 1);
        Origin::File { name: self.name.to_owned(), line }
    }

    fn setting(
        &self,
        written: &str,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
        settings: &mut BTreeMap<String, Given>,
        findings: &mut Findings,
    ) {
        let name = written.to_ascii_uppercase();
        let is_one_case = written == name || written == written.to_ascii_lowercase();
        if settings::find(&name).is_none() || !is_one_case {
            let known = SETTINGS.iter().map(|setting| setting.name).chain(["source", "target"]);
            let meant = settings::nearest(written, known).map(|meant| match meant {
                "source" | "target" => format!("[[{meant}]]"),
                _ => meant.to_ascii_lowercase(),
            });
            findings.fault(shown_key(written), self.origin(Some(span)), unknown(meant.as_deref()));
            return;
        }
        let Some(given) = self.given(written.to_owned(), value, findings) else { return };
        if given.text.trim().is_empty() && !settings::is_webhook_secret(&name) {
            return;
        }
        if settings.insert(name, given).is_some() {
            findings.fault(written, self.origin(Some(span)), "is given in lower and in upper case: keep one");
        }
    }

    fn entries(
        &self,
        word: &str,
        known: &'static [&'static str],
        value: &Spanned<DeValue<'_>>,
        findings: &mut Findings,
    ) -> Vec<Entry> {
        let DeValue::Array(array) = value.get_ref() else {
            let message = format!("must be a list of tables: start each with [[{word}]], in double brackets");
            findings.fault(word, self.origin(Some(value.span())), message);
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (index, item) in array.iter().enumerate() {
            let title = format!("[[{word}]] number {}", index + 1);
            let origin = self.origin(Some(item.span()));
            match item.get_ref() {
                DeValue::Table(table) => entries.push(self.entry(word, title, origin, known, table, findings)),
                _ => findings.fault(title, origin, "must be a table of keys and values"),
            }
        }
        entries
    }

    fn entry(
        &self,
        word: &str,
        number: String,
        origin: Origin,
        known: &'static [&'static str],
        table: &DeTable<'_>,
        findings: &mut Findings,
    ) -> Entry {
        let name = table.get("name").and_then(|name| name.get_ref().as_str());
        let title = name.map_or(number, |name| format!("[[{word}]] {}", shown_key(name)));
        let mut entry = Entry { title, origin, values: BTreeMap::new() };
        for (key, value) in table {
            let Some(known_key) = known.iter().find(|known| **known == key.get_ref()) else {
                let meant = settings::nearest(key.get_ref(), known.iter().copied());
                findings.fault(entry.key(&shown_key(key.get_ref())), self.origin(Some(key.span())), unknown(meant));
                continue;
            };
            let list = value.get_ref().as_array().filter(|_| LIST_KEYS.contains(known_key));
            let given = match list.and_then(|items| texts(items)) {
                Some(texts) => {
                    let (key, origin) = (entry.key(known_key), self.origin(Some(value.span())));
                    Some(Given { key, text: texts.join(","), origin })
                }
                None => self.given(entry.key(known_key), value, findings),
            };
            let Some(given) = given else { continue };
            // An empty secret must not pass for one that was left out.
            if !given.text.trim().is_empty() || known_key.ends_with("secret") {
                entry.values.insert(known_key, given);
            }
        }
        entry
    }

    fn given(&self, key: String, value: &Spanned<DeValue<'_>>, findings: &mut Findings) -> Option<Given> {
        let origin = self.origin(Some(value.span()));
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Boolean(value) => value.to_string(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| integer.as_str().to_owned(), |number| number.to_string()),
            DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
                let message = "must be a text in quotes, a whole number, or true or false";
                findings.fault(key, origin, message);
                return None;
            }
        };
        Some(Given { key, text, origin })
    }
}

/// The items of a list, if each is a text.
fn texts<'a>(items: &'a [Spanned<DeValue<'_>>]) -> Option<Vec<&'a str>> {
    items.iter().map(|item| item.get_ref().as_str()).collect()
}

fn unknown(meant: Option<&str>) -> String {
    match meant {
        Some(meant) => format!("unknown key; did you mean {meant}?"),
        None => "unknown key; remove it, or see the README for those there are".to_owned(),
    }
}

/// A key as it can stand in a line of text.
fn shown_key(key: &str) -> String {
    let is_plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if is_plain && key.len() <= 64 {
        return key.to_owned();
    }
    format!("{:?}", fault::beginning(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        let mut findings = Findings::default();
        let _written = read("f.toml", text, &mut findings);
        findings.into_notices().map_or_else(|error| error.to_string(), |_| String::new())
    }

    #[test]
    fn values_of_all_plain_kinds_are_taken_as_text() {
        let mut findings = Findings::default();
        let text = "flexportal_tenant_id = 12_345\nMAX_BODY_BYTES = 0x400\nflexportal_send_email = true\n\
                    retention = ''\nadmin_token = \"t\"\nflexportal_api_key = 123456789012345678901234567890";
        let written = read("f.toml", text, &mut findings);
        assert!(findings.into_notices().is_ok());
        let text = |name: &str| written.settings.get(name).map(|given| given.text.as_str());
        assert_eq!(text("FLEXPORTAL_TENANT_ID"), Some("12345"));
        assert_eq!(text("MAX_BODY_BYTES"), Some("1024"));
        assert_eq!(text("FLEXPORTAL_SEND_EMAIL"), Some("true"));
        assert_eq!(text("RETENTION"), None);
        assert_eq!(text("FLEXPORTAL_API_KEY"), Some("123456789012345678901234567890"));
    }

    #[test]
    fn faults_name_key_and_line() {
        for (text, expected) in [
            ("\ndatabse_url = 'x'", "databse_url (f.toml, line 2): unknown key; did you mean database_url?"),
            ("Retention = '1d'", "Retention (f.toml, line 1): unknown key; did you mean retention?"),
            ("retention = '1d'\nRETENTION = '1d'", "is given in lower and in upper case"),
            ("retention = 1.5", "retention (f.toml, line 1): must be a text in quotes"),
            ("[[sources]]", "sources (f.toml, line 1): unknown key; did you mean [[source]]?"),
            ("[source]\nname = 'eu'", "source (f.toml, line 1): must be a list of tables: start each with [[source]]"),
            ("source = [1]", "[[source]] number 1 (f.toml, line 1): must be a table"),
            (
                "[[source]]\nname = 'eu'\nsecrt = 's'",
                "[[source]] eu secrt (f.toml, line 3): unknown key; did you mean secret?",
            ),
            ("[[target]]\nkind = 'x'", "[[target]] number 1 kind (f.toml, line 2): unknown key"),
            ("\"a\\nb\" = 1", "\"a\\n…\" (f.toml, line 1): unknown key"),
        ] {
            let error = error(text);
            assert!(error.contains(expected), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn a_syntax_error_names_its_line_and_quotes_nothing() {
        let error = error("log_format = 'text'\nadmin_token = \"hunter2\nretention = '1d'\n");
        assert!(error.contains("syntax (f.toml, line 2)"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s).{0,200}") {
            error(&text);
        }

        #[test]
        fn no_near_toml_makes_the_reader_panic(
            parts in proptest::collection::vec(
                prop_oneof!["\\[\\[(source|target)\\]\\]", "[a-z_]{1,9} ?= ?", "['\"\\[\\]{}=.,#é\n]{1,4}", "[0-9a-z_:+.-]{1,9}", Just("\n".to_owned())],
                0..40,
            )
        ) {
            error(&parts.concat());
        }
    }
}
