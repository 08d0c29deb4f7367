//! Words everyone uses: ids, what a shop said of a customer, the life of an event, time and chance.
//!
//! *Source* is a configured shop, *target* a FlexPortal tenant, *delivery* what a shop sent, *event* the
//! stored row, *attempt* one request to FlexPortal, *link* the tie between a shop's customer and FlexPortal's.
//! No I/O below here.

pub mod acknowledged;
pub mod clock;
mod counted;
pub mod customer;
pub mod ids;
pub mod order;
pub mod retry;
mod shop_name;
pub mod status;
mod tenant;

pub use acknowledged::{Acknowledged, Acknowledgement, ValueHash};
pub use clock::{Clock, ClockReading, ClockStep, ClockWatch, Dice, Moment, PgClock, PgInstant};
pub(crate) use counted::counted;
pub use customer::{Address, CustomerEvent, CustomerStatus, CustomerType, Field, FieldValue, Said};
pub use ids::{DeliveryId, EventId, FlexportalCustomerId, IdError, LeaseId, ShopCustomerId, SourceName, TargetName};
pub use order::OrderKey;
pub use retry::RetryPolicy;
pub use shop_name::ShopName;
pub use status::EventStatus;
pub use tenant::Tenant;
