//! The fake over HTTP, switch by switch.

use anyhow::Result;
use chrono::{DateTime, SecondsFormat};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::*;
use crate::domain::{Clock, Dice};

mod documented;
mod failing;
mod steering;

/// A fake and a client with the right key and tenant.
struct Setting {
    fake: FakeFlexportal,
    http: reqwest::Client,
}

impl Setting {
    async fn new(options: FakeOptions) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        Ok(Self { fake: FakeFlexportal::start(options).await?, http })
    }

    async fn with_customers(customers: u32) -> Result<Self> {
        Self::new(FakeOptions { customers, ..FakeOptions::default() }).await
    }

    fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        let base_url = self.fake.base_url();
        self.http.request(method, format!("{}{path}", base_url.as_str().trim_end_matches('/')))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth("fake-key").header("Tenant-ID", "fake-tenant")
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Value)> {
        read(self.request(Method::GET, path)).await
    }

    fn put(&self, id: &str, body: &Value) -> RequestBuilder {
        self.request(Method::PUT, &format!("/v1/customers/{id}")).json(body)
    }

    /// An update of `cus_1` that is valid.
    fn rename(&self) -> RequestBuilder {
        self.put("cus_1", &json!({"customerId": "cus_1", "firstName": "Ada"}))
    }

    fn first_name(&self) -> String {
        self.fake.customer("cus_1").expect("seeded").first_name
    }

    fn switch(&self, change: impl FnOnce(&mut Behaviour)) {
        let mut behaviour = self.fake.behaviour();
        change(&mut behaviour);
        self.fake.set_behaviour(behaviour);
    }

    fn last_status(&self) -> Option<u16> {
        self.fake.requests().last().expect("a request").status
    }
}

async fn read(request: RequestBuilder) -> Result<(StatusCode, Value)> {
    let response = request.send().await?;
    Ok((response.status(), response.json().await?))
}

async fn retry_after_of(request: RequestBuilder) -> Result<(StatusCode, Option<String>)> {
    let response = request.send().await?;
    let wait = response.headers().get("retry-after").map(|value| value.to_str().map(str::to_owned)).transpose()?;
    Ok((response.status(), wait))
}

fn ids(list: &Value) -> Vec<&str> {
    let customers = list["customers"].as_array().expect("a list");
    customers.iter().map(|customer| customer["customerId"].as_str().expect("an id")).collect()
}

fn epoch() -> DateTime<chrono::Utc> {
    DateTime::from_timestamp(1_795_428_000, 0).expect("in range")
}
