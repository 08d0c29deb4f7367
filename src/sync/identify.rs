//! Who a shop's customer is in FlexPortal: by e-mail, where neither the event nor a link says it.

use crate::domain::{FlexportalCustomerId, ShopCustomerId};
use crate::flexportal::Found;

/// The forms of an e-mail to ask for: as the shop writes it, and in lower case.
///
/// Whether FlexPortal's filter minds letter case is not documented, so both answers together tell how many customers
/// have it.
#[must_use]
pub fn forms(email: &str) -> Vec<String> {
    let lower = email.to_lowercase();
    if lower == email { vec![lower] } else { vec![email.to_owned(), lower] }
}

/// What the answers tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Exactly one customer has that e-mail.
    One(FlexportalCustomerId),
    /// None has.
    None,
    /// Several have: never a guess.
    Several,
    /// One has, and it is another shop customer, whose e-mail has changed since: never a guess.
    Taken {
        /// FlexPortal's customer.
        id: FlexportalCustomerId,
        /// Whose it is.
        by: ShopCustomerId,
    },
}

/// Reads the answers; letter case apart, only customers with the very e-mail count.
#[must_use]
pub fn matching(email: &str, found: &[Found]) -> Match {
    let same = |found: &&Found| found.email.trim().to_lowercase() == email.to_lowercase();
    let mut ids: Vec<_> = found.iter().filter(same).map(|found| found.customer_id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    match ids.as_slice() {
        [] => Match::None,
        [id] => FlexportalCustomerId::parse(*id).map_or(Match::None, Match::One),
        _ => Match::Several,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: &str, email: &str) -> Found {
        Found { customer_id: id.to_owned(), email: email.to_owned() }
    }

    #[test]
    fn an_email_with_capitals_is_asked_for_in_lower_case_too() {
        assert_eq!(forms("a@b.c"), ["a@b.c"]);
        assert_eq!(forms("Ada@b.c"), ["Ada@b.c", "ada@b.c"]);
    }

    #[test]
    fn only_one_customer_with_that_very_email_is_a_match() {
        let one = Match::One(FlexportalCustomerId::parse("c1").expect("an id"));
        assert_eq!(matching("Ada@b.c", &[found("c1", "ada@B.c"), found("c2", "eva@b.c")]), one);
        assert_eq!(matching("ada@b.c", &[found("c1", "ada@b.c"), found("c1", "ada@b.c")]), one);
        assert_eq!(matching("ada@b.c", &[found("c1", "ada@b.c"), found("c2", "ada@b.c")]), Match::Several);
        assert_eq!(matching("ada@b.c", &[]), Match::None);
    }
}
