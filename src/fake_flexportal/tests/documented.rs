//! What the reference says: reading, listing, updating, keys, and how strict the fake is.

use super::*;

#[tokio::test]
async fn a_customer_is_read_without_an_envelope() -> Result<()> {
    let options = FakeOptions { customers: 1, clock: Clock::manual(epoch()), ..FakeOptions::default() };
    let setting = Setting::new(options).await?;
    let (status, customer) = setting.get("/v1/customers/cus_1").await?;
    assert_eq!(status, StatusCode::OK);
    let expected = json!({
        "customerId": "cus_1", "tenantId": "fake-tenant", "email": "customer1@example.com",
        "firstName": "Customer", "lastName": "1", "customerType": "individual", "status": "active",
        "totalOrders": 0, "totalDevicesRented": 0, "totalMonthlyRevenue": 0.0, "orderIds": [], "rentalIds": [],
        "createdBy": "fake",
        "createdAt": epoch().to_rfc3339_opts(SecondsFormat::Secs, true),
        "updatedAt": epoch().to_rfc3339_opts(SecondsFormat::Secs, true),
    });
    assert_eq!(customer, expected);
    let (status, error) = setting.get("/v1/customers/cus_2").await?;
    assert_eq!((status, &error["error"]["code"]), (StatusCode::NOT_FOUND, &json!("NOT_FOUND")));
    Ok(())
}

#[tokio::test]
async fn ids_and_addresses_are_percent_decoded() -> Result<()> {
    let setting = Setting::with_customers(0).await?;
    setting.fake.add_customer(FakeCustomer::new("ELE/42 ü", "a+b@example.com"));
    assert_eq!(setting.get("/v1/customers/ELE%2F42%20%C3%BC").await?.0, StatusCode::OK);
    let found = setting.get("/v1/customers?email=a%2Bb%40example.com").await?.1;
    assert_eq!(ids(&found), ["ELE/42 ü"]);
    let bare_plus = setting.get("/v1/customers?email=a+b@example.com").await?.1;
    assert!(ids(&bare_plus).is_empty(), "a bare plus is a space");
    Ok(())
}

#[tokio::test]
async fn the_list_goes_on_page_by_page() -> Result<()> {
    let setting = Setting::with_customers(5).await?;
    let (status, first) = setting.get("/v1/customers?limit=2").await?;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ids(&first), ["cus_1", "cus_2"]);
    assert_eq!((&first["count"], &first["limit"], &first["hasMore"]), (&json!(2), &json!(2), &json!(true)));
    let mut seen = 2;
    let mut cursor = first["nextCursor"].clone();
    while let Some(after) = cursor.as_str() {
        let page = setting.get(&format!("/v1/customers?limit=2&startAfter={after}")).await?.1;
        seen += ids(&page).len();
        assert_eq!(page["hasMore"], json!(page["nextCursor"].is_string()));
        cursor = page["nextCursor"].clone();
    }
    assert_eq!(seen, 5);
    assert_eq!(setting.get("/v1/customers").await?.1["limit"], 50);
    for bad in ["limit=0", "limit=101", "startAfter=cus_9", "status=gone", "email=", "page=2"] {
        let (status, error) = setting.get(&format!("/v1/customers?{bad}")).await?;
        assert_eq!((status, &error["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("VALIDATION_ERROR")), "{bad}");
    }
    Ok(())
}

#[tokio::test]
async fn an_inactive_customer_is_hidden_unless_asked_for() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    setting.fake.add_customer(FakeCustomer::new("gone", "gone@example.com").inactive());
    assert_eq!(ids(&setting.get("/v1/customers").await?.1), ["cus_1"]);
    assert!(ids(&setting.get("/v1/customers?email=gone@example.com").await?.1).is_empty());
    assert_eq!(ids(&setting.get("/v1/customers?email=gone@example.com&status=inactive").await?.1), ["gone"]);
    assert_eq!(setting.get("/v1/customers/gone").await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn letter_case_of_emails_counts_unless_switched_off() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    let shouted = "/v1/customers?email=CUSTOMER1@example.com";
    assert!(ids(&setting.get(shouted).await?.1).is_empty());
    setting.switch(|behaviour| behaviour.email_case_insensitive = true);
    assert_eq!(ids(&setting.get(shouted).await?.1), ["cus_1"]);
    Ok(())
}

#[tokio::test]
async fn an_update_changes_what_it_names_and_nothing_else() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    let address =
        json!({"contactName": "A", "streetAddress": "S 1", "city": "C", "country": "Norway", "postalCode": null});
    let update = json!({
        "customerId": "cus_1", "company": "Engines", "phone": "", "customerType": "business", "status": "inactive",
        "billingAddress": address,
    });
    let (status, answer) = read(setting.put("cus_1", &update)).await?;
    assert_eq!(status, StatusCode::OK);
    assert_eq!((&answer["success"], &answer["customerId"]), (&json!(true), &json!("cus_1")));
    assert!(answer["message"].is_string());
    let customer = setting.get("/v1/customers/cus_1").await?.1;
    assert_eq!(answer["customer"], customer);
    assert_eq!(customer["lastBillingAddress"], address);
    assert_eq!(customer.get("billingAddress"), None);
    assert_eq!(customer.get("lastShippingAddress"), None);
    assert_eq!((&customer["company"], &customer["phone"]), (&json!("Engines"), &json!("")));
    assert_eq!((&customer["customerType"], &customer["status"]), (&json!("business"), &json!("inactive")));
    assert_eq!((&customer["firstName"], &customer["email"]), (&json!("Customer"), &json!("customer1@example.com")));
    Ok(())
}

#[tokio::test]
async fn a_body_that_is_no_update_is_refused_and_changes_nothing() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    let before = setting.fake.customers();
    let cases = [
        ("application/json", "{", StatusCode::BAD_REQUEST),
        ("application/json", "[]", StatusCode::BAD_REQUEST),
        ("text/plain", r#"{"customerId":"cus_1","firstName":"Ada"}"#, StatusCode::BAD_REQUEST),
        ("application/json", r#"{"customerId":"cus_2","firstName":"Ada"}"#, StatusCode::UNPROCESSABLE_ENTITY),
        ("application/json", r#"{"firstName":"Ada"}"#, StatusCode::UNPROCESSABLE_ENTITY),
    ];
    for (content_type, body, expected) in cases {
        let request = setting.request(Method::PUT, "/v1/customers/cus_1").header("Content-Type", content_type);
        let (status, error) = read(request.body(body)).await?;
        assert_eq!((status, &error["error"]["code"]), (expected, &json!("VALIDATION_ERROR")), "{body}");
    }
    let (_, error) = read(setting.put("cus_1", &json!({"customerId": "cus_1", "vat": 1, "lastName": ""}))).await?;
    let details = &error["error"]["details"];
    assert_eq!((&details[0]["path"], &details[0]["code"]), (&json!("lastName"), &json!("too_small")));
    assert_eq!((&details[1]["path"], &details[1]["code"]), (&json!("vat"), &json!("unrecognized_keys")));
    assert_eq!(setting.fake.customers(), before);

    let with_charset = setting.request(Method::PUT, "/v1/customers/cus_1");
    let with_charset = with_charset.header("Content-Type", "Application/JSON; charset=utf-8");
    assert_eq!(read(with_charset.body(r#"{"customerId":"cus_1"}"#)).await?.0, StatusCode::OK);
    let unknown = setting.put("cus_2", &json!({"customerId": "cus_2"}));
    assert_eq!(read(unknown).await?.0, StatusCode::NOT_FOUND);
    assert_eq!(setting.request(Method::DELETE, "/v1/customers/cus_1").send().await?.status(), 405);
    assert_eq!(setting.get("/v2/customers").await?.0, StatusCode::NOT_FOUND);
    Ok(())
}

#[tokio::test]
async fn a_body_over_one_mebibyte_is_refused() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    let body = json!({"customerId": "cus_1", "company": "x".repeat(endpoints::MAX_BODY_BYTES)});
    // The server may close before the client has sent everything; either way nothing has changed.
    if let Ok((status, _)) = read(setting.put("cus_1", &body)).await {
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!(setting.last_status(), Some(413));
    assert_eq!(setting.fake.requests()[0].body, None);
    assert_eq!(setting.fake.customer("cus_1").expect("seeded").company, None);
    Ok(())
}

#[tokio::test]
async fn email_is_refused_accepted_or_dropped_by_switch() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    let update = json!({"customerId": "cus_1", "email": "new@example.com"});
    assert_eq!(read(setting.put("cus_1", &update)).await?.0, StatusCode::UNPROCESSABLE_ENTITY);
    setting.switch(|behaviour| behaviour.drop_email = true);
    let (status, answer) = read(setting.put("cus_1", &update)).await?;
    assert_eq!((status, &answer["customer"]["email"]), (StatusCode::OK, &json!("customer1@example.com")));
    setting.fake.set_behaviour(Behaviour { accept_email: true, ..Behaviour::default() });
    let (status, answer) = read(setting.put("cus_1", &update)).await?;
    assert_eq!((status, &answer["customer"]["email"]), (StatusCode::OK, &json!("new@example.com")));
    assert_eq!(ids(&setting.get("/v1/customers?email=new@example.com").await?.1), ["cus_1"]);
    Ok(())
}

#[tokio::test]
async fn key_and_tenant_are_checked() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    let path = "/v1/customers/cus_1";
    let right_key = || setting.anonymous(Method::GET, path).bearer_auth("fake-key");
    let cases = [
        (setting.anonymous(Method::GET, path), StatusCode::UNAUTHORIZED, "AUTH_REQUIRED"),
        (setting.anonymous(Method::GET, path).bearer_auth("other"), StatusCode::UNAUTHORIZED, "INVALID_TOKEN"),
        (right_key(), StatusCode::FORBIDDEN, "NO_TENANT_ACCESS"),
        (right_key().header("Tenant-ID", "other"), StatusCode::FORBIDDEN, "NO_TENANT_ACCESS"),
    ];
    for (request, expected, code) in cases {
        let (status, error) = read(request).await?;
        assert_eq!((status, &error["error"]["code"]), (expected, &json!(code)));
    }
    Ok(())
}
