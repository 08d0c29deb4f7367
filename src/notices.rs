//! Notices: what somebody should know though no event failed for it, such as a shop whose webhook lost its rights.
//!
//! Each is told three ways: in the log, once a minute and subject; as a counter; and in `status`, for a day. Whoever has
//! something to tell never waits: what was told is gathered here and written by a task of the service.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Metric;

/// In the log, the same is told so often at most.
const LOGGED_EVERY: Duration = Duration::from_mins(1);
/// Subjects remembered at most; they are names of what is configured.
const MAX_SUBJECTS: usize = 1000;

/// What kind of thing somebody should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NoticeKind {
    /// A transaction that is not ours holds a customer's row of the queue: its changes are stored, and wait.
    QueueRowLocked,
    /// Another shop than the source's spoke, and was not heard.
    OtherShopIgnored,
    /// The owner of a webhook may not read customers any more: changes come as errors.
    OwnerWithoutRights,
    /// Webhooks of users whose role is none of a customer's.
    RoleIgnored,
    /// Postgres' clock and a process's differ by much: one of them is wrong.
    ClocksDiffer,
}

impl NoticeKind {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::QueueRowLocked, Self::OtherShopIgnored, Self::OwnerWithoutRights, Self::RoleIgnored, Self::ClocksDiffer];

    /// The word as it is stored and counted.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueRowLocked => "queue_row_locked",
            Self::OtherShopIgnored => "other_shop_ignored",
            Self::OwnerWithoutRights => "owner_without_rights",
            Self::RoleIgnored => "role_ignored",
            Self::ClocksDiffer => "clocks_differ",
        }
    }
}

/// What was told of one subject since it was last written to the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) kind: NoticeKind,
    /// The source, target or customer's source it is about.
    pub(crate) subject: String,
    pub(crate) count: i64,
    /// What happened, the last time, and what to do; nothing personal.
    pub(crate) detail: String,
}

#[derive(Debug, Default)]
struct Told {
    count: i64,
    detail: String,
    logged_at: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: &'static str,
}

/// Where notices are told; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    counters: Family<Labels, Counter>,
    told: Arc<Mutex<BTreeMap<(NoticeKind, String), Told>>>,
}

impl Notices {
    /// With a counter for each kind from the start: a first notice shows as a rise from zero.
    #[must_use]
    pub fn new() -> Self {
        let notices = Self::default();
        for kind in NoticeKind::ALL.map(NoticeKind::as_str) {
            let _ = notices.counters.get_or_create(&Labels { kind });
        }
        notices
    }

    /// Tells something about a subject, the name of a source or a target. `detail` says what happened and what to do; it
    /// holds nothing personal.
    pub fn note(&self, kind: NoticeKind, subject: &str, detail: impl Into<String>) {
        let detail = detail.into();
        self.counters.get_or_create(&Labels { kind: kind.as_str() }).inc();
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, subject.to_owned());
        if all.len() >= MAX_SUBJECTS && !all.contains_key(&key) {
            return;
        }
        let told = all.entry(key).or_default();
        told.count += 1;
        if told.logged_at.is_none_or(|at| at.elapsed() >= LOGGED_EVERY) {
            told.logged_at = Some(Instant::now());
            tracing::warn!(kind = kind.as_str(), subject, "{detail}");
        }
        told.detail = detail;
    }

    /// What was told since the last time, to be written.
    pub(crate) fn take(&self) -> Vec<Notice> {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = all.iter_mut().filter(|(_, told)| told.count > 0);
        fresh
            .map(|((kind, subject), told)| Notice {
                kind: *kind,
                subject: subject.clone(),
                count: std::mem::take(&mut told.count),
                detail: told.detail.clone(),
            })
            .collect()
    }

    /// Puts back what could not be written.
    pub(crate) fn put_back(&self, notices: Vec<Notice>) {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for notice in notices {
            all.entry((notice.kind, notice.subject)).or_default().count += notice.count;
        }
    }

    /// The counter, for the registry.
    pub(crate) fn counter(&self) -> impl Metric + use<> {
        self.counters.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_taken_once_and_what_is_put_back_again() {
        let notices = Notices::new();
        notices.note(NoticeKind::QueueRowLocked, "shop", "first");
        notices.note(NoticeKind::QueueRowLocked, "shop", "second");
        let taken = notices.take();
        let notice = Notice {
            kind: NoticeKind::QueueRowLocked,
            subject: "shop".to_owned(),
            count: 2,
            detail: "second".to_owned(),
        };
        assert_eq!(taken, [notice]);
        assert_eq!(notices.take(), []);
        notices.put_back(taken.clone());
        notices.note(NoticeKind::QueueRowLocked, "shop", "third");
        assert_eq!(notices.take(), [Notice { count: 3, detail: "third".to_owned(), ..taken[0].clone() }]);
    }

    #[test]
    fn no_more_subjects_are_remembered_than_there_can_be() {
        let notices = Notices::new();
        for n in 0..2 * MAX_SUBJECTS {
            notices.note(NoticeKind::QueueRowLocked, &n.to_string(), "");
        }
        assert_eq!(notices.take().len(), MAX_SUBJECTS);
    }
}
