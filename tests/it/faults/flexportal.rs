//! FlexPortal hangs, closes halfway, sends garbage, answers after the timeout: the newest value is the last it gets.

use std::time::Duration;

use flexportal_sync::fake_flexportal::{Behaviour, Failure, FakeFlexportal, RecordedRequest};

use super::{Scene, change, phone_of, wait_for_requests, wait_until_quiet};
use crate::support::Process;

/// Little patience with FlexPortal, and much with failures.
const IMPATIENT: [(&str, &str); 4] = [
    ("FLEXPORTAL_TIMEOUT", "300ms"),
    ("RETRY_BASE_DELAY", "20ms"),
    ("RETRY_MAX_DELAY", "100ms"),
    ("RETRY_MAX_ATTEMPTS", "1000"),
];
/// For so long after it was begun a request may still arrive that timed out: twice the timeout and five seconds, but
/// for what it took to reach FlexPortal.
const UNDER_WAY: Duration = Duration::from_millis(5_500);

#[tokio::test]
async fn what_hangs_or_arrives_after_the_timeout_is_not_the_last_word() {
    let scene = Scene::new().await;
    let process = scene.start_with(&IMPATIENT).await;
    // The first change of one customer takes its time, and that of another gets no answer at all.
    scene.fake.set_behaviour(Behaviour { latency_ms: 2_000, ..Behaviour::default() });
    assert_eq!(process.deliver(change(1, 1)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 1).await;
    scene.fake.set_behaviour(Behaviour::default());
    scene.fake.fail_next_for("cus_2", 1, Failure::Hang);
    assert_eq!(process.deliver(change(2, 1)).await.word(), "accepted");
    wait_for_requests(&scene.fake, 2).await;

    for second in 2..=20 {
        for n in 1..=2 {
            assert_eq!(process.deliver(change(n, second)).await.word(), "accepted");
        }
    }
    wait_until_quiet(&scene.fake).await;
    assert_eq!(scene.fake.requests().len(), 2, "nothing newer while the old may arrive");
    assert_eq!((phone_of(&scene.fake, 1), phone_of(&scene.fake, 2)), (Some(1), None), "one was late, one never came");

    scene.ends_with(20).await;
    assert_eq!(phone_of(&scene.fake, 2), Some(20));
    assert_eq!(scene.fake.requests().len(), 4);
    for n in 1..=2 {
        let sent = requests_for(&scene.fake, n);
        let between = (sent[1].received_at - sent[0].received_at).to_std().expect("in order");
        assert!(between >= UNDER_WAY, "{between:?}");
    }
}

#[tokio::test]
async fn every_way_to_break_off_ends_with_the_newest_value() {
    let scene = Scene::new().await;
    let process = scene.start_with(&IMPATIENT).await;
    scene.fake.set_behaviour(Behaviour { apply_before_failing: true, ..Behaviour::default() });
    let failures = [Failure::CloseHalfway, Failure::Garbage, Failure::Drop, Failure::status(500), Failure::status(302)];
    for (n, failure) in (1..).zip(&failures) {
        scene.fake.fail_next_for(&format!("cus_{n}"), 3, failure.clone());
    }
    changes_all_the_while(&process, 5, 30).await;
    scene.ends_with(30).await;
    for (n, failure) in (1..).zip(&failures) {
        assert_eq!(phone_of(&scene.fake, n), Some(30), "{failure:?}");
        assert!(requests_for(&scene.fake, n).len() > 3, "{failure:?}: none of the failures is left");
    }
}

#[tokio::test]
async fn a_flexportal_that_fails_every_other_time_gets_the_newest_of_everybody() {
    let scene = Scene::new().await;
    let process = scene.start_with(&IMPATIENT).await;
    scene.fake.set_behaviour(Behaviour {
        latency_ms: 10,
        error_rate: 0.2,
        error_status: 503,
        drop_rate: 0.2,
        garbage_rate: 0.1,
        apply_before_failing: true,
        ..Behaviour::default()
    });
    changes_all_the_while(&process, 8, 60).await;
    scene.ends_with(60).await;
    for n in 1..=8 {
        assert_eq!(phone_of(&scene.fake, n), Some(60), "cus_{n}");
    }
    let failed = scene.fake.requests().iter().filter(|request| request.status != Some(200)).count();
    assert!(failed > 10, "{failed}");
}

/// So many customers change so many times, while FlexPortal is told of the changes before.
async fn changes_all_the_while(process: &Process, customers: u32, changes: u32) {
    for second in 1..=changes {
        for n in 1..=customers {
            assert_eq!(process.deliver(change(n, second)).await.word(), "accepted");
        }
    }
}

fn requests_for(fake: &FakeFlexportal, n: u32) -> Vec<RecordedRequest> {
    let path = format!("/v1/customers/cus_{n}");
    fake.requests().into_iter().filter(|request| request.path == path).collect()
}
