//! What filters of several commands are given as.

use std::str::FromStr;
use std::time::Duration;

use crate::domain::{EventId, PgInstant, ShopCustomerId, SourceName};
use chrono::{DateTime, Utc};

/// How long ago, as people write it: `30m`, `7d`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Age(Duration);

impl Age {
    /// The moment that lies so far back.
    pub(super) fn before(self, now: PgInstant) -> DateTime<Utc> {
        (now - self.0).utc()
    }
}

impl FromStr for Age {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text).map(Self).map_err(|_| "write a time such as 30m, 2h or 7d".to_owned())
    }
}

pub(super) fn source(text: &str) -> Result<SourceName, String> {
    SourceName::parse(text).map_err(|error| error.to_string())
}

pub(super) fn customer(text: &str) -> Result<ShopCustomerId, String> {
    ShopCustomerId::parse(text).map_err(|error| error.to_string())
}

pub(super) fn event(text: &str) -> Result<EventId, String> {
    text.parse()
        .map(EventId)
        .map_err(|_| "is not the id of an event: flexportal-sync events list shows them".to_owned())
}
