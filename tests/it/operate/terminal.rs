//! The commands, run as a person would.

use std::process::Stdio;
use std::time::Duration;

use assert_cmd::Command;
use clap::ValueEnum;
use flexportal_sync::domain::{FlexportalCustomerId, ShopCustomerId, SourceName};
use flexportal_sync::fake_flexportal::{Behaviour, Failure, Refusal};
use flexportal_sync::outbox::{CustomerFilter, CustomerSync, DoneBy, NewLink};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::cli::{Output, folder, program, run};
use crate::support::shop::{generic, linked, shopify};
use crate::support::{App, in_time};

/// A command on the database of an app.
fn command(app: &App, folder: &tempfile::TempDir, arguments: &[&str]) -> Command {
    let mut command = program(folder);
    command.args(arguments).env("DATABASE_URL", app.db.url.expose_secret());
    command
}

async fn told(app: &App, arguments: &[&str]) -> Output {
    run(command(app, &folder(), arguments)).await
}

/// The same, which has to go well.
async fn shown(app: &App, arguments: &[&str]) -> String {
    let output = told(app, arguments).await;
    assert_eq!(output.code, Some(0), "{arguments:?}: {}{}", output.out, output.err);
    output.out
}

async fn json_of(app: &App, arguments: &[&str]) -> Value {
    let out = shown(app, &[arguments, &["--json"]].concat()).await;
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

/// FlexPortal refuses the phone of these customers.
fn refuse_phones(app: &App, customers: &[u32]) {
    let refusal = |n: &u32| Refusal {
        customer_id: format!("cus_{n}"),
        status: 422,
        code: "VALIDATION_ERROR".to_owned(),
        message: format!("`+49 {n}` is not a phone number"),
        path: Some("phone".to_owned()),
    };
    app.fake
        .set_behaviour(Behaviour { refuse_customers: customers.iter().map(refusal).collect(), ..Behaviour::default() });
}

#[tokio::test]
async fn failures_are_counted_by_cause_shown_in_full_tried_again_and_closed() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await;
    refuse_phones(&app, &[1, 2, 3]);
    for n in 1..=3 {
        assert_eq!(app.sync(linked(n, n, &json!({"phone": "x"}))).await.status, "failed");
    }
    app.fake.fail_next_for("cus_4", 1, Failure::status(409));
    app.sync(linked(4, 4, &json!({"phone": "y"}))).await;

    let groups = json_of(&app, &["failures", "groups"]).await;
    assert_eq!(
        (&groups[0]["cause"], &groups[0]["customers"], &groups[0]["httpStatus"]),
        (&json!("`phone` refused"), &json!(3), &json!(422)),
        "whatever stood in it, it is one cause: {groups}"
    );
    assert_eq!(groups.as_array().map(Vec::len), Some(2), "{groups}");

    let listed = json_of(&app, &["failures", "list", "--code", "VALIDATION_ERROR"]).await;
    assert_eq!(listed.as_array().map(Vec::len), Some(3));
    let none = json_of(&app, &["failures", "list", "--customer", "shop-1", "--source", "shopify"]).await;
    assert_eq!(none, json!([]));
    let first = listed[2]["eventId"].as_str().expect("an id").to_owned();
    let full = shown(&app, &["failures", "show", &first]).await;
    for part in ["`phone` refused", "not a phone number", "422", "\"phone\": \"x\"", "Correct the field", "shop-1"] {
        assert!(full.contains(part), "{part}: {full}");
    }

    let filter = ["--all", "--cause", "`phone` refused"];
    let dry = shown(&app, &[&["failures", "retry"], filter.as_slice(), &["--dry-run"]].concat()).await;
    assert!(dry.contains("3 of 3 events would be tried again; nothing was changed"), "{dry}");
    assert!(dry.contains("takes about 3 s"), "at 60 a minute: {dry}");
    assert_eq!(app.count("select count(*) from failed_syncs").await, 4, "nothing was changed");

    refuse_phones(&app, &[]);
    let again = json_of(&app, &[&["failures", "retry"], filter.as_slice()].concat()).await;
    assert_eq!((&again["matched"], &again["changed"], &again["dryRun"]), (&json!(3), &json!(3), &json!(false)));
    app.drain().await;
    assert_eq!(app.count("select count(*) from failed_syncs").await, 1);
    let nothing = shown(&app, &["failures", "retry", &first]).await;
    assert!(nothing.contains("nothing to do"), "{nothing}");
    assert_eq!(
        app.count("select count(*) from interventions where action = 'retry' and done_by = 'terminal'").await,
        4,
        "a retry always leaves a trace, also where there was nothing to do"
    );

    let unknown = told(&app, &["failures", "retry", "01a20ac5-81a5-7e33-b6da-56d3d63588d4"]).await;
    assert_eq!((unknown.code, unknown.out.contains("there is no such event")), (Some(1), true), "{}", unknown.out);
    let unreasonable = told(&app, &["failures", "discard", "--all", "--reason", " "]).await;
    assert_eq!(unreasonable.code, Some(2), "what cannot be meant is told as any wrong argument");
    let closed = shown(&app, &["failures", "discard", "--all", "--reason", "test data"]).await;
    assert!(closed.contains("1 of 1 event closed"), "{closed}");
    assert_eq!(shown(&app, &["failures", "list"]).await, "no failures\n");
    let closed = json_of(&app, &["customers", "list", "--state", "discarded"]).await;
    assert_eq!(closed[0]["shopCustomerId"], "shop-4", "FlexPortal has not got its change: that is not in sync");
}

#[tokio::test]
async fn a_dry_run_promises_no_more_than_is_done() {
    let app = App::start().await;
    refuse_phones(&app, &[1, 2, 3]);
    let mut failed = Vec::new();
    for n in 1..=3 {
        failed.push(app.deliver(linked(n, n, &json!({"phone": "x"}))).await.event_id().to_string());
        app.drain().await;
    }
    shown(&app, &["erase", "--source", "generic", "--customer", "shop-1"]).await;
    shown(&app, &["failures", "discard", &failed[1], "--reason", "test data"]).await;
    let unknown = "01a20ac5-81a5-7e33-b6da-56d3d63588d4";
    let all = [failed[0].as_str(), &failed[1], &failed[2], unknown];
    for command in [&["failures", "retry"][..], &["failures", "discard", "--reason", "seen"]] {
        let dry = told(&app, &[command, all.as_slice(), &["--dry-run", "--json"]].concat()).await;
        let real = told(&app, &[command, all.as_slice(), &["--json"]].concat()).await;
        assert_eq!((dry.code, real.code), (Some(1), Some(1)), "one of them is unknown");
        let report = |told: &Output| serde_json::from_str::<Value>(&told.out).expect("JSON");
        let (dry, real) = (report(&dry), report(&real));
        let done = |report: &Value| {
            let results = report["results"].as_array().expect("results").clone();
            results.iter().map(|result| (result["eventId"].clone(), result["isDone"].clone())).collect::<Vec<_>>()
        };
        assert_eq!(done(&dry), done(&real), "{dry} {real}");
        assert_eq!((&dry["possible"], &dry["changed"]), (&real["changed"], &json!(0)), "{dry} {real}");
        assert_eq!(dry["results"].as_array().map(Vec::len), Some(4), "the unknown one, too: {dry}");
    }
}

#[tokio::test]
async fn since_when_it_fails_is_not_forgotten_by_a_retry() {
    let app = App::start().await;
    refuse_phones(&app, &[1]);
    let event = app.deliver(linked(1, 0, &json!({"phone": "x"}))).await.event_id().to_string();
    app.drain().await;
    let since = json_of(&app, &["failures", "groups"]).await[0]["firstFailedAt"].clone();
    app.advance(Duration::from_hours(3));
    let again = shown(&app, &["failures", "retry", &event]).await;
    assert!(again.contains("will be tried again at once"), "{again}");
    // At once by the clock of the database, which is not that of the test.
    sqlx::query("update waiting_customers set due_at = '2026-11-23'").execute(&app.db.pool).await.expect("due");
    app.drain().await;
    let group = json_of(&app, &["failures", "groups"]).await[0].clone();
    assert_eq!(group["firstFailedAt"], since);
    assert_ne!(group["lastFailedAt"], since, "{group}");

    // For another cause, it is another failure.
    app.fake.set_behaviour(Behaviour::default());
    app.fake.fail_next(1, Failure::status(409));
    shown(&app, &["failures", "retry", &event]).await;
    sqlx::query("update waiting_customers set due_at = '2026-11-23'").execute(&app.db.pool).await.expect("due");
    app.drain().await;
    let group = json_of(&app, &["failures", "groups"]).await[0].clone();
    assert_eq!((&group["httpStatus"], &group["firstFailedAt"]), (&json!(409), &group["lastFailedAt"]), "{group}");
}

#[tokio::test]
async fn events_are_found_by_status_customer_email_code_and_age() {
    let app = App::start().await;
    app.fake.fail_next_for("cus_1", 1, Failure::status(422));
    app.sync(shopify(1, 0, &json!({"phone": "1"}))).await;
    app.sync(generic("nobody", 1, &json!({"phone": "2", "email": "nobody@example.org"}))).await;
    app.sync(linked(2, 2, &json!({"phone": "3"}))).await;
    let waiting = app.deliver(linked(3, 3, &json!({"phone": "4"}))).await.event_id();
    let count = async |arguments: &[&str]| {
        let found = json_of(&app, &[&["events", "list"], arguments].concat()).await;
        found.as_array().map_or(0, Vec::len)
    };
    assert_eq!(count(&[]).await, 4);
    for (status, expected) in
        [("failed", 1), ("unmatched", 1), ("synced", 1), ("pending", 1), ("in_flight", 0), ("superseded", 0)]
    {
        assert_eq!(count(&["--status", status]).await, expected, "{status}");
    }
    assert_eq!(count(&["--email", "Nobody@Example.org"]).await, 1);
    assert_eq!(count(&["--customer", "shop-2"]).await, 1);
    assert_eq!(count(&["--customer", "shop-2", "--source", "shopify"]).await, 0);
    assert_eq!(count(&["--code", "UNMATCHED"]).await, 1);
    assert_eq!(count(&["--source", "generic"]).await, 3);
    assert_eq!(count(&["--limit", "2"]).await, 2);
    let shown = shown(&app, &["events", "show", &waiting.to_string()]).await;
    assert!(shown.contains("pending: waits for its turn: it is the next"), "{shown}");
    assert!(shown.contains("\"flexportalCustomerId\": \"cus_3\""), "the payload: {shown}");
}

#[tokio::test]
async fn a_customers_story_tells_each_step_with_its_cause() {
    let app = App::start().await;
    app.fake.fail_next_for("cus_1", 1, Failure::status(503));
    let first = shopify(1, 0, &json!({"phone": "1"}));
    let first_id = app.deliver(first.clone()).await.event_id();
    assert_eq!(app.deliver(first).await.word(), "duplicate");
    app.drain().await;
    let second = app.deliver(shopify(1, 5, &json!({"phone": "2"}))).await.event_id();
    app.advance(std::time::Duration::from_secs(5));
    app.drain().await;
    for name in [&["customers", "show"], ["customers", "why"].as_slice(), &["why"]] {
        let told = json_of(&app, &[name, &["7120000001"]].concat()).await;
        assert_eq!(told["state"], "in_sync", "{told}");
        let steps: Vec<_> = told["story"].as_array().expect("steps").iter().collect();
        let of = |event: uuid::Uuid| {
            let of_event = steps.iter().filter(|step| step["eventId"] == json!(event));
            of_event.map(|step| step["step"].as_str().unwrap_or_default()).collect::<Vec<_>>()
        };
        assert_eq!(of(first_id), ["received", "duplicate", "tried", "tried", "superseded"], "{told}");
        assert_eq!(of(second), ["received", "tried", "settled"], "{told}");
        let texts = steps.iter().map(|step| step["text"].as_str().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        for part in [
            "answered `duplicate` and changes nothing",
            "answered 503",
            &format!("superseded: the newer event {second} speaks for all of its fields"),
            "synced: FlexPortal acknowledged it",
            "asked for the customer by its e-mail",
        ] {
            assert!(texts.contains(part), "{part}\nin\n{texts}");
        }
    }
    let by_email = shown(&app, &["customers", "show", "--email", "CUSTOMER1@example.com"]).await;
    assert!(by_email.contains("7120000001"), "{by_email}");
    let nobody = told(&app, &["why", "nobody"]).await;
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.err.contains("nothing is stored of this customer"), "{}", nobody.err);
}

#[tokio::test]
async fn a_waiting_customer_is_told_what_it_waits_for() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "6")], "").await;
    for n in 1..=4 {
        app.deliver(linked(n, n, &json!({"phone": "1"}))).await;
        app.advance(std::time::Duration::from_secs(1));
    }
    let why = async |customer: &str| shown(&app, &["why", customer]).await;
    let last = why("shop-4").await;
    assert!(last.contains("behind 3 customers; the quota of 6 requests a minute lets it out in about 30 s"), "{last}");
    app.fake.fail_next(1, Failure::status(401));
    app.drain().await;
    let paused = why("shop-4").await;
    assert!(paused.contains("waits for the target `default`, which is paused"), "{paused}");
    assert!(paused.contains("FLEXPORTAL_API_KEY"), "and how to mend it: {paused}");
}

#[tokio::test]
async fn links_are_listed_and_imported_and_wake_who_waited_for_them() {
    let app = App::start().await;
    let event = app.sync(generic("c-1", 0, &json!({"phone": "1"}))).await;
    assert_eq!(event.status, "unmatched");
    let folder = folder();
    let file = folder.path().join("links.csv");
    std::fs::write(&file, "source,shop_customer_id,flexportal_customer_id\ngeneric,c-1,cus_1\ngeneric,c-2,cus_2\n")
        .expect("written");
    let file = file.to_str().expect("a path").to_owned();
    let dry = shown(&app, &["links", "import", &file, "--dry-run"]).await;
    assert!(
        dry.contains("2 links would be taken, 0 are there; 1 customer would be tried at once; nothing was changed"),
        "{dry}"
    );
    let taken = shown(&app, &["links", "import", &file]).await;
    assert!(taken.contains("2 links taken, 0 were there before; 1 customer tried at once"), "{taken}");
    // The command goes by the machine's clock, which is ahead of that of the test.
    app.advance(std::time::Duration::from_hours(1));
    app.drain().await;
    assert_eq!(app.puts()[0]["customerId"], "cus_1", "under the customer that was given");
    let again = shown(&app, &["links", "import", &file]).await;
    assert!(again.contains("0 links taken, 2 were there before"), "{again}");
    let nothing = json!({"dryRun": false, "links": 2, "imported": 0, "woken": 0});
    assert_eq!(json_of(&app, &["links", "import", &file]).await, nothing);
    let links = json_of(&app, &["links", "list", "--flexportal-customer", "cus_2"]).await;
    assert_eq!((&links[0]["shopCustomerId"], &links[0]["origin"]), (&json!("c-2"), &json!("import")));

    std::fs::write(&file, "source,shop_customer_id,flexportal_customer_id\ngeneric,c-3,cus_3\nnowhere,c-4,cus_4\n")
        .expect("written");
    let wrong = told(&app, &["links", "import", &file]).await;
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("line 3: there is no source `nowhere`"), "{}", wrong.err);
    assert_eq!(app.count("select count(*) from customer_links").await, 2, "all or nothing");
    std::fs::write(&file, "source,shop_customer_id,flexportal_customer_id\ngeneric,c-3\n").expect("written");
    let short = told(&app, &["links", "import", &file]).await;
    assert!(short.err.contains("line 2: it has 2 columns, the first line has 3"), "{}", short.err);
}

#[tokio::test]
async fn the_status_says_on_one_screen_how_it_is() {
    let app = App::start_with(&[("FLEXPORTAL_RATE_LIMIT_PER_MINUTE", "60")], "").await;
    assert!(shown(&app, &["status"]).await.contains("in sync"));
    refuse_phones(&app, &[1]);
    app.sync(linked(1, 0, &json!({"phone": "x"}))).await;
    for n in 2..=31 {
        app.deliver(linked(n, n, &json!({"phone": "1"}))).await;
    }
    app.fake.fail_next(30, Failure::status(403));
    app.worker.step().await.expect("the database");
    // The clock of tests stands still in November; the command goes by the machine's.
    let status = app.outbox.status().await.expect("a status");
    assert_eq!((status.intake.last_minute, status.backlog.customers), (31, 30));
    let requests = i64::try_from(app.fake.requests().len()).expect("few");
    assert_eq!(status.sync.requests_last_minute, requests);
    let target = &status.targets[0];
    assert_eq!((target.rate_limit_per_minute, target.used_last_minute), (Some(60), requests));
    assert!(target.available_now.is_some_and(|free| free < 6), "{target:?}");
    assert!(target.hold.as_ref().is_some_and(|hold| hold.explanation.contains("FLEXPORTAL_API_KEY")), "{target:?}");
    assert!(
        status.backlog.clears_in_seconds.is_some_and(|seconds| (50.0..70.0).contains(&seconds)),
        "30 s at the quota and 30 s of pause: {status:?}"
    );
    let screen = shown(&app, &["status"]).await;
    for part in ["1 of 1 targets paused", "1 failed event of 1 customer", "`phone` refused", "refused, until", "60/min"]
    {
        assert!(screen.contains(part), "{part}: {screen}");
    }
    let json = json_of(&app, &["status"]).await;
    assert_eq!(json["failures"]["groups"][0]["cause"], "`phone` refused");
}

#[tokio::test]
async fn what_shops_send_cannot_steer_a_terminal() {
    let app = App::start().await;
    let (hostile, words) = ("\u{202e}evil", "\u{1b}]0;owned\u{7}");
    app.sync(generic(hostile, 0, &json!({"phone": words, "email": format!("{words}@example.org")}))).await;
    for arguments in [&["events", "list"], ["customers", "list"].as_slice(), &["why", hostile]] {
        let out = shown(&app, arguments).await;
        assert!(!out.contains('\u{1b}') && !out.contains('\u{202e}') && out.contains("<U+202E>"), "{out:?}");
    }
}

#[tokio::test]
async fn a_link_that_is_given_makes_its_customer_due_at_once() {
    let app = App::start().await;
    let event = app.deliver(generic("c-1", 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(event).await.status, "unmatched");
    let link = NewLink {
        source: SourceName::parse("generic").expect("a name"),
        customer: ShopCustomerId::parse("c-1").expect("an id"),
        flexportal_id: FlexportalCustomerId::parse("cus_1").expect("an id"),
    };
    let imported = app.outbox.import_links(&[link], DoneBy::Terminal).await.expect("the database");
    assert_eq!((imported.imported, imported.woken), (1, 1));
    app.drain().await;
    assert_eq!(app.event(event).await.status, "synced");
}

#[tokio::test]
async fn a_link_that_is_given_sets_back_what_was_given_up_as_unmatched() {
    let app = App::start_with(&[("UNMATCHED_MAX_AGE", "1h")], "").await;
    let event = app.deliver(generic("c-1", 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    app.advance(Duration::from_hours(7));
    app.drain().await;
    let given_up = app.event(event).await;
    assert_eq!((given_up.status.as_str(), given_up.is_finished), ("unmatched", true));
    // Another change of it waits: it is one customer all the same.
    let waits = app.deliver(generic("c-1", 1, &json!({"firstName": "Ada"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(waits).await.status, "unmatched");
    // One that waits for something else is not counted as woken.
    app.fake.fail_next(1, Failure::status(503));
    let other = app.deliver(linked(2, 0, &json!({"phone": "1"}))).await.event_id();
    app.drain().await;
    assert_eq!(app.event(other).await.status, "pending");
    let link = |customer: &str, id: &str| NewLink {
        source: SourceName::parse("generic").expect("a name"),
        customer: ShopCustomerId::parse(customer).expect("an id"),
        flexportal_id: FlexportalCustomerId::parse(id).expect("an id"),
    };
    let links = [link("c-1", "cus_1"), link("shop-2", "cus_3")];
    let imported = app.outbox.import_links(&links, DoneBy::Api).await.expect("the database");
    assert_eq!((imported.imported, imported.woken), (2, 1));
    assert_eq!([app.event(event).await.status, app.event(waits).await.status], ["pending", "pending"]);
    let state = "select count(*) from customer_sync_state where shop_customer_id = 'c-1' and state = 'waiting'";
    assert_eq!(app.count(state).await, 1, "not unmatched, until FlexPortal has answered");
    // A person's functions go by the database's clock, which is ahead of that of the test.
    app.db.execute("update waiting_customers set due_at = '2026-11-23T10:00Z'").await;
    app.drain().await;
    let events = [app.event(event).await.status, app.event(waits).await.status];
    assert_eq!(events, ["superseded", "synced"], "both in one request");
    let traces = "select count(*) from interventions where done_by = 'api' and action in ('link', 'retry')";
    assert_eq!(app.count(traces).await, 3, "two links, and what was set back");
}

#[tokio::test]
async fn customers_are_listed_by_their_state_page_by_page() {
    let app = App::start().await;
    refuse_phones(&app, &[1, 2]);
    for n in 1..=4 {
        app.sync(linked(n, n, &json!({"phone": "1"}))).await;
    }
    for n in 5..=7 {
        app.sync(generic(&format!("shop-{n}"), 0, &json!({"phone": "1"}))).await;
    }
    app.fake.fail_next(1, Failure::status(422));
    let closed = app.deliver(linked(8, 0, &json!({"phone": "1"}))).await.event_id().to_string();
    app.drain().await;
    shown(&app, &["failures", "discard", &closed, "--reason", "a test"]).await;
    for n in [2, 9] {
        app.deliver(linked(n, 9, &json!({"phone": "2"}))).await;
    }
    for (state, expected) in [
        ("failed", vec!["shop-1", "shop-2"]),
        ("waiting", vec!["shop-9"]),
        ("unmatched", vec!["shop-5", "shop-6", "shop-7"]),
        ("discarded", vec!["shop-8"]),
        ("in_sync", vec!["shop-3", "shop-4"]),
    ] {
        let listed = json_of(&app, &["customers", "list", "--state", state]).await;
        let ids: Vec<_> = listed.as_array().expect("a list").iter().map(|row| &row["shopCustomerId"]).collect();
        assert_eq!(ids, expected, "{state}: what failed comes before what waits");
        let (mut cursor, mut paged) = (None, vec![]);
        let filter = CustomerFilter { state: CustomerSync::from_str(state, false).ok(), ..CustomerFilter::default() };
        loop {
            let page = app.outbox.customers(&filter, cursor.as_deref(), 1).await.expect("a page");
            assert!(page.items.len() <= 1);
            paged.extend(page.items.into_iter().map(|row| row.shop_customer_id));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(paged, expected, "{state}, one by one");
    }
}

#[tokio::test]
async fn a_long_story_says_that_it_leaves_out_its_beginning() {
    let app = App::start().await;
    app.deliver(linked(1, 0, &json!({"phone": "1"}))).await;
    assert_eq!(json_of(&app, &["why", "shop-1"]).await["hasOlderEvents"], false);
    app.db
        .execute(
            "insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
             select gen_random_uuid(), source, 'd' || n, topic, shop_customer_id, concerns, occurred_at, received_at, payload
             from deliveries, generate_series(1, 200) as n",
        )
        .await;
    let story = shown(&app, &["why", "shop-1"]).await;
    assert!(story.contains("older events are left out: flexportal-sync events list --source generic"), "{story}");
    assert_eq!(json_of(&app, &["why", "shop-1"]).await["hasOlderEvents"], true);
}

#[tokio::test]
async fn long_work_tells_how_far_it_is_and_a_watch_goes_on_until_it_is_ended() {
    let app = App::start().await;
    app.db
        .execute(
            "with failed as (
                 insert into deliveries (id, source, delivery_id, topic, shop_customer_id, concerns, occurred_at, received_at, payload)
                 select gen_random_uuid(), 'generic', 'd' || n, 'customer.updated', 'c' || n, 'customer', now(), now(), '{}'
                 from generate_series(1, 500) as n
                 returning id, source, shop_customer_id
             )
             insert into event_states (event_id, status, attempts, cause, finished_at, source, shop_customer_id)
             select id, 'failed', 1, 'a test', now(), source, shop_customer_id from failed",
        )
        .await;
    let retried = told(&app, &["failures", "retry", "--all"]).await;
    assert!(retried.err.contains("events: 500 of 500"), "{}", retried.err);
    assert!(retried.out.contains("500 of 500 events will be tried again"), "{}", retried.out);

    let mut watch = tokio::process::Command::new(env!("CARGO_BIN_EXE_flexportal-sync"));
    watch.args(["status", "--watch", "--every", "500ms"]).env("DATABASE_URL", app.db.url.expose_secret());
    let mut watch = watch.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    for look in 1..=2 {
        in_time("a screen", async {
            while !lines.next_line().await.expect("text").expect("it goes on").contains(" UTC: ") {}
        })
        .await;
        assert!(watch.try_wait().expect("a state").is_none(), "it has not ended after look {look}");
    }
    let id = watch.id().expect("it runs").to_string();
    std::process::Command::new("kill").args(["-INT", &id]).status().expect("sent");
    assert!(in_time("its end", watch.wait()).await.expect("a status").success());
}
