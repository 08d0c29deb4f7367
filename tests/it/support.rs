//! The words of the tests: `app.deliver(…)`, `app.drain()`, `app.events()`.

mod app;
mod database;
pub mod shop;

pub use app::App;
pub use database::{Database, database};
