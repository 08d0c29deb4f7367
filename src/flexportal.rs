//! FlexPortal's API, as far as a customer sync needs it: `docs.flexportal.io/api-reference/customers`.
//!
//! Customers come into being by orders; they can be found by e-mail and changed, not created. The client says
//! what happened and decides nothing: no retries, no waiting.

mod api;
mod client;
mod error;
mod request;

pub use api::Api;
pub use client::{Client, Exchange, Found, Operation, Updated};
pub use error::{FlexportalError, LONGEST_RETRY_AFTER, retry_after};
pub use request::{AddressInput, CustomerChange, Status, UpdateCustomer};
