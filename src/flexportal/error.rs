//! What can come of a request, from the caller's point of view.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;

/// Anything but success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlexportalError {
    /// 4xx with FlexPortal's error body, which repeating does not change, or 2xx with `success` other than `true`.
    #[error("{message}")]
    Refused {
        /// `error.code`, if there was one.
        code: Option<String>,
        /// `error.message` with the fields that `error.details` names.
        message: String,
        /// These fields.
        fields: Vec<String>,
    },
    /// 404 or 410 with FlexPortal's error body: no such customer, or not in this tenant. Something in between may have copied
    /// the body: it counts once FlexPortal itself has answered another request.
    #[error("FlexPortal has no such customer")]
    CustomerNotFound,
    /// 401 or 403 with FlexPortal's error body: the key or the tenant id is wrong; nothing gets through until that is
    /// mended.
    #[error("FlexPortal refuses the API key or the tenant id")]
    Unauthorized {
        /// `error.code`, if there was one.
        code: Option<String>,
    },
    /// 429.
    #[error("FlexPortal's rate limit is reached")]
    RateLimited {
        /// How long to wait; see [`retry_after`].
        retry_after: Duration,
    },
    /// 408, 425, 5xx, a redirect, an answer that cannot be read, or one without FlexPortal's error body, which something in
    /// between has given: may pass.
    #[error("FlexPortal is unavailable: {what}")]
    Unavailable {
        /// `error.code`, if there was one.
        code: Option<String>,
        /// What came instead of an answer.
        what: String,
    },
    /// No answer in time; the request may still arrive.
    #[error("FlexPortal did not answer in time")]
    TimedOut,
    /// No connection was made: the request never left.
    #[error("FlexPortal cannot be reached: {0}")]
    Unreached(String),
    /// The connection broke, and with it the trace of the request.
    #[error("the connection to FlexPortal broke: {0}")]
    Disconnected(String),
}

impl FlexportalError {
    /// Whether FlexPortal failed, or could not be reached, rather than answer: whoever asks may fare no better, and
    /// after a PUT that ended so nobody knows if it was carried out.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::TimedOut | Self::Unreached(_) | Self::Disconnected(_) => true,
            Self::Refused { .. } | Self::CustomerNotFound | Self::Unauthorized { .. } | Self::RateLimited { .. } => {
                false
            }
        }
    }

    /// `error.code`, or our own word where there was no answer.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } | Self::Unauthorized { code } | Self::Unavailable { code, .. } => {
                code.as_deref()
            }
            Self::CustomerNotFound => Some("NOT_FOUND"),
            Self::RateLimited { .. } => Some("RATE_LIMITED"),
            Self::TimedOut => Some("TIMED_OUT"),
            Self::Unreached(_) => Some("UNREACHED"),
            Self::Disconnected(_) => Some("DISCONNECTED"),
        }
    }
}

impl FlexportalError {
    /// What happened in few words, the same for every customer whom it meets: failures are counted by it.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Refused { fields, .. } if !fields.is_empty() => {
                let fields: Vec<_> = fields.iter().map(|field| format!("`{field}`")).collect();
                format!("{} refused", fields.join(", "))
            }
            Self::Refused { code: Some(code), .. } => format!("refused: {code}"),
            Self::Refused { code: None, .. } => "refused".to_owned(),
            Self::CustomerNotFound => "no such customer".to_owned(),
            Self::Unauthorized { .. } => "API key or tenant id refused".to_owned(),
            Self::RateLimited { .. } => "rate limit reached".to_owned(),
            Self::Unavailable { .. } => "FlexPortal unavailable".to_owned(),
            Self::TimedOut => "no answer in time".to_owned(),
            Self::Unreached(_) => "no connection to FlexPortal".to_owned(),
            Self::Disconnected(_) => "connection to FlexPortal broke".to_owned(),
        }
    }
}

/// FlexPortal's error body, by which its own refusals are told from those of whatever stands in between: an object with
/// `error.code` in upper snake case and `error.message`. `error.details[]` is read with tolerance: it tells a person more,
/// and not whose word it is.
///
/// Another gateway's body of the very same form cannot be told apart.
#[derive(Debug)]
pub(super) struct ErrorBody {
    code: String,
    message: String,
    details: Vec<ErrorDetail>,
}

#[derive(Debug)]
struct ErrorDetail {
    path: Option<String>,
    message: Option<String>,
}

impl ErrorBody {
    /// Reads it, if that is what it is.
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let error = body.get("error")?;
        let text = |of: &Value, name| of.get(name).and_then(Value::as_str).map(str::to_owned);
        let code = text(error, "code").filter(|code| is_upper_snake_case(code))?;
        let details = error.get("details").and_then(Value::as_array).into_iter().flatten();
        let details = details.filter(|detail| detail.is_object());
        let details =
            details.map(|detail| ErrorDetail { path: text(detail, "path"), message: text(detail, "message") });
        Some(Self { code, message: text(error, "message")?, details: details.collect() })
    }

    pub(super) fn code(&self) -> String {
        shown(&self.code, MAX_CODE_CHARACTERS)
    }

    /// The fields that the details name, each once, in order of the alphabet.
    pub(super) fn fields(&self) -> Vec<String> {
        let paths = self.details.iter().filter_map(|detail| detail.path.as_deref());
        let fields: BTreeSet<_> = paths.map(|path| shown(path, MAX_CODE_CHARACTERS)).collect();
        fields.into_iter().take(MAX_FIELDS).collect()
    }

    /// One line for people: the message, then each field with its own.
    pub(super) fn message(&self) -> String {
        let mut line = self.message.clone();
        for detail in &self.details {
            let path = detail.path.as_deref().unwrap_or("?");
            let message = detail.message.as_deref().unwrap_or("is not valid");
            // Writing to a string cannot fail.
            let _ = write!(line, "; {path}: {message}");
        }
        shown(&line, MAX_MESSAGE_CHARACTERS)
    }
}

fn is_upper_snake_case(code: &str) -> bool {
    code.starts_with(|first: char| first.is_ascii_uppercase())
        && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

const MAX_CODE_CHARACTERS: usize = 64;
/// Beyond, a cause is no longer told apart.
const MAX_FIELDS: usize = 5;
const MAX_MESSAGE_CHARACTERS: usize = 1000;

/// Somebody else's text, cut, and without the NULs that Postgres refuses.
pub(super) fn shown(text: &str, max_characters: usize) -> String {
    text.chars().take(max_characters).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// However long FlexPortal asks to wait.
pub const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// FlexPortal does not say how `Retry-After` is written: seconds, also with a fraction, and HTTP dates are read; one minute
/// is assumed where it is absent or unreadable, and an absurd wait is cut to an hour.
///
/// A date goes by the answer's own `Date` (`sent`), since one clock wrote both; where there is none, by ours.
#[must_use]
pub fn retry_after(value: Option<&str>, sent: Option<&str>, now: DateTime<Utc>) -> Duration {
    const ASSUMED: Duration = Duration::from_mins(1);
    let Some(value) = value.map(str::trim) else { return ASSUMED };
    let date = |text: &str| httpdate::parse_http_date(text).ok().map(DateTime::<Utc>::from);
    let is_number = value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && value.bytes().any(|b| b != b'.');
    let wait = if is_number {
        let seconds: Option<f64> = value.parse().ok();
        seconds.map_or(ASSUMED, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST_RETRY_AFTER))
    } else {
        let sent = sent.map(str::trim).and_then(date).unwrap_or(now);
        date(value).map_or(ASSUMED, |until| (until - sent).to_std().unwrap_or_default())
    };
    if wait > LONGEST_RETRY_AFTER {
        tracing::warn!(retry_after = value, "FlexPortal asks for an absurd wait: an hour is taken");
    }
    wait.min(LONGEST_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date_by_the_answers_own_clock() {
        let now = DateTime::from_timestamp(1_795_428_000, 0).expect("in range"); // 2026-11-23T10:00:00Z
        let (ahead, here) = (Some("Mon, 23 Nov 2026 14:00:00 GMT"), None);
        for (value, sent, millis) in [
            (None, here, 60_000),
            (Some("7"), here, 7_000),
            (Some("2.5"), here, 2_500),
            (Some(".5"), here, 500),
            (Some(" 0 "), here, 0),
            (Some("Mon, 23 Nov 2026 10:00:30 GMT"), here, 30_000),
            (Some("Mon, 23 Nov 2026 10:00:30 GMT"), Some("no date"), 30_000),
            (Some("Mon, 23 Nov 2026 14:00:30 GMT"), ahead, 30_000),
            (Some("Mon, 23 Nov 2026 10:00:30 GMT"), ahead, 0),
            (Some("Mon, 23 Nov 2026 09:00:00 GMT"), here, 0),
            (Some("7"), ahead, 7_000),
            (Some("soon"), here, 60_000),
            (Some(""), here, 60_000),
            (Some("."), here, 60_000),
            (Some("1.2.3"), here, 60_000),
            (Some("-5"), here, 60_000),
            (Some("99999999999999999999999"), here, 3_600_000),
            (Some("86400"), here, 3_600_000),
        ] {
            assert_eq!(retry_after(value, sent, now).as_millis(), millis, "{value:?} {sent:?}");
        }
    }

    #[test]
    fn what_postgres_would_refuse_or_nobody_would_read_is_not_passed_on() {
        let long = "X".repeat(2_000);
        let body = format!(r#"{{"error":{{"code":"A{long}","message":"\u0000{long}"}}}}"#);
        let body = ErrorBody::read(body.as_bytes()).expect("FlexPortal's");
        assert_eq!(body.code().len(), 64);
        assert_eq!(body.message().chars().count(), 1_000);
        assert!(!body.message().contains('\0'));
    }

    #[test]
    fn only_a_code_in_upper_snake_case_with_a_message_is_flexportals_own() {
        let is_own = |body: &str| ErrorBody::read(body.as_bytes()).is_some();
        assert!(is_own(r#"{"error":{"code":"NOT_FOUND","message":"no such customer"}}"#));
        assert!(is_own(r#"{"error":{"code":"E2","message":"","details":[]},"requestId":"1"}"#));
        for details in ["null", "{}", "[1,null]", r#"[{"path":["phone"],"message":7}]"#, r#""none""#] {
            let body = format!(r#"{{"error":{{"code":"NOT_FOUND","message":"m","details":{details}}}}}"#);
            assert!(is_own(&body), "what the details are like does not matter: {body}");
        }
        for other in [
            "",
            r#"[["NOT_FOUND","not found"]]"#,
            r#"{"error":["NOT_FOUND","not found"]}"#,
            r#"{"error":{"code":"NOT_FOUND","message":404}}"#,
            "<html>",
            "null",
            r#"{"error":{"code":"NOT_FOUND"}}"#,
            r#"{"error":{"message":"not found"}}"#,
            r#"{"error":{"code":404,"message":"not found"}}"#,
            r#"{"error":{"code":"not_found","message":"not found"}}"#,
            r#"{"error":{"code":"NotFound","message":"not found"}}"#,
            r#"{"error":{"code":"","message":"not found"}}"#,
            r#"{"error":{"code":"_","message":"not found"}}"#,
            r#"{"error":{"code":"NOT-FOUND","message":"not found"}}"#,
            r#"{"error":"NOT_FOUND","message":"not found"}"#,
            r#"{"code":"NOT_FOUND","message":"not found"}"#,
            r#"{"error":{"code":"NOT_FOUND","message":"no such"#,
        ] {
            assert!(!is_own(other), "{other}");
        }
    }

    #[test]
    fn the_message_names_the_fields_at_fault() {
        let body = ErrorBody::read(
            br#"{"error":{"code":"VALIDATION_ERROR","message":"The body is not valid","details":[{"path":"phone","message":"Too long"},{}]}}"#,
        );
        let body = body.expect("FlexPortal's");
        assert_eq!(body.message(), "The body is not valid; phone: Too long; ?: is not valid");
        assert_eq!(body.fields(), ["phone"]);
        let (code, message, fields) = (Some(body.code()), body.message(), body.fields());
        let refused = FlexportalError::Refused { code, message, fields };
        assert_eq!(refused.cause(), "`phone` refused", "whatever stood in it");
    }
}
