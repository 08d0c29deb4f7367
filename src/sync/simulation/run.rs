//! A run: carries the actions out one by one, brings everything to rest, and tells whether the promise was kept.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::flexportal::{Line, SimulatedFlexportal};
use super::history::{Action, CUSTOMERS, Fault, Setting, Told, Value};
use super::reference::{self, Words};
use super::{Chance, Steps};
use crate::config::{CountryFormat, ShopKind, Source};
use crate::domain::{Clock, DeliveryId, Dice, EventId, EventStatus, OrderKey, RetryPolicy, ShopCustomerId, TargetName};
use crate::metrics::Metrics;
use crate::outbox::in_memory::{Event, InMemory};
use crate::outbox::{Budget, LEASE, NewEvent, StoreOutcome, Wake};
use crate::shops::{Concerns, Delivery, Shop};
use crate::sync::requests::TargetLine;
use crate::sync::translate::Wishes;
use crate::sync::{Rules, Worker};

const FIELD_NAMES: [&str; super::history::FIELDS] = ["firstName", "phone", "company"];
/// Between two attempts.
const LONGEST_DELAY: Duration = Duration::from_mins(15);
/// Once everything is mended, whatever waits is settled by then: the longest wait there is, and time to work it off.
const AT_REST_WITHIN: Duration = Duration::from_hours(3);

pub(super) struct Simulation {
    setting: Setting,
    store: InMemory,
    flexportal: SimulatedFlexportal,
    database_is_away: Arc<AtomicBool>,
    replicas: Vec<Replica>,
    shop: Arc<Shop>,
    clock: Clock,
    chance: Chance,
    steps: Steps,
    target: TargetName,
    deliveries: usize,
    last: Option<NewEvent>,
    /// By customer.
    words: BTreeMap<usize, Words>,
    merges: usize,
    /// When Postgres' clock was last set forward.
    stepped: Option<tokio::time::Instant>,
}

struct Replica {
    line: Arc<TargetLine<Line>>,
    is_dead: Arc<AtomicBool>,
    is_cut: Arc<AtomicBool>,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

fn email(customer: usize) -> String {
    format!("customer{customer}@example.com")
}

impl Simulation {
    pub(super) fn new(setting: Setting) -> Self {
        let clock = Clock::Simulated {
            start: "2026-11-23T10:00:00Z".parse().expect("a time"),
            since: tokio::time::Instant::now(),
            set: Arc::default(),
        };
        let target = TargetName::parse("default").expect("a name");
        let (chance, steps) = (Chance(Dice::seeded(setting.seed)), Steps::default());
        let flexportal = SimulatedFlexportal::new(&setting, chance.clone(), steps.clone());
        for customer in 0..CUSTOMERS - 1 {
            flexportal.state().customer(&format!("cus_{customer}"), &email(customer));
        }
        let mut simulation = Self {
            store: InMemory::new(clock.clone(), std::slice::from_ref(&target)),
            flexportal,
            database_is_away: Arc::default(),
            replicas: vec![],
            shop: Arc::new(Shop::new(Source::of_kind(ShopKind::Generic)).expect("a shop")),
            clock,
            chance,
            steps,
            target,
            deliveries: 0,
            last: None,
            words: BTreeMap::new(),
            merges: 0,
            stepped: None,
            setting,
        };
        for _ in 0..simulation.setting.replicas {
            let replica = simulation.replica();
            simulation.replicas.push(replica);
        }
        simulation
    }

    fn replica(&self) -> Replica {
        let (is_dead, is_cut) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let connection = Connection {
            store: self.store.clone(),
            is_away: self.database_is_away.clone(),
            is_dead: is_dead.clone(),
            is_cut: is_cut.clone(),
            chance: self.chance.clone(),
            steps: self.steps.clone(),
        };
        let rules = Rules {
            shops: BTreeMap::from([(self.shop.source().name.clone(), self.shop.clone())]),
            // Short enough that events fail by either.
            retry: RetryPolicy::new(Duration::from_secs(1), LONGEST_DELAY, Duration::from_mins(30), 12)
                .expect("a policy"),
            unmatched_retry_interval: Duration::from_mins(10),
            unmatched_max_age: Duration::from_hours(24 * 30),
            dice: self.chance.0.clone(),
        };
        let line = Arc::new(TargetLine {
            name: self.target.clone(),
            api: Line {
                flexportal: self.flexportal.clone(),
                timeout: self.setting.timeout,
                longest_under_way: self.setting.timeout * 2 + Duration::from_secs(5),
            },
            budget: Budget::per_minute(self.setting.limit),
            wishes: Wishes { country_format: CountryFormat::Name, send_email: false },
            metrics: Metrics::default(),
            clock: self.clock_of_a_process(),
            mood: Mutex::default(),
        });
        let worker =
            Worker::from_parts(connection, rules, vec![line.clone()], self.setting.concurrency, Wake::default());
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(worker.run(shutdown.clone()));
        Replica { line, is_dead, is_cut, shutdown, running }
    }

    /// Each process has a clock of its own, which may be wrong by days, and has no say.
    fn clock_of_a_process(&self) -> Clock {
        let clock =
            Clock::Simulated { start: self.clock.now(), since: tokio::time::Instant::now(), set: Arc::default() };
        let by = self.chance.up_to(Duration::from_hours(80 * 24));
        clock.set_forward(by);
        clock.set_back(Duration::from_hours(40 * 24));
        clock
    }

    pub(super) async fn carry_out(&mut self, action: &Action) {
        match action {
            Action::Deliver { customer, told, says, with_id } => {
                self.deliver(*customer, *told, says, *with_id);
            }
            Action::DeliverAgain => {
                if let Some(last) = self.last.clone().filter(|_| !self.is_away()) {
                    assert!(matches!(self.store.store(&last), StoreOutcome::Duplicate(_)));
                }
            }
            Action::Pass(time) => tokio::time::sleep(*time).await,
            Action::Flexportal(fault) => self.flexportal.state().fault = *fault,
            Action::NewCustomer => self.new_customer(),
            Action::Merge { customer } => {
                self.merges += 1;
                self.flexportal.state().merge(&email(*customer), &format!("cus_{customer}_{}", self.merges));
            }
            Action::Database { is_away } => self.database_is_away.store(*is_away, Ordering::Relaxed),
            Action::CutOff { replica, is_cut } => {
                self.replicas[replica % self.replicas.len()].is_cut.store(*is_cut, Ordering::Relaxed);
            }
            Action::SetClock { is_forward: true, by } => {
                // Whoever has no limit is not watched, and who has just begun has nothing to compare with.
                let is_watched = self.replicas.iter().all(|replica| replica.line.watches_the_clock());
                if self.setting.limit > 0 && is_watched {
                    // A second is no step.
                    self.clock.set_forward(*by + Duration::from_secs(1));
                    self.stepped = Some(tokio::time::Instant::now());
                }
            }
            Action::SetClock { is_forward: false, by } => {
                self.clock.set_back(*by);
                // As upkeep does within a second.
                self.store.clamp(LONGEST_DELAY);
            }
            // Nor has whoever begins just after a step.
            Action::Kill { .. } | Action::Restart { .. } if self.has_just_stepped() => {}
            Action::Kill { replica } => self.replace(*replica, false),
            Action::Restart { replica } => self.replace(*replica, true),
            Action::Erase { .. } => {} // takes its time, below
            Action::RetryFailed { nth } => {
                if let Some(failed) = self.failed(*nth).filter(|_| !self.is_away()) {
                    self.store.retry(failed);
                }
            }
            Action::DiscardFailed { nth } => {
                if let Some(failed) = self.failed(*nth).filter(|_| !self.is_away()) {
                    self.store.discard(failed);
                }
            }
        }
        if let Action::Erase { customer } = action {
            self.erase(*customer).await;
        }
        // Others get their turn between any two.
        tokio::task::yield_now().await;
    }

    /// Whether a claim that ended early by a step could still be taken over.
    fn has_just_stepped(&self) -> bool {
        self.stepped.is_some_and(|at| at.elapsed() < LEASE * 2)
    }

    /// Waits, as the command does, until nobody has the customer and nothing of it can arrive any more.
    async fn erase(&mut self, customer: usize) {
        let id = ShopCustomerId::parse(format!("shop-{customer}")).expect("an id");
        let key = (self.shop.source().name.clone(), id);
        for _ in 0..240 {
            if !self.is_away() && self.store.erase(&key) {
                // What was said before need not be anywhere, and may not be sent any more; that it was said still counts.
                let words = self.words.entry(customer).or_default().values_mut();
                let erased = words.map(|word| std::mem::replace(word, (Value::Null, String::new())).1);
                self.flexportal.state().is_erased(erased);
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn is_away(&self) -> bool {
        self.database_is_away.load(Ordering::Relaxed)
    }

    fn new_customer(&mut self) {
        let (email, mut state) = (email(CUSTOMERS - 1), self.flexportal.state());
        if state.id_of(&email).is_none() {
            state.customer("cus_new", &email);
        }
    }

    fn replace(&mut self, nth: usize, in_order: bool) {
        let nth = nth % self.replicas.len();
        let next = self.replica();
        let before = std::mem::replace(&mut self.replicas[nth], next);
        if in_order {
            before.shutdown.cancel();
        } else {
            before.is_dead.store(true, Ordering::Relaxed);
            before.running.abort();
        }
    }

    fn failed(&self, nth: usize) -> Option<EventId> {
        let state = self.store.state();
        let mut failed = state.events.iter().filter(|(_, event)| event.status() == EventStatus::Failed);
        failed.nth(nth).map(|(id, _)| *id)
    }

    /// The shop tells of a change. While the database is away it is answered 503, and nothing was promised.
    fn deliver(&mut self, customer: usize, told: Told, says: &[(usize, Value)], with_id: bool) {
        if self.is_away() {
            return;
        }
        self.deliveries += 1;
        let now = self.clock.now();
        let occurred_at = match told {
            Told::Ago(seconds) => Some(now - TimeDelta::seconds(seconds)),
            Told::Ahead(seconds) => Some(now + TimeDelta::seconds(seconds)),
            Told::Nothing => None,
        };
        let mut data = json!({"customerId": format!("shop-{customer}"), "email": email(customer)});
        if let Some(flexportal_id) = self.flexportal.state().id_of(&email(customer)).filter(|_| with_id) {
            data["flexportalCustomerId"] = json!(flexportal_id);
        }
        let words = self.words.entry(customer).or_default();
        let mut said = Vec::new();
        for (field, value) in says {
            let name = FIELD_NAMES[*field];
            let mut texts: Vec<_> = words
                .iter()
                .filter(|((of, _), _)| *of == name)
                .map(|((_, key), (_, text))| (key.event, text))
                .collect();
            texts.sort_unstable();
            let once = |back: usize| texts.iter().rev().nth(back).map(|(_, text)| (*text).clone());
            let new = || format!("{customer}.{}", self.deliveries);
            let text = match value {
                Value::Null => String::new(),
                Value::Refused => format!("refused {customer}.{}", self.deliveries),
                Value::Same => once(0).unwrap_or_else(new),
                Value::Former => once(1 + self.chance.below(2)).unwrap_or_else(new),
                Value::New => new(),
            };
            let value = if text.is_empty() { Value::Null } else { *value };
            data[name] = if text.is_empty() { json!(null) } else { json!(text) };
            said.push((name, value, text));
        }
        let payload = json!({"type": "customer.updated", "timestamp": occurred_at, "data": data}).to_string();
        let topic = "customer.updated".to_owned();
        let event = self.shop.read(&topic, &payload).expect("it can be read");
        let delivery = Delivery {
            shop: None,
            delivery_id: DeliveryId::parse(format!("d{}", self.deliveries)).expect("an id"),
            topic,
            email: event.email().map(str::to_owned),
            is_asked_for: event.flexportal_id.is_none(),
            customer: Some(event.customer),
            occurred_at,
            triggered_at: None,
            concerns: Concerns::Customer,
            payload,
            warnings: vec![],
        };
        let source = self.shop.source().name.clone();
        let target = self.target.clone();
        let event = NewEvent { source, target, delivery, traceparent: None };
        let is_lost = self.chance.of(self.setting.loses_events);
        let key = if is_lost { OrderKey::at(now, EventId::of_arrival(now, 0)) } else { self.stored(customer, &event) };
        let words = self.words.entry(customer).or_default();
        for (name, value, text) in said {
            self.flexportal.state().is_said(name, &text, key);
            words.insert((name, key), (value, text));
        }
        if !is_lost {
            self.last = Some(event);
        }
    }

    /// Stores a change, and gives its place in the order: of what the shop tells no time of, or none that can be, the last.
    fn stored(&mut self, customer: usize, event: &NewEvent) -> OrderKey {
        let StoreOutcome::Stored(id) = self.store.store(event) else { panic!("it is new") };
        let now = self.clock.now();
        let state = self.store.state();
        let place = OrderKey::at(state.events[&id].occurred_at, id);
        let told = event.delivery.occurred_at.filter(|told| *told <= now + TimeDelta::minutes(5));
        assert!(told.is_none_or(|told| told == place.changed_at), "a time that can be counts");
        let newest = self.words.get(&customer).and_then(|words| words.keys().map(|(_, key)| *key).max());
        // An event that got lost is not there to be older than.
        let is_last = newest.is_none_or(|newest| newest < place) || self.setting.loses_events > 0.0;
        assert!(told.is_some() || is_last, "{place:?} is older than {newest:?}");
        place
    }

    /// Everything is mended, and nothing new arrives.
    pub(super) async fn come_to_rest(&mut self) {
        self.flexportal.state().fault = Fault::None;
        self.database_is_away.store(false, Ordering::Relaxed);
        self.replicas.iter().for_each(|replica| replica.is_cut.store(false, Ordering::Relaxed));
        self.new_customer();
        let at_rest = async {
            while !self.store.state().waiting.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let _ = tokio::time::timeout(AT_REST_WITHIN, at_rest).await;
        // What is late arrives still.
        tokio::time::sleep(Duration::from_mins(1)).await;
        for replica in &self.replicas {
            replica.shutdown.cancel();
        }
    }

    /// The steps it took, or what was wrong.
    pub(super) fn verdict(&self) -> Result<u64, String> {
        let (store, flexportal) = (self.store.state(), self.flexportal.state());
        let mut wrong = flexportal.wrong.clone();
        for ((_, customer), waiting) in &store.waiting {
            wrong.push(format!("{customer} waits for ever: {waiting:?}"));
        }
        for (id, event) in &store.events {
            let status = event.status();
            let is_final = event.state.as_ref().is_some_and(|state| state.finished_at.is_some());
            if !is_final {
                wrong.push(format!("{id} of {} is {status} for ever", event.customer.1));
            }
        }
        for ((_, customer), link) in &store.links {
            let missing = link.flexportal_id.as_ref().filter(|id| link.is_missing(id) && flexportal.has(id.as_str()));
            wrong.extend(missing.map(|id| format!("{customer}: {id} is marked as missing, and is there")));
        }
        let status = |id| store.events.get(&id).map_or(EventStatus::Pending, Event::status);
        for (customer, words) in &self.words {
            for field in FIELD_NAMES {
                let found = reference::check(words, field, flexportal.value(&email(*customer), field), status);
                wrong.extend(found.map(|found| format!("shop-{customer}: {found}")));
            }
        }
        if wrong.is_empty() { Ok(self.steps.so_far()) } else { Err(wrong.join("\n")) }
    }
}
