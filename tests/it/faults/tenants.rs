//! Another tenant in the configuration, and the first one again: links and acknowledgements are each tenant's own.

use super::*;
use crate::support::shop::generic;

/// A FlexPortal that knows the one customer by this id.
async fn tenant(id: &str) -> FakeFlexportal {
    let fake = FakeFlexportal::start(FakeOptions::default()).await.expect("a fake");
    fake.add_customer(flexportal_sync::fake_flexportal::FakeCustomer::new(id, "ada@example.com"));
    fake
}

fn of_method(fake: &FakeFlexportal, method: &str) -> Vec<RecordedRequest> {
    fake.requests().into_iter().filter(|request| request.method == method).collect()
}

/// A service on the database, with this tenant, takes a change and syncs it.
async fn syncs(db: &Database, fake: &FakeFlexportal, second: u32, phone: &str) {
    let process = Process::start(&db.url, fake).await;
    let change = generic("shop-1", second, &json!({"email": "ada@example.com", "phone": phone}));
    assert_eq!(process.deliver(change).await.status, 200);
    wait_until(&db.pool, ALL_SYNCED).await;
    process.terminate();
    assert!(process.leaves().await.success());
}

#[tokio::test]
async fn another_tenant_has_links_of_its_own_and_the_first_ones_are_there_when_it_comes_back() {
    let db = database().await;
    let (first, second) = (tenant("cus_first").await, tenant("cus_second").await);
    syncs(&db, &first, 0, "1").await;
    assert_eq!(of_method(&first, "PUT").len(), 1);

    // The same values: the second tenant has acknowledged none of them, and knows the customer by another id.
    syncs(&db, &second, 1, "1").await;
    let put = of_method(&second, "PUT").pop().expect("a request");
    assert_eq!(put.body, Some(json!({"customerId": "cus_second", "phone": "1"})));
    let of_both =
        "select count(*) from customer_links where shop_customer_id = 'shop-1' and flexportal_customer_id is not null";
    assert_eq!(db.count(of_both).await, 2);
    let now =
        "select count(*) from customer_sync_state where flexportal_customer_id = 'cus_second' and state = 'in_sync'";
    assert_eq!(db.count(now).await, 1);

    let lookups = of_method(&first, "GET").len();
    syncs(&db, &first, 2, "2").await;
    assert_eq!(of_method(&first, "GET").len(), lookups, "its link is there");
    let put = of_method(&first, "PUT").pop().expect("a request");
    assert_eq!(put.body, Some(json!({"customerId": "cus_first", "phone": "2"})));
    // What it has acknowledged is still known: the same again is not sent.
    syncs(&db, &first, 3, "2").await;
    assert_eq!(of_method(&first, "PUT").len(), 2);
}

#[tokio::test]
async fn links_from_before_their_tenant_was_known_are_those_of_the_first_to_start() {
    let db = database().await;
    let before = "insert into customer_links (source, shop_customer_id, flexportal_customer_id, origin)
                  values ('generic', 'shop-1', 'cus_first', 'import')";
    db.execute(before).await;
    let first = tenant("cus_first").await;
    syncs(&db, &first, 0, "1").await;
    assert_eq!(of_method(&first, "GET").len(), 0, "the link says who it is");
    assert_eq!(db.count("select count(*) from customer_links where base_url = ''").await, 0);
    assert_eq!(db.count("select count(*) from customer_links where tenant_id = 'fake-tenant'").await, 1);
}
