//! Several shop customers, one FlexPortal customer: an e-mail that was passed on, somebody who registers anew, a merge.

use std::time::Duration;

use flexportal_sync::config::ShopKind;
use flexportal_sync::domain::{FlexportalCustomerId, ShopCustomerId, SourceName};
use flexportal_sync::fake_flexportal::{FakeCustomer, FakeStatus};
use flexportal_sync::outbox::{DoneBy, NewLink};
use serde_json::{Value, json};
use sqlx::Row;

use crate::support::App;
use crate::support::shop::{Webhook, generic, shopify, shopify_topic};

const OFFICE: &str = "office@example.com";

fn told(customer: &str, second: u32, email: &str, name: &str) -> Webhook {
    generic(customer, second, &json!({"email": email, "firstName": name}))
}

fn deletion(customer: &str, second: u32) -> Webhook {
    let timestamp = format!("2026-11-23T10:{:02}:{:02}Z", second / 60, second % 60);
    let body = json!({"type": "customer.deleted", "timestamp": timestamp, "data": {"customerId": customer}});
    Webhook::new(ShopKind::Generic, "customer.deleted", body.to_string())
}

fn shopify_deletion(n: u32) -> Webhook {
    Webhook::new(ShopKind::Shopify, "customers/delete", json!({"id": 7_120_000_000_u64 + u64::from(n)}).to_string())
}

fn merge(kept: u32, deleted: u32) -> Webhook {
    let gid = |n: u32| format!("gid://shopify/Customer/{}", 7_120_000_000_u64 + u64::from(n));
    let body = json!({
        "admin_graphql_api_customer_kept_id": gid(kept), "admin_graphql_api_customer_deleted_id": gid(deleted),
        "admin_graphql_api_job_id": null, "status": "COMPLETED", "errors": [],
    });
    Webhook::new(ShopKind::Shopify, "customers/merge", body.to_string())
}

/// With a customer of the office's e-mail.
async fn start() -> App {
    let app = App::start().await;
    app.fake.add_customer(FakeCustomer::new("cus_office", OFFICE));
    app
}

/// FlexPortal's staff set the office's status.
fn staff_set(app: &App, status: FakeStatus) {
    let customer = app.fake.customer("cus_office").expect("there");
    app.fake.add_customer(FakeCustomer { status, ..customer });
}

fn statuses(app: &App) -> Vec<Value> {
    app.puts().iter().filter_map(|put| put.get("status").cloned()).collect()
}

async fn past_retention(app: &App) {
    sqlx::raw_sql("delete from deliveries; delete from event_states; delete from sync_attempts")
        .execute(&app.db.pool)
        .await
        .expect("removed");
}

#[tokio::test]
async fn an_email_that_was_passed_on_links_nobody_else_to_the_first_ones_record() {
    for is_past_retention in [false, true] {
        let app = start().await;
        app.sync(told("first", 0, OFFICE, "Ada")).await;
        app.sync(told("first", 1, "ada@example.com", "Ada")).await;
        if is_past_retention {
            past_retention(&app).await;
        }
        let second = app.sync(told("second", 2, OFFICE, "Eva")).await;
        assert_eq!(second.status, "unmatched");
        let error = second.error.expect("a reason");
        assert!(error.contains("cus_office") && error.contains("first"), "both are named: {error}");
        assert_eq!(app.puts().last().expect("a request")["firstName"], "Ada");
        app.sync(told("first", 3, "ada@example.com", "Ada B.")).await;
        assert_eq!(app.puts().last().expect("a request")["firstName"], "Ada B.", "the first one goes on");

        // Somebody says who it is.
        let parse = |id| FlexportalCustomerId::parse(id).expect("an id");
        let link = NewLink {
            source: SourceName::parse("generic").expect("a name"),
            customer: ShopCustomerId::parse("second").expect("an id"),
            flexportal_id: parse("cus_office"),
        };
        app.outbox.import_links(&[link], DoneBy::Terminal).await.expect("imported");
        app.drain().await;
        assert_eq!(app.puts().last().expect("a request")["firstName"], "Eva");
    }
}

#[tokio::test]
async fn two_accounts_of_one_email_are_one_customer() {
    let app = start().await;
    app.sync(told("first", 0, OFFICE, "Ada")).await;
    assert_eq!(app.sync(told("second", 1, OFFICE, "Ada L.")).await.status, "synced");
}

#[tokio::test]
async fn a_deletion_deactivates_nobody_to_whom_another_live_customer_leads() {
    let app = start().await;
    app.sync(told("first", 0, OFFICE, "Ada")).await;
    // Of whatever source.
    app.sync(shopify(1, 1, &json!({"email": OFFICE}))).await;
    let kept = app.sync(deletion("first", 2)).await;
    assert_eq!(kept.status, "unchanged");
    assert!(kept.warnings.iter().any(|warning| warning.contains("not set inactive")), "{:?}", kept.warnings);
    assert!(statuses(&app).is_empty());
    // The last one turns off the light.
    assert_eq!(app.sync(shopify_deletion(1)).await.status, "synced");
    assert_eq!(statuses(&app), ["inactive"]);
}

#[tokio::test]
async fn whoever_is_deleted_and_registers_anew_is_active_again() {
    for (is_past_retention, is_in_another_shop) in [(false, false), (true, false), (false, true)] {
        let app = start().await;
        app.sync(told("first", 0, OFFICE, "Ada")).await;
        app.sync(deletion("first", 1)).await;
        assert_eq!(statuses(&app), ["inactive"]);
        if is_past_retention {
            past_retention(&app).await;
        }
        let again =
            if is_in_another_shop { shopify(1, 2, &json!({"email": OFFICE})) } else { told("anew", 2, OFFICE, "Ada") };
        assert_eq!(app.sync(again).await.status, "synced");
        assert_eq!(statuses(&app), ["inactive", "active"]);
        assert_eq!(app.fake.customer("cus_office").expect("there").status, FakeStatus::Active);
        // Once, and not with every change.
        app.sync(if is_in_another_shop {
            shopify(1, 3, &json!({"email": OFFICE, "first_name": "Eva"}))
        } else {
            told("anew", 3, OFFICE, "Eva")
        })
        .await;
        assert_eq!(statuses(&app).len(), 2);
    }
}

#[tokio::test]
async fn the_same_customer_that_is_told_of_after_its_deletion_is_active_again_but_not_by_what_is_older() {
    let app = start().await;
    app.sync(told("first", 0, OFFICE, "Ada")).await;
    app.sync(deletion("first", 10)).await;
    app.sync(generic("first", 5, &json!({"phone": "1"}))).await;
    assert_eq!(statuses(&app), ["inactive"], "what is older than the deletion says nothing of a return");
    app.sync(told("first", 11, OFFICE, "Ada again")).await;
    assert_eq!(statuses(&app), ["inactive", "active"]);
    app.sync(told("first", 12, OFFICE, "Ada once more")).await;
    assert_eq!(statuses(&app).len(), 2);
}

#[tokio::test]
async fn what_staff_set_inactive_stays_so_for_whoever_registers_anew() {
    let app = start().await;
    staff_set(&app, FakeStatus::Inactive);
    assert_eq!(app.sync(told("first", 0, OFFICE, "Ada")).await.status, "synced");
    assert!(statuses(&app).is_empty(), "nobody here set it");

    // Deleted, set active by staff, seen so with another one's change, and set inactive by staff.
    let app = start().await;
    app.sync(told("first", 0, OFFICE, "Ada")).await;
    app.sync(deletion("first", 1)).await;
    staff_set(&app, FakeStatus::Active);
    app.advance(Duration::from_secs(1));
    let data = json!({"email": "other@example.com", "flexportalCustomerId": "cus_office", "phone": "1"});
    app.sync(generic("other", 2, &data)).await;
    staff_set(&app, FakeStatus::Inactive);
    let before = statuses(&app).len();
    app.advance(Duration::from_secs(1));
    app.sync(told("anew", 3, OFFICE, "Ada")).await;
    assert_eq!(statuses(&app).len(), before, "{:?}", statuses(&app));
}

#[tokio::test]
async fn a_merge_moves_the_link_to_the_kept_customer_and_the_lost_one_is_never_deactivated() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({}))).await;
    // FlexPortal does not know the one that is kept.
    let unknown = json!({"email": "kept@example.com"});
    assert_eq!(app.sync(shopify(30, 1, &unknown)).await.status, "unmatched");
    let told = app.sync(merge(30, 1)).await;
    assert_eq!(told.status, "unchanged");
    app.drain().await;
    let links =
        sqlx::query("select shop_customer_id, flexportal_customer_id, merged_into from customer_links order by 1")
            .fetch_all(&app.db.pool)
            .await
            .expect("links");
    let links: Vec<(String, Option<String>, Option<String>)> =
        links.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    assert_eq!(
        links,
        [
            ("7120000001".to_owned(), None, Some("7120000030".to_owned())),
            ("7120000030".to_owned(), Some("cus_1".to_owned()), None),
        ]
    );
    assert_eq!(app.puts().last().expect("a request")["customerId"], "cus_1", "the kept one is tried at once");
    let deleted = app.sync(shopify_deletion(1)).await;
    assert!(statuses(&app).is_empty(), "{deleted:?}");
    app.sync(shopify(30, 4, &json!({"email": "kept@example.com", "first_name": "Kept"}))).await;
    assert_eq!(app.puts().last().expect("a request")["firstName"], "Kept");
}

#[tokio::test]
async fn a_kept_customer_has_its_own_link_and_the_lost_ones_is_not_set_inactive() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({}))).await;
    app.sync(shopify(2, 0, &json!({}))).await;
    app.sync(merge(2, 1)).await;
    let deleted = app.sync(shopify_deletion(1)).await;
    assert!(statuses(&app).is_empty(), "{deleted:?}");
    app.sync(shopify(2, 4, &json!({"first_name": "Kept"}))).await;
    assert_eq!(app.puts().last().expect("a request")["customerId"], "cus_2");
}

#[tokio::test]
async fn a_merge_told_after_the_deletion_makes_the_kept_ones_customer_active_again() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({}))).await;
    app.sync(shopify_deletion(1)).await;
    assert_eq!(statuses(&app), ["inactive"]);
    app.sync(merge(30, 1)).await;
    app.sync(shopify_topic("customers/update", 30, 120, &json!({"email": "kept@example.com"}))).await;
    let put = app.puts().pop().expect("a request");
    assert_eq!((&put["customerId"], &put["status"]), (&json!("cus_1"), &json!("active")));
}

#[tokio::test]
async fn a_merge_that_is_not_completed_or_not_of_customers_changes_nothing() {
    let app = App::start().await;
    let mut body: Value = serde_json::from_slice(&merge(2, 1).body).expect("JSON");
    body["status"] = json!("FAILED");
    let failed = app.deliver(Webhook::new(ShopKind::Shopify, "customers/merge", body.to_string())).await;
    assert_eq!(failed.word(), "ignored");
    body["status"] = json!("COMPLETED");
    for bad in ["gid://shopify/Order/1", "gid://shopify/Customer/", "gid://shopify/Customer/1x", "1"] {
        body["admin_graphql_api_customer_kept_id"] = json!(bad);
        let refused = app.deliver(Webhook::new(ShopKind::Shopify, "customers/merge", body.to_string())).await;
        assert_eq!(refused.status, 400, "{bad}");
    }
}
