//! `fake-flexportal`: the stand-in as a process of its own.

use std::process::ExitCode;

use super::asked_to_leave;
use crate::fake_flexportal::{FakeFlexportal, FakeOptions};

pub(super) async fn run(options: FakeOptions) -> anyhow::Result<ExitCode> {
    let fake = FakeFlexportal::start(options).await?;
    println!("fake FlexPortal at {}", fake.base_url());
    println!("what it was asked: {}_fake/requests", fake.base_url());
    asked_to_leave().await;
    Ok(ExitCode::SUCCESS)
}
