//! The burst: who changes what, in which order it arrives, and what is sent twice or late. All of it follows from
//! one seed, but for the hour of the day.
//!
//! Every value bears the number of the change that it comes from (`Ada 17`, `Street 17`), so that whatever is found
//! at FlexPortal can be traced to its change.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use flexportal_sync::config::ShopKind;
use flexportal_sync::domain::Field;
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

/// Deliveries a second.
pub(crate) const RATE: u32 = 300;

/// The fields that a change may speak for.
pub(crate) const FIELDS: [Field; 6] =
    [Field::FirstName, Field::LastName, Field::Company, Field::Phone, Field::BillingAddress, Field::ShippingAddress];

/// How much is sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Deliveries, those sent twice included.
    pub(crate) deliveries: u32,
    /// Customers; each changes at least once.
    pub(crate) customers: u32,
}

/// A customer of a shop and of FlexPortal.
#[derive(Debug, Clone)]
pub(crate) struct Customer {
    /// Counts from 1.
    pub(crate) number: u32,
    /// Its shop.
    pub(crate) kind: ShopKind,
    /// FlexPortal refuses every change of it, for good.
    pub(crate) is_refused: bool,
}

impl Customer {
    /// Its id at FlexPortal.
    pub(crate) fn flexportal_id(&self) -> String {
        format!("cus_{}", self.number)
    }

    /// Its e-mail, at the shop and at FlexPortal.
    pub(crate) fn email(&self) -> String {
        format!("customer{}@example.com", self.number)
    }

    /// Its id at its shop, as the outbox has it.
    pub(crate) fn shop_id(&self) -> String {
        match self.kind {
            ShopKind::Generic => format!("shop-{}", self.number),
            ShopKind::Shopify | ShopKind::WooCommerce => self.number.to_string(),
        }
    }

    /// Whether FlexPortal has to be asked who it is: only the events of the generic source carry that.
    pub(crate) fn is_looked_up(&self) -> bool {
        self.kind != ShopKind::Generic
    }
}

/// One change of one customer.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    /// Index of the customer.
    pub(crate) customer: usize,
    /// When it happened, as its shop says: to the second, but for the generic source.
    pub(crate) occurred_at: DateTime<Utc>,
    /// What it speaks for.
    pub(crate) fields: Vec<Field>,
    /// Whether a newer change of the customer is sent before it.
    pub(crate) is_late: bool,
}

/// Everything that is sent.
#[derive(Debug, Clone)]
pub(crate) struct Burst {
    /// The customers, by number.
    pub(crate) customers: Vec<Customer>,
    /// The changes, in the order in which they are first sent. Their index is the number in their values.
    pub(crate) changes: Vec<Change>,
    /// Indices of changes, in the order of sending; one that stands there twice is sent twice.
    pub(crate) deliveries: Vec<usize>,
}

impl Burst {
    /// Plans a burst whose first change happens at `start`.
    ///
    /// Of 20 customers 15 are of the generic source and carry FlexPortal's id; 3 of Shopify and 2 of `WooCommerce`
    /// are looked up by e-mail. Of the deliveries 5 % are sent twice, 3 % late; customers that have 0.5 % of the
    /// changes are refused. How often a customer changes falls with its rank (Zipf, exponent 1), over at least once.
    pub(crate) fn new(seed: u64, size: Size, start: DateTime<Utc>) -> Self {
        // A named generator: the same burst with every version of the library.
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let twice = (size.deliveries / 20) as usize;
        let late = (size.deliveries * 3 / 100) as usize;
        let refused = (size.deliveries as usize / 200).max(1);

        let whose = whose_changes(&mut random, size, size.deliveries as usize - twice);
        let deliveries = order_of_sending(&mut random, whose.len(), twice);
        let late = late_ones(&mut random, &whose, late);
        let refused = refused_ones(&mut random, &whose, size, refused);
        let customers: Vec<_> = (1..=size.customers)
            .map(|number| Customer { number, kind: kind_of(number), is_refused: refused.contains(&number) })
            .collect();
        let mut changes = Vec::with_capacity(whose.len());
        let mut newest: BTreeMap<usize, DateTime<Utc>> = BTreeMap::new();
        for (place, change) in deliveries.iter().enumerate() {
            if *change != changes.len() {
                continue; // sent before
            }
            let customer = whose[*change];
            let kind = customers[customer].kind;
            let is_late = late.contains(change);
            let occurred_at = match newest.get(&customer) {
                Some(newest) if is_late => *newest - TimeDelta::seconds(1),
                _ => as_told(kind, start + due_after(place)),
            };
            let before = newest.entry(customer).or_insert(occurred_at);
            *before = occurred_at.max(*before);
            changes.push(Change { customer, occurred_at, fields: fields_of(&mut random, kind), is_late });
        }
        Self { customers, changes, deliveries }
    }

    /// The customer of a change.
    pub(crate) fn customer_of(&self, change: usize) -> &Customer {
        &self.customers[self.changes[change].customer]
    }

    /// What the shop sends of a change.
    pub(crate) fn body(&self, change: usize) -> Vec<u8> {
        let customer = self.customer_of(change);
        let at = self.changes[change].occurred_at;
        let body = match customer.kind {
            ShopKind::Generic => {
                let mut data = json!({
                    "customerId": customer.shop_id(),
                    "flexportalCustomerId": customer.flexportal_id(),
                    "email": customer.email(),
                });
                for field in &self.changes[change].fields {
                    data[field.name()] = generic_value(*field, change);
                }
                let timestamp = at.to_rfc3339_opts(SecondsFormat::Millis, true);
                json!({"type": "customer.updated", "timestamp": timestamp, "data": data})
            }
            ShopKind::Shopify => json!({
                "id": customer.number,
                "email": customer.email(),
                "updated_at": at.to_rfc3339_opts(SecondsFormat::Secs, true),
                "first_name": text(Field::FirstName, change),
                "last_name": text(Field::LastName, change),
                "phone": text(Field::Phone, change),
                "default_address": {
                    "company": text(Field::Company, change),
                    "address1": text(Field::BillingAddress, change),
                    "city": "Berlin",
                    "zip": "10115",
                    "country_code": "DE",
                },
            }),
            ShopKind::WooCommerce => {
                let address = |field| {
                    json!({
                        "first_name": text(Field::FirstName, change),
                        "last_name": text(Field::LastName, change),
                        "company": text(Field::Company, change),
                        "phone": text(Field::Phone, change),
                        "address_1": text(field, change),
                        "city": "Berlin",
                        "postcode": "10115",
                        "country": "DE",
                    })
                };
                json!({
                    "id": customer.number,
                    "email": customer.email(),
                    "date_modified_gmt": at.format("%Y-%m-%dT%H:%M:%S").to_string(),
                    "role": "customer",
                    "first_name": text(Field::FirstName, change),
                    "last_name": text(Field::LastName, change),
                    "billing": address(Field::BillingAddress),
                    "shipping": address(Field::ShippingAddress),
                })
            }
        };
        body.to_string().into_bytes()
    }
}

/// How long after the first delivery the one at `place` is due.
pub(crate) fn due_after(place: usize) -> TimeDelta {
    TimeDelta::microseconds(i64::try_from(place).unwrap_or(i64::MAX) * 1_000_000 / i64::from(RATE))
}

/// The number of the change that a value of FlexPortal's field comes from, if it comes from one.
pub(crate) fn change_in(value: &Value) -> Option<usize> {
    let text = if value.is_object() { &value["streetAddress"] } else { value };
    text.as_str()?.rsplit(' ').next()?.parse().ok()
}

fn text(field: Field, change: usize) -> String {
    let word = match field {
        Field::FirstName => "Ada",
        Field::LastName => "Lovelace",
        Field::Company => "Engines",
        Field::Phone => "+49 30",
        Field::BillingAddress | Field::ShippingAddress => "Street",
        Field::CustomerType | Field::Status | Field::Email => "",
    };
    format!("{word} {change}")
}

/// A value as the generic source and FlexPortal write it.
pub(crate) fn generic_value(field: Field, change: usize) -> Value {
    let text = text(field, change);
    match field {
        Field::BillingAddress | Field::ShippingAddress => json!({
            "contactName": "Ada Lovelace",
            "streetAddress": text,
            "city": "Berlin",
            "country": "Germany",
            "postalCode": "10115",
        }),
        _ => json!(text),
    }
}

fn kind_of(number: u32) -> ShopKind {
    match number % 20 {
        0..15 => ShopKind::Generic,
        15..18 => ShopKind::Shopify,
        _ => ShopKind::WooCommerce,
    }
}

/// The time of a change as its shop tells it.
fn as_told(kind: ShopKind, at: DateTime<Utc>) -> DateTime<Utc> {
    match kind {
        ShopKind::Generic => at.trunc_subsecs(3),
        ShopKind::Shopify | ShopKind::WooCommerce => at.trunc_subsecs(0),
    }
}

/// The customer of each change: every one once, the rest skewed, in any order.
fn whose_changes(random: &mut Xoshiro256PlusPlus, size: Size, changes: usize) -> Vec<usize> {
    let mut whose: Vec<usize> = (0..size.customers as usize).collect();
    let mut by_rank = whose.clone();
    by_rank.shuffle(random);
    let zipf = WeightedIndex::new((1..=size.customers).map(|rank| 1.0 / f64::from(rank)));
    let zipf = zipf.expect("there are customers, and no weight is negative");
    whose.extend(zipf.sample_iter(&mut *random).map(|rank| by_rank[rank]).take(changes - by_rank.len()));
    whose.shuffle(random);
    whose
}

/// All changes in order, and some of them once more: a tenth of a second to two seconds later.
fn order_of_sending(random: &mut Xoshiro256PlusPlus, changes: usize, twice: usize) -> Vec<usize> {
    let mut again: Vec<usize> = (0..changes).collect();
    again.shuffle(random);
    let rate = RATE as usize;
    let mut places: Vec<_> = (0..changes).map(|change| (change, false, change)).collect();
    places
        .extend(again[..twice].iter().map(|change| (change + random.random_range(rate / 10..2 * rate), true, *change)));
    places.sort_unstable();
    places.into_iter().map(|(_, _, change)| change).collect()
}

/// Changes that are to be older than one of their customer that was sent before.
fn late_ones(random: &mut Xoshiro256PlusPlus, whose: &[usize], count: usize) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut followers: Vec<usize> = (0..whose.len()).filter(|change| !seen.insert(whose[*change])).collect();
    followers.shuffle(random);
    followers.into_iter().take(count).collect()
}

/// Numbers of customers who together have at least `changes` changes; those who change often are spared.
fn refused_ones(random: &mut Xoshiro256PlusPlus, whose: &[usize], size: Size, changes: usize) -> BTreeSet<u32> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for customer in whose {
        *counts.entry(*customer).or_default() += 1;
    }
    let mut numbers: Vec<u32> = (1..=size.customers).collect();
    numbers.shuffle(random);
    let mut sum = 0;
    let mut refused = BTreeSet::new();
    for number in numbers {
        let count = counts.get(&(number as usize - 1)).copied().unwrap_or_default();
        if sum < changes && count <= 2 {
            sum += count;
            refused.insert(number);
        }
    }
    refused
}

fn fields_of(random: &mut Xoshiro256PlusPlus, kind: ShopKind) -> Vec<Field> {
    let mut fields = FIELDS;
    // Shopify and WooCommerce always send the whole customer, the generic source half of the time.
    if kind != ShopKind::Generic || random.random_bool(0.5) {
        return fields.to_vec();
    }
    fields.shuffle(random);
    fields[..random.random_range(1..=3)].to_vec()
}
