//! What would be sent, without sending it.

use serde_json::{Value, json};

use crate::cli::{folder, program, run};
use crate::support::App;
use crate::support::shop::{generic, linked, shopify};
use flexportal_sync::domain::EventId;
use secrecy::ExposeSecret;

async fn preview(app: &App, arguments: &[&str], body: Option<&Value>) -> Result<Value, String> {
    let folder = folder();
    let mut command = program(&folder);
    command.arg("preview").args(arguments).arg("--json").env("DATABASE_URL", app.db.url.expose_secret());
    if let Some(body) = body {
        let file = folder.path().join("body.json");
        std::fs::write(&file, body.to_string()).expect("written");
        command.arg("--file").arg(file);
    }
    let output = run(command).await;
    if output.code == Some(0) { Ok(serde_json::from_str(&output.out).expect("JSON")) } else { Err(output.err) }
}

#[tokio::test]
async fn a_preview_is_what_is_then_sent() {
    let app = App::start().await;
    app.sync(linked(1, 0, &json!({"phone": "1", "firstName": "Ada"}))).await;
    let event = app.deliver(linked(1, 1, &json!({"phone": "2"}))).await.event_id();
    let requests = app.fake.requests().len();
    let seen = preview(&app, &[&event.to_string()], None).await.expect("a preview");
    assert_eq!(app.fake.requests().len(), requests, "nothing was sent");
    assert_eq!(seen["outcome"], "this would be sent");
    assert_eq!(seen["request"]["path"], "/v1/customers/cus_1");
    assert_eq!(seen["differences"], json!([{"field": "phone", "before": "1", "after": "2"}]));
    app.drain().await;
    assert_eq!(app.puts().last(), Some(&seen["request"]["body"]));

    // By the clock of the test: the command would find that the day is over for which an acknowledged value counts.
    let after = app.previewer().of_event(&app.outbox, EventId(event)).await.expect("a preview");
    assert_eq!(after.request, None);
    assert_eq!(after.outcome, "no request: FlexPortal acknowledged the same values within a day");
}

#[tokio::test]
async fn a_body_is_previewed_as_if_it_arrived_now() {
    let app = App::start().await;
    app.sync(shopify(1, 0, &json!({"phone": "1"}))).await;
    let mut body: Value = serde_json::from_slice(&shopify(1, 9, &json!({"phone": "2"})).body).expect("JSON");
    body["default_address"] = json!({"address1": "Street 1", "country_code": "DE"});
    let seen = preview(&app, &["--source", "shopify"], Some(&body)).await.expect("a preview");
    assert_eq!((&seen["foundBy"], &seen["flexportalCustomerId"]), (&json!("link"), &json!("cus_1")));
    assert_eq!(seen["request"]["body"]["phone"], "2");
    assert!(seen["warnings"][0].as_str().is_some_and(|warning| warning.contains("city")), "{seen}");

    let generic = |fields| serde_json::from_slice::<Value>(&generic("new", 0, &fields).body).expect("JSON");
    let lookup = generic(json!({"email": "a@example.org", "phone": "1"}));
    let seen = preview(&app, &["--source", "generic"], Some(&lookup)).await.expect("a preview");
    assert_eq!(
        (&seen["foundBy"], &seen["request"]["path"]),
        (&json!("lookup_needed"), &json!("/v1/customers/{customerId}"))
    );
    let unknown =
        preview(&app, &["--source", "generic"], Some(&generic(json!({"phone": "1"})))).await.expect("a preview");
    assert!(unknown["outcome"].as_str().is_some_and(|outcome| outcome.contains("unmatched")), "{unknown}");
    let nothing =
        preview(&app, &["--source", "generic"], Some(&generic(json!({"phone": null})))).await.expect("a preview");
    assert!(nothing["outcome"].as_str().is_some_and(|outcome| outcome.contains("says nothing")), "{nothing}");

    let wrong = preview(&app, &["--source", "generic"], Some(&json!({"type": "customer.updated", "data": {}}))).await;
    assert!(wrong.expect_err("no customer").contains("the body cannot be read"));
    let wrong = preview(&app, &["--source", "nowhere"], Some(&json!({}))).await;
    assert!(wrong.expect_err("no source").contains("no source `nowhere` is configured"));
    assert_eq!(app.count("select count(*) from deliveries").await, 1, "nothing was stored");
}
