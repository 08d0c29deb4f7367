//! The requests: one at a time, in bounded time, of bounded size, redirects not followed.

use std::net::IpAddr;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, RequestBuilder, StatusCode};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::time::Instant;
use url::Url;

use super::error::{ErrorBody, shown};
use super::{FlexportalError, Status, UpdateCustomer, retry_after};
use crate::config::Target;
use crate::domain::Clock;

/// Answers are a few KB; what is longer is not one.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;
/// The part of an answer that is kept for people.
const KEPT_ANSWER_BYTES: usize = 4 * 1024;
/// A claim lasts 30 s, and must be renewed and the request begun before.
const LONGEST_UNDER_WAY: Duration = Duration::from_secs(28);
/// Servers close connections that were idle, the earliest of the usual ones (Node's `keepAliveTimeout`) after 5 s, and a
/// request that meets that is lost without a trace: its customer would have to rest.
const IDLE_AT_MOST: Duration = Duration::from_secs(4);
/// An address has one customer, or a few where FlexPortal holds duplicates.
const LOOKUP_LIMIT: &str = "10";

/// One FlexPortal tenant's API.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    customers: Url,
    timeout: Duration,
    clock: Clock,
}

/// Which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `PUT /v1/customers/{customerId}`.
    UpdateCustomer,
    /// `GET /v1/customers?email=`.
    FindByEmail,
    /// `GET /v1/customers?limit=1`: whether FlexPortal itself answers.
    List,
}

impl Operation {
    /// The word as stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UpdateCustomer => "update_customer",
            Self::FindByEmail => "find_by_email",
            Self::List => "list",
        }
    }
}

/// One request, for the record, and what came of it.
#[derive(Debug, Clone)]
pub struct Exchange<T> {
    /// Which request.
    pub operation: Operation,
    /// When it was sent.
    pub started: Instant,
    /// Until the answer was read or given up.
    pub duration: Duration,
    /// The body sent, as JSON.
    pub request_body: Option<String>,
    /// Status of the answer; none if there was none.
    pub http_status: Option<u16>,
    /// The answer's body, cut at 4 KiB.
    pub response_body: Option<String>,
    /// What the caller needs to know.
    pub outcome: Result<T, FlexportalError>,
}

impl<T> Exchange<T> {
    /// The same with another outcome.
    pub fn map<U>(self, outcome: impl FnOnce(Result<T, FlexportalError>) -> Result<U, FlexportalError>) -> Exchange<U> {
        Exchange {
            operation: self.operation,
            started: self.started,
            duration: self.duration,
            request_body: self.request_body,
            http_status: self.http_status,
            response_body: self.response_body,
            outcome: outcome(self.outcome),
        }
    }

    /// Whether the request may yet be carried out although it seems to be over: we gave it up, its connection broke before
    /// an answer, or a gateway answered that has lost sight of it as well (502, 504; Cloudflare's 520 to 524).
    #[must_use]
    pub fn may_still_arrive(&self) -> bool {
        match self.outcome {
            Err(FlexportalError::TimedOut) => true,
            Err(FlexportalError::Disconnected(_)) => self.http_status.is_none(),
            Err(FlexportalError::Unavailable { .. }) => matches!(self.http_status, Some(502 | 504 | 520..=524)),
            _ => false,
        }
    }
}

/// FlexPortal acknowledged the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Updated {
    /// The e-mail FlexPortal has for the customer, if the answer shows it.
    pub email: Option<String>,
    /// Its status, if the answer shows it.
    pub status: Option<Status>,
}

/// One customer of a lookup's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// FlexPortal's id.
    pub customer_id: String,
    /// Its e-mail.
    pub email: String,
}

struct Answer {
    status: StatusCode,
    retry_after: Duration,
    body: Vec<u8>,
    /// Why the body ends before its end.
    broken: Option<FlexportalError>,
}

impl Client {
    /// Makes the client of a target; connects to nothing.
    ///
    /// # Errors
    /// A text that names what of the target's configuration cannot be used.
    pub fn new(target: &Target, clock: Clock) -> Result<Self, String> {
        let mut headers = HeaderMap::new();
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", target.api_key.expose_secret()))
            .map_err(|_| format!("target `{}`: the API key cannot stand in a header", target.name))?;
        bearer.set_sensitive(true);
        headers.insert(AUTHORIZATION, bearer);
        let tenant = HeaderValue::from_str(&target.tenant_id)
            .map_err(|_| format!("target `{}`: the tenant id cannot stand in a header", target.name))?;
        headers.insert(HeaderName::from_static("tenant-id"), tenant);
        let is_here = target.base_url.host_str().is_some_and(|host| {
            host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
        });
        let builder = reqwest::Client::builder();
        // A proxy cannot know what this machine calls itself.
        let builder = if is_here { builder.no_proxy() } else { builder };
        let http = builder
            .default_headers(headers)
            .user_agent(concat!("flexportal-sync/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .timeout(target.timeout)
            .connect_timeout(target.timeout.min(Duration::from_secs(5)))
            .pool_idle_timeout(IDLE_AT_MOST)
            .retry(reqwest::retry::never())
            .build()
            .map_err(|error| format!("target `{}`: {error}", target.name))?;
        let mut customers = target.base_url.clone();
        customers
            .path_segments_mut()
            .map_err(|()| format!("target `{}`: the base URL cannot have a path", target.name))?
            .pop_if_empty()
            .extend(["v1", "customers"]);
        Ok(Self { http, customers, timeout: target.timeout, clock })
    }

    /// How long after it was begun a request may still arrive: it can outlive our patience on its way, and in
    /// FlexPortal's own queues. As long again as we wait, and a little more.
    #[must_use]
    pub fn longest_under_way(&self) -> Duration {
        (self.timeout * 2 + Duration::from_secs(5)).min(LONGEST_UNDER_WAY)
    }

    /// Changes one customer: FlexPortal `PUT /v1/customers/{customerId}`.
    ///
    /// Sent once; retrying is the caller's business. `key` goes out as `Idempotency-Key` and must be the same
    /// on every attempt of the same change; FlexPortal documents no such header and may ignore it.
    pub async fn update_customer(&self, update: &UpdateCustomer<'_>, body: String, key: &str) -> Exchange<Updated> {
        let mut url = self.customers.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.push(update.customer_id.as_str());
        }
        let request = self
            .http
            .request(Method::PUT, url)
            .header(CONTENT_TYPE, "application/json")
            .header("Idempotency-Key", key)
            .body(body.clone());
        self.exchange(Operation::UpdateCustomer, request, Some(body), read_update).await
    }

    /// Asks for customers with an e-mail: FlexPortal `GET /v1/customers?email=`.
    ///
    /// The plain list hides inactive customers; `inactive` asks for those.
    pub async fn find_by_email(&self, email: &str, inactive: bool) -> Exchange<Vec<Found>> {
        let mut request = self.list().query(&[("email", email), ("limit", LOOKUP_LIMIT)]);
        if inactive {
            request = request.query(&[("status", "inactive")]);
        }
        self.exchange(Operation::FindByEmail, request, None, read_list).await
    }

    /// The cheapest question there is: FlexPortal `GET /v1/customers?limit=1`.
    pub async fn list_one(&self) -> Exchange<Vec<Found>> {
        let request = self.list().query(&[("limit", "1")]);
        self.exchange(Operation::List, request, None, read_page).await
    }

    /// Whether the credentials are taken.
    ///
    /// # Errors
    /// Why not.
    pub async fn ping(&self) -> Result<(), FlexportalError> {
        self.list_one().await.outcome.map(|_| ())
    }

    fn list(&self) -> RequestBuilder {
        self.http.request(Method::GET, self.customers.clone())
    }

    async fn exchange<T>(
        &self,
        operation: Operation,
        request: RequestBuilder,
        request_body: Option<String>,
        read: impl FnOnce(&[u8]) -> Option<Result<T, FlexportalError>>,
    ) -> Exchange<T> {
        let started = Instant::now();
        let answer = self.send(request).await;
        let duration = started.elapsed();
        let (http_status, response_body) = match &answer {
            Ok(answer) => (Some(answer.status.as_u16()), Some(kept(&answer.body))),
            Err(_) => (None, None),
        };
        let outcome = answer.and_then(|answer| interpret(operation, &answer, read));
        Exchange { operation, started, duration, request_body, http_status, response_body, outcome }
    }

    async fn send(&self, request: RequestBuilder) -> Result<Answer, FlexportalError> {
        let mut response = request.send().await.map_err(|error| lost(&error))?;
        let header = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = retry_after(header(RETRY_AFTER), header(DATE), self.clock.now());
        let (mut body, mut broken) = (Vec::new(), None);
        loop {
            let chunk = match response.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => {
                    broken = Some(lost(&error));
                    break;
                }
            };
            let room = MAX_ANSWER_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                break;
            }
        }
        Ok(Answer { status: response.status(), retry_after, body, broken })
    }
}

/// What an answer means: a refusal counts as FlexPortal's only with its error body, whole. Something in between answers with
/// any status, and that passes.
fn interpret<T>(
    operation: Operation,
    answer: &Answer,
    read: impl FnOnce(&[u8]) -> Option<Result<T, FlexportalError>>,
) -> Result<T, FlexportalError> {
    let status = answer.status.as_u16();
    let own = if answer.broken.is_none() { ErrorBody::read(&answer.body) } else { None };
    let unavailable = |code: &str, what: String| FlexportalError::Unavailable { code: Some(code.to_owned()), what };
    match (status, own) {
        (200..=299, _) => match &answer.broken {
            Some(error) => Err(error.clone()),
            None => read(&answer.body).unwrap_or_else(|| {
                Err(unavailable(
                    "UNREADABLE_ANSWER",
                    format!("it answered {status} with something that cannot be read"),
                ))
            }),
        },
        (429, _) => Err(FlexportalError::RateLimited { retry_after: answer.retry_after }),
        // A redirect means a wrong base URL, which passes once it is put right.
        (300..=399, _) => {
            let what = format!("it answered {status}, and redirects are not followed: check the base URL");
            Err(unavailable("REDIRECTED", what))
        }
        (401 | 403, Some(own)) => Err(FlexportalError::Unauthorized { code: Some(own.code()) }),
        (404 | 410, Some(_)) if operation == Operation::UpdateCustomer => Err(FlexportalError::CustomerNotFound),
        (408 | 425 | 500.., Some(own)) => {
            Err(FlexportalError::Unavailable { code: Some(own.code()), what: own.message() })
        }
        (400..=499, Some(own)) => {
            Err(FlexportalError::Refused { code: Some(own.code()), message: own.message(), fields: own.fields() })
        }
        (400..=499, None) => {
            let what = format!("something in between answered {status}, without FlexPortal's error body");
            Err(unavailable("NOT_FLEXPORTAL", what))
        }
        (_, _) => Err(FlexportalError::Unavailable { code: None, what: format!("FlexPortal answered {status}") }),
    }
}

/// `success` decides; the rest is read with tolerance, since the documentation leaves types open. Without it, it is not
/// FlexPortal's answer.
fn read_update(body: &[u8]) -> Option<Result<Updated, FlexportalError>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let success = answer.as_object()?.get("success")?;
    Some(if success == &Value::Bool(true) {
        let customer = &answer["customer"];
        Ok(Updated {
            email: customer["email"].as_str().map(str::to_owned),
            status: customer["status"].as_str().and_then(Status::of_word),
        })
    } else {
        let message = answer["message"].as_str().unwrap_or("no reason given");
        Err(FlexportalError::Refused {
            code: Some("NOT_SUCCESSFUL".to_owned()),
            message: shown(&format!("FlexPortal answered without success: {message}"), 1000),
            fields: vec![],
        })
    })
}

/// Customers without a textual id or e-mail are nobody's match.
fn read_list(body: &[u8]) -> Option<Result<Vec<Found>, FlexportalError>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    let customers = answer.get("customers")?.as_array()?;
    let found = |customer: &Value| {
        Some(Found {
            customer_id: customer["customerId"].as_str()?.to_owned(),
            email: customer["email"].as_str()?.to_owned(),
        })
    };
    Some(Ok(customers.iter().filter_map(found).collect()))
}

/// A list as documented: it is to show who answers, so that it says whether there are more.
fn read_page(body: &[u8]) -> Option<Result<Vec<Found>, FlexportalError>> {
    let answer: Value = serde_json::from_slice(body).ok()?;
    answer.get("hasMore")?.as_bool()?;
    read_list(body)
}

/// Why there is no answer, or no whole one.
fn lost(error: &reqwest::Error) -> FlexportalError {
    if error.is_timeout() && !error.is_connect() {
        return FlexportalError::TimedOut;
    }
    // The innermost cause is the telling one, and holds no address with an e-mail in it.
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let cause = if cause.to_string().contains("://") { "unknown cause".to_owned() } else { cause.to_string() };
    if error.is_connect() { FlexportalError::Unreached(cause) } else { FlexportalError::Disconnected(cause) }
}

/// The beginning of an answer as text that Postgres takes.
fn kept(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(KEPT_ANSWER_BYTES)]).replace('\0', "\u{fffd}");
    let end = (0..=text.len().min(KEPT_ANSWER_BYTES)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}
