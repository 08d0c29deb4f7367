//! Looking things up for people: failures, events, customers, the state of the whole; changes nothing.
//!
//! The terminal, the admin API and the console show what is found here; `psql` shows the same through the views.

mod customers;
mod events;
mod failures;
mod history;
mod links;
mod page;
mod status;
mod timeline;

pub use customers::{CustomerFilter, CustomerState, CustomerSync};
pub use events::{EventDetail, EventFilter, EventOutcome, EventSummary, RequestMade};
pub use failures::{Failure, FailureFilter, FailureGroup};
pub use history::{CustomerHistory, DuplicateNote, InterventionNote, MAX_AHEAD, QueuePlace};
pub use links::{LinkFilter, LinkRow};
pub use page::{BadCursor, Page};
pub(super) use status::takes_seconds;
pub use status::{
    BacklogStatus, FailureStatus, HoldStatus, IntakeStatus, Silence, SourceStatus, Status, SyncStatus, TargetStatus,
};
pub use timeline::{Minute, Timeline};
