//! Reading headers that anybody may have written: missing, repeated, not ASCII, too many.

use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderName};

use super::Rejection;

/// The header's text, if there is exactly one such value; a proxy's verbatim repeat counts as one.
///
/// `None` if it is missing, is not ASCII, or is given with different values: then nobody can say which one
/// was meant.
#[must_use]
pub fn one<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.all(|other| other == first).then(|| first.to_str().ok())?.map(str::trim)
}

/// As [`one`], for a header that has to be there.
///
/// # Errors
/// [`Rejection::Malformed`] names the header.
pub fn required<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, Rejection> {
    one(headers, name).filter(|value| !value.is_empty()).ok_or_else(|| {
        Rejection::malformed(format!("header {name} is missing, unreadable, or given with different values"))
    })
}

/// Takes a body that says it is JSON in UTF-8, or says nothing.
///
/// # Errors
/// [`Rejection::UnsupportedMediaType`] for any other type, character set or content coding.
pub fn require_json(headers: &HeaderMap) -> Result<(), Rejection> {
    let refuse = |what: &str| Err(Rejection::UnsupportedMediaType(what.to_owned()));
    if headers.contains_key(CONTENT_ENCODING) && !is(headers, &CONTENT_ENCODING, "identity") {
        return refuse("the body is compressed: send it as it is");
    }
    if !headers.contains_key(CONTENT_TYPE) {
        return Ok(());
    }
    let Some(content_type) = one(headers, CONTENT_TYPE.as_str()) else {
        return refuse("the content type cannot be read");
    };
    let mut parts = content_type.split(';').map(|part| part.trim().to_ascii_lowercase());
    let media_type = parts.next().unwrap_or_default();
    if media_type != "application/json" && media_type != "text/json" && !media_type.ends_with("+json") {
        return refuse("the content type is not JSON: send application/json");
    }
    let charset = parts.find_map(|part| part.strip_prefix("charset=").map(|name| name.trim_matches('"').to_owned()));
    match charset.as_deref() {
        None | Some("utf-8" | "utf8" | "us-ascii") => Ok(()),
        Some(_) => refuse("the character set is not UTF-8"),
    }
}

fn is(headers: &HeaderMap, name: &HeaderName, value: &str) -> bool {
    one(headers, name.as_str()).is_some_and(|given| given.eq_ignore_ascii_case(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value).expect("a header value"));
        }
        headers
    }

    #[test]
    fn a_repeat_counts_once_and_a_contradiction_not_at_all() {
        assert_eq!(one(&headers(&[("a", b" x ")]), "A"), Some("x"));
        assert_eq!(one(&headers(&[("a", b"x"), ("a", b"x")]), "a"), Some("x"));
        assert_eq!(one(&headers(&[("a", b"x"), ("a", b"y")]), "a"), None);
        assert_eq!(one(&headers(&[("a", b"\xff\xfe")]), "a"), None);
        assert_eq!(one(&headers(&[]), "a"), None);
    }

    #[test]
    fn only_json_in_utf_8_is_read() {
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/cloudevents+json", "text/json"]
        {
            assert_eq!(require_json(&headers(&[("content-type", good.as_bytes())])), Ok(()), "{good}");
        }
        assert_eq!(require_json(&headers(&[])), Ok(()));
        for bad in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "", "\u{e9}"]
        {
            let rejected = require_json(&headers(&[("content-type", bad.as_bytes())]));
            assert!(matches!(rejected, Err(Rejection::UnsupportedMediaType(_))), "{bad}");
        }
        assert!(require_json(&headers(&[("content-encoding", b"gzip")])).is_err());
        assert!(require_json(&headers(&[("content-encoding", b"identity")])).is_ok());
    }
}
