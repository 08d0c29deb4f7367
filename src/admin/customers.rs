//! Customers: whether each is in sync, and one customer's story.

use axum::Json;
use axum::http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::Admin;
use super::failures::named;
use super::given::{Asked, Given, InPath, Limit, ProblemBody};
use crate::domain::{ShopCustomerId, SourceName};
use crate::http::Problem;
use crate::inspect::{self, CustomerStory};
use crate::outbox::{CustomerFilter, CustomerState, CustomerSync, Page};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct Customers {
    /// Of this shop.
    #[param(pattern = "^[a-z0-9_-]{1,63}$")]
    source: Option<String>,
    /// With this id in the shop.
    #[param(min_length = 1, max_length = 255, pattern = r"\S")]
    customer: Option<String>,
    /// That any delivery gave this e-mail of, letter case apart.
    email: Option<String>,
    /// In this state.
    #[param(inline)]
    state: Option<CustomerSync>,
    /// Rows on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Customers with their state, by source and id.
#[utoipa::path(
    get, path = "/customers", tag = "customers", params(Customers),
    responses(
        (status = 200, description = "a page of them", body = Page<CustomerState>),
        Asked,
    )
)]
pub(super) async fn list(admin: Admin, Given(given): Given<Customers>) -> Result<Json<Page<CustomerState>>, Problem> {
    let filter = CustomerFilter {
        source: named(given.source, "source", SourceName::parse)?,
        customer: named(given.customer, "customer", ShopCustomerId::parse)?,
        email: given.email,
        state: given.state,
    };
    Ok(Json(admin.outbox.customers(&filter, given.cursor.as_deref(), given.limit.rows()).await?))
}

/// One customer's story in time order, each step with its cause.
#[utoipa::path(
    get, path = "/customers/{source}/{customer}", tag = "customers",
    params(
        ("source" = String, Path, description = "the shop"),
        ("customer" = String, Path, description = "the shop's id of the customer"),
    ),
    responses(
        (status = 200, description = "the story", body = CustomerStory),
        Asked,
        (status = 404, description = "nothing is stored of it", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(super) async fn show(
    admin: Admin,
    InPath((source, customer)): InPath<(String, String)>,
) -> Result<Json<CustomerStory>, Problem> {
    let nobody = || Problem::new(StatusCode::NOT_FOUND, "nothing is stored of this customer");
    let (Ok(source), Ok(customer)) = (SourceName::parse(source), ShopCustomerId::parse(customer)) else {
        return Err(nobody());
    };
    inspect::customer_story(&admin.outbox, &source, &customer).await?.map(Json).ok_or_else(nobody)
}
