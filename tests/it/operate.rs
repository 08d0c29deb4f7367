//! What the people who run this ask: is it in sync, what failed and why, where is this customer's change, erase this
//! person.

mod api;
mod console;
mod preview;
mod privacy;
mod retention;
mod silence;
mod terminal;
mod views;
