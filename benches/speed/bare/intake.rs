//! Signature, JSON, and a commit of whatever arrived during the one before, into one table with one key.
//!
//! Nothing else of the service: no queue, no index for people, no order, no limits, no metrics, no log.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use sha2::Sha256;
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::super::SECRET;

pub(super) const TABLES: &str =
    "drop table if exists bare_deliveries; create table bare_deliveries (id text primary key, payload json not null)";

/// As many as the service's.
const MAX_GROUP: usize = 256;

struct Delivery {
    id: String,
    payload: String,
    answer: oneshot::Sender<()>,
}

struct Bare {
    key: Hmac<Sha256>,
    line: mpsc::Sender<Delivery>,
}

/// What is read of a body; the rest is passed over.
#[derive(Deserialize)]
struct Customer {
    #[serde(rename = "id")]
    _id: u64,
}

/// Takes webhooks until it is killed.
pub(super) async fn serve(addr: SocketAddr, database_url: &SecretString) -> anyhow::Result<()> {
    let connection = PgConnection::connect(database_url.expose_secret()).await?;
    let (line, deliveries) = mpsc::channel(1_024);
    tokio::spawn(commit_groups(connection, deliveries));
    let key = Hmac::new_from_slice(SECRET.as_bytes()).map_err(|_| anyhow::anyhow!("no key"))?;
    let app = axum::Router::new()
        .route("/webhooks/shopify", axum::routing::post(take))
        .with_state(Arc::new(Bare { key, line }));
    axum::serve(TcpListener::bind(addr).await?, app).await?;
    Ok(())
}

async fn take(State(bare): State<Arc<Bare>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    const REFUSED: (StatusCode, &str) = (StatusCode::BAD_REQUEST, "refused");
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(id), Some(signature)) = (text("x-shopify-webhook-id"), text("x-shopify-hmac-sha256")) else {
        return REFUSED;
    };
    let Ok(signature) = STANDARD.decode(signature) else { return REFUSED };
    if bare.key.clone().chain_update(&body).verify_slice(&signature).is_err() {
        return REFUSED;
    }
    if serde_json::from_slice::<Customer>(&body).is_err() {
        return REFUSED;
    }
    let Ok(payload) = String::from_utf8(body.into()) else { return REFUSED };
    let (answer, committed) = oneshot::channel();
    let delivery = Delivery { id: id.to_owned(), payload, answer };
    if bare.line.send(delivery).await.is_err() || committed.await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "not stored");
    }
    (StatusCode::OK, r#"{"status":"accepted"}"#)
}

/// While one commit is under way, the next group gathers.
async fn commit_groups(mut connection: PgConnection, mut line: mpsc::Receiver<Delivery>) {
    let mut group = Vec::new();
    while line.recv_many(&mut group, MAX_GROUP).await > 0 {
        let ids: Vec<_> = group.iter().map(|delivery| delivery.id.as_str()).collect();
        let payloads: Vec<_> = group.iter().map(|delivery| delivery.payload.as_str()).collect();
        let insert = "insert into bare_deliveries (id, payload)
                      select id, payload::json from unnest($1::text[], $2::text[]) as delivery (id, payload)";
        let stored = sqlx::query(insert).bind(ids).bind(payloads).execute(&mut connection).await;
        for delivery in group.drain(..) {
            if stored.is_ok() {
                // Whoever gave up waiting does not need it.
                let _ = delivery.answer.send(());
            }
        }
    }
}
