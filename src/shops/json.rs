//! JSON that anybody may have written, made fit for Postgres and read without trusting it.
//!
//! Postgres' `jsonb`, through which people look at it, refuses what is good JSON: `\u0000`, lone surrogates, numbers out
//! of the range of `numeric`. A delivery must not be lost or hidden for that, so such characters become U+FFFD and such
//! numbers become strings; both are noted on the event. Everything else is stored as received, numbers digit for digit.

use std::borrow::Cow;
use std::fmt::Write;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Rejection, html};
use crate::domain::{FlexportalCustomerId, ShopCustomerId};

/// Deeper bodies are refused: Postgres parses recursively, and no shop comes near.
const MAX_DEPTH: usize = 128;
/// Postgres writes an exponent out in full when it is read, to 131,072 digits: a small body would become a huge
/// one.
const MAX_EXPONENT: u32 = 40;
/// Longer numbers become strings; Postgres keeps at most 16,383 digits after the point.
const MAX_NUMBER_LENGTH: usize = 300;

/// A body as Postgres takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mended {
    /// The JSON.
    pub text: String,
    /// What had to be changed.
    pub warnings: Vec<String>,
}

/// Makes a body fit for `jsonb`, changing as little as possible. What is not JSON is refused, or stays as it is: whoever
/// reads it will see.
///
/// # Errors
/// [`Rejection::Malformed`] if it is not UTF-8, nested too deeply, or not JSON and would be changed.
pub fn mend(body: &[u8]) -> Result<Mended, Rejection> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|_| Rejection::malformed("the body is not UTF-8"))?;

    let mut mending = Mending { text, done: 0, mended: String::new(), characters: 0, numbers: 0 };
    mending.run()?;
    if mending.done > 0 {
        // Of what is not JSON, mending could make it.
        check(text)?;
    }
    let mut warnings = Vec::new();
    if mending.characters > 0 {
        warnings.push(format!(
            "{} characters that cannot be stored (NUL, lone surrogates) became U+FFFD",
            mending.characters
        ));
    }
    if mending.numbers > 0 {
        warnings.push(format!("{} numbers too large to be stored became texts", mending.numbers));
    }
    Ok(Mended { text: mending.finish(), warnings })
}

/// Whether it is JSON of any kind.
///
/// # Errors
/// [`Rejection::Malformed`] says where it is not.
pub(super) fn check(text: &str) -> Result<(), Rejection> {
    serde_json::from_str::<&RawValue>(text).map(|_| ()).map_err(|error| not_json(&error))
}

fn not_json(error: &serde_json::Error) -> Rejection {
    // The error's own text could quote the body.
    Rejection::malformed(format!("the body is not JSON (line {}, column {})", error.line(), error.column()))
}

/// One pass over JSON that copies it, mending as it goes.
struct Mending<'a> {
    text: &'a str,
    /// Everything before has been copied to `mended`.
    done: usize,
    mended: String,
    characters: usize,
    numbers: usize,
}

impl Mending<'_> {
    fn run(&mut self) -> Result<(), Rejection> {
        let bytes = self.text.as_bytes();
        let (mut at, mut depth) = (0, 0_usize);
        while at < bytes.len() {
            at = match bytes[at] {
                b'"' => self.string(at),
                b'-' | b'0'..=b'9' => self.number(at),
                b'{' | b'[' => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(Rejection::malformed(format!("the body is nested deeper than {MAX_DEPTH} levels")));
                    }
                    at + 1
                }
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    at + 1
                }
                _ => at + 1,
            };
        }
        Ok(())
    }

    /// Passes a string at `at`; returns where to go on.
    fn string(&mut self, at: usize) -> usize {
        let bytes = self.text.as_bytes();
        let mut at = at + 1;
        while let Some(rest) = bytes.get(at..) {
            match rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
                Some(length) if rest[length] == b'"' => return at + length + 1,
                Some(length) => at = self.escape(at + length),
                None => break,
            }
        }
        bytes.len()
    }

    /// Passes an escape at `at`; returns where to go on.
    fn escape(&mut self, at: usize) -> usize {
        let Some(unit) = self.unicode_escape(at) else { return at + 2 };
        match unit {
            0xd800..0xdc00 if matches!(self.unicode_escape(at + 6), Some(0xdc00..0xe000)) => at + 12,
            0 | 0xd800..0xe000 => {
                self.replace(at, at + 6, "\\ufffd");
                self.characters += 1;
                at + 6
            }
            _ => at + 6,
        }
    }

    /// The code unit of a `\uXXXX` at `at`, if there is one.
    fn unicode_escape(&self, at: usize) -> Option<u32> {
        let digits = self.text.get(at..at + 6)?.strip_prefix("\\u")?;
        u32::from_str_radix(digits, 16).ok()
    }

    /// Passes a number at `at`; returns where to go on.
    fn number(&mut self, at: usize) -> usize {
        let is_of_number = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
        let end = at + self.text.as_bytes()[at..].iter().take_while(|byte| is_of_number(byte)).count();
        let number = &self.text[at..end];
        let exponent = number.split(['e', 'E']).nth(1).map_or("0", |e| e.trim_start_matches(['+', '-']));
        if number.len() > MAX_NUMBER_LENGTH || exponent.parse::<u32>().map_or(true, |e| e > MAX_EXPONENT) {
            let quoted = format!("\"{number}\"");
            self.replace(at, end, &quoted);
            self.numbers += 1;
        }
        end
    }

    fn replace(&mut self, from: usize, to: usize, with: &str) {
        self.mended.push_str(&self.text[self.done..from]);
        self.mended.push_str(with);
        self.done = to;
    }

    fn finish(mut self) -> String {
        self.mended.push_str(&self.text[self.done..]);
        self.mended
    }
}

/// An object whose values stay text until they are asked for. Of a repeated key the last counts, as in `jsonb`.
#[derive(Debug, Clone)]
pub struct Object<'a> {
    entries: Vec<(Cow<'a, str>, &'a RawValue)>,
    /// Texts in it are escaped for HTML.
    is_html: bool,
}

/// What an object says under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text<'a> {
    /// There is no such key, or its value is no text.
    Absent,
    /// Null, empty or white space.
    Empty,
    /// Trimmed.
    Value(Cow<'a, str>),
}

impl<'a> Text<'a> {
    /// The value, if there is one.
    #[must_use]
    pub fn value(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Value(text) => Some(text),
            Self::Absent | Self::Empty => None,
        }
    }
}

impl<'a> Object<'a> {
    /// Reads the outermost object of a body.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] if it is another kind of JSON, or none.
    pub fn parse(text: &'a str) -> Result<Self, Rejection> {
        serde_json::from_str(text).or_else(|_| {
            check(text)?;
            Err(Rejection::malformed("the body is not a JSON object"))
        })
    }

    /// The same, of a shop that escapes texts for HTML.
    #[must_use]
    pub fn of_html(&self) -> Self {
        Self { is_html: true, ..self.clone() }
    }

    /// Whether the key is there, whatever its value.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.raw(key).is_some()
    }

    /// Whether `true` stands under the key.
    #[must_use]
    pub fn is_true(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|raw| raw.get() == "true")
    }

    /// The text under a key; a number counts as its digits, other kinds of JSON are noted and left out.
    pub fn text(&self, key: &str, warnings: &mut Vec<String>) -> Text<'a> {
        let Some(raw) = self.raw(key) else { return Text::Absent };
        let text = match raw.get().as_bytes().first() {
            Some(b'"') => string(raw).unwrap_or_default(),
            Some(b'-' | b'0'..=b'9') => Cow::Borrowed(raw.get()),
            Some(b'n') => return Text::Empty,
            _ => {
                warnings.push(format!("`{key}` is not a text and was left out"));
                return Text::Absent;
            }
        };
        let text = if self.is_html { html::decoded(text) } else { text };
        let trimmed = match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
            Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
        };
        if trimmed.chars().all(is_invisible) { Text::Empty } else { Text::Value(trimmed) }
    }

    /// The object under a key; `Some(None)` for null.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Option<Object<'a>>> {
        let raw = self.raw(key)?;
        match raw.get() {
            "null" => Some(None),
            text => serde_json::from_str(text).ok().map(|object: Self| Some(Self { is_html: self.is_html, ..object })),
        }
    }

    /// The objects of the list under a key; `None` if there is no list.
    #[must_use]
    pub fn list(&self, key: &str) -> Option<Vec<Object<'a>>> {
        let items: Vec<&'a RawValue> = serde_json::from_str(self.raw(key)?.get()).ok()?;
        let objects = items.into_iter().filter_map(|item| serde_json::from_str::<Self>(item.get()).ok());
        Some(objects.map(|object| Self { is_html: self.is_html, ..object }).collect())
    }

    /// The customer's id under a key, a text or an integer, digit for digit.
    ///
    /// # Errors
    /// [`Rejection::Malformed`] if it is missing or cannot be an id.
    pub fn customer_id(&self, key: &str) -> Result<ShopCustomerId, Rejection> {
        let unusable = |why: &str| Rejection::malformed(format!("the customer's `{key}` {why}"));
        let raw = self.raw(key).unwrap_or(RawValue::NULL);
        let text = match raw.get().as_bytes().first() {
            Some(b'"') => string(raw).map_err(|_| unusable("cannot be read"))?,
            Some(b'-' | b'0'..=b'9') if !raw.get().contains(['.', 'e', 'E']) => Cow::Borrowed(raw.get()),
            Some(b'n') => return Err(unusable("is missing")),
            _ => return Err(unusable("is neither a text nor an integer")),
        };
        ShopCustomerId::parse(text.trim()).map_err(|error| unusable(&error.to_string()))
    }

    /// `FlexPortal`'s customer id under a key, if it is there and can be one.
    pub fn flexportal_id(&self, key: &str, warnings: &mut Vec<String>) -> Option<FlexportalCustomerId> {
        let id = self.text(key, warnings).value()?;
        FlexportalCustomerId::parse(id)
            .inspect_err(|error| warnings.push(format!("`{key}` {error} and was left out")))
            .ok()
    }

    /// The object as JSON without the list under a key, but for the last object in it that is to be kept; `None` if there is
    /// no such list, or if that has more than `max` bytes.
    #[must_use]
    pub fn without(&self, key: &str, is_kept: impl Fn(&Object<'_>) -> bool, max: usize) -> Option<String> {
        let kept = last_of(self.raw(key)?, is_kept).map_or("", RawValue::get);
        let others = || self.entries.iter().filter(|(name, _)| name != key);
        // Before anything is copied: who sends it may send many.
        let size: usize = others().map(|(name, value)| name.len() + value.get().len() + 4).sum();
        if size + kept.len() > max {
            return None;
        }
        let mut json = String::from("{");
        for (name, value) in others() {
            let _ = write!(json, "{}:{},", serde_json::Value::from(name.as_ref()), value.get());
        }
        let _ = write!(json, "{}:[{kept}]}}", serde_json::Value::from(key));
        Some(json)
    }

    fn raw(&self, key: &str) -> Option<&'a RawValue> {
        self.entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::with_capacity(20);
                while let Some((Key(key), value)) = map.next_entry()? {
                    entries.push((key, value));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_map(Entries).map(|entries| Object { entries, is_html: false })
    }
}

/// The last object of a list that is looked for; the others are passed over one by one.
fn last_of(list: &RawValue, is_it: impl Fn(&Object<'_>) -> bool) -> Option<&RawValue> {
    struct Items<F>(F);
    impl<'de, F: Fn(&Object<'_>) -> bool> Visitor<'de> for Items<F> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut last = None;
            while let Some(item) = items.next_element::<&'de RawValue>()? {
                if serde_json::from_str(item.get()).is_ok_and(|object| (self.0)(&object)) {
                    last = Some(item);
                }
            }
            Ok(last)
        }
    }
    serde_json::Deserializer::from_str(list.get()).deserialize_seq(Items(is_it)).ok().flatten()
}

/// White space, and what is not seen: zero-width and formatting characters, by which a text is empty to whoever reads it.
fn is_invisible(character: char) -> bool {
    character.is_whitespace()
        || character.is_control()
        || matches!(
            character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}'
        )
}

/// A key, borrowed where it holds no escapes.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// What a string says: without escapes, just what stands between the quotes.
fn string(raw: &RawValue) -> serde_json::Result<Cow<'_, str>> {
    match raw.get() {
        escaped if escaped.contains('\\') => serde_json::from_str(escaped).map(Cow::Owned),
        plain => Ok(Cow::Borrowed(plain.trim_matches('"'))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mended(body: &str) -> (String, usize) {
        let mended = mend(body.as_bytes()).expect("JSON");
        (mended.text, mended.warnings.len())
    }

    #[test]
    fn what_postgres_refuses_is_replaced_and_noted() {
        assert_eq!(mended(r#"{"a":"x\u0000y"}"#), (r#"{"a":"x\ufffdy"}"#.into(), 1));
        assert_eq!(
            mended(r#"{"a":"\ud800","b":"\udc00\ud83d\ude80"}"#),
            (r#"{"a":"\ufffd","b":"\ufffd\ud83d\ude80"}"#.into(), 1)
        );
        assert_eq!(mended(r#"{"\u0000":1}"#).0, r#"{"\ufffd":1}"#);
        assert_eq!(mended("[1e41,-1E-400,1e99999999999]"), (r#"["1e41","-1E-400","1e99999999999"]"#.into(), 1));
    }

    #[test]
    fn everything_else_stays_byte_for_byte() {
        for body in [
            r#"{"id":706405506930370084,"big":123456789012345678901234567890,"f":1.10,"e":1e40}"#,
            r#"{"a":"\\u0000 \" 1e999 [[[","b":["-1e999"]}"#,
            r#"{"a":1,"a":2}"#,
            " [ ] ",
        ] {
            assert_eq!(mended(body), (body.to_owned(), 0));
        }
        assert_eq!(mended("\u{feff}{}"), ("{}".into(), 0));
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for bad in [
            "",
            "{",
            "nul",
            "{}x",
            "{'a':1}",
            "[01]",
            "[1e999x]",
            "{1e999:1}",
            "[\"\\u+000\"]",
            "\"\u{0}\"",
            "{\"a\":\"\\ud8\"}",
        ] {
            assert!(mend(bad.as_bytes()).and_then(|mended| check(&mended.text)).is_err(), "{bad}");
        }
        assert!(mend(b"{\"a\":\"\xff\"}").is_err());
        assert!(mend(&"[".repeat(200_000).into_bytes()).is_err());
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(mend(nested(128).as_bytes()).is_ok());
        assert!(mend(nested(129).as_bytes()).is_err());
    }

    #[test]
    fn a_text_of_invisible_characters_alone_is_empty() {
        let text = |text: &str| {
            let body = serde_json::json!({"a": text}).to_string();
            Object::parse(&body).expect("an object").text("a", &mut vec![]).value().map(Cow::into_owned)
        };
        for empty in ["", "  ", "\u{200b}", "\u{feff} \u{ad}", "\u{202e}\u{2066}", "\u{2800}\u{3164}", "\t\u{7f}"] {
            assert_eq!(text(empty), None, "{empty:?}");
        }
        assert_eq!(text(" a\u{200b} ").as_deref(), Some("a\u{200b}"), "what is seen stays as it is");
        assert_eq!(text("👨\u{200d}👩").as_deref(), Some("👨\u{200d}👩"));
    }

    #[test]
    fn ids_keep_their_digits() {
        let id = |body: &str| Object::parse(body).expect("object").customer_id("id").map(|id| id.to_string());
        assert_eq!(id(r#"{"id":9007199254740993}"#).as_deref(), Ok("9007199254740993"));
        assert_eq!(id(r#"{"id":123456789012345678901234567890}"#).as_deref(), Ok("123456789012345678901234567890"));
        assert_eq!(id(r#"{"id":" shop-42 "}"#).as_deref(), Ok("shop-42"));
        assert_eq!(id(r#"{"id":1,"id":2}"#).as_deref(), Ok("2"));
        for bad in [
            "{}",
            r#"{"id":null}"#,
            r#"{"id":""}"#,
            r#"{"id":1.5}"#,
            r#"{"id":1e3}"#,
            r#"{"id":[1]}"#,
            r#"{"id":true}"#,
        ] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = mend(&bytes);
        }

        #[test]
        fn mending_makes_json_of_json_only_and_once(text in r#"(\{|\}|\[|\]|,|:|"|\\|\\u[0-9a-f]{4}|[0-9]{1,4}|e|-|\.|a| ){0,40}"#) {
            let is_json = check(&text).is_ok();
            let once = mend(text.as_bytes());
            prop_assert_eq!(once.as_ref().is_ok_and(|once| check(&once.text).is_ok()), is_json);
            if let Ok(once) = once {
                let twice = mend(once.text.as_bytes()).expect("still JSON");
                prop_assert_eq!(&twice.text, &once.text);
                prop_assert!(twice.warnings.is_empty());
            }
        }
    }
}
