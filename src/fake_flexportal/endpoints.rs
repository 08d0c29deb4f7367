//! The three documented endpoints: first the failures that are due, then the answers FlexPortal would give.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use chrono::DateTime;
use futures_util::stream;
use serde_json::{Value, json};

use super::answers::{Fault, invalid, refusal, refusal_with, retry_after};
use super::behaviour::{Failure, Gateway};
use super::line::Scissors;
use super::query::ListQuery;
use super::requests::RecordedRequest;
use super::schema::{BodyError, EmailRule, check_update};
use super::state::{Arrival, Course, Memory, Shared};

/// No body of a customer comes near this; FlexPortal documents no limit.
pub(super) const MAX_BODY_BYTES: usize = 1024 * 1024;

/// Routes for the customer endpoints; any other path is logged as well and answered with 404.
pub(super) fn router() -> Router<Arc<Shared>> {
    Router::new().route("/v1/customers", any(list)).route("/v1/customers/{customer_id}", any(one)).fallback(other)
}

async fn list(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    receive(shared, &line, Endpoint::Customers, request).await
}

async fn one(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Scissors>,
    Path(customer_id): Path<String>,
    request: Request,
) -> Response {
    receive(shared, &line, Endpoint::Customer(customer_id), request).await
}

async fn other(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(line): ConnectInfo<Scissors>,
    request: Request,
) -> Response {
    receive(shared, &line, Endpoint::Unknown, request).await
}

/// What a path names.
enum Endpoint {
    Customers,
    Customer(String),
    Unknown,
}

impl Endpoint {
    fn customer_id(&self) -> Option<&str> {
        match self {
            Self::Customer(id) => Some(id),
            Self::Customers | Self::Unknown => None,
        }
    }
}

/// A request that has been read to its end.
struct Received {
    endpoint: Endpoint,
    parts: Parts,
    /// `None` if it is longer than [`MAX_BODY_BYTES`].
    body: Option<Bytes>,
}

impl Received {
    fn header(&self, name: impl axum::http::header::AsHeaderName) -> Option<&str> {
        self.parts.headers.get(name)?.to_str().ok()
    }

    fn record(&self) -> RecordedRequest {
        let text = |name| self.header(name).map(str::to_owned);
        let body = self.body.as_ref().filter(|body| !body.is_empty());
        RecordedRequest {
            sequence: 0,
            received_at: DateTime::UNIX_EPOCH,
            method: self.parts.method.to_string(),
            path: self.parts.uri.path().to_owned(),
            query: self.parts.uri.query().map(str::to_owned),
            tenant_id: text("tenant-id"),
            idempotency_key: text("idempotency-key"),
            body: body.map(|body| {
                serde_json::from_slice(body)
                    .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()))
            }),
            status: None,
            ended_at: None,
        }
    }
}

async fn receive(shared: Arc<Shared>, line: &Scissors, endpoint: Endpoint, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.ok();
    let received = Received { endpoint, parts, body };

    let arrival = shared.arrive(received.record(), received.endpoint.customer_id());
    let line = line.clone();
    // A task of its own: what has arrived is carried out, also if the client has given up waiting by then.
    let carrying_out = tokio::spawn(async move { carry_out(&shared, &line, &received, arrival).await });
    // It does not panic; nobody would read the answer if it did.
    carrying_out.await.unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

async fn carry_out(shared: &Shared, line: &Scissors, received: &Received, arrival: Arrival) -> Response {
    if !arrival.latency.is_zero() {
        tokio::time::sleep(arrival.latency).await;
    }
    let response = match arrival.course {
        Course::Proper => Some(answer(shared, received)),
        Course::RateLimited(wait) => {
            let response = refusal(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "too many requests within a minute");
            Some(retry_after(response, wait.as_deref()))
        }
        Course::Gateway(gateway) => Some(in_place(gateway, line.clone())),
        Course::Failing { failure, applies_first } => {
            if applies_first {
                drop(answer(shared, received));
            }
            fail(shared, line, received, failure).await
        }
    };
    let status = response.as_ref().map(|response| response.status().as_u16());
    shared.memory().log.ended(arrival.sequence, status, shared.clock.now());
    // What stands in for no answer is never seen by the client: the connection is cut.
    response.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response())
}

/// Fails a request; `None` once its connection is cut without an answer.
async fn fail(shared: &Shared, line: &Scissors, received: &Received, failure: Failure) -> Option<Response> {
    match failure {
        Failure::Status { status, code, retry_after: wait } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            Some(retry_after(refusal(status, &code, "the fake was told to fail"), wait.as_deref()))
        }
        Failure::Drop => {
            line.cut();
            None
        }
        Failure::Hang => {
            line.until_cut().await;
            None
        }
        Failure::Garbage => {
            Some(([(CONTENT_TYPE, "text/html")], "<html><body>Back in a moment</body></html>").into_response())
        }
        Failure::SuccessFalse => {
            let id = received.endpoint.customer_id().unwrap_or_default();
            let customer = shared.memory().customers.get(id).map(|customer| customer.shown(&shared.tenant_id));
            let message = "the fake was told to deny success";
            let body = json!({"success": false, "message": message, "customerId": id, "customer": customer});
            Some(Json(body).into_response())
        }
        Failure::CloseHalfway => {
            let beginning = Bytes::from_static(br#"{"success":true,"message":"#);
            Some(halfway(line.clone(), StatusCode::OK, "application/json", beginning))
        }
    }
}

/// What a gateway answers.
fn in_place(gateway: Gateway, line: Scissors) -> Response {
    let status = StatusCode::from_u16(gateway.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if gateway.is_cut_off {
        return halfway(line, status, &gateway.content_type, gateway.body.into());
    }
    (status, [(CONTENT_TYPE, gateway.content_type)], gateway.body).into_response()
}

/// Announces more than it sends and then cuts the connection.
fn halfway(line: Scissors, status: StatusCode, content_type: &str, beginning: Bytes) -> Response {
    let parts = stream::unfold(Some(beginning), move |beginning| {
        let line = line.clone();
        async move {
            if let Some(beginning) = beginning {
                return Some((Ok(beginning), None));
            }
            // What came before goes out while this waits for its next turn; an error at once would overtake it.
            tokio::task::yield_now().await;
            line.cut();
            Some((Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted)), None))
        }
    });
    let headers = [(CONTENT_TYPE, content_type), (CONTENT_LENGTH, "4096")];
    (status, headers, Body::from_stream(parts)).into_response()
}

/// The answer FlexPortal would give, with its change made.
fn answer(shared: &Shared, received: &Received) -> Response {
    if let Some(refused) = refuse_access(shared, received) {
        return refused;
    }
    let mut memory = shared.memory();
    match (&received.endpoint, &received.parts.method) {
        (Endpoint::Customers, &Method::GET) => list_customers(&memory, shared, received),
        (Endpoint::Customer(id), &Method::GET) => refuse_customer(&memory, id).unwrap_or_else(|| {
            memory
                .customers
                .get(id)
                .map_or_else(not_found, |found| Json(found.shown(&shared.tenant_id)).into_response())
        }),
        (Endpoint::Customer(id), &Method::PUT) => {
            refuse_customer(&memory, id).unwrap_or_else(|| update_customer(&mut memory, shared, received, id))
        }
        (Endpoint::Customers | Endpoint::Customer(_), _) => {
            refusal(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "the fake does not have this method")
        }
        (Endpoint::Unknown, _) => refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "the fake does not have this path"),
    }
}

fn refuse_access(shared: &Shared, received: &Received) -> Option<Response> {
    let Some(authorization) = received.header(AUTHORIZATION) else {
        return Some(refusal(StatusCode::UNAUTHORIZED, "AUTH_REQUIRED", "no Authorization header"));
    };
    if authorization.strip_prefix("Bearer ") != Some(&shared.api_key) {
        return Some(refusal(StatusCode::UNAUTHORIZED, "INVALID_TOKEN", "the key is invalid or expired"));
    }
    if received.header("tenant-id") != Some(&shared.tenant_id) {
        return Some(refusal(StatusCode::FORBIDDEN, "NO_TENANT_ACCESS", "Tenant-ID is missing or wrong"));
    }
    None
}

fn refuse_customer(memory: &Memory, customer_id: &str) -> Option<Response> {
    let order = memory.behaviour.refuse_customers.iter().find(|order| order.customer_id == customer_id)?;
    let status = StatusCode::from_u16(order.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
    Some(match &order.path {
        Some(path) => {
            let detail = Fault::new(path, &order.code, &order.message);
            refusal_with(status, &order.code, &order.message, &[detail])
        }
        None => refusal(status, &order.code, &order.message),
    })
}

fn list_customers(memory: &Memory, shared: &Shared, received: &Received) -> Response {
    let refuse =
        |faults: &[Fault]| refusal_with(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", "the query is not valid", faults);
    let query = match ListQuery::parse(received.parts.uri.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(faults) => return refuse(&faults),
    };
    let Some(page) = memory.customers.page(&query, memory.behaviour.email_case_insensitive) else {
        return refuse(&[Fault::new("startAfter", "invalid_cursor", "is not the cursor of a page")]);
    };
    let customers: Vec<_> = page.customers.iter().map(|customer| customer.shown(&shared.tenant_id)).collect();
    let body = json!({
        "count": customers.len(),
        "customers": customers,
        "limit": query.limit,
        "hasMore": page.next_cursor.is_some(),
        "nextCursor": page.next_cursor,
    });
    Json(body).into_response()
}

fn update_customer(memory: &mut Memory, shared: &Shared, received: &Received, customer_id: &str) -> Response {
    let media_type = received.header(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case("application/json") {
        return invalid(StatusCode::BAD_REQUEST, "Content-Type must be application/json");
    }
    let Some(body) = &received.body else {
        return invalid(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 1 MiB");
    };
    let email = match &memory.behaviour {
        behaviour if behaviour.drop_email => EmailRule::Dropped,
        behaviour if behaviour.accept_email => EmailRule::Accepted,
        _ => EmailRule::Refused,
    };
    // Checked before the customer is looked up, so that a wrong body shows whomever it names.
    let update = match check_update(body, customer_id, email) {
        Ok(update) => update,
        Err(BodyError::NotJson(reason)) => {
            return invalid(StatusCode::BAD_REQUEST, &format!("the body is not JSON: {reason}"));
        }
        Err(BodyError::NotAnObject) => return invalid(StatusCode::BAD_REQUEST, "the body is not a JSON object"),
        Err(BodyError::Faults(faults)) => {
            let message = "the body is not a valid update";
            return refusal_with(StatusCode::UNPROCESSABLE_ENTITY, "VALIDATION_ERROR", message, &faults);
        }
    };
    let Some(customer) = memory.customers.change(customer_id, &update, shared.clock.now()) else {
        return not_found();
    };
    let body = json!({
        "success": true,
        "message": "customer updated",
        "customerId": customer_id,
        "customer": customer.shown(&shared.tenant_id),
    });
    Json(body).into_response()
}

fn not_found() -> Response {
    refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "no such customer in this tenant")
}
