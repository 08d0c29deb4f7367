//! What a request gives: parameters and bodies, checked; what is wrong with them is a problem like any other.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Json, Path, Query};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::domain::PgInstant;
use crate::http::Problem;

/// The parameters after the question mark.
#[derive(FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
pub(super) struct Given<T>(pub(super) T);

/// The parts of the path.
#[derive(FromRequestParts)]
#[from_request(via(Path), rejection(Problem))]
pub(super) struct InPath<T>(pub(super) T);

/// A body of JSON.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(Problem))]
pub(super) struct Body<T>(pub(super) T);

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(StatusCode::BAD_REQUEST, rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        // An id that cannot be one is nobody's.
        Self::new(StatusCode::NOT_FOUND, rejection.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

/// How long ago: `30m`, `7d`.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(value_type = String, pattern = "^[0-9]{1,4}(s|m|h|d)$", example = "2h")]
pub(super) struct Age(Duration);

impl Age {
    pub(super) fn before(self, now: PgInstant) -> DateTime<Utc> {
        (now - self.0).utc()
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let age = text.split_at_checked(text.len().saturating_sub(1)).and_then(|(number, unit)| {
            let is_number = (1..=4).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3_600,
                "d" => 86_400,
                _ => return None,
            };
            let number: u64 = number.parse().ok().filter(|_| is_number)?;
            Some(Self(Duration::from_secs(number * seconds)))
        });
        age.ok_or_else(|| serde::de::Error::custom("write a time such as 30m, 2h or 7d"))
    }
}

/// Rows on one page: 1 to 500, 50 if nothing is said.
#[derive(Debug, Clone, Copy, ToSchema)]
#[schema(value_type = u16, minimum = 1, maximum = 500, default = 50)]
pub(super) struct Limit(i64);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl Limit {
    pub(super) fn rows(self) -> i64 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let rows = i64::from_str(&text).ok().filter(|rows| (1..=500).contains(rows));
        rows.map(Self).ok_or_else(|| serde::de::Error::custom("write a number from 1 to 500"))
    }
}

/// What is wrong (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemBody {
    /// `about:blank`
    r#type: String,
    /// The status in words.
    title: String,
    /// The status.
    status: u16,
    /// What is wrong, and how to mend it.
    detail: String,
}

/// How a question can be refused.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes what `Problem` answers")]
pub(super) enum Asked {
    /// wrong parameters
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(ProblemBody),
    /// without the token
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemBody),
    /// the database is away
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemBody),
}

/// How a request with a body can be refused.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "describes what `Problem` answers")]
pub(super) enum Posted {
    /// not JSON, or wrong values
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(ProblemBody),
    /// without the token
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(ProblemBody),
    /// too large
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(ProblemBody),
    /// not JSON by its type
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(ProblemBody),
    /// not what is described here
    #[response(status = 422, content_type = "application/problem+json")]
    Unfit(ProblemBody),
    /// the database is away
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(ProblemBody),
}
