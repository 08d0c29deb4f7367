//! How the fake misbehaves: switches that stay on, chances, and failures ordered for the next requests.

use axum::http::{HeaderValue, StatusCode};
use serde::{Deserialize, Serialize};

/// Everything that can be changed while the fake runs, by [`set_behaviour`](super::FakeFlexportal::set_behaviour)
/// or `PUT /_fake/behaviour`.
///
/// The five rates share one roll of the dice per request, so each is the exact share of requests that fail that
/// way, and their sum may not exceed 1. A request that fails by chance changes nothing, unless
/// `apply_before_failing` is on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "switches that do not depend on each other")]
pub struct Behaviour {
    /// Wait this long before every answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub latency_ms: u64,
    /// Share of requests answered with `--error-status`, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub error_rate: f64,
    /// Status of those answers
    #[arg(long, value_name = "STATUS", default_value_t = 500, value_parser = clap::value_parser!(u16).range(200..600))]
    pub error_status: u16,
    /// Share of requests whose connection is closed without an answer, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub drop_rate: f64,
    /// Share of requests that are read and never answered, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub hang_rate: f64,
    /// Share of requests answered 200 with a body that is not JSON, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub garbage_rate: f64,
    /// Share of updates answered 200 with `success: false`, 0 to 1
    #[arg(long, value_name = "RATE", default_value_t = 0.0, value_parser = rate)]
    pub success_false_rate: f64,
    /// Make the change of a valid update before failing it, so that the client cannot know
    #[arg(long)]
    pub apply_before_failing: bool,
    /// Answer 429 beyond this many requests within 60 seconds; 0 means no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate_limit_per_minute: u32,
    /// `Retry-After` of answers 429 and 503: seconds, an HTTP date or `absent` [default: the seconds to wait, on 429]
    #[arg(long, value_name = "VALUE")]
    pub retry_after: Option<String>,
    /// Let updates change `email`, which the documented schema does not have
    #[arg(long)]
    pub accept_email: bool,
    /// Take `email` in updates and ignore it; wins over `--accept-email`
    #[arg(long)]
    pub drop_email: bool,
    /// Find customers by e-mail whatever the letter case
    #[arg(long)]
    pub email_case_insensitive: bool,
    /// Customers that get the same refusal every time.
    #[arg(skip)]
    pub refuse_customers: Vec<Refusal>,
    /// What answers in FlexPortal's place.
    #[arg(skip)]
    pub gateway: Option<Gateway>,
}

impl Default for Behaviour {
    /// A FlexPortal without faults or limits.
    fn default() -> Self {
        Self {
            latency_ms: 0,
            error_rate: 0.0,
            error_status: 500,
            drop_rate: 0.0,
            hang_rate: 0.0,
            garbage_rate: 0.0,
            success_false_rate: 0.0,
            apply_before_failing: false,
            rate_limit_per_minute: 0,
            retry_after: None,
            accept_email: false,
            drop_email: false,
            email_case_insensitive: false,
            refuse_customers: Vec::new(),
            gateway: None,
        }
    }
}

/// Something in between that answers requests of a kind in FlexPortal's place: an ingress, a proxy, a login page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// Which requests it answers.
    pub requests: GatewayRequests,
    /// HTTP status of its answers.
    pub status: u16,
    /// Their `Content-Type`.
    pub content_type: String,
    /// Their body.
    pub body: String,
    /// Whether the connection is closed in the middle of the body.
    #[serde(default)]
    pub is_cut_off: bool,
}

/// The requests that a [`Gateway`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayRequests {
    /// All.
    All,
    /// Updates of a customer.
    Updates,
    /// Lists that name no e-mail.
    Lists,
}

impl GatewayRequests {
    pub(super) fn include(self, is_update: bool, is_list: bool) -> bool {
        match self {
            Self::All => true,
            Self::Updates => is_update,
            Self::Lists => is_list,
        }
    }
}

/// A customer that is refused whenever a request names it in its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Refusal {
    /// Which customer.
    pub customer_id: String,
    /// HTTP status of the answer.
    pub status: u16,
    /// `error.code`, and the code of the one detail.
    pub code: String,
    /// `error.message`, and the message of the one detail.
    pub message: String,
    /// Dotted path of the field at fault; without it the answer has no details.
    #[serde(default)]
    pub path: Option<String>,
}

/// One way to fail one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Failure {
    /// Answers with an error body.
    Status {
        /// HTTP status, 200 to 599.
        status: u16,
        /// `error.code`.
        #[serde(default = "internal_error")]
        code: String,
        /// `Retry-After`, if any.
        #[serde(default)]
        retry_after: Option<String>,
    },
    /// Closes the connection without an answer.
    Drop,
    /// Reads the request and never answers; the connection stays open.
    Hang,
    /// Answers 200 with a body that is not JSON.
    Garbage,
    /// Answers 200 with `success: false`. Meant for updates; waits for one and leaves other requests alone.
    SuccessFalse,
    /// Answers 200, sends a part of the body it announced, and closes the connection.
    CloseHalfway,
}

impl Failure {
    /// A status without `Retry-After`.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status { status, code: internal_error(), retry_after: None }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Status { status, retry_after, .. } => {
                check_status("status", *status)?;
                check_retry_after(retry_after.as_deref())
            }
            Self::Drop | Self::Hang | Self::Garbage | Self::SuccessFalse | Self::CloseHalfway => Ok(()),
        }
    }
}

/// `Retry-After` is left out.
const ABSENT: &str = "absent";

impl Behaviour {
    /// Whether these switches can be obeyed; says which cannot.
    pub(super) fn check(&self) -> Result<(), String> {
        let rates = [
            ("error_rate", self.error_rate),
            ("drop_rate", self.drop_rate),
            ("hang_rate", self.hang_rate),
            ("garbage_rate", self.garbage_rate),
            ("success_false_rate", self.success_false_rate),
        ];
        for (name, rate) in rates {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("{name} must be from 0 to 1"));
            }
        }
        // A hair above 1 is what adding tenths gives.
        if rates.iter().map(|(_, rate)| rate).sum::<f64>() > 1.0 + 1e-9 {
            return Err("the rates must not add up to more than 1".to_owned());
        }
        check_status("error_status", self.error_status)?;
        if let Some(gateway) = &self.gateway {
            check_status("gateway.status", gateway.status)?;
        }
        for refusal in &self.refuse_customers {
            check_status("refuse_customers.status", refusal.status)?;
        }
        check_retry_after(self.retry_after.as_deref())
    }

    /// How a request fails on this roll (uniform in `[0, 1)`), if it does.
    pub(super) fn chance(&self, roll: f64, is_update: bool) -> Option<Failure> {
        let by_status = || Failure::Status {
            status: self.error_status,
            code: internal_error(),
            retry_after: self.retry_after_on(self.error_status, None),
        };
        let mut threshold = self.error_rate;
        if roll < threshold {
            return Some(by_status());
        }
        for (rate, failure) in [
            (self.drop_rate, Failure::Drop),
            (self.hang_rate, Failure::Hang),
            (self.garbage_rate, Failure::Garbage),
            (self.success_false_rate, Failure::SuccessFalse),
        ] {
            threshold += rate;
            if roll < threshold {
                return (is_update || failure != Failure::SuccessFalse).then_some(failure);
            }
        }
        None
    }

    /// `Retry-After` of an answer that the switches cause; `otherwise` is what an unset switch means.
    pub(super) fn retry_after_on(&self, status: u16, otherwise: Option<String>) -> Option<String> {
        match self.retry_after.as_deref() {
            _ if status != 429 && status != 503 => None,
            None => otherwise,
            Some(ABSENT) => None,
            Some(value) => Some(value.to_owned()),
        }
    }
}

/// Not documented by FlexPortal, which names no code for its own faults.
fn internal_error() -> String {
    "INTERNAL_ERROR".to_owned()
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1.0).contains(&rate) { Ok(rate) } else { Err("must be from 0 to 1".to_owned()) }
}

fn check_status(name: &str, status: u16) -> Result<(), String> {
    // Below 200 there is no final answer; above 599 nothing is defined.
    if (200..600).contains(&status) && StatusCode::from_u16(status).is_ok() {
        Ok(())
    } else {
        Err(format!("{name} must be from 200 to 599"))
    }
}

fn check_retry_after(value: Option<&str>) -> Result<(), String> {
    match value.map(HeaderValue::from_str) {
        Some(Err(_)) => Err("retry_after cannot stand in a header".to_owned()),
        Some(Ok(_)) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rate_is_the_share_of_requests_that_fail_that_way() {
        let behaviour = Behaviour {
            error_rate: 0.1,
            drop_rate: 0.2,
            hang_rate: 0.1,
            garbage_rate: 0.2,
            success_false_rate: 0.2,
            ..Behaviour::default()
        };
        let cases = [
            (0.05, Some(Failure::status(500))),
            (0.15, Some(Failure::Drop)),
            (0.35, Some(Failure::Hang)),
            (0.45, Some(Failure::Garbage)),
            (0.65, Some(Failure::SuccessFalse)),
            (0.85, None),
        ];
        for (roll, expected) in cases {
            assert_eq!(behaviour.chance(roll, true), expected, "{roll}");
        }
        assert_eq!(behaviour.chance(0.65, false), None, "a read has no success to deny");
    }

    #[test]
    fn switches_that_cannot_be_obeyed_are_named() {
        let cases = [
            (Behaviour { error_rate: 1.5, ..Behaviour::default() }, "error_rate must be from 0 to 1"),
            (
                Behaviour { drop_rate: 0.6, hang_rate: 0.6, ..Behaviour::default() },
                "the rates must not add up to more than 1",
            ),
            (Behaviour { error_status: 42, ..Behaviour::default() }, "error_status must be from 200 to 599"),
            (
                Behaviour { retry_after: Some("1\n2".to_owned()), ..Behaviour::default() },
                "retry_after cannot stand in a header",
            ),
        ];
        for (behaviour, expected) in cases {
            assert_eq!(behaviour.check(), Err(expected.to_owned()));
        }
        let tenths = Behaviour { drop_rate: 0.7, hang_rate: 0.1, garbage_rate: 0.2, ..Behaviour::default() };
        assert_eq!(tenths.check(), Ok(()));
    }
}
