//! What a shop said of a customer, in our words and field by field: the unit in which newer wins over older.
//!
//! Texts are borrowed from the payload they stand in, but for those that are written with escapes there.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{FlexportalCustomerId, ShopCustomerId};

/// One field that a shop can speak for; the names are FlexPortal's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Field {
    /// Given name.
    FirstName,
    /// Family name.
    LastName,
    /// Company of the customer.
    Company,
    /// Phone number, as the shop writes it.
    Phone,
    /// Individual or business.
    CustomerType,
    /// Active or inactive.
    Status,
    /// Where invoices go.
    BillingAddress,
    /// Where goods go.
    ShippingAddress,
    /// E-mail: the key for the lookup, and sent on only by configuration.
    Email,
}

impl Field {
    /// FlexPortal's name of the field.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::FirstName => "firstName",
            Self::LastName => "lastName",
            Self::Company => "company",
            Self::Phone => "phone",
            Self::CustomerType => "customerType",
            Self::Status => "status",
            Self::BillingAddress => "billingAddress",
            Self::ShippingAddress => "shippingAddress",
            Self::Email => "email",
        }
    }
}

/// FlexPortal `customerType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CustomerType {
    /// A person.
    Individual,
    /// A company; opens billing groups in FlexPortal.
    Business,
}

/// What an event says of FlexPortal's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CustomerStatus {
    /// The event itself says active.
    Active,
    /// The event itself says inactive.
    Inactive,
    /// The shop took its own deactivation back: active again if it was we who set inactive, else nothing,
    /// so that a deactivation by FlexPortal's staff stays.
    Reinstated,
}

/// A postal address as the shop has it; parts may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Address<'a> {
    /// Person at the address.
    pub contact_name: Option<Cow<'a, str>>,
    /// Company at the address.
    pub company: Option<Cow<'a, str>>,
    /// Street and number.
    pub street_address: Option<Cow<'a, str>>,
    /// Building, floor, suite.
    pub building_info: Option<Cow<'a, str>>,
    /// Neighbourhood, district.
    pub locality: Option<Cow<'a, str>>,
    /// City.
    pub city: Option<Cow<'a, str>>,
    /// State or province.
    pub admin_area: Option<Cow<'a, str>>,
    /// Postal code; many countries have none.
    pub postal_code: Option<Cow<'a, str>>,
    /// ISO code or English name, as the shop gives it.
    pub country: Option<Cow<'a, str>>,
}

impl Address<'_> {
    /// `None` if nothing but a name, or nothing at all, is known of it.
    #[must_use]
    pub fn unless_blank(self) -> Option<Self> {
        let has_any = [
            &self.street_address,
            &self.building_info,
            &self.locality,
            &self.city,
            &self.admin_area,
            &self.postal_code,
            &self.country,
        ]
        .iter()
        .any(|part| part.is_some());
        has_any.then_some(self)
    }
}

/// The value of one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue<'a> {
    /// Names, company, phone, e-mail: trimmed, never empty.
    Text(Cow<'a, str>),
    /// Individual or business.
    CustomerType(CustomerType),
    /// Active or inactive.
    Status(CustomerStatus),
    /// An address, perhaps incomplete.
    Address(Box<Address<'a>>),
}

/// What an event says of a field it speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said<'a> {
    /// This value.
    Value(FieldValue<'a>),
    /// That there is none: sent nowhere, but an older value no longer counts.
    Nothing,
}

/// One change of one customer, as parsed from a delivery.
#[derive(Debug, Clone, PartialEq)]
pub struct CustomerEvent<'a> {
    /// Whose change it is.
    pub customer: ShopCustomerId,
    /// FlexPortal's id, where the event carries it.
    pub flexportal_id: Option<FlexportalCustomerId>,
    /// When the shop says it happened; `None` where it does not say.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Whether the shop tells of the creation: of the same second, any other change is newer.
    pub is_creation: bool,
    /// Whether the shop tells that it deleted the customer.
    pub is_deletion: bool,
    /// The customer that the shop merged this one into.
    pub merged_into: Option<ShopCustomerId>,
    /// The fields this event speaks for; a field that is absent is left as it is.
    pub says: BTreeMap<Field, Said<'a>>,
    /// What of the payload could not be used, for people. Never holds values.
    pub warnings: Vec<String>,
}

impl CustomerEvent<'_> {
    /// An event that says nothing yet.
    #[must_use]
    pub fn of(customer: ShopCustomerId) -> Self {
        Self {
            customer,
            flexportal_id: None,
            occurred_at: None,
            is_creation: false,
            is_deletion: false,
            merged_into: None,
            says: BTreeMap::new(),
            warnings: Vec::new(),
        }
    }

    /// The e-mail, if the event gives one.
    #[must_use]
    pub fn email(&self) -> Option<&str> {
        match self.says.get(&Field::Email) {
            Some(Said::Value(FieldValue::Text(email))) => Some(email),
            _ => None,
        }
    }
}
