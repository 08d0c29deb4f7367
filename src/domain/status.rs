//! The life of an event.
//!
//! ```text
//!             ┌──────────────── released, retried ◀┐
//! pending ──claim──▶ in_flight ──settle──▶ synced · superseded · unchanged · failed
//!    ▲                    └─────settle──▶ unmatched ──interval──▶ (claimed again)
//!    └── retry_sync() ─── failed · unmatched · discarded ◀── discard_sync()
//!                         failed · unmatched (given up) ──a newer change speaks for all of it──▶ superseded
//! held ──sources accept──▶ pending     held ──sources ignore──▶ discarded
//! ```
//! `pending` and `in_flight` are not stored: an event without a verdict is one or the other, depending on
//! whether its customer is claimed (see `outbox`).

use serde::{Deserialize, Serialize};

/// Where an event stands; the words of the contract, unchanged in SQL, logs and answers.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema, clap::ValueEnum,
)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum EventStatus {
    /// Waits for its turn or its next attempt.
    Pending,
    /// Its customer is claimed by a worker right now.
    InFlight,
    /// FlexPortal acknowledged it.
    Synced,
    /// Something newer spoke for everything it says.
    Superseded,
    /// FlexPortal has all of it already; no request was made.
    Unchanged,
    /// FlexPortal does not know the customer (yet).
    Unmatched,
    /// Needs a person.
    Failed,
    /// Closed by a person.
    Discarded,
    /// Another shop than the source's spoke: a person decides whether it is heard.
    Held,
}

impl EventStatus {
    /// The word as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InFlight => "in_flight",
            Self::Synced => "synced",
            Self::Superseded => "superseded",
            Self::Unchanged => "unchanged",
            Self::Unmatched => "unmatched",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Held => "held",
        }
    }
}

impl std::fmt::Display for EventStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
