//! Lists in pages: each begins after the last row of the one before, wherever rows were added meanwhile.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One page of a list.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// What to ask for the next page with; null on the last one.
    pub next: Option<String>,
}

/// A cursor that was not given out for this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this cursor is not one of this list: begin without")]
pub struct BadCursor;

impl<T> Page<T> {
    /// Of rows that were asked for with one more than `limit`: whether that one is there tells if there is more.
    pub(super) fn of<K: Serialize>(mut items: Vec<T>, limit: i64, key: impl Fn(&T) -> K) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).map(|last| cursor(&key(last)));
        Self { items, next }
    }
}

fn cursor(key: &impl Serialize) -> String {
    // Tuples of times and strings always serialise.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).unwrap_or_default())
}

/// The key of the row that a page begins after.
pub(super) fn after<K: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<K>, BadCursor> {
    let read = |cursor: &str| {
        let json = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| BadCursor)?;
        serde_json::from_slice(&json).map_err(|_| BadCursor)
    };
    cursor.map(read).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_knows_whether_another_follows_and_where_it_begins() {
        let page = Page::of(vec![1, 2, 3], 2, |n| *n);
        assert_eq!(page.items, [1, 2]);
        assert_eq!(after::<i32>(page.next.as_deref()), Ok(Some(2)));
        assert_eq!(Page::of(vec![1, 2], 2, |n| *n).next, None);
        assert_eq!(after::<i32>(Some("%%")), Err(BadCursor));
        assert_eq!(after::<(String, String)>(page.next.as_deref()), Err(BadCursor), "of another list");
    }
}
