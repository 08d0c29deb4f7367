//! The log, the control plane, and what the fake is started with.

use super::*;

#[tokio::test]
async fn the_log_holds_what_was_sent_in_order() -> Result<()> {
    let options = FakeOptions { customers: 1, clock: Clock::manual(epoch()), ..FakeOptions::default() };
    let setting = Setting::new(options).await?;
    setting.rename().header("Idempotency-Key", "key-1").send().await?;
    setting.get("/v1/customers?email=a%40example.com").await?;
    let text = setting.request(Method::PUT, "/v1/customers/cus%5F1").body("not json");
    text.send().await?;
    let expected = RecordedRequest {
        sequence: 1,
        received_at: epoch(),
        method: "PUT".to_owned(),
        path: "/v1/customers/cus_1".to_owned(),
        query: None,
        tenant_id: Some("fake-tenant".to_owned()),
        idempotency_key: Some("key-1".to_owned()),
        body: Some(json!({"customerId": "cus_1", "firstName": "Ada"})),
        status: Some(200),
        ended_at: Some(epoch()),
    };
    let requests = setting.fake.requests();
    assert_eq!(requests[0], expected);
    assert_eq!(requests[1].query.as_deref(), Some("email=a%40example.com"));
    assert_eq!((requests[2].sequence, requests[2].path.as_str()), (3, "/v1/customers/cus%5F1"));
    assert_eq!((&requests[2].body, requests[2].status), (&Some(json!("not json")), Some(400)));

    let (_, over_http) = read(setting.anonymous(Method::GET, "/_fake/requests")).await?;
    assert_eq!(serde_json::from_value::<Vec<RecordedRequest>>(over_http)?, requests);
    let cleared = setting.anonymous(Method::DELETE, "/_fake/requests").send().await?;
    assert_eq!(cleared.status(), StatusCode::NO_CONTENT);
    assert!(setting.fake.requests().is_empty(), "the control plane does not log itself");
    Ok(())
}

#[tokio::test]
async fn the_behaviour_is_changed_in_part_over_http() -> Result<()> {
    let setting = Setting::with_customers(0).await?;
    setting.switch(|behaviour| behaviour.latency_ms = 1);
    let put = |body: Value| setting.anonymous(Method::PUT, "/_fake/behaviour").json(&body);
    let (status, behaviour) = read(put(json!({"error_rate": 0.25, "retry_after": "3"}))).await?;
    assert_eq!((status, &behaviour["latency_ms"]), (StatusCode::OK, &json!(1)));
    assert_eq!(read(setting.anonymous(Method::GET, "/_fake/behaviour")).await?.1, behaviour);
    assert_eq!((setting.fake.behaviour().error_rate * 4.0).to_string(), "1");
    read(put(json!({"retry_after": null}))).await?;
    assert_eq!(setting.fake.behaviour().retry_after, None);
    let before = setting.fake.behaviour();
    for bad in [json!({"eror_rate": 1}), json!({"error_rate": 2}), json!({"latency_ms": "1"}), json!([])] {
        assert_eq!(read(put(bad.clone())).await?.0, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
    assert_eq!(setting.fake.behaviour(), before);
    Ok(())
}

#[tokio::test]
async fn customers_and_failures_are_ordered_over_http() -> Result<()> {
    let setting = Setting::with_customers(0).await?;
    let control = |method, path: &str| setting.anonymous(method, &format!("/_fake/{path}"));
    let add = |body: Value| control(Method::POST, "customers").json(&body);
    read(add(json!({"customerId": "cus_1", "email": "a@example.com", "status": "inactive"}))).await?;
    read(add(json!([{"customerId": "cus_1", "email": "b@example.com"}, {"customerId": "cus_2", "email": "c"}])))
        .await?;
    for bad in [json!({"customerId": "cus_3"}), json!({"customerId": "cus_3", "email": "d", "mail": ""}), json!(1)] {
        assert_eq!(read(add(bad)).await?.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
    let (_, customers) = read(control(Method::GET, "customers")).await?;
    assert_eq!((&customers[0]["email"], &customers[0]["status"]), (&json!("b@example.com"), &json!("active")));
    assert_eq!(serde_json::from_value::<Vec<FakeCustomer>>(customers)?, setting.fake.customers());
    assert_eq!(control(Method::DELETE, "customers/cus_2").send().await?.status(), StatusCode::NO_CONTENT);
    assert_eq!(control(Method::DELETE, "customers/cus_2").send().await?.status(), StatusCode::NOT_FOUND);

    let fail = |body: Value| control(Method::POST, "fail-next").json(&body);
    let status = json!({"kind": "status", "status": 502});
    let ordered = fail(json!({"count": 1, "customerId": "cus_1", "failure": status})).send().await?;
    assert_eq!(ordered.status(), StatusCode::NO_CONTENT);
    for kind in ["drop", "hang", "garbage", "success_false", "close_halfway"] {
        let known = fail(json!({"count": 0, "failure": {"kind": kind}})).send().await?;
        assert_eq!(known.status(), StatusCode::NO_CONTENT, "{kind}");
    }
    for bad in [json!({"kind": "explode"}), json!({"kind": "status", "status": 99})] {
        assert_eq!(read(fail(json!({"count": 1, "failure": bad}))).await?.0, StatusCode::UNPROCESSABLE_ENTITY);
    }
    assert_eq!(setting.get("/v1/customers").await?.0, StatusCode::OK);
    assert_eq!(setting.get("/v1/customers/cus_1").await?.0, StatusCode::BAD_GATEWAY);
    assert_eq!(read(control(Method::GET, "healthz")).await?, (StatusCode::OK, json!({"status": "ok"})));
    assert_eq!(read(control(Method::GET, "nothing")).await?.0, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn it_starts_with_the_customers_of_a_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("customers.json");
    let start = || {
        FakeFlexportal::start(FakeOptions {
            customers_file: Some(file.clone()),
            customers: 1,
            ..FakeOptions::default()
        })
    };
    assert!(start().await.expect_err("no file").to_string().contains("customers.json"));
    for bad in ["{", r#"[{"customerId":"a"}]"#, r#"[{"customerId":"a","email":"b","x":1}]"#] {
        std::fs::write(&file, bad)?;
        assert!(start().await.is_err(), "{bad}");
    }
    std::fs::write(&file, r#"[{"customerId":"a","email":"a@example.com","company":"Engines"}]"#)?;
    let customers = start().await?.customers();
    assert_eq!(customers.iter().map(|customer| customer.customer_id.as_str()).collect::<Vec<_>>(), ["a", "cus_1"]);
    Ok(())
}

#[tokio::test]
async fn it_does_not_start_with_switches_it_cannot_obey() {
    let behaviour = Behaviour { error_rate: 2.0, ..Behaviour::default() };
    let refused = FakeFlexportal::start(FakeOptions { behaviour, ..FakeOptions::default() }).await;
    assert_eq!(refused.expect_err("no such rate").to_string(), "error_rate must be from 0 to 1");
}
