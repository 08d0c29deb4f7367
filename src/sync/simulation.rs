//! The whole worker, replicas and all, on a clock that runs as fast as it can, against a database and a FlexPortal that
//! fail in every way there is.
//!
//! ```text
//! history ─actions─▶ shop events ─▶ InMemory ◀─Connection─ Worker (the real one) ─Line─▶ SimulatedFlexportal
//!                    kills, outages, faults ┘                                              │ checks every arrival
//!                    in the end everything is mended, all comes to rest, and the reference ┘ says what must be there
//! ```
//!
//! What is real: claiming, pacing, folding, identifying, translating, deciding, retrying, renewing, settling, leaving.
//! What is not: SQL (`outbox::in_memory`, held against it by a test), HTTP, and time. A run follows from its seed,
//! which every failure prints: `SIMULATION_SEED=n cargo test simulation` runs that one alone, and
//! `SIMULATION_STEPS=n` asks for more than the million steps that are made always.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

mod connection;
mod flexportal;
mod history;
mod reference;
mod run;

use history::{Action, Setting};
use run::Simulation;

/// Steps of all runs together: calls of the database and arrivals at FlexPortal.
const STEPS: u64 = 1_000_000;

/// Runs one history to its end; says what was wrong, if anything was. Gives the steps it took.
fn run(setting: Setting, actions: &[Action]) -> Result<u64, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut simulation = Simulation::new(setting);
        for action in actions {
            simulation.carry_out(action).await;
        }
        simulation.come_to_rest().await;
        simulation.verdict()
    })
}

#[expect(clippy::disallowed_methods, reason = "not configuration of the service")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn a_million_steps_keep_the_promise() {
    let only = number("SIMULATION_SEED");
    let wanted = number("SIMULATION_STEPS").unwrap_or(STEPS);
    let first = only.unwrap_or(1);
    let (mut steps, mut seed) = (0, first);
    while steps < wanted && only.is_none_or(|only| seed == only) {
        let (setting, actions) = history::by_chance(seed);
        match run(setting, &actions) {
            Ok(taken) => steps += taken,
            Err(wrong) => panic!("seed {seed}: {wrong}\nto see it again: SIMULATION_SEED={seed} cargo test simulation"),
        }
        seed += 1;
    }
    eprintln!("{steps} steps in {} runs, seeds {first} to {}", seed - first, seed - 1);
    assert!(only.is_some() || steps >= wanted);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 400, ..ProptestConfig::default() })]

    /// The same on histories that shrink to what matters when one goes wrong.
    #[test]
    fn any_history_ends_as_the_reference_says((setting, actions) in history::any()) {
        if let Err(wrong) = run(setting.clone(), &actions) {
            prop_assert!(false, "{}\n{:?}\n{:#?}", wrong, setting, actions);
        }
    }
}

/// What the checks are worth: each of them finds what it is there for.
mod the_checks_find {
    use super::*;

    fn wrong_in(setting: impl Fn(u64) -> Setting) -> String {
        // Chance has to hit on it; it does within a few runs.
        (1..60)
            .find_map(|seed| {
                let (_, actions) = history::by_chance(seed);
                run(setting(seed), &actions).err()
            })
            .expect("nothing was found")
    }

    #[test]
    fn a_worker_that_exceeds_the_limit() {
        let found = wrong_in(|seed| Setting { limit_of_flexportal: Some(25), ..Setting::calm(seed) });
        assert!(found.contains("within a minute"), "{found}");
    }

    #[test]
    fn requests_that_outlast_what_is_assumed() {
        let found =
            wrong_in(|seed| Setting { carried_out_within: Duration::from_secs(70), late: 0.2, ..Setting::calm(seed) });
        assert!(found.contains("older") || found.contains("under way"), "{found}");
    }

    #[test]
    fn an_event_that_got_lost() {
        let found = wrong_in(|seed| Setting { loses_events: 0.05, ..Setting::calm(seed) });
        assert!(found.contains("newest"), "{found}");
    }
}

/// Chance, shared by all who need it in a run.
#[derive(Debug, Clone)]
struct Chance(crate::domain::Dice);

impl Chance {
    fn of(&self, probability: f64) -> bool {
        self.0.roll() < probability
    }

    fn below(&self, end: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let number = (self.0.roll() * end as f64) as usize;
        number
    }

    fn up_to(&self, longest: Duration) -> Duration {
        longest.mul_f64(self.0.roll())
    }
}

/// Counts the steps of a run.
#[derive(Debug, Clone, Default)]
struct Steps(Arc<std::sync::atomic::AtomicU64>);

impl Steps {
    fn count(&self) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn so_far(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
