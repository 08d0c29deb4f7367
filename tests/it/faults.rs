//! The real binary, killed, frozen, told to leave, and cut off from what it needs.
//!
//! No switch of the product makes it fail at a point: it is held there from outside, by a lock in Postgres or by the
//! fake FlexPortal. Nobody waits half a minute for a lease either, but for the one test that shows that it ends by
//! itself: the others move its end in the database, once nothing of the dead worker is under way.

use std::collections::BTreeMap;

use flexportal_sync::fake_flexportal::{FakeFlexportal, FakeOptions, RecordedRequest};
use serde_json::json;

use crate::support::shop::{Webhook, linked};
use crate::support::{Database, Process, database, eventually, in_time, wait_until};

mod flexportal;
mod kills;
mod leaving;
mod limit;
mod postgres;
mod replicas;
mod soak;
mod tenants;
mod upgrade;

/// Nothing waits any more, and nothing was given up.
const ALL_SYNCED: &str = "select bool_and(status in ('synced', 'superseded', 'unchanged')) from outbox_events";

/// A database and a FlexPortal with twenty customers.
struct Scene {
    db: Database,
    fake: FakeFlexportal,
}

impl Scene {
    async fn new() -> Self {
        Self { db: database().await, fake: fake().await }
    }

    async fn start(&self) -> Process {
        Process::start(&self.db.url, &self.fake).await
    }

    async fn start_with(&self, variables: &[(&str, &str)]) -> Process {
        Process::start_with(&self.db.url, &self.fake, variables).await
    }

    /// Half a minute passes for the claim of `cus_1` that a dead worker left behind.
    async fn the_lease_ends(&self) {
        let moved = "update waiting_customers set lease_expires_at = now() \
                     where shop_customer_id = 'shop-1' and lease_id is not null";
        assert_eq!(self.db.execute(moved).await, 1);
        self.db.execute("select pg_notify('flexportal_sync', '')").await;
    }

    /// Waits until all is synced; then FlexPortal has that phone number for `cus_1`, and got there in order.
    async fn ends_with(&self, phone: u32) {
        wait_until(&self.db.pool, ALL_SYNCED).await;
        assert_eq!(phone_of(&self.fake, 1), Some(phone));
        assert_in_order(&self.fake);
    }
}

async fn fake() -> FakeFlexportal {
    FakeFlexportal::start(FakeOptions { customers: 20, ..FakeOptions::default() }).await.expect("the fake starts")
}

/// The change at that second, which is also the new phone number, of a customer that FlexPortal has as `cus_<n>`.
fn change(n: u32, second: u32) -> Webhook {
    linked(n, second, &json!({"phone": second.to_string()}))
}

/// The phone number that FlexPortal has.
fn phone_of(fake: &FakeFlexportal, n: u32) -> Option<u32> {
    fake.customer(&format!("cus_{n}")).expect("there").phone?.parse().ok()
}

async fn wait_for_requests(fake: &FakeFlexportal, count: usize) {
    in_time("requests", fake.wait_for_requests(count)).await;
}

/// Waits until nothing is under way to FlexPortal.
async fn wait_until_quiet(fake: &FakeFlexportal) {
    eventually("quiet", || fake.requests().iter().all(|request| request.ended_at.is_some())).await;
}

/// Of each customer there was one request at a time, and none told an older phone number than the one before.
fn assert_in_order(fake: &FakeFlexportal) {
    let mut by_customer = BTreeMap::<String, Vec<RecordedRequest>>::new();
    for request in fake.requests().into_iter().filter(|request| request.method == "PUT") {
        by_customer.entry(request.path.clone()).or_default().push(request);
    }
    let phone = |request: &RecordedRequest| {
        let body = request.body.as_ref().expect("a body");
        body["phone"].as_str().and_then(|phone| phone.parse::<u32>().ok())
    };
    for requests in by_customer.values() {
        for pair in requests.windows(2) {
            let is_over = pair[0].ended_at.is_some_and(|ended_at| ended_at <= pair[1].received_at);
            assert!(is_over, "two at once: {pair:#?}");
            assert!(phone(&pair[0]) <= phone(&pair[1]), "an older value after a newer: {pair:#?}");
        }
    }
}
