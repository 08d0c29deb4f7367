//! Configuration: the file, then the environment over it, then validation; one error lists every fault.

use std::net::SocketAddr;
use std::time::Duration;

use secrecy::SecretString;

use crate::domain::RetryPolicy;

pub mod source;
pub mod target;

pub use source::{CustomerTypePolicy, Identity, Policies, ShopKind, SingleAddress, Source, StatusPolicy};
pub use target::{CountryFormat, Target};

/// Everything the service needs to know, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `DATABASE_URL`: Postgres 13 or later.
    pub database_url: Option<SecretString>,
    /// `LISTEN_ADDR`, default `127.0.0.1:8080`.
    pub listen_addr: SocketAddr,
    /// `ADMIN_TOKEN`: bearer token of the admin API.
    pub admin_token: Option<SecretString>,
    /// The shops, by name.
    pub sources: Vec<Source>,
    /// The FlexPortal tenants, by name.
    pub targets: Vec<Target>,
    /// `FLEXPORTAL_MAX_CONCURRENCY`, default 8: requests in flight per worker process.
    pub max_concurrency: usize,
    /// `RETRY_BASE_DELAY`, `RETRY_MAX_DELAY`, `RETRY_MAX_ATTEMPTS`, default `1s`, `15m`, `12`.
    pub retry: RetryPolicy,
    /// `UNMATCHED_RETRY_INTERVAL`, default `1h`.
    pub unmatched_retry_interval: Duration,
    /// `UNMATCHED_MAX_AGE`, default `30d`.
    pub unmatched_max_age: Duration,
    /// `RETENTION`, default `30d`.
    pub retention: Duration,
    /// `MAX_BODY_BYTES`, default 1 MiB, at most 16 MiB.
    pub max_body_bytes: usize,
    /// `LOG_FORMAT`; unset: text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
}

/// `LOG_FORMAT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}
