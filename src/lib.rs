//! Keeps FlexPortal customers in step with a web shop.
//!
//! ```text
//! bytes + headers ─shops::verify─▶ Verified ─shops::receive─▶ Received ─outbox::store─▶ stored   (200 only now)
//! stored ─outbox::claim─▶ ClaimedCustomer ─fold─▶ Folded ─identify─▶ Identified ─translate─▶ UpdateCustomer
//! UpdateCustomer ─flexportal::Client─▶ Result<Updated, FlexportalError> ─decide─▶ Verdict ─outbox::settle─▶ next status
//! ```
//!
//! The files lie in the order of the flow; imports go one way:
//! [`domain`] ← [`config`] ← `shops`, `flexportal` ← `notices`, `metrics` ← `outbox` ← `sync`, `upkeep` ← `inspect` ← `http`, `admin` ← `cli`.

pub mod admin;
pub mod cli;
pub mod config;
pub mod domain;
pub mod fake_flexportal;
pub mod flexportal;
pub mod http;
pub mod inspect;
pub mod metrics;
pub mod notices;
pub mod outbox;
pub mod service;
pub mod shops;
pub mod sync;
pub mod telemetry;
pub mod throwaway_postgres;
pub mod upkeep;
