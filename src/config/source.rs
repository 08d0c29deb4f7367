//! A shop: `[[source]]` in the file, or a `…_WEBHOOK_SECRET` in the environment.

use secrecy::SecretString;
use serde::Deserialize;

use crate::domain::{SourceName, TargetName};

/// One configured shop.
#[derive(Debug, Clone)]
pub struct Source {
    /// As in `POST /webhooks/{source}`.
    pub name: SourceName,
    /// Which adapter verifies and parses.
    pub kind: ShopKind,
    /// The webhook secret and, while it is rotated, the previous one. Never empty.
    pub secrets: Vec<SecretString>,
    /// Which tenant its customers belong to.
    pub target: TargetName,
    /// How its customers are found in FlexPortal.
    pub identity: Identity,
    /// Name of a field of the payload that carries FlexPortal's customer id, besides the generic source's
    /// `flexportalCustomerId`: a key of WooCommerce's `meta_data`, a top-level key elsewhere.
    pub flexportal_id_field: Option<String>,
    /// What to make of the things shops leave open.
    pub policies: Policies,
}

/// The shop systems there is an adapter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ShopKind {
    /// Shopify.
    Shopify,
    /// `WooCommerce`.
    #[value(name = "woocommerce")]
    WooCommerce,
    /// Anything that signs as Standard Webhooks says.
    Generic,
}

impl ShopKind {
    /// As in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Shopify => "shopify",
            Self::WooCommerce => "woocommerce",
            Self::Generic => "generic",
        }
    }
}

/// How a shop's customer is found in FlexPortal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The event's id, else the link, else the e-mail.
    #[default]
    Email,
    /// The shop's id is FlexPortal's.
    SameId,
}

/// The policies a source can set in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Policies {
    /// `customer_type`.
    pub customer_type: CustomerTypePolicy,
    /// `on_delete`: the customer was deleted in the shop.
    pub on_delete: StatusPolicy,
    /// `on_disable`: the customer's account was disabled in the shop (Shopify).
    pub on_disable: StatusPolicy,
    /// `single_address`.
    pub single_address: SingleAddress,
}

/// `customer_type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CustomerTypePolicy {
    /// Sent only when the shop says it.
    #[default]
    Explicit,
    /// `business` when a company is set.
    FromCompany,
}

/// `on_delete`, `on_disable`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StatusPolicy {
    /// Sends `status: inactive`.
    #[default]
    Inactive,
    /// Says nothing; the event ends as `unchanged`.
    Ignore,
}

/// `single_address`: where a shop's one default address goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SingleAddress {
    /// To both addresses.
    #[default]
    Both,
    /// To the billing address only.
    Billing,
    /// To the shipping address only.
    Shipping,
}
