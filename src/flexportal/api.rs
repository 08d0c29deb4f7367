//! What a worker needs of FlexPortal; a trait so that the simulation can be a FlexPortal that loses and delays requests
//! in every way there is.

use std::time::Duration;

use super::{Client, Exchange, Found, UpdateCustomer, Updated};

/// One FlexPortal tenant's API.
#[expect(missing_docs, reason = "each does what the method of the same name of Client says")]
pub trait Api: Send + Sync + 'static {
    fn longest_under_way(&self) -> Duration;
    fn update_customer(
        &self,
        update: &UpdateCustomer<'_>,
        body: String,
        key: &str,
    ) -> impl Future<Output = Exchange<Updated>> + Send;
    fn find_by_email(&self, email: &str, inactive: bool) -> impl Future<Output = Exchange<Vec<Found>>> + Send;
    fn list_one(&self) -> impl Future<Output = Exchange<Vec<Found>>> + Send;
}

impl Api for Client {
    fn longest_under_way(&self) -> Duration {
        Self::longest_under_way(self)
    }

    async fn update_customer(&self, update: &UpdateCustomer<'_>, body: String, key: &str) -> Exchange<Updated> {
        Self::update_customer(self, update, body, key).await
    }

    async fn find_by_email(&self, email: &str, inactive: bool) -> Exchange<Vec<Found>> {
        Self::find_by_email(self, email, inactive).await
    }

    async fn list_one(&self) -> Exchange<Vec<Found>> {
        Self::list_one(self).await
    }
}
