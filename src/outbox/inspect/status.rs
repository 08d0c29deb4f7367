//! The state of the whole, on one screen: intake, backlog, quota, pauses, silence, failures.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::failures::FailureGroup;
use crate::domain::{EventId, PgInstant, SourceName, TargetName};
use crate::outbox::{Activity, Budget, HoldReason, Outbox, StoreError};
use crate::shops::Erasure;

/// The state of the whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// When it was so.
    pub at: DateTime<Utc>,
    /// What arrives.
    pub intake: IntakeStatus,
    /// What goes out.
    pub sync: SyncStatus,
    /// What waits, for all targets.
    pub backlog: BacklogStatus,
    /// Each FlexPortal tenant.
    pub targets: Vec<TargetStatus>,
    /// Each shop.
    pub sources: Vec<SourceStatus>,
    /// What failed.
    pub failures: FailureStatus,
    /// Changes of customers whom FlexPortal does not know (yet); they are looked for again by themselves.
    pub unmatched: i64,
    /// Requests for personal data that wait for a person.
    pub data_requests: i64,
    /// Webhooks of other shops than their source's, which wait for a person.
    pub held: Vec<HeldStatus>,
    /// What somebody should know though no event failed for it, in the last day; the latest first.
    pub notices: Vec<NoticeStatus>,
}

/// Webhooks of another shop than the source's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldStatus {
    /// The source.
    #[schema(value_type = String)]
    pub source: SourceName,
    /// The name that shop gives itself.
    pub shop: String,
    /// How many.
    pub webhooks: i64,
    /// Since when.
    pub since: DateTime<Utc>,
    /// What to do.
    pub explanation: String,
}

/// Something that somebody should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NoticeStatus {
    /// What kind of thing, in a word.
    pub kind: String,
    /// The source or target it is about.
    pub subject: String,
    /// How often, since `firstAt`.
    pub count: i64,
    /// The first time.
    pub first_at: DateTime<Utc>,
    /// The last time.
    pub last_at: DateTime<Utc>,
    /// What happened the last time, and what to do.
    pub detail: String,
}

/// What arrives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntakeStatus {
    /// Deliveries stored in the last minute.
    pub last_minute: i64,
    /// Deliveries stored in the last hour.
    pub last_hour: i64,
}

/// What goes out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SyncStatus {
    /// Requests in the last minute.
    pub requests_last_minute: i64,
    /// Requests in the last hour.
    pub requests_last_hour: i64,
    /// Events settled for good in the last hour.
    pub settled_last_hour: i64,
}

/// What waits.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BacklogStatus {
    /// Customers with work waiting, retries and unmatched ones included.
    pub customers: i64,
    /// Of these, due now.
    pub due: i64,
    /// Of these, claimed by a worker.
    pub in_flight: i64,
    /// When the oldest event arrived of a customer that is due.
    pub oldest_received_at: Option<DateTime<Utc>>,
    /// For how long it has waited, in seconds.
    pub oldest_wait_seconds: Option<f64>,
    /// For how long the customer that is first in line could have gone out, in seconds; null if there is none.
    pub overdue_seconds: Option<f64>,
    /// How long what is due takes at the quota, pauses included, in seconds; null without a quota.
    pub clears_in_seconds: Option<f64>,
}

/// One FlexPortal tenant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// As in the configuration.
    pub name: TargetName,
    /// Requests a minute; null without a limit.
    pub rate_limit_per_minute: Option<u32>,
    /// Requests that could go out at once; null without a limit.
    pub available_now: Option<u32>,
    /// Requests in the last minute.
    pub used_last_minute: i64,
    /// What waits for it.
    #[serde(flatten)]
    pub backlog: BacklogStatus,
    /// Its pause, if it has one.
    pub hold: Option<HoldStatus>,
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HoldStatus {
    /// Why.
    pub reason: HoldReason,
    /// Until then, or until the next probe.
    pub until: DateTime<Utc>,
    /// What it means and what to do.
    pub explanation: String,
}

/// One shop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SourceStatus {
    /// As in the configuration.
    pub name: SourceName,
    /// The shop system.
    pub kind: String,
    /// The FlexPortal tenant.
    pub target: TargetName,
    /// When its last delivery arrived.
    pub last_received_at: Option<DateTime<Utc>>,
    /// Deliveries stored in the last hour.
    pub last_hour: i64,
    /// Set if it was talkative and went quiet.
    pub silence: Option<Silence>,
}

/// A source that was talkative and went quiet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// When its last delivery arrived.
    pub since: DateTime<Utc>,
    /// How many would have come since, had it gone on as before.
    pub expected: f64,
    /// What to look at.
    pub explanation: String,
}

/// What failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureStatus {
    /// Failed events.
    pub events: i64,
    /// Customers they are of.
    pub customers: i64,
    /// By cause, the most frequent ones.
    pub groups: Vec<FailureGroup>,
}

/// Causes shown at once.
const MAX_GROUPS: i64 = 10;
/// Notices shown at once.
const MAX_NOTICES: i64 = 20;
/// So many deliveries that should have come make a silence: by chance it happens once in hundreds of millions.
const SILENT_AT: f64 = 20.0;
/// However many should have come.
const SHORTEST_SILENCE: Duration = Duration::from_mins(15);

impl Outbox {
    /// The state of the whole.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn status(&self) -> Result<Status, StoreError> {
        let now = self.now().await?;
        let targets = self.target_status(now).await?;
        let sources = self.source_status(now).await?;
        Ok(Status {
            at: now.utc(),
            intake: IntakeStatus {
                last_minute: sources.iter().map(|(_, last_minute)| last_minute).sum(),
                last_hour: sources.iter().map(|(source, _)| source.last_hour).sum(),
            },
            sync: self.sync_status(now).await?,
            backlog: all_backlogs(&targets),
            targets,
            sources: sources.into_iter().map(|(source, _)| source).collect(),
            failures: self.failure_status().await?,
            unmatched: self.unmatched().await?,
            data_requests: self.open_data_requests().await?,
            held: self.held_status().await?,
            notices: self.recent_notices(now).await?,
        })
    }

    async fn target_status(&self, now: PgInstant) -> Result<Vec<TargetStatus>, StoreError> {
        let rows = sqlx::query!(
            r#"
            select
                t.name as "name: TargetName",
                t.rate_limit_per_minute,
                greatest(t.budget_used_until, $1) as "budget_used_until!",
                cardinality(t.free_places) as "free_places!",
                t.hold_reason,
                t.held_until,
                coalesce(used.requests, 0) as "used_last_minute!",
                waiting.customers as "customers!",
                waiting.due as "due!",
                waiting.in_flight as "in_flight!",
                waiting.oldest_received_at,
                waiting.first_due_at
            from targets t
            cross join lateral (
                select
                    count(*) as customers,
                    count(*) filter (where w.due_at <= $1 and coalesce(w.rests_until <= $1, true)) as due,
                    count(*) filter (where w.lease_expires_at > $1) as in_flight,
                    min(event_arrived_at(w.first_event_id)) filter (where w.due_at <= $1) as oldest_received_at,
                    min(w.due_at) filter (
                        where w.due_at <= $1
                          and coalesce(w.rests_until <= $1, true)
                          and coalesce(w.lease_expires_at <= $1, true)
                    ) as first_due_at
                from waiting_customers w
                where w.target = t.name
            ) as waiting
            left join (
                select coalesce(s.target, 'default') as target, count(*) as requests
                from sync_attempts a
                join deliveries d on d.id = a.event_id
                left join sources s on s.name = d.source
                where a.started_at > $1::timestamptz - interval '1 minute'
                group by 1
            ) as used on used.target = t.name
            order by t.name
            "#,
            now as _,
        )
        .fetch_all(&self.pool)
        .await?;
        let now = now.utc();
        let status = rows.into_iter().map(|row| {
            let limit =
                row.rate_limit_per_minute.and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0);
            let budget = limit.and_then(Budget::per_minute);
            let hold = row.hold_reason.as_deref().and_then(HoldReason::of_word).zip(row.held_until);
            // What a rate limit's hold leaves behind is over with its time; the others end by a probe.
            let hold = hold.filter(|(reason, until)| !reason.ends_by_itself() || *until > now);
            let held_for = hold.map(|(_, until)| (until - now).to_std().unwrap_or_default()).unwrap_or_default();
            let free = u32::try_from(row.free_places).unwrap_or(0);
            TargetStatus {
                name: row.name,
                rate_limit_per_minute: limit,
                available_now: budget.map(|budget| budget.available(now, row.budget_used_until) + free),
                used_last_minute: row.used_last_minute,
                backlog: BacklogStatus {
                    customers: row.customers,
                    due: row.due,
                    in_flight: row.in_flight,
                    oldest_received_at: row.oldest_received_at,
                    oldest_wait_seconds: row.oldest_received_at.map(|at| seconds_between(at, now)),
                    overdue_seconds: row.first_due_at.map(|at| seconds_between(at, now)),
                    clears_in_seconds: limit.map(|limit| takes_seconds(row.due, limit) + held_for.as_secs_f64()),
                },
                hold: hold.map(|(reason, until)| HoldStatus {
                    reason,
                    until,
                    explanation: reason.explanation().to_owned(),
                }),
            }
        });
        Ok(status.collect())
    }

    /// Each source, with its deliveries in the last minute.
    async fn source_status(&self, now: PgInstant) -> Result<Vec<(SourceStatus, i64)>, StoreError> {
        let activity = self.activity(now).await?;
        let activity: BTreeMap<_, _> = activity.iter().map(|activity| (&activity.source, activity)).collect();
        let rows = sqlx::query!(
            r#"
            select
                s.name as "name: SourceName",
                s.kind,
                s.target as "target: TargetName",
                coalesce(received.last_hour, 0) as "last_hour!",
                coalesce(received.last_minute, 0) as "last_minute!"
            from sources s
            left join (
                select source, count(*) as last_hour, count(*) filter (where id >= $2) as last_minute
                from deliveries
                where id >= $1
                group by source
            ) as received on received.source = s.name
            order by s.name
            "#,
            EventId::first_at((now - Duration::from_hours(1)).utc()).0,
            EventId::first_at((now - Duration::from_mins(1)).utc()).0,
        )
        .fetch_all(&self.pool)
        .await?;
        let status = rows.into_iter().map(|row| {
            let activity = activity.get(&row.name);
            let status = SourceStatus {
                silence: activity.and_then(|activity| silence(activity, &row.kind, now)),
                name: row.name,
                kind: row.kind,
                target: row.target,
                last_received_at: activity.map(|activity| activity.last_received_at),
                last_hour: row.last_hour,
            };
            (status, row.last_minute)
        });
        Ok(status.collect())
    }

    async fn sync_status(&self, now: PgInstant) -> Result<SyncStatus, StoreError> {
        let status = sqlx::query_as!(
            SyncStatus,
            r#"
            select
                requests.last_minute as "requests_last_minute!",
                requests.last_hour as "requests_last_hour!",
                settled.last_hour as "settled_last_hour!"
            from (
                select
                    count(*) as last_hour,
                    count(*) filter (where started_at > $1::timestamptz - interval '1 minute') as last_minute
                from sync_attempts
                where started_at > $1::timestamptz - interval '1 hour'
            ) as requests
            cross join (
                select count(*) as last_hour
                from event_states
                where finished_at > $1::timestamptz - interval '1 hour'
            ) as settled
            "#,
            now as _,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(status)
    }

    async fn failure_status(&self) -> Result<FailureStatus, StoreError> {
        let row = sqlx::query!(
            r#"
            select count(*) as "events!", count(distinct (source, shop_customer_id)) as "customers!"
            from event_states
            where status = 'failed'
            "#,
        )
        .fetch_one(&self.pool)
        .await?;
        let groups = self.failure_groups(None, MAX_GROUPS).await?;
        Ok(FailureStatus { events: row.events, customers: row.customers, groups })
    }

    async fn unmatched(&self) -> Result<i64, StoreError> {
        let unmatched = sqlx::query_scalar!(
            r#"
            select count(*) as "unmatched!"
            from event_states
            where status in ('failed', 'unmatched', 'discarded')                -- as the index has it
              and status = 'unmatched'
              and finished_at is null
            "#,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(unmatched)
    }

    async fn held_status(&self) -> Result<Vec<HeldStatus>, StoreError> {
        let held = self.spoken_shops().await?.into_iter().filter_map(|shop| {
            let since = shop.held_since?;
            let explanation = format!(
                "another shop than that of `{source}` spoke, by the same secret: if it is the same one under another name, \
                 `flexportal-sync sources accept {source} {name}`; else `flexportal-sync sources ignore {source} {name}`",
                source = shop.source,
                name = shop.shop,
            );
            Some(HeldStatus { source: shop.source, shop: shop.shop, webhooks: shop.held, since, explanation })
        });
        Ok(held.collect())
    }

    async fn recent_notices(&self, now: PgInstant) -> Result<Vec<NoticeStatus>, StoreError> {
        let notices = sqlx::query_as!(
            NoticeStatus,
            r#"
            select kind, subject, count, first_at, last_at, detail
            from notices
            where last_at > $1::timestamptz - interval '1 day'
            order by last_at desc, kind, subject
            limit $2
            "#,
            now as _,
            MAX_NOTICES,
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(notices)
    }

    async fn open_data_requests(&self) -> Result<i64, StoreError> {
        let open = sqlx::query_scalar!(
            r#"
            select count(*) as "open!"
            from deliveries d
            left join event_states s on s.event_id = d.id
            where d.concerns = 'privacy'
              and d.topic <> all($1)             -- what is to be erased waits for nobody
              and s.finished_at is null
            "#,
            &Erasure::TOPICS.map(str::to_owned),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(open)
    }
}

/// How long so many customers take at a limit: a request each.
pub(in crate::outbox) fn takes_seconds(customers: i64, limit_per_minute: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let customers = customers as f64;
    customers * 60.0 / f64::from(limit_per_minute)
}

fn seconds_between(from: DateTime<Utc>, to: DateTime<Utc>) -> f64 {
    (to - from).to_std().unwrap_or_default().as_secs_f64()
}

/// The whole is done when the last target is.
fn all_backlogs(targets: &[TargetStatus]) -> BacklogStatus {
    targets.iter().map(|target| &target.backlog).fold(BacklogStatus::default(), |all, one| BacklogStatus {
        customers: all.customers + one.customers,
        due: all.due + one.due,
        in_flight: all.in_flight + one.in_flight,
        oldest_received_at: all.oldest_received_at.into_iter().chain(one.oldest_received_at).min(),
        oldest_wait_seconds: all.oldest_wait_seconds.into_iter().chain(one.oldest_wait_seconds).reduce(f64::max),
        overdue_seconds: all.overdue_seconds.into_iter().chain(one.overdue_seconds).reduce(f64::max),
        clears_in_seconds: all.clears_in_seconds.into_iter().chain(one.clears_in_seconds).reduce(f64::max),
    })
}

fn silence(activity: &Activity, kind: &str, now: PgInstant) -> Option<Silence> {
    let quiet_for = now.since(activity.last_received_at);
    if activity.expected_since < SILENT_AT || quiet_for < SHORTEST_SILENCE {
        return None;
    }
    // Shopify `apps/build/webhooks/troubleshooting-webhooks`, WooCommerce `class-wc-webhook.php`.
    let look_at = match kind {
        "shopify" => {
            "Shopify removes a subscription after 8 failures in a row: look whether the app still has its webhooks"
        }
        "woocommerce" => {
            "WooCommerce disables a webhook after a few failures in a row: look under WooCommerce, Settings, Advanced, \
             Webhooks whether it is still active"
        }
        _ => "look whether the sender still runs, and what it is answered",
    };
    Some(Silence {
        since: activity.last_received_at,
        expected: activity.expected_since,
        explanation: format!(
            "{look_at}; and whether the address is reachable from outside. What changed meanwhile was not delivered and \
             has to be sent again."
        ),
    })
}
