//! The body of `PUT /v1/customers/{customerId}` as a closed schema: whatever the reference does not list is refused.
//!
//! The real API does not say what it does with unknown fields or duplicate keys. The fake is as strict as can be,
//! so that a client that passes here sends nothing beyond the documentation. Empty address parts would pass the
//! documented schema; they are refused because our client promises not to send them.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::answers::Fault;

/// What happens to `email`, which the prose of the reference has and its schema lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmailRule {
    /// As the schema says: an unknown field.
    Refused,
    /// As the prose says: updatable.
    Accepted,
    /// Taken whatever it is, and ignored.
    Dropped,
}

/// Why a body is no update.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Not JSON; with the parser's words.
    NotJson(String),
    /// JSON, but no object.
    NotAnObject,
    /// An object that breaks the schema; sorted by path.
    Faults(Vec<Fault>),
}

enum Rule {
    /// A string of at least this many characters.
    Text { min: usize },
    /// A string or null.
    NullableText,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An address.
    Address,
}

struct Property {
    name: &'static str,
    is_required: bool,
    rule: Rule,
}

const fn optional(name: &'static str, rule: Rule) -> Property {
    Property { name, is_required: false, rule }
}

const fn required(name: &'static str) -> Property {
    Property { name, is_required: true, rule: Rule::Text { min: 1 } }
}

const UPDATE: &[Property] = &[
    required("customerId"),
    optional("firstName", Rule::Text { min: 1 }),
    optional("lastName", Rule::Text { min: 1 }),
    optional("company", Rule::Text { min: 0 }),
    optional("phone", Rule::Text { min: 0 }),
    optional("customerType", Rule::OneOf(&["individual", "business"])),
    optional("status", Rule::OneOf(&["active", "inactive"])),
    optional("billingAddress", Rule::Address),
    optional("shippingAddress", Rule::Address),
];

const ADDRESS: &[Property] = &[
    required("contactName"),
    required("streetAddress"),
    required("city"),
    required("country"),
    optional("company", Rule::Text { min: 0 }),
    optional("buildingInfo", Rule::Text { min: 0 }),
    optional("locality", Rule::Text { min: 0 }),
    optional("adminArea", Rule::Text { min: 0 }),
    optional("postalCode", Rule::NullableText),
];

/// Checks a body against the schema and the id in the path; gives back what is to be changed.
pub(super) fn check_update(body: &[u8], path_id: &str, email: EmailRule) -> Result<Map<String, Value>, BodyError> {
    let mut faults = Vec::new();
    let Value::Object(mut update) = parse(body, &mut faults).map_err(|error| BodyError::NotJson(error.to_string()))?
    else {
        return Err(BodyError::NotAnObject);
    };
    match email {
        EmailRule::Refused => {}
        EmailRule::Dropped => drop(update.remove("email")),
        EmailRule::Accepted => match update.get("email") {
            Some(Value::String(text)) if !text.contains('@') => {
                faults.push(Fault::new("email", "invalid_string", "is no e-mail address"));
            }
            Some(Value::String(_)) | None => {}
            Some(other) => faults.push(wrong_type("email", "a string", other)),
        },
    }
    check_object(&update, UPDATE, "", &mut faults);
    if email == EmailRule::Accepted {
        faults.retain(|fault| fault.path != "email" || fault.code != UNKNOWN);
    }
    if let Some(Value::String(id)) = update.get("customerId")
        && !id.is_empty()
        && id != path_id
    {
        faults.push(Fault::new("customerId", "mismatch", "differs from the id in the path"));
    }
    if !faults.is_empty() {
        faults.sort_by(|a, b| (&a.path, &a.code).cmp(&(&b.path, &b.code)));
        return Err(BodyError::Faults(faults));
    }
    Ok(update)
}

const UNKNOWN: &str = "unrecognized_keys";

fn check_object(object: &Map<String, Value>, properties: &[Property], prefix: &str, faults: &mut Vec<Fault>) {
    for property in properties.iter().filter(|property| property.is_required) {
        if !object.contains_key(property.name) {
            faults.push(Fault::new(format!("{prefix}{}", property.name), "required", "is missing"));
        }
    }
    for (name, value) in object {
        let path = format!("{prefix}{name}");
        match properties.iter().find(|property| property.name == name) {
            Some(property) => check_value(value, &property.rule, path, faults),
            None => faults.push(Fault::new(path, UNKNOWN, "is not a documented field")),
        }
    }
}

fn check_value(value: &Value, rule: &Rule, path: String, faults: &mut Vec<Fault>) {
    match (rule, value) {
        (Rule::Text { min }, Value::String(text)) => {
            if text.chars().count() < *min {
                faults.push(Fault::new(path, "too_small", "must not be empty"));
            }
        }
        (Rule::NullableText, Value::String(_) | Value::Null) => {}
        (Rule::OneOf(words), Value::String(text)) => {
            if !words.contains(&text.as_str()) {
                let message = format!("must be one of {}", words.join(", "));
                faults.push(Fault::new(path, "invalid_enum_value", message));
            }
        }
        (Rule::Address, Value::Object(address)) => check_object(address, ADDRESS, &format!("{path}."), faults),
        (Rule::Text { .. } | Rule::OneOf(_), other) => faults.push(wrong_type(&path, "a string", other)),
        (Rule::NullableText, other) => faults.push(wrong_type(&path, "a string or null", other)),
        (Rule::Address, other) => faults.push(wrong_type(&path, "an object", other)),
    }
}

fn wrong_type(path: &str, expected: &str, found: &Value) -> Fault {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    Fault::new(path, "invalid_type", format!("must be {expected}, is {found}"))
}

/// Parses JSON like `serde_json`, which silently keeps the last of two equal keys, but reports the second as a fault.
fn parse(body: &[u8], faults: &mut Vec<Fault>) -> serde_json::Result<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Node { path: String::new(), faults }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(value)
}

struct Node<'a> {
    path: String,
    faults: &'a mut Vec<Fault>,
}

impl Node<'_> {
    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = self.below(&items.len().to_string());
            match access.next_element_seed(Node { path, faults: self.faults })? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = self.below(&name);
            if object.contains_key(&name) {
                self.faults.push(Fault::new(path.clone(), "duplicate_key", "is given twice"));
            }
            let value = access.next_value_seed(Node { path, faults: self.faults })?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_ADDRESS: &str = r#"{"contactName":"A","streetAddress":"S 1","city":"C","country":"Norway"}"#;

    fn check(body: &str) -> Result<Map<String, Value>, BodyError> {
        check_update(body.as_bytes(), "cus_1", EmailRule::Refused)
    }

    fn faults_of(body: &str, email: EmailRule) -> Vec<(String, String)> {
        match check_update(body.as_bytes(), "cus_1", email) {
            Ok(_) => Vec::new(),
            Err(BodyError::Faults(faults)) => faults.into_iter().map(|fault| (fault.path, fault.code)).collect(),
            Err(other) => panic!("{body}: {other:?}"),
        }
    }

    #[test]
    fn documented_bodies_pass() {
        let bodies = [
            r#"{"customerId":"cus_1"}"#.to_owned(),
            r#"{"customerId":"cus_1","firstName":"Ada","lastName":"B","company":"","phone":""}"#.to_owned(),
            r#"{"customerId":"cus_1","customerType":"business","status":"inactive"}"#.to_owned(),
            format!(r#"{{"customerId":"cus_1","billingAddress":{GOOD_ADDRESS},"shippingAddress":{GOOD_ADDRESS}}}"#),
            format!(
                r#"{{"customerId":"cus_1","billingAddress":{{"company":"","buildingInfo":"2","locality":"L",
                "adminArea":"CA","postalCode":null,{}}}"#,
                &GOOD_ADDRESS[1..]
            ),
            format!(r#"{{"customerId":"cus_1","billingAddress":{{"postalCode":"0150",{}}}"#, &GOOD_ADDRESS[1..]),
        ];
        for body in bodies {
            let passed = check(&body);
            assert!(passed.is_ok(), "{body}: {passed:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_the_path_of_every_fault() {
        let cases: &[(&str, &[(&str, &str)])] = &[
            ("{}", &[("customerId", "required")]),
            (r#"{"customerId":""}"#, &[("customerId", "too_small")]),
            (r#"{"customerId":7}"#, &[("customerId", "invalid_type")]),
            (r#"{"customerId":null}"#, &[("customerId", "invalid_type")]),
            (r#"{"customerId":"cus_2"}"#, &[("customerId", "mismatch")]),
            (
                r#"{"customerId":"cus_1","firstName":"","lastName":""}"#,
                &[("firstName", "too_small"), ("lastName", "too_small")],
            ),
            (
                r#"{"customerId":"cus_1","firstName":null,"company":null,"phone":49}"#,
                &[("company", "invalid_type"), ("firstName", "invalid_type"), ("phone", "invalid_type")],
            ),
            (
                r#"{"customerId":"cus_1","customerType":"Business","status":"deleted"}"#,
                &[("customerType", "invalid_enum_value"), ("status", "invalid_enum_value")],
            ),
            (
                r#"{"customerId":"cus_1","status":true,"customerType":null}"#,
                &[("customerType", "invalid_type"), ("status", "invalid_type")],
            ),
            (
                r#"{"customerId":"cus_1","email":"a@example.com","customFields":{}}"#,
                &[("customFields", UNKNOWN), ("email", UNKNOWN)],
            ),
            (
                r#"{"customerId":"cus_1","billingAddress":null,"shippingAddress":"S 1"}"#,
                &[("billingAddress", "invalid_type"), ("shippingAddress", "invalid_type")],
            ),
            (
                r#"{"customerId":"cus_1","billingAddress":{}}"#,
                &[
                    ("billingAddress.city", "required"),
                    ("billingAddress.contactName", "required"),
                    ("billingAddress.country", "required"),
                    ("billingAddress.streetAddress", "required"),
                ],
            ),
            (
                r#"{"customerId":"cus_1","shippingAddress":{"contactName":"","streetAddress":"","city":"","country":"",
                "postalCode":10115,"locality":null,"zip":"1"}}"#,
                &[
                    ("shippingAddress.city", "too_small"),
                    ("shippingAddress.contactName", "too_small"),
                    ("shippingAddress.country", "too_small"),
                    ("shippingAddress.locality", "invalid_type"),
                    ("shippingAddress.postalCode", "invalid_type"),
                    ("shippingAddress.streetAddress", "too_small"),
                    ("shippingAddress.zip", UNKNOWN),
                ],
            ),
            (
                r#"{"customerId":"cus_1","phone":"1","phone":"1","billingAddress":{"city":"C","city":"D",
                "contactName":"A","streetAddress":"S","country":"N"}}"#,
                &[("billingAddress.city", "duplicate_key"), ("phone", "duplicate_key")],
            ),
            (
                r#"{"customerId":"cus_1","extra":[{"a":1,"a":2}]}"#,
                &[("extra", UNKNOWN), ("extra.0.a", "duplicate_key")],
            ),
        ];
        for (body, expected) in cases {
            let expected: Vec<_> =
                expected.iter().map(|(path, code)| ((*path).to_owned(), (*code).to_owned())).collect();
            assert_eq!(faults_of(body, EmailRule::Refused), expected, "{body}");
        }
    }

    #[test]
    fn what_is_no_json_object_is_no_update() {
        for body in ["", "{", r#"{"customerId":"cus_1"} x"#, "\u{feff}{}"] {
            assert!(matches!(check(body), Err(BodyError::NotJson(_))), "{body}");
        }
        for body in ["[]", "null", "1", "-1.5", "true", r#""cus_1""#] {
            assert_eq!(check(body), Err(BodyError::NotAnObject), "{body}");
        }
        assert!(matches!(check_update(b"{\"a\":\"\xff\"}", "cus_1", EmailRule::Refused), Err(BodyError::NotJson(_))));
    }

    #[test]
    fn email_passes_where_a_switch_lets_it() {
        let with = |email: &str| format!(r#"{{"customerId":"cus_1","email":{email}}}"#);
        assert!(faults_of(&with(r#""b@example.com""#), EmailRule::Accepted).is_empty());
        assert_eq!(
            faults_of(&with(r#""b""#), EmailRule::Accepted),
            [("email".to_owned(), "invalid_string".to_owned())]
        );
        assert_eq!(faults_of(&with("null"), EmailRule::Accepted), [("email".to_owned(), "invalid_type".to_owned())]);
        let dropped = check_update(with("null").as_bytes(), "cus_1", EmailRule::Dropped).expect("a good body");
        assert!(!dropped.contains_key("email"));
    }
}
