//! Every way to fail, ordered or by chance, and what the client gets to see of it.

use super::*;

#[tokio::test]
async fn a_dropped_request_is_a_broken_connection_to_the_client() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    // Also on a connection that has been used before, which a client might be tempted to try again.
    setting.get("/v1/customers/cus_1").await?;
    setting.fake.fail_next(1, Failure::Drop);
    let error = setting.rename().send().await.expect_err("no answer");
    assert!(error.is_request() && error.status().is_none() && !error.is_timeout(), "{error:?}");
    assert_eq!(setting.fake.requests().len(), 2);
    assert_eq!((setting.last_status(), setting.first_name().as_str()), (None, "Customer"));
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_hanging_request_is_logged_and_ends_with_the_fake() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    setting.fake.fail_next(1, Failure::Hang);
    let waiting = tokio::spawn(setting.rename().send());
    setting.fake.wait_for_requests(1).await;
    assert_eq!(setting.last_status(), None);
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK, "others are answered meanwhile");
    assert!(!waiting.is_finished());
    drop(setting.fake);
    assert!(waiting.await?.is_err());
    Ok(())
}

#[tokio::test]
async fn latency_comes_before_the_work() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    setting.switch(|behaviour| behaviour.latency_ms = 3_600_000);
    let waiting = tokio::spawn(setting.rename().send());
    setting.fake.wait_for_requests(1).await;
    assert_eq!((setting.last_status(), setting.first_name().as_str()), (None, "Customer"));
    assert!(!waiting.is_finished());
    waiting.abort();
    setting.switch(|behaviour| behaviour.latency_ms = 1);
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn the_log_tells_what_is_under_way_and_when_it_was_over() -> Result<()> {
    let setting = Setting::with_customers(2).await?;
    let is_under_way = |request: usize| setting.fake.requests()[request].ended_at.is_none();
    setting.fake.fail_next(1, Failure::Hang);
    let hanging = tokio::spawn(setting.rename().send());
    setting.fake.wait_for_requests(1).await;
    setting.switch(|behaviour| behaviour.latency_ms = 200);
    let slow = tokio::spawn(setting.rename().send());
    setting.fake.wait_for_requests(2).await;
    setting.switch(|behaviour| behaviour.latency_ms = 0);
    setting.get("/v1/customers/cus_2").await?;
    assert!(is_under_way(0) && is_under_way(1) && !is_under_way(2));

    // Whether the client gives up on it or not: what is slow is carried out, what hangs is over when it leaves.
    slow.abort();
    hanging.abort();
    let over = async {
        while is_under_way(0) || is_under_way(1) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), over).await?;
    let requests = setting.fake.requests();
    assert_eq!((requests[0].status, requests[1].status), (None, Some(200)));
    assert!(requests[1].ended_at >= requests[2].ended_at);
    assert_eq!(setting.first_name(), "Ada");
    Ok(())
}

#[tokio::test]
async fn an_answer_can_break_off_halfway() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    setting.fake.fail_next(1, Failure::CloseHalfway);
    let response = setting.rename().send().await?;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.bytes().await.is_err());
    assert_eq!((setting.last_status(), setting.first_name().as_str()), (Some(200), "Customer"));
    Ok(())
}

#[tokio::test]
async fn garbage_and_denied_success_come_with_200() -> Result<()> {
    let setting = Setting::with_customers(1).await?;
    setting.fake.fail_next(1, Failure::Garbage);
    let response = setting.rename().send().await?;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(serde_json::from_str::<Value>(&response.text().await?).is_err());

    setting.fake.fail_next(1, Failure::SuccessFalse);
    assert_eq!(setting.get("/v1/customers/cus_1").await?.0, StatusCode::OK, "a read does not spend it");
    let (status, answer) = read(setting.rename()).await?;
    assert_eq!((status, &answer["success"]), (StatusCode::OK, &json!(false)));
    assert_eq!(answer["customer"]["firstName"], "Customer");
    assert_eq!(setting.first_name(), "Customer");
    Ok(())
}

#[tokio::test]
async fn ordered_failures_are_spent_one_by_one() -> Result<()> {
    let setting = Setting::with_customers(2).await?;
    let busy = Failure::Status { status: 429, code: "SLOW_DOWN".to_owned(), retry_after: Some("7".to_owned()) };
    setting.fake.fail_next(1, busy);
    setting.fake.fail_next(2, Failure::status(503));
    setting.fake.fail_next_for("cus_2", 1, Failure::status(418));
    assert_eq!(setting.get("/v1/customers/cus_2").await?.0, StatusCode::IM_A_TEAPOT, "its own comes first");
    let limited = retry_after_of(setting.rename()).await?;
    assert_eq!(limited, (StatusCode::TOO_MANY_REQUESTS, Some("7".to_owned())));
    let (status, error) = setting.get("/v1/customers").await?;
    assert_eq!((status, &error["error"]["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("INTERNAL_ERROR")));
    assert_eq!(read(setting.rename()).await?.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(setting.first_name(), "Customer");
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK);
    Ok(())
}

#[tokio::test]
async fn a_failure_may_come_after_the_change() -> Result<()> {
    for failure in [Failure::status(500), Failure::Drop, Failure::Garbage, Failure::SuccessFalse, Failure::CloseHalfway]
    {
        let setting = Setting::with_customers(1).await?;
        setting.switch(|behaviour| behaviour.apply_before_failing = true);
        setting.fake.fail_next(1, failure.clone());
        // How it fails is the matter of other tests.
        let _ = setting.rename().send().await;
        assert_eq!(setting.first_name(), "Ada", "{failure:?}");
    }
    Ok(())
}

#[tokio::test]
async fn every_rate_fails_by_the_dice() -> Result<()> {
    let options = FakeOptions { customers: 1, dice: Dice::Loaded(0.5), ..FakeOptions::default() };
    let setting = Setting::new(options).await?;
    setting.switch(|behaviour| behaviour.error_rate = 0.5);
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK, "a roll of 0.5 is not below 0.5");

    setting.fake.set_behaviour(Behaviour {
        error_rate: 0.6,
        error_status: 503,
        retry_after: Some("9".to_owned()),
        ..Behaviour::default()
    });
    let refused = retry_after_of(setting.rename()).await?;
    assert_eq!(refused, (StatusCode::SERVICE_UNAVAILABLE, Some("9".to_owned())));
    setting.fake.set_behaviour(Behaviour { drop_rate: 0.6, ..Behaviour::default() });
    assert!(setting.rename().send().await.is_err());
    setting.fake.set_behaviour(Behaviour { garbage_rate: 0.6, ..Behaviour::default() });
    assert!(setting.rename().send().await?.text().await?.starts_with("<html>"));
    setting.fake.set_behaviour(Behaviour { success_false_rate: 0.6, ..Behaviour::default() });
    assert_eq!(read(setting.rename()).await?.1["success"], false);
    setting.fake.set_behaviour(Behaviour { hang_rate: 0.6, ..Behaviour::default() });
    let waiting = tokio::spawn(setting.rename().send());
    setting.fake.wait_for_requests(6).await;
    assert_eq!(setting.last_status(), None);
    waiting.abort();
    Ok(())
}

#[tokio::test]
async fn the_rate_limit_slides() -> Result<()> {
    let clock = Clock::manual(epoch());
    let options = FakeOptions { customers: 1, clock: clock.clone(), ..FakeOptions::default() };
    let setting = Setting::new(options).await?;
    setting.switch(|behaviour| behaviour.rate_limit_per_minute = 2);
    let seconds = std::time::Duration::from_secs;
    let limited = |wait: Option<&str>| (StatusCode::TOO_MANY_REQUESTS, wait.map(str::to_owned));

    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK);
    clock.advance(seconds(10));
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK);
    assert_eq!(retry_after_of(setting.rename()).await?, limited(Some("50")));
    clock.advance(seconds(49) + std::time::Duration::from_millis(500));
    assert_eq!(retry_after_of(setting.rename()).await?, limited(Some("1")), "rounded up");
    let date = "Sun, 22 Nov 2026 12:00:00 GMT";
    setting.switch(|behaviour| behaviour.retry_after = Some(date.to_owned()));
    assert_eq!(retry_after_of(setting.rename()).await?, limited(Some(date)));
    setting.switch(|behaviour| behaviour.retry_after = Some("absent".to_owned()));
    assert_eq!(retry_after_of(setting.rename()).await?, limited(None));

    clock.advance(seconds(1));
    assert_eq!(read(setting.rename()).await?.0, StatusCode::OK, "refused requests did not count");
    assert_eq!(setting.rename().send().await?.status(), 429);
    Ok(())
}

#[tokio::test]
async fn a_refused_customer_stays_refused() -> Result<()> {
    let setting = Setting::with_customers(2).await?;
    setting.switch(|behaviour| {
        behaviour.refuse_customers = vec![Refusal {
            customer_id: "cus_1".to_owned(),
            status: 422,
            code: "VALIDATION_ERROR".to_owned(),
            message: "no such street".to_owned(),
            path: Some("billingAddress.streetAddress".to_owned()),
        }];
    });
    for _ in 0..2 {
        let (status, error) = read(setting.rename()).await?;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(error["error"]["details"][0]["path"], "billingAddress.streetAddress");
    }
    assert_eq!(setting.get("/v1/customers/cus_2").await?.0, StatusCode::OK);
    Ok(())
}
