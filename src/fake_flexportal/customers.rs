//! The customers the fake knows, and what lists and updates do to them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::query::{ListQuery, SortBy};
use crate::domain::CustomerType;

/// A customer as the fake keeps it; everything but id and e-mail has a default.
///
/// `billingAddress` and `shippingAddress` of an update become `lastBillingAddress` and `lastShippingAddress`, which
/// replace the former address as a whole. The tenant is the fake's own and added to every answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FakeCustomer {
    /// Opaque and not empty.
    pub customer_id: String,
    /// Found by this in the list; not empty.
    pub email: String,
    /// Given name.
    pub first_name: String,
    /// Family name.
    pub last_name: String,
    /// Company, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub company: Option<String>,
    /// Phone number, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Individual or business.
    pub customer_type: CustomerType,
    /// Active, or deactivated and hidden from lists that do not ask for it.
    pub status: FakeStatus,
    /// Orders so far.
    pub total_orders: u32,
    /// Devices out now.
    pub total_devices_rented: u32,
    /// In the tenant's currency.
    pub total_monthly_revenue: f64,
    /// Ids of orders.
    pub order_ids: Vec<String>,
    /// Ids of subscriptions.
    pub rental_ids: Vec<String>,
    /// Who made the record.
    pub created_by: String,
    /// Fields that the tenant defined.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub custom_fields: Map<String, Value>,
    /// The address of the last update or order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_billing_address: Option<Value>,
    /// The address of the last update or order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_shipping_address: Option<Value>,
    /// When it was made; the time of adding it unless given.
    pub created_at: Option<DateTime<Utc>>,
    /// When it was last changed; the time of adding it unless given.
    pub updated_at: Option<DateTime<Utc>>,
}

/// `status` of a customer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FakeStatus {
    /// In use.
    #[default]
    Active,
    /// Deactivated.
    Inactive,
}

impl Default for FakeCustomer {
    fn default() -> Self {
        Self {
            customer_id: String::new(),
            email: String::new(),
            first_name: "Some".to_owned(),
            last_name: "Customer".to_owned(),
            company: None,
            phone: None,
            customer_type: CustomerType::Individual,
            status: FakeStatus::Active,
            total_orders: 0,
            total_devices_rented: 0,
            total_monthly_revenue: 0.0,
            order_ids: Vec::new(),
            rental_ids: Vec::new(),
            created_by: "fake".to_owned(),
            custom_fields: Map::new(),
            last_billing_address: None,
            last_shipping_address: None,
            created_at: None,
            updated_at: None,
        }
    }
}

impl FakeCustomer {
    /// An active individual.
    #[must_use]
    pub fn new(customer_id: impl Into<String>, email: impl Into<String>) -> Self {
        Self { customer_id: customer_id.into(), email: email.into(), ..Self::default() }
    }

    /// Customer `number` of those that `--customers` makes.
    #[must_use]
    pub fn numbered(number: u32) -> Self {
        Self {
            first_name: "Customer".to_owned(),
            last_name: number.to_string(),
            ..Self::new(format!("cus_{number}"), format!("customer{number}@example.com"))
        }
    }

    /// The same customer, deactivated.
    #[must_use]
    pub fn inactive(self) -> Self {
        Self { status: FakeStatus::Inactive, ..self }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.customer_id.is_empty() {
            return Err("customerId must not be empty".to_owned());
        }
        if self.email.is_empty() {
            return Err(format!("email of `{}` must not be empty", self.customer_id));
        }
        Ok(())
    }

    /// As FlexPortal shows it.
    pub(super) fn shown(&self, tenant_id: &str) -> Value {
        let mut shown = serde_json::to_value(self).unwrap_or_default();
        shown["tenantId"] = tenant_id.into();
        shown
    }

    /// Makes a change that has passed the schema.
    fn change(&mut self, update: &Map<String, Value>, at: DateTime<Utc>) {
        for (name, value) in update {
            let text = || value.as_str().unwrap_or_default().to_owned();
            match name.as_str() {
                "email" => self.email = text(),
                "firstName" => self.first_name = text(),
                "lastName" => self.last_name = text(),
                "company" => self.company = Some(text()),
                "phone" => self.phone = Some(text()),
                "customerType" => {
                    let is_business = value == "business";
                    self.customer_type = if is_business { CustomerType::Business } else { CustomerType::Individual };
                }
                "status" => {
                    let is_inactive = value == "inactive";
                    self.status = if is_inactive { FakeStatus::Inactive } else { FakeStatus::Active };
                }
                "billingAddress" => self.last_billing_address = Some(value.clone()),
                "shippingAddress" => self.last_shipping_address = Some(value.clone()),
                _ => {}
            }
        }
        self.updated_at = Some(at);
    }
}

/// One page of a list.
pub(super) struct Page<'a> {
    pub(super) customers: Vec<&'a FakeCustomer>,
    pub(super) next_cursor: Option<&'a str>,
}

/// Every customer, found by id or e-mail without a walk through all of them.
#[derive(Debug, Default)]
pub(super) struct Customers {
    by_id: BTreeMap<String, FakeCustomer>,
    ids_by_lower_case_email: BTreeMap<String, BTreeSet<String>>,
}

impl Customers {
    /// Adds a customer, or replaces the one with the same id.
    pub(super) fn add(&mut self, mut customer: FakeCustomer, at: DateTime<Utc>) {
        self.remove(&customer.customer_id);
        let created_at = *customer.created_at.get_or_insert(at);
        customer.updated_at.get_or_insert(created_at.max(at));
        let ids = self.ids_by_lower_case_email.entry(customer.email.to_lowercase()).or_default();
        ids.insert(customer.customer_id.clone());
        self.by_id.insert(customer.customer_id.clone(), customer);
    }

    /// Takes a customer away, as if it had never been.
    pub(super) fn remove(&mut self, customer_id: &str) -> Option<FakeCustomer> {
        let removed = self.by_id.remove(customer_id)?;
        let email = removed.email.to_lowercase();
        if let Some(ids) = self.ids_by_lower_case_email.get_mut(&email) {
            ids.remove(customer_id);
            if ids.is_empty() {
                self.ids_by_lower_case_email.remove(&email);
            }
        }
        Some(removed)
    }

    pub(super) fn get(&self, customer_id: &str) -> Option<&FakeCustomer> {
        self.by_id.get(customer_id)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &FakeCustomer> {
        self.by_id.values()
    }

    /// Makes a checked change; `None` if there is no such customer.
    pub(super) fn change(
        &mut self,
        customer_id: &str,
        update: &Map<String, Value>,
        at: DateTime<Utc>,
    ) -> Option<&FakeCustomer> {
        // Out and in again, for the e-mail may change.
        let mut customer = self.remove(customer_id)?;
        customer.change(update, at);
        self.add(customer, at);
        self.get(customer_id)
    }

    /// One page; `None` if its cursor is none that a page of this list ends with.
    pub(super) fn page(&self, query: &ListQuery, email_case_insensitive: bool) -> Option<Page<'_>> {
        let candidates: Vec<&FakeCustomer> = match &query.email {
            None => self.all().collect(),
            Some(email) => {
                let ids = self.ids_by_lower_case_email.get(&email.to_lowercase());
                let found = ids.into_iter().flatten().filter_map(|id| self.get(id));
                found.filter(|customer| email_case_insensitive || customer.email == *email).collect()
            }
        };
        let mut listed: Vec<_> = candidates.into_iter().filter(|customer| is_listed(customer, query)).collect();
        // Stable, so that equal ones stay in the order of their ids and pages neither overlap nor leave gaps.
        listed.sort_by(|a, b| {
            let ordering = match query.sort_by {
                SortBy::CreatedAt => a.created_at.cmp(&b.created_at),
                SortBy::FirstName => a.first_name.cmp(&b.first_name),
                SortBy::LastName => a.last_name.cmp(&b.last_name),
                SortBy::Email => a.email.cmp(&b.email),
                SortBy::TotalMonthlyRevenue => a.total_monthly_revenue.total_cmp(&b.total_monthly_revenue),
                SortBy::TotalDevicesRented => a.total_devices_rented.cmp(&b.total_devices_rented),
            };
            if query.is_ascending { ordering } else { ordering.reverse() }
        });
        let start = match &query.start_after {
            None => 0,
            Some(cursor) => listed.iter().position(|customer| customer.customer_id == *cursor)? + 1,
        };
        let has_more = listed.len() > start + query.limit;
        let customers: Vec<_> = listed.into_iter().skip(start).take(query.limit).collect();
        let next_cursor = customers.last().filter(|_| has_more).map(|last| last.customer_id.as_str());
        Some(Page { customers, next_cursor })
    }
}

fn is_listed(customer: &FakeCustomer, query: &ListQuery) -> bool {
    customer.status == query.status.unwrap_or(FakeStatus::Active)
        && query.customer_type.is_none_or(|wanted| customer.customer_type == wanted)
        && query.has_active_rentals.is_none_or(|wanted| (customer.total_devices_rented > 0) == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(customers: &Customers, query: &str, email_case_insensitive: bool) -> Vec<String> {
        let query = ListQuery::parse(query).expect("a good query");
        let page = customers.page(&query, email_case_insensitive).expect("a good cursor");
        page.customers.iter().map(|customer| customer.customer_id.clone()).collect()
    }

    #[test]
    fn an_email_is_found_until_it_changes() {
        let mut customers = Customers::default();
        let now = DateTime::UNIX_EPOCH;
        customers.add(FakeCustomer::new("a", "Ada@example.com"), now);
        customers.add(FakeCustomer::new("b", "ada@example.com"), now);
        assert_eq!(ids(&customers, "email=ada%40example.com", false), ["b"]);
        assert_eq!(ids(&customers, "email=ada%40example.com", true), ["a", "b"]);

        let update = serde_json::json!({"email": "eve@example.com"});
        customers.change("b", update.as_object().expect("an object"), now);
        assert_eq!(ids(&customers, "email=ada%40example.com", true), ["a"]);
        assert_eq!(ids(&customers, "email=eve%40example.com", false), ["b"]);
        customers.remove("b");
        assert!(ids(&customers, "email=eve%40example.com", false).is_empty());
    }

    #[test]
    fn lists_filter_and_sort() {
        let mut customers = Customers::default();
        for (id, rented, customer_type, second) in [
            ("a", 0, CustomerType::Business, 2),
            ("b", 2, CustomerType::Individual, 3),
            ("c", 1, CustomerType::Business, 1),
        ] {
            let customer = FakeCustomer {
                total_devices_rented: rented,
                customer_type,
                created_at: DateTime::from_timestamp(second, 0),
                ..FakeCustomer::new(id, format!("{id}@example.com"))
            };
            customers.add(customer, DateTime::UNIX_EPOCH);
        }
        assert_eq!(ids(&customers, "", false), ["b", "a", "c"], "newest first");
        assert_eq!(ids(&customers, "sortDir=asc", false), ["c", "a", "b"]);
        assert_eq!(ids(&customers, "sortBy=totalDevicesRented", false), ["b", "c", "a"]);
        assert_eq!(ids(&customers, "sortBy=email&sortDir=asc&limit=2", false), ["a", "b"]);
        assert_eq!(ids(&customers, "sortBy=email&sortDir=asc&limit=2&startAfter=b", false), ["c"]);
        assert_eq!(ids(&customers, "customerType=business", false), ["a", "c"]);
        assert_eq!(ids(&customers, "hasActiveRentals=true", false), ["b", "c"]);
    }
}
