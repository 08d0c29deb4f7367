//! From what a shop said to the body FlexPortal documents.
//!
//! Only usable values are sent; what cannot be is a warning that names the field and never holds the value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::fold::Spoken;
use crate::config::CountryFormat;
use crate::domain::{Acknowledged, Address, CustomerStatus, Field, FieldValue, FlexportalCustomerId, Said, ValueHash};
use crate::flexportal::{AddressInput, CustomerChange, Status, UpdateCustomer};

/// What a tenant wants to have.
#[derive(Debug, Clone, Copy)]
pub struct Wishes {
    /// How countries are written.
    pub country_format: CountryFormat,
    /// Whether the e-mail is sent.
    pub send_email: bool,
}

/// The change, ready but for the customer it is for.
#[derive(Debug, Clone)]
pub struct Translated<'a> {
    change: CustomerChange<'a>,
    /// The fields in it, with the hash of each value.
    pub sent: BTreeMap<Field, ValueHash>,
    /// What could not be sent.
    pub warnings: Vec<String>,
}

impl Translated<'_> {
    /// The body of the request.
    #[must_use]
    pub fn for_customer<'a>(&'a self, id: &'a FlexportalCustomerId) -> UpdateCustomer<'a> {
        UpdateCustomer { customer_id: id, change: &self.change }
    }
}

/// Translates the newest word on each field.
#[must_use]
pub fn translate<'a>(fields: &BTreeMap<Field, Spoken<'a>>, known: &Acknowledged, wishes: Wishes) -> Translated<'a> {
    let mut translation =
        Translation { fields, change: CustomerChange::default(), sent: BTreeMap::new(), warnings: vec![], wishes };
    for (field, spoken) in fields {
        match spoken.said {
            Said::Value(value) => translation.set(*field, value, known),
            Said::Nothing => translation.emptied(*field, known),
        }
    }
    Translated { change: translation.change, sent: translation.sent, warnings: translation.warnings }
}

struct Translation<'a, 'f> {
    fields: &'f BTreeMap<Field, Spoken<'a>>,
    change: CustomerChange<'a>,
    sent: BTreeMap<Field, ValueHash>,
    warnings: Vec<String>,
    wishes: Wishes,
}

impl<'a> Translation<'a, '_> {
    fn set(&mut self, field: Field, value: &'a FieldValue<'a>, known: &Acknowledged) {
        let change = &mut self.change;
        let hash = match (field, value) {
            (Field::Email, FieldValue::Text(email)) => return self.email(email, known),
            (_, FieldValue::Text(text)) => {
                let place = match field {
                    Field::FirstName => &mut change.first_name,
                    Field::LastName => &mut change.last_name,
                    Field::Company => &mut change.company,
                    Field::Phone => &mut change.phone,
                    Field::Email
                    | Field::CustomerType
                    | Field::Status
                    | Field::BillingAddress
                    | Field::ShippingAddress => return,
                };
                *place = Some(text);
                ValueHash::of(text)
            }
            (_, FieldValue::CustomerType(customer_type)) => {
                change.customer_type = Some(*customer_type);
                ValueHash::of(customer_type)
            }
            (_, FieldValue::Status(status)) => {
                let status = match status {
                    CustomerStatus::Active => Status::Active,
                    CustomerStatus::Inactive => Status::Inactive,
                    CustomerStatus::Reinstated => return, // fold decides what it means
                };
                change.status = Some(status);
                ValueHash::of(&status)
            }
            (_, FieldValue::Address(address)) => {
                let Some(address) = self.address(field, address) else { return };
                let hash = ValueHash::of(&address);
                let is_billing = field == Field::BillingAddress;
                let place =
                    if is_billing { &mut self.change.billing_address } else { &mut self.change.shipping_address };
                *place = Some(address);
                hash
            }
        };
        self.sent.insert(field, hash);
    }

    fn email(&mut self, email: &'a str, known: &Acknowledged) {
        if self.wishes.send_email {
            self.change.email = Some(email);
            self.sent.insert(Field::Email, email_hash(email));
            return;
        }
        let before = known.0.get(&Field::Email).and_then(|settled| settled.hash.as_ref());
        if before.is_some_and(|before| *before != email_hash(email)) {
            self.warnings.push(EMAIL_DIFFERS.to_owned());
        }
    }

    /// FlexPortal documents no way to clear a field: one that had a value keeps it.
    fn emptied(&mut self, field: Field, known: &Acknowledged) {
        if known.0.get(&field).is_some_and(|settled| settled.hash.is_some()) && field != Field::Status {
            self.warnings.push(format!(
                "{} was emptied in the shop; FlexPortal documents no way to clear it and keeps its value",
                field.name()
            ));
        }
    }

    fn address(&mut self, field: Field, address: &'a Address<'a>) -> Option<AddressInput<'a>> {
        let contact_name = address.contact_name.as_deref().map(Cow::Borrowed);
        let contact_name = contact_name.or_else(|| contact_name_of(self.fields));
        let contact_name = contact_name.or(address.company.as_deref().map(Cow::Borrowed));
        let (street_address, city, country) =
            (address.street_address.as_deref(), address.city.as_deref(), address.country.as_deref());
        let required = [
            ("contactName", contact_name.is_some()),
            ("streetAddress", street_address.is_some()),
            ("city", city.is_some()),
            ("country", country.is_some()),
        ];
        let (Some(contact_name), Some(street_address), Some(city), Some(country)) =
            (contact_name, street_address, city, country)
        else {
            let missing: Vec<_> = required.iter().filter(|(_, is_there)| !is_there).map(|(name, _)| *name).collect();
            self.warnings.push(format!("{} was not sent: it has no {}", field.name(), missing.join(", ")));
            return None;
        };
        Some(AddressInput {
            contact_name,
            street_address,
            city,
            country: self.country(field, country),
            company: address.company.as_deref(),
            building_info: address.building_info.as_deref(),
            locality: address.locality.as_deref(),
            admin_area: address.admin_area.as_deref(),
            postal_code: address.postal_code.as_deref(),
        })
    }

    /// Shops give codes or names; one that is unknown goes on as it is.
    fn country(&mut self, field: Field, given: &'a str) -> Cow<'a, str> {
        let name_of_code = country_emoji::code_to_name(given);
        let code_of_name = || {
            // The crate also guesses at names that are nearly right; only the very name is taken.
            country_emoji::name_to_code(given)
                .filter(|code| country_emoji::code_to_name(code).is_some_and(|name| name.eq_ignore_ascii_case(given)))
        };
        let written = match (self.wishes.country_format, name_of_code) {
            (CountryFormat::Name, Some(name)) => Some(name.into()),
            (CountryFormat::Name, None) => code_of_name().map(|_| given.into()),
            (CountryFormat::Iso, Some(_)) => Some(given.to_ascii_uppercase().into()),
            (CountryFormat::Iso, None) => code_of_name().map(Cow::Borrowed),
        };
        written.unwrap_or_else(|| {
            self.warnings.push(format!("the country of {} is not known and was sent as the shop has it", field.name()));
            given.into()
        })
    }
}

/// Letter case makes no other address.
pub(super) fn email_hash(email: &str) -> ValueHash {
    ValueHash::of(&email.to_lowercase())
}

/// Recorded where FlexPortal has, or keeps, another e-mail than the shop.
pub const EMAIL_DIFFERS: &str =
    "the shop has another e-mail than FlexPortal: an order under it would make a second customer there";

fn contact_name_of<'a>(fields: &BTreeMap<Field, Spoken<'a>>) -> Option<Cow<'a, str>> {
    let text = |field| match fields.get(&field)?.said {
        Said::Value(FieldValue::Text(text)) => Some(text.as_ref()),
        _ => None,
    };
    match (text(Field::FirstName), text(Field::LastName)) {
        (Some(first), Some(last)) => Some(format!("{first} {last}").into()),
        (first, last) => first.or(last).or_else(|| text(Field::Company)).map(Cow::Borrowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Acknowledgement, EventId, OrderKey};
    use chrono::DateTime;

    const NAMES: Wishes = Wishes { country_format: CountryFormat::Name, send_email: false };

    fn text(text: &str) -> Said<'_> {
        Said::Value(FieldValue::Text(text.into()))
    }

    fn body(fields: &[(Field, Said<'_>)], known: &Acknowledged, wishes: Wishes) -> (serde_json::Value, Vec<String>) {
        let key = OrderKey::at(DateTime::UNIX_EPOCH, EventId(uuid::Uuid::nil()));
        let fields = fields.iter().map(|(field, said)| (*field, Spoken { said, key })).collect();
        let translated = translate(&fields, known, wishes);
        let id = FlexportalCustomerId::parse("cus_1").expect("an id");
        (serde_json::json!(translated.for_customer(&id)), translated.warnings)
    }

    fn address(country: &str) -> Address<'_> {
        let part = |text| Some(Cow::Borrowed(text));
        Address { street_address: part("Street 1"), city: part("City"), country: part(country), ..Address::default() }
    }

    fn country(given: &str, format: CountryFormat) -> (String, usize) {
        let said =
            Said::Value(FieldValue::Address(Box::new(Address { contact_name: Some("A".into()), ..address(given) })));
        let wishes = Wishes { country_format: format, send_email: false };
        let (body, warnings) = body(&[(Field::BillingAddress, said)], &Acknowledged::default(), wishes);
        (body["billingAddress"]["country"].as_str().expect("a country").to_owned(), warnings.len())
    }

    #[test]
    fn countries_are_written_as_configured_and_unknown_ones_pass_with_a_warning() {
        use CountryFormat::{Iso, Name};
        for (given, format, written) in [
            ("DE", Name, "Germany"),
            ("de", Name, "Germany"),
            ("NL", Name, "Netherlands"),
            ("GB", Name, "United Kingdom"),
            ("US", Name, "United States"),
            ("QA", Name, "Qatar"),
            ("Germany", Name, "Germany"),
            ("Germany", Iso, "DE"),
            ("US", Iso, "US"),
            ("United States", Iso, "US"),
        ] {
            assert_eq!(country(given, format), (written.to_owned(), 0), "{given}");
        }
        assert_eq!(country("Atlantis", Name), ("Atlantis".to_owned(), 1));
        assert_eq!(country("ZZ", Iso), ("ZZ".to_owned(), 1));
    }

    #[test]
    fn the_contact_falls_back_to_the_customers_name_and_then_the_company() {
        let billing = || (Field::BillingAddress, Said::Value(FieldValue::Address(Box::new(address("DE")))));
        let contact = |fields: &[_]| {
            let (body, _) = body(fields, &Acknowledged::default(), NAMES);
            body["billingAddress"]["contactName"].as_str().map(str::to_owned)
        };
        let first = || (Field::FirstName, text("Ada"));
        assert_eq!(contact(&[billing(), first(), (Field::LastName, text("L"))]).as_deref(), Some("Ada L"));
        assert_eq!(contact(&[billing(), first(), (Field::Company, text("C"))]).as_deref(), Some("Ada"));
        assert_eq!(contact(&[billing(), (Field::Company, text("C"))]).as_deref(), Some("C"));
        assert_eq!(contact(&[billing()]), None);
    }

    #[test]
    fn an_address_without_its_four_parts_is_not_sent_and_says_so() {
        let said =
            Said::Value(FieldValue::Address(Box::new(Address { country: Some("DE".into()), ..Address::default() })));
        let (body, warnings) = body(&[(Field::ShippingAddress, said)], &Acknowledged::default(), NAMES);
        assert_eq!(body, serde_json::json!({"customerId": "cus_1"}));
        assert_eq!(warnings, ["shippingAddress was not sent: it has no contactName, streetAddress, city"]);
    }

    #[test]
    fn the_email_goes_out_only_if_wished_and_a_change_of_it_is_a_warning() {
        let email = [(Field::Email, text("ada@example.com"))];
        let wishes = Wishes { send_email: true, ..NAMES };
        assert_eq!(body(&email, &Acknowledged::default(), wishes).0["email"], "ada@example.com");
        let (sent, warnings) = body(&email, &Acknowledged::default(), NAMES);
        assert_eq!((sent.get("email"), warnings.len()), (None, 0));
        let settled = Acknowledgement {
            key: OrderKey::at(DateTime::UNIX_EPOCH, EventId(uuid::Uuid::nil())),
            hash: Some(ValueHash::of(&"old@example.com")),
            acked: None,
            deactivated: false,
            deleted: false,
        };
        let known = Acknowledged([(Field::Email, settled)].into());
        assert_eq!(body(&email, &known, NAMES).1, [EMAIL_DIFFERS]);
    }

    #[test]
    fn what_was_emptied_is_a_warning_if_flexportal_had_it_and_a_status_never_is() {
        let settled = |hash: Option<ValueHash>| Acknowledgement {
            key: OrderKey::at(DateTime::UNIX_EPOCH, EventId(uuid::Uuid::nil())),
            hash,
            acked: None,
            deactivated: false,
            deleted: false,
        };
        let known = |field, hash| Acknowledged([(field, settled(hash))].into());
        let hash = || Some(ValueHash::of(&"before"));
        let warnings = |field, known: &Acknowledged| body(&[(field, Said::Nothing)], known, NAMES).1;
        let emptied = warnings(Field::Phone, &known(Field::Phone, hash()));
        assert!(matches!(&emptied[..], [warning] if warning.starts_with("phone was emptied")), "{emptied:?}");
        assert_eq!(warnings(Field::Phone, &known(Field::Phone, None)), [""; 0], "it had none");
        assert_eq!(warnings(Field::Phone, &Acknowledged::default()), [""; 0]);
        assert_eq!(warnings(Field::Status, &known(Field::Status, hash())), [""; 0]);
    }
}
