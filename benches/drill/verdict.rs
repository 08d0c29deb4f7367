//! The figures of the drill: what the judge finds, counted, and beside it what was aimed at.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::domain::{EventId, EventStatus};
use flexportal_sync::fake_flexportal::FakeFlexportal;
use sqlx::postgres::PgPool;

use super::burst::Burst;
use super::floor::{self, Waiting};
use super::judge::{History, most_in_a_minute, percentile};
use super::report::{Report, seconds, time, times};
use super::sending::Sent;
use super::{Killed, LATENCY_MS, Scale};

/// All that the judge is told.
pub(crate) struct End<'a> {
    pub(crate) scale: &'a Scale,
    pub(crate) burst: &'a Burst,
    pub(crate) sent: &'a Sent,
    pub(crate) killed: &'a Killed,
    pub(crate) fake: &'a FakeFlexportal,
    pub(crate) pool: &'a PgPool,
}

impl End<'_> {
    /// The figures, and whether nothing was lost, wrong or set back.
    pub(crate) async fn judged(&self) -> anyhow::Result<(Report, bool)> {
        let statuses: Vec<(EventId, EventStatus)> =
            sqlx::query_as("select id, status from outbox_events").fetch_all(self.pool).await?;
        let requests = self.fake.requests();
        let history = History {
            burst: self.burst,
            accepted: &self.sent.accepted,
            requests: &requests,
            customers: self.fake.customers().into_iter().map(|known| (known.customer_id.clone(), known)).collect(),
            statuses: statuses.into_iter().collect(),
        };
        let mut report = Report::default();
        self.intake(&mut report);
        let is_good = self.promises(&history, &mut report);
        self.requests(&history, &mut report);
        self.freshness(&history, &mut report);
        self.recovery(&history, &mut report);
        Ok((report, is_good))
    }

    /// A figure whose aim the smoke test is too short for.
    fn aim(&self, report: &mut Report, name: &str, value: String, aim: &str, is_reached: bool) {
        if self.scale.is_smoke {
            report.figure(name, value);
        } else {
            report.aim(name, value, aim, is_reached);
        }
    }

    fn accepted(&self) -> usize {
        self.sent.accepted.iter().flatten().count()
    }

    fn intake(&self, report: &mut Report) {
        let sent = self.sent;
        let twice = self.burst.deliveries.len() - self.burst.changes.len();
        report.figure("accepted", format!("{} in {}", self.accepted(), seconds(sent.took)));
        report.figure("duplicates", format!("{} of {twice} told as such", sent.duplicates));
        if sent.repeated > 0 {
            report.figure("sent again, for want of a 200", sent.repeated);
        }
        if sent.taken_twice > 0 {
            report.figure("duplicates taken for new", sent.taken_twice);
        }
        let answered = [50, 99].map(|percent| percentile(sent.answer_times.clone(), percent));
        report.figure("intake p50 / p99", times(&answered));
    }

    /// What the README promises without conditions.
    fn promises(&self, history: &History<'_>, report: &mut Report) -> bool {
        let (mut failed_as_expected, mut failed) = (0, 0);
        for (change, accepted) in self.sent.accepted.iter().enumerate() {
            let status = accepted.and_then(|accepted| history.statuses.get(&accepted.event));
            let is_refused = self.burst.customer_of(change).is_refused;
            failed += usize::from(status == Some(&EventStatus::Failed));
            failed_as_expected += usize::from(status == Some(&EventStatus::Failed) && is_refused);
        }
        let others = failed - failed_as_expected;
        report.figure("failed: of refused customers / others", format!("{failed_as_expected} / {others}"));
        let (lost, wrong, stale) = (history.lost(), history.wrong(), history.stale_overwrites());
        let mut wrong_customers: Vec<_> = wrong.iter().map(|field| field.customer).collect();
        wrong_customers.dedup();
        report.aim("lost", lost.len(), "0", lost.is_empty());
        report.aim("wrong customers", wrong_customers.len(), "0", wrong.is_empty());
        report.aim("stale overwrites", stale.len(), "0", stale.is_empty());
        report.evidence("lost", &lost, |event| format!("event {event}, {:?}", history.statuses.get(event)));
        report.evidence("wrong", &wrong, |field| {
            let customer = self.burst.customers[field.customer].flexportal_id();
            let name = field.field.name();
            format!("{customer}: {name} is of change {:?}, not {}", field.found, field.expected)
        });
        report.evidence("stale", &stale, |stale| {
            let (sequence, name) = (stale.sequence, stale.field.name());
            format!("request {sequence} set {name} from change {} back to {}", stale.replaced, stale.written)
        });
        lost.is_empty() && wrong.is_empty() && stale.is_empty()
    }

    fn requests(&self, history: &History<'_>, report: &mut Report) {
        let answered = |status| history.requests.iter().filter(|request| request.status == Some(status)).count();
        let updates = history.requests.iter().filter(|request| request.method == "PUT").count();
        let lookups = history.requests.len() - updates;
        report.figure("requests: updates / lookups", format!("{updates} / {lookups}"));
        let per_thousand = history.requests.len() * 1_000 / self.accepted().max(1);
        let per_event = format!("{}.{:03}", per_thousand / 1_000, per_thousand % 1_000);
        self.aim(report, "requests per accepted event", per_event, "under 0.33", per_thousand < 330);
        let unanswered = history.requests.iter().filter(|request| request.status.is_none()).count();
        report.figure("answers 503 / none", format!("{} / {unanswered}", answered(503)));
        report.aim("answers 429", answered(429), "at most 5", answered(429) <= 5);
        let moments: Vec<_> = history.requests.iter().map(|request| request.received_at).collect();
        let (most, limit) = (most_in_a_minute(&moments), self.scale.limit_per_minute);
        report.aim("most requests in any 60 s", most, &format!("at most {limit}"), most <= limit as usize);
    }

    fn freshness(&self, history: &History<'_>, report: &mut Report) {
        const PERCENTS: [usize; 3] = [50, 95, 99];
        let ages = history.freshness();
        let at = |ages: &[TimeDelta]| PERCENTS.map(|percent| percentile(ages.to_vec(), percent));
        let measured = at(&ages);
        let mut waiting: BTreeMap<usize, Waiting> = BTreeMap::new();
        for (change, accepted) in self.sent.accepted.iter().enumerate() {
            let Some(accepted) = accepted else { continue };
            let customer = self.burst.customer_of(change);
            let requests = 1 + u32::from(customer.is_looked_up());
            let one = Waiting { answered: vec![], requests, is_refused: customer.is_refused };
            waiting.entry(self.burst.changes[change].customer).or_insert(one).answered.push(accepted.answered_at);
        }
        let customers: Vec<_> = waiting
            .into_values()
            .map(|mut customer| {
                customer.answered.sort_unstable();
                customer
            })
            .collect();
        let (limit, latency) = (self.scale.limit_per_minute, TimeDelta::milliseconds(i64::from(LATENCY_MS)));
        let floor = at(&floor::knowing_the_future(&customers, limit, latency));
        let queue = at(&floor::faultless_queue(&customers, limit, latency));
        report.figure("freshness p50 / p95 / p99", times(&measured));
        report.figure("  floor of the quota, the future known", times(&floor));
        report.figure("  of a faultless queue", times(&queue));
        let over = measured[1] - floor[1];
        self.aim(report, "freshness p95 over the floor", time(over), "within 10 s", over <= TimeDelta::seconds(10));
        report.figure("events that reached FlexPortal", format!("{} of {}", ages.len(), self.accepted()));
    }

    fn recovery(&self, history: &History<'_>, report: &mut Report) {
        let after = || history.requests.iter().filter(|request| request.received_at > self.killed.at);
        let since = |at: DateTime<Utc>| time(at - self.killed.at);
        let first = after().find(|request| request.method == "PUT").map(|request| since(request.received_at));
        report.figure("from the kill to the next update", first.unwrap_or_else(|| "none came".to_owned()));
        let Some(held) = &self.killed.held else { return };
        let held = self.burst.customers.iter().filter(|customer| {
            held.iter().any(|(source, id)| *source == customer.kind.as_str() && *id == customer.shop_id())
        });
        let delivered = held.map(|customer| {
            let path = format!("/v1/customers/{}", customer.flexportal_id());
            after().find(|request| request.path == path && request.status.is_some()).map(|request| request.received_at)
        });
        let delivered: Vec<_> = delivered.collect();
        let what = match delivered.iter().copied().collect::<Option<Vec<_>>>() {
            None => "not all".to_owned(),
            Some(moments) => moments.into_iter().max().map_or("none".to_owned(), since),
        };
        report.figure(&format!("  to the {} customers in flight at it", delivered.len()), what);
    }
}
