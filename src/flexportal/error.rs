//! What can come of a request, from the caller's point of view.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;

/// Anything but success.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlexportalError {
    /// 4xx that repeating does not change, or 2xx without `success: true`.
    #[error("{message}")]
    Refused {
        /// `error.code`, if there was one.
        code: Option<String>,
        /// `error.message` with the fields that `error.details` names.
        message: String,
        /// These fields.
        fields: Vec<String>,
    },
    /// 404: no such customer, or not in this tenant.
    #[error("FlexPortal has no such customer")]
    CustomerNotFound,
    /// 401 or 403: the key or the tenant id is wrong; nothing gets through until that is mended.
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
    /// 408, 425, 5xx, a redirect, or an answer that cannot be read: may pass.
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

/// FlexPortal's error body: `error.code`, `error.message`, `error.details[]`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ErrorBody {
    error: ErrorObject,
}

#[derive(Debug, Default, Deserialize)]
struct ErrorObject {
    code: Option<String>,
    message: Option<String>,
    #[serde(default)]
    details: Vec<ErrorDetail>,
}

#[derive(Debug, Default, Deserialize)]
struct ErrorDetail {
    path: Option<String>,
    message: Option<String>,
}

impl ErrorBody {
    /// Reads it where it can be read; proxies answer with anything.
    pub(super) fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_default()
    }

    pub(super) fn code(&self) -> Option<String> {
        self.error.code.as_deref().map(|code| shown(code, MAX_CODE_CHARACTERS))
    }

    /// The fields that the details name, each once, in order of the alphabet.
    pub(super) fn fields(&self) -> Vec<String> {
        let paths = self.error.details.iter().filter_map(|detail| detail.path.as_deref());
        let fields: BTreeSet<_> = paths.map(|path| shown(path, MAX_CODE_CHARACTERS)).collect();
        fields.into_iter().take(MAX_FIELDS).collect()
    }

    /// One line for people: the message, then each field with its own.
    pub(super) fn message(&self, status: u16) -> String {
        let mut line = self.error.message.clone().unwrap_or_else(|| format!("FlexPortal answered {status}"));
        for detail in &self.error.details {
            let path = detail.path.as_deref().unwrap_or("?");
            let message = detail.message.as_deref().unwrap_or("is not valid");
            // Writing to a string cannot fail.
            let _ = write!(line, "; {path}: {message}");
        }
        shown(&line, MAX_MESSAGE_CHARACTERS)
    }
}

const MAX_CODE_CHARACTERS: usize = 64;
/// Beyond, a cause is no longer told apart.
const MAX_FIELDS: usize = 5;
const MAX_MESSAGE_CHARACTERS: usize = 1000;

/// Somebody else's text, cut, and without the NULs that Postgres refuses.
pub(super) fn shown(text: &str, max_characters: usize) -> String {
    text.chars().take(max_characters).map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// FlexPortal does not say how `Retry-After` is written: seconds and HTTP dates are read, one minute is
/// assumed where it is absent or unreadable, and an absurd wait is cut to an hour.
#[must_use]
pub fn retry_after(value: Option<&str>, now: DateTime<Utc>) -> Duration {
    const ASSUMED: Duration = Duration::from_mins(1);
    const LONGEST: Duration = Duration::from_hours(1);
    let Some(value) = value.map(str::trim) else { return ASSUMED };
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let wait = if is_number {
        value.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        match httpdate::parse_http_date(value) {
            Ok(date) => (DateTime::<Utc>::from(date) - now).to_std().unwrap_or_default(),
            Err(_) => ASSUMED,
        }
    };
    if wait > LONGEST {
        tracing::warn!(retry_after = value, "FlexPortal asks for an absurd wait: an hour is taken");
    }
    wait.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = DateTime::from_timestamp(1_795_428_000, 0).expect("in range"); // 2026-11-23T10:00:00Z
        for (value, seconds) in [
            (None, 60),
            (Some("7"), 7),
            (Some(" 0 "), 0),
            (Some("Mon, 23 Nov 2026 10:00:30 GMT"), 30),
            (Some("Mon, 23 Nov 2026 09:00:00 GMT"), 0),
            (Some("soon"), 60),
            (Some(""), 60),
            (Some("-5"), 60),
            (Some("1.5"), 60),
            (Some("99999999999999999999999"), 3600),
            (Some("86400"), 3600),
        ] {
            assert_eq!(retry_after(value, now).as_secs(), seconds, "{value:?}");
        }
    }

    #[test]
    fn what_postgres_would_refuse_or_nobody_would_read_is_not_passed_on() {
        let long = "x".repeat(2_000);
        let body = format!(r#"{{"error":{{"code":"A\u0000{long}","message":"{long}"}}}}"#);
        let body = ErrorBody::read(body.as_bytes());
        assert_eq!(body.code().map(|code| code.chars().count()), Some(64));
        assert!(!body.code().expect("a code").contains('\0'));
        assert_eq!(body.message(422).len(), 1_000);
    }

    #[test]
    fn the_message_names_the_fields_at_fault() {
        let body = ErrorBody::read(
            br#"{"error":{"code":"VALIDATION_ERROR","message":"The body is not valid","details":[{"path":"phone","message":"Too long"},{}]}}"#,
        );
        assert_eq!(body.message(422), "The body is not valid; phone: Too long; ?: is not valid");
        assert_eq!(body.fields(), ["phone"]);
        let refused = FlexportalError::Refused { code: body.code(), message: body.message(422), fields: body.fields() };
        assert_eq!(refused.cause(), "`phone` refused", "whatever stood in it");
        assert_eq!(ErrorBody::read(b"<html>").message(400), "FlexPortal answered 400");
    }
}
