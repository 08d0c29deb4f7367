//! A FlexPortal tenant: `[[target]]` in the file, or the `FLEXPORTAL_…` variables, which define `default`.

use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use crate::domain::TargetName;

/// One FlexPortal tenant (Business Unit).
#[derive(Debug, Clone)]
pub struct Target {
    /// `default`, or the name in the file.
    pub name: TargetName,
    /// `FLEXPORTAL_BASE_URL`, or the region's host.
    pub base_url: Url,
    /// `FLEXPORTAL_API_KEY`, sent as bearer token.
    pub api_key: SecretString,
    /// `FLEXPORTAL_TENANT_ID`, sent as `Tenant-ID`.
    pub tenant_id: String,
    /// `FLEXPORTAL_RATE_LIMIT_PER_MINUTE`, default 100; 0 means none.
    pub rate_limit_per_minute: u32,
    /// `FLEXPORTAL_TIMEOUT`, default 10 s: one request, from connecting to the last byte.
    pub timeout: Duration,
    /// `FLEXPORTAL_COUNTRY_FORMAT`.
    pub country_format: CountryFormat,
    /// `FLEXPORTAL_SEND_EMAIL`: sends `email`, which the documented schema does not have.
    pub send_email: bool,
}

/// `FLEXPORTAL_COUNTRY_FORMAT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountryFormat {
    /// English names: `Germany`.
    #[default]
    Name,
    /// ISO 3166-1 alpha-2: `DE`.
    Iso,
}
