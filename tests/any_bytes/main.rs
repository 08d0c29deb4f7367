//! No bytes make anything panic or pass for what they are not: signature headers, bodies of every shop,
//! `Retry-After`, configuration.
//!
//! Generators start from what is valid (the payloads in `tests/cases`, a full configuration) and damage it, since
//! random bytes alone hardly get past the first check. The numbers of cases are such that all of it takes seconds;
//! `PROPTEST_CASES=100000` tries each property that often instead. A failure prints the smallest input that fails.

mod bodies;
mod configuration;
mod edits;
mod retry_after;
mod signatures;

use proptest::test_runner::Config;

/// So many cases, unless `PROPTEST_CASES` says otherwise.
fn cases(usual: u32) -> Config {
    // Nothing is written beside the sources: what was found once becomes a test of its own.
    Config { cases: usual, failure_persistence: None, ..Config::default() }
}
