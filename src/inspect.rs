//! What the terminal, the admin API and the console say of events and customers: the same words everywhere.
//!
//! The outbox finds the facts; here they are put into sentences ([`explain()`], [`story()`]), and what would be sent is
//! worked out ([`Previewer`]).

mod explain;
mod previewer;
mod story;

pub use explain::{ExplainedEvent, explain, explained_event, span};
pub use previewer::{PreviewError, Previewer};
pub use story::{CustomerStory, Step, StoryStep, customer_story, story};

/// The longest reason that `discard_sync` takes.
pub const MAX_REASON_CHARACTERS: usize = 500;
