//! Links: shown, and given by a person.

use axum::Json;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Admin;
use super::failures::named;
use super::given::{Asked, Body, Given, Limit, Posted};
use crate::domain::{FlexportalCustomerId, IdError, ShopCustomerId, SourceName};
use crate::http::Problem;
use crate::outbox::{DoneBy, LinkFilter, LinkRow, NewLink, Page};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
pub(super) struct Links {
    /// Of this shop.
    #[param(pattern = "^[a-z0-9_-]{1,63}$")]
    source: Option<String>,
    /// Of this customer of the shop.
    #[param(min_length = 1, max_length = 255, pattern = r"\S")]
    customer: Option<String>,
    /// To this customer of FlexPortal.
    #[param(min_length = 1, max_length = 255, pattern = r"\S")]
    flexportal_customer_id: Option<String>,
    /// Rows on the page.
    #[serde(default)]
    #[param(inline, required = false)]
    limit: Limit,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The links there are, by source and customer.
#[utoipa::path(
    get, path = "/links", tag = "links", params(Links),
    responses(
        (status = 200, description = "a page of them", body = Page<LinkRow>),
        Asked,
    )
)]
pub(super) async fn list(admin: Admin, Given(given): Given<Links>) -> Result<Json<Page<LinkRow>>, Problem> {
    let filter = LinkFilter {
        source: named(given.source, "source", SourceName::parse)?,
        customer: named(given.customer, "customer", ShopCustomerId::parse)?,
        flexportal_id: named(given.flexportal_customer_id, "flexportalCustomerId", FlexportalCustomerId::parse)?,
    };
    Ok(Json(admin.outbox.links(&filter, given.cursor.as_deref(), given.limit.rows()).await?))
}

/// Links that a person gives.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Import {
    /// A thousand at most.
    #[schema(max_items = 1000)]
    links: Vec<GivenLink>,
}

/// One of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct GivenLink {
    /// The shop.
    source: String,
    /// The shop's customer.
    shop_customer_id: String,
    /// FlexPortal's customer.
    flexportal_customer_id: String,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LinksImported)]
pub(super) struct Outcome {
    /// Links that are new, or lead to another customer now.
    imported: u64,
    /// Links that were there before.
    unchanged: u64,
    /// Customers that FlexPortal did not know, waiting or given up, and that are tried at once.
    woken: u64,
    /// Those that cannot be taken; the others were.
    refused: Vec<Refused>,
}

/// A link that cannot be taken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RefusedLink)]
pub(super) struct Refused {
    /// Its place in the list, from 1.
    line: usize,
    /// Why.
    reason: String,
}

/// Links given in one request at most.
const MAX_LINKS: usize = 1_000;

/// Takes links; one that is there is replaced. Customers that FlexPortal did not know, waiting or given up, are tried at
/// once.
#[utoipa::path(
    post, path = "/links/import", tag = "links", request_body = Import,
    responses(
        (status = 200, description = "what came of it", body = Outcome),
        Posted,
    )
)]
pub(super) async fn import(admin: Admin, Body(import): Body<Import>) -> Result<Json<Outcome>, Problem> {
    if import.links.len() > MAX_LINKS {
        return Err(Problem::new(axum::http::StatusCode::BAD_REQUEST, "give a thousand links at most"));
    }
    let known = admin.outbox.source_names().await?;
    let (mut links, mut refused) = (Vec::new(), Vec::new());
    for (n, given) in import.links.into_iter().enumerate() {
        match given.read(&known) {
            Ok(link) => links.push(link),
            Err(reason) => refused.push(Refused { line: n + 1, reason }),
        }
    }
    let done = admin.outbox.import_links(&links, DoneBy::Api).await?;
    let unchanged = (links.len() as u64).saturating_sub(done.imported);
    Ok(Json(Outcome { imported: done.imported, unchanged, woken: done.woken, refused }))
}

impl GivenLink {
    fn read(self, known: &[SourceName]) -> Result<NewLink, String> {
        let wrong = |key: &'static str| move |error: IdError| format!("{key} {error}");
        let source = SourceName::parse(self.source).map_err(wrong("source"))?;
        if !known.contains(&source) {
            return Err(format!("there is no source `{source}`"));
        }
        Ok(NewLink {
            source,
            customer: ShopCustomerId::parse(self.shop_customer_id).map_err(wrong("shopCustomerId"))?,
            flexportal_id: FlexportalCustomerId::parse(self.flexportal_customer_id)
                .map_err(wrong("flexportalCustomerId"))?,
        })
    }
}
