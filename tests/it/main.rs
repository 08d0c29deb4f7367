//! Everything that needs a Postgres, a socket or the binary: one test program, one database per test.

#![expect(unreachable_pub, reason = "one program: what its modules share is pub, and nobody else can reach it")]

mod cli;
mod clocks;
mod container;
mod delivery;
mod drill;
mod faults;
mod gateways;
mod hostile;
mod intake;
mod limiter;
mod metrics;
mod operate;
mod order;
mod outbox;
mod payloads;
mod retries;
mod sharing;
mod support;
mod traces;
mod whose_word;
mod woocommerce;
mod worker;
