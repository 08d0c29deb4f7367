//! The query of `GET /v1/customers`, every parameter checked.

use super::answers::Fault;
use super::customers::FakeStatus;
use crate::domain::CustomerType;

/// `sortBy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SortBy {
    CreatedAt,
    FirstName,
    LastName,
    Email,
    TotalMonthlyRevenue,
    TotalDevicesRented,
}

/// What a list is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListQuery {
    /// 1 to 100.
    pub(super) limit: usize,
    pub(super) start_after: Option<String>,
    pub(super) status: Option<FakeStatus>,
    pub(super) customer_type: Option<CustomerType>,
    pub(super) email: Option<String>,
    pub(super) has_active_rentals: Option<bool>,
    pub(super) sort_by: SortBy,
    pub(super) is_ascending: bool,
}

impl Default for ListQuery {
    fn default() -> Self {
        Self {
            limit: 50,
            start_after: None,
            status: None,
            customer_type: None,
            email: None,
            has_active_rentals: None,
            sort_by: SortBy::CreatedAt,
            is_ascending: false,
        }
    }
}

impl ListQuery {
    /// Reads what stands after the question mark. Unknown, repeated and ill-valued parameters are faults: the
    /// reference does not say what becomes of them, and a client has no use for them.
    pub(super) fn parse(query: &str) -> Result<Self, Vec<Fault>> {
        let mut parsed = Self::default();
        let mut seen = Vec::new();
        let mut faults = Vec::new();
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            if seen.contains(&name) {
                faults.push(Fault::new(name, "duplicate_key", "is given twice"));
                continue;
            }
            if let Err((code, message)) = parsed.set(&name, &value) {
                faults.push(Fault::new(name.clone(), code, message));
            }
            seen.push(name);
        }
        if faults.is_empty() { Ok(parsed) } else { Err(faults) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), (&'static str, &'static str)> {
        match name {
            "limit" => {
                let limit = value.parse().ok().filter(|limit| (1..=100).contains(limit));
                self.limit = limit.ok_or(("invalid_number", "must be a number from 1 to 100"))?;
            }
            "startAfter" => self.start_after = Some(not_empty(value)?),
            "email" => self.email = Some(not_empty(value)?),
            "status" => {
                self.status =
                    Some(one_of(value, &[("active", FakeStatus::Active), ("inactive", FakeStatus::Inactive)])?);
            }
            "customerType" => {
                let types = [("individual", CustomerType::Individual), ("business", CustomerType::Business)];
                self.customer_type = Some(one_of(value, &types)?);
            }
            "hasActiveRentals" => self.has_active_rentals = Some(one_of(value, &[("true", true), ("false", false)])?),
            "sortBy" => {
                let columns = [
                    ("createdAt", SortBy::CreatedAt),
                    ("firstName", SortBy::FirstName),
                    ("lastName", SortBy::LastName),
                    ("email", SortBy::Email),
                    ("totalMonthlyRevenue", SortBy::TotalMonthlyRevenue),
                    ("totalDevicesRented", SortBy::TotalDevicesRented),
                ];
                self.sort_by = one_of(value, &columns)?;
            }
            "sortDir" => self.is_ascending = one_of(value, &[("asc", true), ("desc", false)])?,
            _ => return Err(("unrecognized_keys", "is not a documented parameter")),
        }
        Ok(())
    }
}

fn not_empty(value: &str) -> Result<String, (&'static str, &'static str)> {
    if value.is_empty() { Err(("too_small", "must not be empty")) } else { Ok(value.to_owned()) }
}

fn one_of<T: Copy>(value: &str, allowed: &[(&str, T)]) -> Result<T, (&'static str, &'static str)> {
    let found = allowed.iter().find(|(word, _)| *word == value);
    found.map(|(_, meaning)| *meaning).ok_or(("invalid_enum_value", "is none of the documented values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documented_parameters_are_read() {
        let query = "limit=100&startAfter=cus_1&status=inactive&customerType=business&email=a%2Bb%40example.com\
                     &hasActiveRentals=false&sortBy=lastName&sortDir=asc";
        let expected = ListQuery {
            limit: 100,
            start_after: Some("cus_1".to_owned()),
            status: Some(FakeStatus::Inactive),
            customer_type: Some(CustomerType::Business),
            email: Some("a+b@example.com".to_owned()),
            has_active_rentals: Some(false),
            sort_by: SortBy::LastName,
            is_ascending: true,
        };
        assert_eq!(ListQuery::parse(query), Ok(expected));
        assert_eq!(ListQuery::parse(""), Ok(ListQuery::default()));
    }

    #[test]
    fn anything_else_is_named() {
        let cases = [
            ("limit=0", "invalid_number"),
            ("limit=101", "invalid_number"),
            ("limit=ten", "invalid_number"),
            ("startAfter=", "too_small"),
            ("email=", "too_small"),
            ("status=Active", "invalid_enum_value"),
            ("customerType=person", "invalid_enum_value"),
            ("hasActiveRentals=1", "invalid_enum_value"),
            ("sortBy=phone", "invalid_enum_value"),
            ("sortDir=up", "invalid_enum_value"),
            ("page=2", "unrecognized_keys"),
            ("limit=1&limit=1", "duplicate_key"),
        ];
        for (query, code) in cases {
            let faults = ListQuery::parse(query).expect_err(query);
            assert_eq!(faults.iter().map(|fault| fault.code.as_str()).collect::<Vec<_>>(), [code], "{query}");
            assert_eq!(faults[0].path, query.split('=').next().unwrap_or_default());
        }
    }
}
