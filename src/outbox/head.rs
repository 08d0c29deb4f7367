//! Where in the queue it is worth beginning to look for work.
//!
//! Postgres keeps the index entry of a row that is gone until no transaction can see the row any more. While somebody
//! holds one open, such entries pile up at the head of the queue, where the longest due stood, and each look for work
//! passes all of them. So after a claim from the very beginning that took long, the next ones begin where the last one
//! ended, for so many times as long. What came late, with an earlier due time (a commit that took its time, a lease that
//! ended, a customer given back, one that was restless and is quiet now), waits until then, also behind those of a lower
//! priority; who finds nothing this way looks from the beginning at once.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::domain::TargetName;

/// After a claim from the beginning that took no longer, the next one begins there, too.
const SHORT: Duration = Duration::from_millis(10);
/// After a longer one, those of so many times as long do not.
const SHARE: u32 = 20;
/// But no more than this: the longest that a customer is passed by.
const PASSED_BY_FOR: Duration = Duration::from_secs(2);
/// Customers that became due at about the same time are committed in any order.
const COMMITTED_LATE: TimeDelta = TimeDelta::milliseconds(100);

/// Due times to begin at: of live changes, retries, replays.
pub(super) type Begin = [Option<DateTime<Utc>>; 3];

/// Nobody is passed by.
pub(super) const FROM_THE_BEGINNING: Begin = [None; 3];

/// The heads of all targets' queues, as this process knows them.
#[derive(Debug, Default)]
pub(super) struct Heads(Mutex<HashMap<TargetName, Head>>);

#[derive(Debug, Default)]
struct Head {
    begin: Begin,
    /// Until then looks begin there.
    until: Option<Instant>,
}

impl Heads {
    /// Where to begin; `None`: at the beginning.
    pub(super) fn begin(&self, target: &TargetName) -> Option<Begin> {
        let heads = self.heads();
        let head = heads.get(target)?;
        (Instant::now() < head.until?).then_some(head.begin)
    }

    /// How long a claim from the beginning took the database. A look alone does not count: whoever it saw is to be claimed.
    pub(super) fn began(&self, target: &TargetName, took: Duration) {
        let until = (took > SHORT).then(|| Instant::now() + (took * SHARE).min(PASSED_BY_FOR));
        self.heads().entry(target.clone()).or_default().until = until;
    }

    /// Who was claimed, by priority and due time: the longest due that could be.
    pub(super) fn claimed(&self, target: &TargetName, customers: impl Iterator<Item = (i16, DateTime<Utc>)>) {
        let mut last = Begin::default();
        for (priority, due_at) in customers {
            if let Some(last) = usize::try_from(priority).ok().and_then(|priority| last.get_mut(priority)) {
                *last = (*last).max(Some(due_at));
            }
        }
        let mut heads = self.heads();
        let begin = &mut heads.entry(target.clone()).or_default().begin;
        for (begin, last) in begin.iter_mut().zip(last) {
            *begin = last.and_then(|last| last.checked_sub_signed(COMMITTED_LATE)).or(*begin);
        }
    }

    fn heads(&self) -> MutexGuard<'_, HashMap<TargetName, Head>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Clock;
    use crate::outbox::scratch::Scratch;
    use crate::outbox::{ClaimedCustomer, Next, Settlement};

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).expect("a time")
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_long_look_the_next_ones_begin_at_the_last_claim_for_a_while() {
        let (target, other) = (TargetName::parse("one").expect("a name"), TargetName::parse("two").expect("a name"));
        let heads = Heads::default();
        assert_eq!(heads.begin(&target), None);
        heads.claimed(&target, [(0, at(5)), (0, at(3)), (2, at(9))].into_iter());
        heads.began(&target, SHORT);
        assert_eq!(heads.begin(&target), None, "a short look is made each time");
        heads.began(&target, SHORT * 2);
        let begin = [Some(at(5) - COMMITTED_LATE), None, Some(at(9) - COMMITTED_LATE)];
        assert_eq!(heads.begin(&target), Some(begin));
        assert_eq!(heads.begin(&other), None);
        heads.claimed(&target, [(0, at(7))].into_iter());
        assert_eq!(heads.begin(&target).map(|[live, ..]| live), Some(Some(at(7) - COMMITTED_LATE)));
        tokio::time::advance(SHORT * 2 * SHARE).await;
        assert_eq!(heads.begin(&target), None, "the long look took a twentieth of the time");
        heads.began(&target, Duration::from_mins(1));
        tokio::time::advance(PASSED_BY_FOR).await;
        assert_eq!(heads.begin(&target), None, "nobody is passed by for longer");
    }

    #[tokio::test]
    async fn who_is_passed_by_is_found_when_nobody_else_is_due() {
        let scratch = Scratch::new("head").await;
        let outbox = scratch.outbox(Clock::System).await;
        sqlx::raw_sql(
            "insert into waiting_customers (source, shop_customer_id, target, due_at, first_event_id)
             select 'shop', 'c' || n, 'one', now() - make_interval(secs => 10 - n), gen_random_uuid()
             from generate_series(1, 6) as n",
        )
        .execute(&outbox.pool)
        .await
        .expect("waiting");
        let target = TargetName::parse("one").expect("a name");
        let claim = async |limit| {
            let mut claims = outbox.claim(&target, limit).await.expect("claimed");
            claims.sort_by(|a, b| a.customer.cmp(&b.customer));
            claims
        };
        let names = |claims: &[ClaimedCustomer]| {
            claims.iter().map(|claim| claim.customer.as_str().to_owned()).collect::<Vec<_>>()
        };
        let first = claim(3).await;
        assert_eq!(names(&first), ["c1", "c2", "c3"]);
        let given_back = Settlement::nothing(Next::AsBefore);
        outbox.settle(&first[0], &given_back).await.expect("given back");
        // As if the look had taken that long.
        let for_ever = Instant::now() + Duration::from_hours(1);
        outbox.heads.heads().get_mut(&target).expect("known").until = Some(for_ever);
        assert!(outbox.look(&target).await.expect("a look").is_due);
        let last = claim(1).await;
        assert_eq!(names(&last), ["c4"], "c1 is passed by");
        assert!(outbox.look(&target).await.expect("a look").is_due, "and yet it is due");
        outbox.heads.heads().get_mut(&target).expect("known").until = Some(for_ever);
        assert_eq!(names(&claim(2).await), ["c5", "c6"]);
        let c1 = claim(1).await;
        assert_eq!(names(&c1), ["c1"], "nobody else is due");
        assert!(!outbox.look(&target).await.expect("a look").is_due);

        outbox.settle(&c1[0], &given_back).await.expect("given back");
        outbox.settle(&last[0], &given_back).await.expect("given back");
        outbox.heads.heads().get_mut(&target).expect("known").until = None;
        assert!(outbox.look(&target).await.expect("a look").is_due);
        assert_eq!(names(&claim(1).await), ["c1"], "a look before the claim changes nothing");
        outbox.close().await;
        scratch.remove().await;
    }
}
