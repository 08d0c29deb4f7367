//! What must be at FlexPortal in the end. Short enough to be read: for each field of a customer the newest word of all
//! that was accepted counts.

use std::collections::BTreeMap;

use super::history::Value;
use crate::domain::{EventId, EventStatus, OrderKey};

/// The accepted words of one customer: field, when, what.
pub(super) type Words = BTreeMap<(&'static str, OrderKey), (Value, String)>;

/// What is wrong with a field, if anything is.
///
/// The newest word is either at FlexPortal, or it stands where people see it: failed, unmatched, or closed by them. A
/// word that there is nothing leaves FlexPortal as it is.
pub(super) fn check(
    words: &Words,
    field: &'static str,
    at_flexportal: Option<&str>,
    status: impl Fn(EventId) -> EventStatus,
) -> Option<String> {
    let ((_, key), (value, text)) = words.iter().rfind(|((of, _), _)| *of == field)?;
    if *value == Value::Null || at_flexportal == Some(text) {
        return None;
    }
    match status(key.event) {
        EventStatus::Failed | EventStatus::Unmatched | EventStatus::Discarded => None,
        status => Some(format!("the newest {field} is {text} ({status}), FlexPortal has {at_flexportal:?}")),
    }
}
