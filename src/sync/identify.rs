//! Who a shop's customer is in FlexPortal: by e-mail, where neither the event nor a link says it.

use crate::domain::FlexportalCustomerId;
use crate::flexportal::Found;

/// The questions to ask for an e-mail, in order; the first that finds somebody ends the search.
///
/// Whether FlexPortal's filter minds letter case is not documented, so the lower-case form is asked too; its
/// plain list hides inactive customers, so they are asked for last.
#[must_use]
pub fn questions(email: &str) -> Vec<(String, bool)> {
    let lower = email.to_lowercase();
    let mut forms = vec![email.to_owned()];
    if lower != email {
        forms.push(lower);
    }
    [false, true].into_iter().flat_map(|inactive| forms.clone().into_iter().map(move |form| (form, inactive))).collect()
}

/// What an answer to such a question tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// Exactly one customer has that e-mail.
    One(FlexportalCustomerId),
    /// None has.
    None,
    /// Several have: never a guess.
    Several,
}

/// Reads an answer; letter case apart, only customers with the very e-mail count.
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
    fn inactive_customers_are_asked_for_after_the_plain_list() {
        let asked = |form: &str, inactive| (form.to_owned(), inactive);
        assert_eq!(questions("a@b.c"), [asked("a@b.c", false), asked("a@b.c", true)]);
        assert_eq!(
            questions("Ada@b.c"),
            [asked("Ada@b.c", false), asked("ada@b.c", false), asked("Ada@b.c", true), asked("ada@b.c", true)]
        );
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
