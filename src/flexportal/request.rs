//! The documented body of `PUT /v1/customers/{customerId}` and nothing else.

use std::borrow::Cow;

use serde::Serialize;

use crate::domain::{CustomerType, FlexportalCustomerId};

/// FlexPortal `PUT /v1/customers/{customerId}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpdateCustomer<'a> {
    /// Required in the body too, equal to the path's.
    pub customer_id: &'a FlexportalCustomerId,
    /// What is to change.
    #[serde(flatten)]
    pub change: &'a CustomerChange<'a>,
}

/// What an update changes: fields that are absent stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CustomerChange<'a> {
    /// At least one character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_name: Option<&'a str>,
    /// At least one character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_name: Option<&'a str>,
    /// Not in the schema, but in the page's prose: sent only by configuration (`FLEXPORTAL_SEND_EMAIL`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    /// Company.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company: Option<&'a str>,
    /// Phone number in any form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<&'a str>,
    /// Individual or business.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer_type: Option<CustomerType>,
    /// Active or inactive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Where invoices go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub billing_address: Option<AddressInput<'a>>,
    /// Where goods go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shipping_address: Option<AddressInput<'a>>,
}

/// FlexPortal `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Also brings a deactivated customer back.
    Active,
    /// No new orders.
    Inactive,
}

impl Status {
    /// The word as FlexPortal writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
        }
    }

    /// What FlexPortal's word means.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Active, Self::Inactive].into_iter().find(|status| status.as_str() == word)
    }
}

/// FlexPortal `Address`, always whole: whether it replaces or merges is not documented.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressInput<'a> {
    /// Person at the address.
    pub contact_name: Cow<'a, str>,
    /// Street and number.
    pub street_address: &'a str,
    /// City.
    pub city: &'a str,
    /// English name, or ISO code by configuration.
    pub country: Cow<'a, str>,
    /// Company at the address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company: Option<&'a str>,
    /// Building, floor, suite.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub building_info: Option<&'a str>,
    /// Neighbourhood, district.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub locality: Option<&'a str>,
    /// State, province.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_area: Option<&'a str>,
    /// Postal code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<&'a str>,
}
