//! What happens in a run: by chance from a seed, or as proptest likes.

use std::time::Duration;

use proptest::prelude::*;

use super::Chance;
use crate::domain::Dice;

/// What stays the same during a run.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    pub(super) seed: u64,
    /// Worker processes.
    pub(super) replicas: usize,
    /// Requests in flight of each.
    pub(super) concurrency: usize,
    /// Requests a minute; 0 for no limit.
    pub(super) limit: u32,
    /// The limit that FlexPortal is checked by, where it is another.
    pub(super) limit_of_flexportal: Option<u32>,
    pub(super) timeout: Duration,
    /// Whether FlexPortal answers within milliseconds, as long as nothing ails it.
    pub(super) is_near: bool,
    /// How long after it arrived a request may be carried out at the latest.
    pub(super) carried_out_within: Duration,
    /// Share of requests that are carried out late, when everything is well otherwise.
    pub(super) late: f64,
    /// Share of events that the store loses: for the check of the checks.
    pub(super) loses_events: f64,
}

impl Setting {
    /// One in which nothing goes wrong by itself.
    pub(super) fn calm(seed: u64) -> Self {
        let timeout = Duration::from_secs(10);
        Self {
            seed,
            replicas: 2,
            concurrency: 4,
            limit: 60,
            limit_of_flexportal: None,
            timeout,
            is_near: false,
            // What the worker assumes, less what is lost on the way there.
            carried_out_within: timeout * 2 + Duration::from_secs(4),
            late: 0.0,
            loses_events: 0.0,
        }
    }
}

/// Customers of the shop; FlexPortal comes to know the last of them late.
pub(super) const CUSTOMERS: usize = 6;

/// One thing that happens.
#[derive(Debug, Clone)]
pub(super) enum Action {
    /// The shop tells of a change.
    Deliver {
        customer: usize,
        told: Told,
        says: Vec<(usize, Value)>,
        with_id: bool,
    },
    /// It delivers the last one again.
    DeliverAgain,
    /// Nothing, for a while.
    Pass(Duration),
    /// FlexPortal's behaviour changes.
    Flexportal(Fault),
    /// FlexPortal comes to know the customer that it did not.
    NewCustomer,
    /// FlexPortal's customer is merged into another record: its id is gone.
    Merge {
        customer: usize,
    },
    /// The database goes away, and comes back.
    Database {
        is_away: bool,
    },
    /// One worker cannot reach the database, or can again, while others do.
    CutOff {
        replica: usize,
        is_cut: bool,
    },
    /// A worker dies with all it has in hand; another takes its place.
    Kill {
        replica: usize,
    },
    /// A worker is told to leave, and one takes its place.
    Restart {
        replica: usize,
    },
    /// A person sets a failed event back, or closes it.
    RetryFailed {
        nth: usize,
    },
    DiscardFailed {
        nth: usize,
    },
    /// Postgres' clock is set, forward or back; no time passes.
    SetClock {
        is_forward: bool,
        by: Duration,
    },
    /// A customer's personal data is erased.
    Erase {
        customer: usize,
    },
}

/// What the shop tells of the time of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// So many seconds ago, by a clock that is right.
    Ago(i64),
    /// In so many seconds: a clock that is ahead, or another time zone's.
    Ahead(i64),
    /// Nothing: it was just now.
    Nothing,
}

/// What a field is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    /// Something that was never said before.
    New,
    /// The same as the last time.
    Same,
    /// What it was once before.
    Former,
    /// Something that FlexPortal refuses.
    Refused,
    /// Nothing (any more).
    Null,
}

/// How FlexPortal fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// A part of the requests fails: 503, dropped before or after, never answered, or garbage.
    Some,
    /// Every request is answered 503.
    Down,
    /// Every request is read, perhaps carried out, and not answered in time.
    Hanging,
    /// Every request is answered 401.
    Unauthorized,
    /// Something in between answers every update 404, as FlexPortal would, and all else 404, as it would not.
    Impostor,
    /// Every request is answered 429.
    Limiting,
}

const TOLD: [Told; 9] = [
    Told::Ago(0),
    Told::Ago(0),
    Told::Ago(0),
    Told::Ago(1),
    Told::Ago(30),
    Told::Ahead(200),
    Told::Ahead(4 * 3600),
    Told::Nothing,
    Told::Nothing,
];

const FAULTS: [Fault; 7] =
    [Fault::None, Fault::Some, Fault::Down, Fault::Hanging, Fault::Unauthorized, Fault::Impostor, Fault::Limiting];

/// A run as the seed has it.
pub(super) fn by_chance(seed: u64) -> (Setting, Vec<Action>) {
    let chance = Chance(Dice::seeded(seed.wrapping_mul(0x2545_f491_4f6c_dd1d)));
    let timeout = Duration::from_secs([2, 10][chance.below(2)]);
    let setting = Setting {
        replicas: 1 + chance.below(3),
        concurrency: [1, 4, 8][chance.below(3)],
        limit: [0, 20, 100, 600][chance.below(4)],
        is_near: chance.below(2) == 0,
        timeout,
        carried_out_within: timeout * 2 + Duration::from_secs(4),
        late: [0.0, 0.05][chance.below(2)],
        ..Setting::calm(seed)
    };
    let length = 40 + chance.below(120);
    // The fewer they are, the more happens to each.
    let (customers, fields) = ([1, 2, CUSTOMERS][chance.below(3)], 1 + chance.below(FIELDS));
    let actions = (0..length).map(|_| action_by_chance(&chance, customers, fields)).collect();
    (setting, actions)
}

fn action_by_chance(chance: &Chance, customers: usize, fields: usize) -> Action {
    let customer = chance.below(customers);
    match chance.below(100) {
        0..=49 => {
            let says = (0..chance.below(4)).map(|_| (chance.below(fields), value_by_chance(chance))).collect();
            let told = TOLD[chance.below(TOLD.len())];
            Action::Deliver { customer, told, says, with_id: chance.of(0.2) }
        }
        50..=54 => Action::DeliverAgain,
        55..=79 => {
            let longest = [100, 2_000, 40_000, 200_000][chance.below(4)];
            Action::Pass(chance.up_to(Duration::from_millis(longest)))
        }
        80..=87 => Action::Flexportal(FAULTS[chance.below(FAULTS.len())]),
        88 => Action::NewCustomer,
        89 => Action::Merge { customer },
        90 => {
            let longest = [2_000, 15_000, 60_000, 3_600_000][chance.below(4)];
            Action::SetClock { is_forward: chance.of(0.5), by: chance.up_to(Duration::from_millis(longest)) }
        }
        91 | 92 => Action::Database { is_away: chance.of(0.5) },
        93 | 94 => Action::Kill { replica: chance.below(3) },
        95 => Action::CutOff { replica: chance.below(3), is_cut: chance.of(0.6) },
        96 => Action::Restart { replica: chance.below(3) },
        97 => Action::RetryFailed { nth: chance.below(5) },
        98 => Action::Erase { customer },
        _ => Action::DiscardFailed { nth: chance.below(5) },
    }
}

fn value_by_chance(chance: &Chance) -> Value {
    match chance.below(20) {
        0..=10 => Value::New,
        11..=12 => Value::Former,
        13..=15 => Value::Same,
        16..=17 => Value::Refused,
        _ => Value::Null,
    }
}

/// Fields that a change may speak for.
pub(super) const FIELDS: usize = 3;

/// Any run, to be shrunk.
pub(super) fn any() -> impl Strategy<Value = (Setting, Vec<Action>)> {
    let setting = (proptest::num::u64::ANY, 1_usize..=3, 1_usize..=4, prop::sample::select(vec![0_u32, 20, 100]));
    let setting = setting.prop_map(|(seed, replicas, concurrency, limit)| Setting {
        replicas,
        concurrency,
        limit,
        ..Setting::calm(seed)
    });
    (setting, prop::collection::vec(any_action(), 1..60))
}

fn any_action() -> impl Strategy<Value = Action> {
    let value =
        prop::sample::select(vec![Value::New, Value::New, Value::Same, Value::Former, Value::Refused, Value::Null]);
    let says = prop::collection::vec((0..FIELDS, value), 0..4);
    let customer = 0..CUSTOMERS;
    prop_oneof![
        8 => (customer.clone(), prop::sample::select(TOLD.to_vec()), says, prop::bool::weighted(0.2)).prop_map(
            |(customer, told, says, with_id)| Action::Deliver { customer, told, says, with_id }
        ),
        1 => Just(Action::DeliverAgain),
        4 => (0_u64..60_000).prop_map(|millis| Action::Pass(Duration::from_millis(millis))),
        2 => prop::sample::select(FAULTS.to_vec()).prop_map(Action::Flexportal),
        1 => Just(Action::NewCustomer),
        1 => customer.clone().prop_map(|customer| Action::Merge { customer }),
        1 => customer.prop_map(|customer| Action::Erase { customer }),
        1 => proptest::bool::ANY.prop_map(|is_away| Action::Database { is_away }),
        1 => (0_usize..3, proptest::bool::ANY).prop_map(|(replica, is_cut)| Action::CutOff { replica, is_cut }),
        1 => (proptest::bool::ANY, 0_u64..120_000)
            .prop_map(|(is_forward, millis)| Action::SetClock { is_forward, by: Duration::from_millis(millis) }),
        1 => (0_usize..3).prop_map(|replica| Action::Kill { replica }),
        1 => (0_usize..3).prop_map(|replica| Action::Restart { replica }),
        1 => (0_usize..5).prop_map(|nth| Action::RetryFailed { nth }),
        1 => (0_usize..5).prop_map(|nth| Action::DiscardFailed { nth }),
    ]
}
