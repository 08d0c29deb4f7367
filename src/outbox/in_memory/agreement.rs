//! Holds the store in memory against the real one: the same calls, by chance, and the same answers.
//!
//! What the simulation shows of the one is worth as much for the other as this test is.

use sqlx::Row;

use super::*;
use crate::domain::{Acknowledgement, Dice, Field, OrderKey, ValueHash};
use crate::flexportal::Status;
use crate::outbox::scratch::Scratch;
use crate::outbox::{DoneBy, KnownTarget, LinkOrigin, Outbox};
use crate::shops::{Concerns, Delivery};

/// Calls in one run.
const CALLS: usize = 1_200;
const CUSTOMERS: u32 = 7;

struct Pair {
    real: Outbox,
    model: InMemory,
    pool: sqlx::PgPool,
    clock: Clock,
    dice: Dice,
    target: TargetName,
    budget: Option<Budget>,
    /// Claims that were made of both, and whether they are settled.
    claims: Vec<(ClaimedCustomer, ClaimedCustomer)>,
    leaves: Vec<(Leave, Leave)>,
    deliveries: u32,
}

#[tokio::test]
async fn the_store_in_memory_does_what_the_real_one_does() {
    let scratch = Scratch::new("agreement").await;
    for (seed, limit) in [(1, 0), (2, 100), (3, 6_000)] {
        eprintln!("seed {seed}, {limit} requests a minute");
        // Far ahead of Postgres' own clock, by which retry_sync() goes: what it makes due is due.
        let clock = Clock::manual("2126-01-01T00:00:00Z".parse().expect("a time"));
        let target = TargetName::parse("default").expect("a name");
        let known = KnownTarget { name: target.clone(), rate_limit_per_minute: 0, tenant: Tenant::default() };
        let real = scratch.outbox(clock.clone()).await;
        real.register(&[], std::slice::from_ref(&known)).await.expect("registered");
        let model = InMemory::new(clock.clone(), std::slice::from_ref(&target));
        let pool = real.pool.clone();
        sqlx::raw_sql("alter sequence arrival_numbers restart; truncate deliveries, event_states, waiting_customers, customer_links, sync_attempts; update targets set budget_used_until = '-infinity', free_places = '{}', held_until = null, hold_reason = null, clock_steps_seconds = 0")
            .execute(&pool)
            .await
            .expect("emptied");
        let budget = Budget::per_minute(limit);
        let dice = Dice::seeded(seed);
        let (claims, leaves) = (vec![], vec![]);
        let mut pair = Pair { real, model, pool, clock, dice, target, budget, claims, leaves, deliveries: 0 };
        for call in 0..CALLS {
            pair.call().await;
            if call % 20 == 0 {
                pair.compare(call).await;
            }
        }
        assert!(pair.model.state().events.len() > 150, "there was something to disagree about");
        pair.real.close().await;
    }
    scratch.remove().await;
}

impl Pair {
    fn chance(&self, of: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "small"
        )]
        let number = (self.dice.roll() * of as f64) as usize;
        number
    }

    async fn call(&mut self) {
        // No two things happen in the same microsecond, so that nothing is left to chance in the order.
        self.clock.advance(Duration::from_micros(1 + u64::try_from(self.chance(1_000)).expect("small")));
        match self.chance(16) {
            0..=3 => self.store().await,
            4 => self.clock.advance(Duration::from_millis(u64::try_from(self.chance(20_000)).expect("small"))),
            5..=7 => self.claim().await,
            8..=10 => self.settle().await,
            11 => self.renew().await,
            12 => self.take_budget().await,
            13 => self.give_back().await,
            14 if self.chance(4) == 0 => self.make_up_for_step().await,
            14 => self.hold_or_resume().await,
            _ => self.by_a_person().await,
        }
        let look = (self.real.look(&self.target).await, Queue::look(&self.model, &self.target).await);
        assert_eq!(about(&look.0.expect("real")), about(&look.1.expect("model")));
        let next = (self.real.next_due_in(&self.target).await, Queue::next_due_in(&self.model, &self.target).await);
        let (real, model) = (next.0.expect("real"), next.1.expect("model"));
        assert!(
            real.zip(model).map_or(real == model, |(real, model)| real.abs_diff(model) < Duration::from_micros(5)),
            "{real:?} {model:?}"
        );
    }

    /// What a shop tells of the time of a change: a little ago, nothing, a little ahead, or what cannot be.
    fn told(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.chance(6) {
            0 | 1 => Some(now - TimeDelta::seconds(5)),
            2 => Some(now + TimeDelta::minutes(4)),
            3 => Some(now + TimeDelta::hours(4)),
            _ => None,
        }
    }

    async fn store(&mut self) {
        let now = self.clock.now();
        if self.chance(10) > 0 || self.deliveries == 0 {
            self.deliveries += 1;
        }
        let customer = 1 + self.chance(CUSTOMERS as usize);
        let event = NewEvent {
            source: SourceName::parse("shop").expect("a name"),
            target: self.target.clone(),
            delivery: Delivery {
                shop: None,
                delivery_id: DeliveryId::parse(format!("d{}", self.deliveries)).expect("an id"),
                topic: ["customer.updated", "customer.deleted"][self.chance(2)].into(),
                customer: Some(ShopCustomerId::parse(format!("c{customer}")).expect("an id")),
                email: (self.chance(2) == 0).then(|| format!("{}@example.com", self.chance(4))),
                occurred_at: self.told(now),
                triggered_at: (self.chance(3) == 0).then(|| now - TimeDelta::seconds(1)),
                concerns: Concerns::Customer,
                is_asked_for: self.chance(2) == 0,
                payload: format!(r#"{{"n": {}}}"#, self.deliveries),
                warnings: vec![],
            },
            traceparent: (self.chance(2) == 0).then(|| format!("00-{0:032x}-{0:016x}-01", self.deliveries)),
        };
        let stored = self.real.store(std::slice::from_ref(&event)).await.expect("stored")[0];
        assert_eq!(stored, self.model.store(&event));
    }

    async fn claim(&mut self) {
        let limit = if self.has_ties() { CUSTOMERS } else { 1 + u32::try_from(self.chance(3)).expect("small") };
        let (mut real, mut model) = if self.chance(2) == 0 {
            let real = self.real.claim(&self.target, limit).await.expect("real");
            (real, Queue::claim(&self.model, &self.target, limit).await.expect("model"))
        } else {
            let real = self.real.claim_unless_held(&self.target, limit).await.expect("real");
            (real, Queue::claim_unless_held(&self.model, &self.target, limit).await.expect("model"))
        };
        // Whom it takes is decided by their places; in what order they are handed out is not.
        real.sort_by(|a, b| a.customer.cmp(&b.customer));
        model.sort_by(|a, b| a.customer.cmp(&b.customer));
        let shown = |claims: &[ClaimedCustomer]| {
            claims
                .iter()
                .map(|claim| (claim.customer.clone(), claim.revision, claim.claims, claim.is_restless))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(&real), shown(&model));
        for (mut real, mut model) in real.into_iter().zip(model) {
            let known = self.real.read(&mut real).await.expect("real");
            let same = Queue::read(&self.model, &mut model).await.expect("model");
            assert_eq!(events(&known.waiting), events(&same.waiting));
            assert_eq!(events(&known.given_up), events(&same.given_up));
            assert_eq!(linked(known.link.as_ref()), linked(same.link.as_ref()));
            let ids = self.real.waiting_ids(&mut real).await.expect("real");
            assert_eq!(ids, Queue::waiting_ids(&self.model, &mut model).await.expect("model"));
            let email = self.real.last_known_email(&real.source, &real.customer).await.expect("real");
            let same = Queue::last_known_email(&self.model, &model.source, &model.customer).await.expect("model");
            assert_eq!(email, same);
            let id = FlexportalCustomerId::parse(format!("cus_{}", self.chance(3))).expect("an id");
            let asked = (self.chance(3) > 0).then(|| format!("{}@example.com", self.chance(3)));
            let sharers = self.real.sharers(&real, &id, asked.as_deref()).await.expect("real");
            let same = Queue::sharers(&self.model, &model, &id, asked.as_deref()).await.expect("model");
            assert_eq!(sharers, same);
            self.claims.push((real, model));
        }
    }

    /// Whether customers that were settled together are due at the same moment: then it is left open who goes first.
    fn has_ties(&self) -> bool {
        let state = self.model.state();
        let mut places: Vec<_> = state.waiting.values().map(|waiting| (waiting.priority, waiting.due_at)).collect();
        places.sort_unstable();
        places.windows(2).any(|pair| pair[0] == pair[1])
    }

    async fn settle(&mut self) {
        if self.claims.is_empty() {
            return;
        }
        // Also one whose lease is long over, and one that was settled before; several go into one transaction.
        let (mut group, mut same) = (Vec::new(), Vec::new());
        for _ in 0..=self.chance(3) {
            let (real, model) = self.claims[self.claims.len() - 1 - self.chance(self.claims.len().min(4))].clone();
            if group.iter().any(|(other, _): &(ClaimedCustomer, _)| other.customer == real.customer) {
                continue;
            }
            let settlement = self.settlement(&model);
            same.push(Queue::settle(&self.model, &model, &settlement).await.expect("model"));
            group.push((real, settlement));
        }
        let settled = group.iter().map(|(claimed, settlement)| self.real.settle(claimed, settlement));
        let settled: Vec<_> = futures_util::future::try_join_all(settled).await.expect("real");
        assert_eq!(settled, same, "{group:?}");
    }

    fn settlement(&self, claimed: &ClaimedCustomer) -> Settlement {
        let now = self.clock.now();
        let state = self.model.state();
        let waiting = state.events_of(claimed);
        let given_up: Vec<_> = state
            .events
            .iter()
            .filter(|(_, event)| event.customer == claimed.key() && event.is_given_up())
            .map(|(id, _)| *id)
            .collect();
        let head = waiting.last().map(|event| event.id);
        let status = [
            EventStatus::Synced,
            EventStatus::Superseded,
            EventStatus::Unchanged,
            EventStatus::Unmatched,
            EventStatus::Failed,
            EventStatus::Pending,
        ][self.chance(6)];
        let result = |event: &WaitingEvent| EventResult {
            event: event.id,
            status,
            attempts: event.attempts + 1,
            failing_for: (self.chance(2) == 0)
                .then(|| Duration::from_millis(u64::try_from(self.chance(900)).expect("small"))),
            http_status: None,
            error_code: None,
            error: None,
            cause: None,
            warnings: vec![],
            flexportal_id: None,
            superseded_by: head.filter(|_| status == EventStatus::Superseded),
            attempted_as: None,
            is_final: !matches!(status, EventStatus::Pending | EventStatus::Unmatched)
                || self.chance(9) == 0 && status == EventStatus::Unmatched,
        };
        let overtaken =
            head.filter(|_| self.chance(2) == 0).map(|head| given_up.iter().map(|id| (*id, head)).collect());
        let id = FlexportalCustomerId::parse(format!("cus_{}", self.chance(3))).expect("an id");
        let origin = LinkOrigin::Lookup;
        let email = (self.chance(2) == 0).then(|| format!("{}@Example.com", self.chance(3)));
        let settled = Acknowledgement {
            key: OrderKey {
                changed_at: now,
                is_creation: self.chance(2) == 0,
                triggered_at: (self.chance(2) == 0).then_some(now),
                event: head.unwrap_or(EventId(uuid::Uuid::nil())),
            },
            hash: Some(ValueHash::of(&"v")),
            acked: Some(now),
            deactivated: self.chance(2) == 0,
            deleted: self.chance(2) == 0,
        };
        let field = [Field::Phone, Field::Status][self.chance(2)];
        let acknowledged = Acknowledged(BTreeMap::from([(field, settled)]));
        Settlement {
            results: waiting.iter().map(result).collect(),
            overtaken: overtaken.unwrap_or_default(),
            attempts: vec![],
            link: match self.chance(5) {
                0 => LinkChange::Keep,
                4 => LinkChange::Doubt,
                1 => LinkChange::Missing { flexportal_id: id },
                2 => LinkChange::Found { flexportal_id: id, origin, email },
                _ => LinkChange::Acknowledged {
                    flexportal_id: id,
                    origin: None,
                    acknowledged,
                    occurred_at: Some(now),
                    synced_at: self.clock.for_postgres().filter(|_| self.chance(2) == 0),
                    email,
                    status_shown: [None, Some(Status::Active), Some(Status::Inactive)][self.chance(3)],
                },
            },
            next: match self.chance(4) {
                0 => Next::AsBefore,
                1 => Next::RetryIn(Duration::from_millis(u64::try_from(self.chance(9_000)).expect("small"))),
                _ => Next::Done,
            },
            rest: (self.chance(5) == 0).then(|| Duration::from_secs(u64::try_from(self.chance(9)).expect("small"))),
        }
    }

    async fn renew(&mut self) {
        let Some((real, model)) = self.claims.last() else { return };
        let renewed = self.real.renew(real).await.expect("real");
        assert_eq!(renewed, Queue::renew(&self.model, model).await.expect("model"));
    }

    async fn take_budget(&mut self) {
        let wanted = 1 + u32::try_from(self.chance(8)).expect("small");
        let real = self.real.take_budget(&self.target, self.budget, wanted).await.expect("real");
        let model = Queue::take_budget(&self.model, &self.target, self.budget, wanted).await.expect("model");
        assert_eq!((real.is_held, real.wait.is_some()), (model.is_held, model.wait.is_some()), "{real:?} {model:?}");
        assert_eq!((real.clock, real.clock_steps), (model.clock, model.clock_steps));
        assert_eq!(real.leaves.len(), model.leaves.len(), "{real:?} {model:?}");
        for (real, model) in real.leaves.into_iter().zip(model.leaves) {
            assert_eq!(real.is_probe, model.is_probe);
            let apart = real.place.zip(model.place).map_or(TimeDelta::zero(), |(real, model)| (real - model).abs());
            assert!(apart < TimeDelta::microseconds(100), "{real:?} {model:?}");
            self.leaves.push((real, model));
        }
    }

    async fn make_up_for_step(&mut self) {
        let Some(budget) = self.budget else { return };
        // As if leave was asked for just then, or before another process made up for the step.
        let clock_steps = f64::from(u32::try_from(self.chance(5)).expect("small"));
        let clock = self.clock.for_postgres().expect("a clock of its own");
        let grant = Grant { leaves: vec![], is_held: false, wait: None, clock, clock_steps };
        let step = Duration::from_secs(1 + u64::try_from(self.chance(2)).expect("small"));
        self.real.make_up_for_step(&self.target, budget, &grant, step).await.expect("real");
        Queue::make_up_for_step(&self.model, &self.target, budget, &grant, step).await.expect("model");
    }

    async fn give_back(&mut self) {
        let keeps = self.chance(1 + self.leaves.len());
        let (real, model): (Vec<_>, Vec<_>) = self.leaves.split_off(keeps).into_iter().unzip();
        self.real.give_back(&self.target, &real).await.expect("real");
        Queue::give_back(&self.model, &self.target, &model).await.expect("model");
    }

    async fn hold_or_resume(&mut self) {
        let reasons = [HoldReason::RateLimited, HoldReason::Refused, HoldReason::Failing];
        if self.chance(2) == 0 {
            let reason = reasons[self.chance(3)];
            let wait = Duration::from_secs(u64::try_from(self.chance(20)).expect("small"));
            self.real.hold(&self.target, reason, wait).await.expect("real");
            Queue::hold(&self.model, &self.target, reason, wait).await.expect("model");
        } else {
            self.real.resume(&self.target).await.expect("real");
            Queue::resume(&self.model, &self.target).await.expect("model");
        }
    }

    async fn by_a_person(&mut self) {
        let ids: Vec<_> = self.model.state().events.keys().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.chance(ids.len())];
        if self.chance(6) == 0 {
            let customer = self.model.state().events[&id].customer.clone();
            let erased = self.real.erase(&customer.0, &customer.1, None, DoneBy::Terminal).await.expect("real");
            assert_eq!(erased.is_some(), self.model.erase(&customer));
            return;
        }
        if self.chance(2) == 0 {
            let said: String = sqlx::query_scalar("select discard_sync($1, 'why')")
                .bind(id.0)
                .fetch_one(&self.pool)
                .await
                .expect("said");
            assert_eq!(said.starts_with("closed"), self.model.discard(id), "{said}");
            return;
        }
        let said: String =
            sqlx::query_scalar("select retry_sync($1)").bind(id.0).fetch_one(&self.pool).await.expect("said");
        assert_eq!(said.starts_with("will"), self.model.retry(id), "{said}");
        // The function went by Postgres' own clock.
        let customer = self.model.state().events[&id].customer.clone();
        let due_at = self.model.state().waiting.get(&customer).map(|waiting| waiting.due_at);
        if let Some(due_at) = due_at {
            sqlx::query("update waiting_customers set due_at = $1 where source = $2 and shop_customer_id = $3")
                .bind(due_at)
                .bind(customer.0.as_str())
                .bind(customer.1.as_str())
                .execute(&self.pool)
                .await
                .expect("as due as the other");
        }
    }

    /// Everything that is stored.
    async fn compare(&self, call: usize) {
        let rows = sqlx::query("select event_id, status, attempts, forgiven_attempts, superseded_by, finished_at is not null as is_final from event_states order by event_id")
            .fetch_all(&self.pool)
            .await
            .expect("rows");
        let real: Vec<_> = rows
            .iter()
            .map(|row| {
                let count = |name: &str| u32::try_from(row.get::<i32, _>(name)).expect("a count");
                let superseded_by = row.get::<Option<uuid::Uuid>, _>("superseded_by").map(EventId);
                let id = EventId(row.get("event_id"));
                (
                    id,
                    row.get::<String, _>("status"),
                    count("attempts"),
                    count("forgiven_attempts"),
                    superseded_by,
                    row.get::<bool, _>("is_final"),
                )
            })
            .collect();
        let model: Vec<_> = self
            .model
            .state()
            .events
            .iter()
            .filter_map(|(id, event)| Some((*id, event.state.clone()?)))
            .map(|(id, state)| {
                let status = state.status.as_str().to_owned();
                (id, status, state.attempts, state.forgiven_attempts, state.superseded_by, state.finished_at.is_some())
            })
            .collect();
        assert_eq!(real, model, "events after call {call}");

        let rows = sqlx::query("select shop_customer_id, priority, due_at, first_event_id, revision, attempts, lease_id is not null as is_leased, rests_until, changed_at, is_asked_for from waiting_customers order by shop_customer_id")
            .fetch_all(&self.pool)
            .await
            .expect("rows");
        let real: Vec<_> = rows
            .iter()
            .map(|row| {
                (
                    row.get::<String, _>("shop_customer_id"),
                    row.get::<i16, _>("priority"),
                    row.get::<DateTime<Utc>, _>("due_at"),
                    EventId(row.get("first_event_id")),
                    row.get::<i64, _>("revision"),
                    row.get::<i32, _>("attempts"),
                    row.get::<bool, _>("is_leased"),
                    row.get::<Option<DateTime<Utc>>, _>("rests_until"),
                    (row.get::<Option<DateTime<Utc>>, _>("changed_at"), row.get::<bool, _>("is_asked_for")),
                )
            })
            .collect();
        let model: Vec<_> = self
            .model
            .state()
            .waiting
            .iter()
            .map(|((_, customer), w)| {
                let id = customer.as_str().to_owned();
                let leased = w.lease.is_some();
                let turn = (w.changed_at, w.is_asked_for);
                (id, w.priority, w.due_at, w.first_event_id, w.revision, w.attempts, leased, w.rests_until, turn)
            })
            .collect();
        assert_eq!(real, model, "the queue after call {call}");

        let differences = "
            with of_each as (
                select
                    w.source, w.shop_customer_id, event.event_id, event.attempts, event.forgiven_attempts,
                    event.topic, event.payload::text, event.occurred_at, event.triggered_at, event.received_at,
                    event.traceparent
                from waiting_customers w
                cross join lateral waiting_events_of(w.source, w.shop_customer_id) as event
            ),
            of_all as (
                select waiting.*, d.topic, d.payload::text, d.occurred_at, d.triggered_at, d.received_at, d.traceparent
                from waiting_events waiting
                join deliveries d on d.id = waiting.event_id
            )
            select count(*)
            from (
                (select * from of_each except all select * from of_all)
                union all
                (select * from of_all except all select * from of_each)
            ) as either";
        let differences: i64 = sqlx::query_scalar(differences).fetch_one(&self.pool).await.expect("a number");
        assert_eq!(differences, 0, "what waits of each and of all after call {call}");
    }
}

fn about(look: &Look) -> (bool, bool, bool) {
    (look.is_due, look.has_hold, look.held_for.is_some())
}

fn events(events: &[WaitingEvent]) -> Vec<impl PartialEq + std::fmt::Debug> {
    let told = events.iter().map(|event| {
        let times = (event.occurred_at, event.triggered_at, event.received_at);
        (
            event.id,
            event.is_unmatched,
            event.attempts,
            event.forgiven_attempts,
            event.failing,
            times,
            event.traceparent.as_deref(),
        )
    });
    told.collect()
}

fn linked(link: Option<&Link>) -> Option<impl PartialEq + std::fmt::Debug> {
    link.map(|link| (link.flexportal_id.clone(), link.acknowledged.clone(), link.status_shown, link.missing_tried_at))
}
