//! A model of claim, send, record and takeover for one customer, checked in every order of steps.
//!
//! Two workers and FlexPortal act one step at a time while versions of the customer arrive; `stateright` visits
//! every state that can come of it. Time may pass between any two steps, so that a worker can be slow enough to
//! lose its claim; it can crash; a request can arrive late or never, and its answer be lost. How many such troubles
//! one run has is bounded ([`TROUBLES`]), so that every run has an end, and there all of it has to be delivered.
//!
//! | here | there |
//! | --- | --- |
//! | [`Action::Arrive`], [`Row`] | `src/outbox/store.rs`: `waiting_customers` and its `revision` |
//! | [`Action::Claim`], [`Action::Renew`] | `src/outbox/claim.rs` |
//! | [`Action::Read`] | `src/sync.rs`, `src/sync/fold.rs`: what waits, and whether FlexPortal has it already |
//! | [`Action::Send`] | `src/sync/requests.rs`: the claim has to outlast the request, else it is renewed |
//! | [`Action::Record`] | `src/sync/settlement.rs` says what is written, `src/outbox/settle.rs` writes it |
//! | [`State::acknowledged`] | `customer_links.acknowledged`, as a whole instead of field by field |
//!
//! A tick is five seconds, a little more at the longest `FLEXPORTAL_TIMEOUT`. To look at the lease and to send are one
//! step, so [`UNDER_WAY`] counts from the look: `Client::longest_under_way`. The lease goes by Postgres' clock, which may be
//! set forward or back ([`Action::StepForward`], `src/outbox/targets.rs`; [`Action::StepBack`], `src/outbox/clamp.rs`); each
//! worker measures time for itself, whatever its clock shows. Retry delays and the budget are left out,
//! since they only make requests later; so are answers other than success.
//!
//! Each [`Flaw`] breaks the protocol in one place, and the checker has to find the harm that it does.

use std::collections::HashSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

/// Ticks that a claim lasts.
const LEASE: u8 = 6;
/// Ticks from sending a request until it cannot arrive any more.
const UNDER_WAY: u8 = 5;
/// [`Flaw::ShortLease`]: a claim that ends while its request may still arrive.
const SHORT_LEASE: u8 = 4;
/// Versions that arrive; version 0 is what FlexPortal has before.
const ARRIVALS: u8 = 3;
/// What each version says; the last takes the one before it back.
const VALUES: [char; 4] = ['-', 'a', 'b', 'a'];
/// How many things go wrong in one run.
const TROUBLES: u8 = 3;
/// By how many ticks Postgres' clock may be set: a part of a lease. (More than all of it finds nothing either.)
const STEPS: [u8; 1] = [2];

const NEVER_BACK: &str = "FlexPortal never goes back to an older version";
const OWNERS_WRITE: &str = "whoever writes a result owns the claim";
const NOTHING_IS_LOST: &str = "the queue is empty only while FlexPortal has the newest version";
const ONE_AT_A_TIME: &str = "no more than one request can still arrive";

/// What the protocol can be built without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    /// Results are written without looking at the lease.
    NoFencing,
    /// The lease is shorter than a request can be under way.
    ShortLease,
    /// After a timeout the claim is given back at once.
    GivesBackInDoubt,
    /// Settling empties the queue, whatever arrived since the claim.
    IgnoresRevision,
    /// After a timeout what FlexPortal acknowledged before is still believed.
    ForgetsDoubt,
    /// After Postgres' clock was set forward requests go out at once, though leases ended early.
    GoesOnAfterStep,
    /// Whoever takes over from a dead worker believes what was acknowledged before.
    TrustingTakeover,
}

/// The customer's row in the queue; with none, nothing waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Row {
    revision: u8,
    /// Whose token the lease has: no worker remembers more than its newest claim, so its number will do.
    owner: Option<usize>,
    /// Until the lease ends; it keeps everybody out, also if it has no owner (any more).
    ticks_left: u8,
    /// Claimed, and no result written since.
    is_unsettled: bool,
}

/// A request that can still arrive.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request {
    version: u8,
    ticks_left: u8,
    /// Who waits for its answer.
    sender: Option<usize>,
}

/// How far a worker is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Idle,
    Claimed,
    Ready,
    Waiting,
    Acknowledged,
    InDoubt,
}

/// What a worker remembers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Worker {
    step: Step,
    revision: u8,
    is_takeover: bool,
    version: u8,
    /// By its own clock: of the claim, and once it has sent, of the time in which the request can arrive.
    ticks_left: u8,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct State {
    /// The newest version that arrived.
    newest: u8,
    row: Option<Row>,
    /// The version that FlexPortal acknowledged.
    acknowledged: u8,
    /// No request of unknown fate went out since.
    is_certain: bool,
    /// The version that FlexPortal has.
    flexportal: u8,
    requests: Vec<Request>,
    workers: [Worker; 2],
    troubles_left: u8,
    /// Ticks until a request may be sent again, after Postgres' clock was set forward.
    hold: u8,
    went_back: bool,
    wrote_without_claim: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Arrive,
    Tick,
    Claim(usize),
    Read(usize),
    Renew(usize),
    Send(usize),
    /// A request arrives at FlexPortal, and its answer at the sender.
    Answer(usize),
    /// A request arrives at FlexPortal, and its answer nowhere.
    Apply(usize),
    /// The time limit is over, whatever it is, or the connection broke before: the request may still arrive.
    GiveUp(usize),
    Record(usize),
    Crash(usize),
    /// Postgres' clock is set forward by so many ticks.
    StepForward(u8),
    /// Postgres' clock is set back by so many ticks.
    StepBack(u8),
}

/// The protocol, whole or with a flaw.
struct Protocol(Option<Flaw>);

impl Protocol {
    fn has(&self, flaw: Flaw) -> bool {
        self.0 == Some(flaw)
    }

    fn lease(&self) -> u8 {
        if self.has(Flaw::ShortLease) { SHORT_LEASE } else { LEASE }
    }

    /// What has to be left of the lease to send.
    fn needed(&self) -> u8 {
        UNDER_WAY.min(self.lease())
    }

    /// What a worker can do now, besides crashing.
    fn next_of(&self, state: &State, number: usize) -> Option<Action> {
        let worker = &state.workers[number];
        match worker.step {
            Step::Idle => state.row.as_ref().is_some_and(|row| row.ticks_left == 0).then_some(Action::Claim(number)),
            Step::Claimed => Some(Action::Read(number)),
            Step::Ready if worker.ticks_left < self.needed() => Some(Action::Renew(number)),
            Step::Ready => (state.hold == 0).then_some(Action::Send(number)),
            // To give up a request that could still be answered is a trouble, after a lost answer it is not.
            Step::Waiting => {
                let is_answerable = state.requests.iter().any(|request| request.sender == Some(number));
                (!is_answerable || state.troubles_left > 0).then_some(Action::GiveUp(number))
            }
            Step::Acknowledged | Step::InDoubt => Some(Action::Record(number)),
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State { is_certain: true, troubles_left: TROUBLES, ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.newest < ARRIVALS {
            actions.push(Action::Arrive);
        }
        for number in 0..state.workers.len() {
            actions.extend(self.next_of(state, number));
            if state.is_busy(number) && state.troubles_left > 0 {
                actions.push(Action::Crash(number));
            }
        }
        if state.troubles_left > 0 && state.row.as_ref().is_some_and(|row| row.ticks_left > 0) {
            actions.extend(STEPS.map(Action::StepForward));
            actions.extend(STEPS.map(Action::StepBack));
        }
        for (number, request) in state.requests.iter().enumerate() {
            if request.sender.is_some() {
                actions.push(Action::Answer(number));
            }
            if request.sender.is_none() || state.troubles_left > 0 {
                actions.push(Action::Apply(number));
            }
        }
        if state.after_tick(self.needed()).is_some_and(|later| later != *state) {
            actions.push(Action::Tick);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Arrive => state.arrive(),
            Action::Tick => return state.after_tick(self.needed()),
            Action::Claim(number) => state.claim(number, self.lease()),
            Action::Read(number) => state.read(number, self.has(Flaw::TrustingTakeover)),
            Action::Renew(number) => state.renew(number, self.lease()),
            Action::Send(number) => state.send(number),
            Action::Answer(request) => {
                if let Some(sender) = state.apply(request) {
                    (state.workers[sender].step, state.workers[sender].ticks_left) = (Step::Acknowledged, 0);
                }
            }
            Action::Apply(request) => state.troubles_left -= u8::from(state.apply(request).is_some()),
            Action::GiveUp(number) => {
                state.troubles_left -= u8::from(state.forsake_request(number));
                state.workers[number].step = Step::InDoubt;
            }
            Action::Record(number) => state.record(number, self),
            Action::Crash(number) => {
                state.forsake_request(number);
                state.troubles_left -= 1;
                state.workers[number] = Worker::default();
            }
            Action::StepForward(ticks) => {
                state.troubles_left -= 1;
                state.step_forward(ticks);
                if self.has(Flaw::GoesOnAfterStep) {
                    state.hold = 0;
                }
            }
            Action::StepBack(ticks) => {
                state.troubles_left -= 1;
                state.step_back(ticks, self.lease());
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let (always, sometimes) = (Property::<Self>::always, Property::<Self>::sometimes);
        vec![
            always(NEVER_BACK, |_, state| !state.went_back),
            always(OWNERS_WRITE, |_, state| !state.wrote_without_claim),
            always("what is acknowledged is what FlexPortal was sent", |_, state| {
                !state.is_certain
                    || state.flexportal > state.acknowledged
                    || say_the_same(state.flexportal, state.acknowledged)
            }),
            always(NOTHING_IS_LOST, |_, state| {
                state.row.is_some()
                    || state.acknowledged == state.newest && say_the_same(state.flexportal, state.newest)
            }),
            always(ONE_AT_A_TIME, |_, state| state.requests.len() <= 1),
            // Of every last state, as `eventually` overlooks runs that join others; and no run is endless (below).
            always("nothing waits for ever", |model, state| {
                let mut actions = vec![];
                model.actions(state, &mut actions);
                state.row.is_none() || !actions.is_empty()
            }),
            sometimes("all versions are delivered and the queue is empty", |_, state| {
                state.newest == ARRIVALS && state.row.is_none()
            }),
            sometimes("a request can still arrive after its sender is gone", |_, state| {
                state.requests.iter().any(|request| request.sender.is_none())
            }),
            sometimes("a slow worker goes on after its claim is lost", |_, state| {
                (0..2).any(|number| state.is_busy(number) && !state.owns_claim(number))
            }),
            sometimes("a version is settled without a request", |_, state| state.acknowledged > state.flexportal),
        ]
    }
}

fn say_the_same(version: u8, other: u8) -> bool {
    VALUES[usize::from(version)] == VALUES[usize::from(other)]
}

impl State {
    fn arrive(&mut self) {
        self.newest += 1;
        match &mut self.row {
            Some(row) => row.revision += 1,
            // A new row counts from the start again, as in the database.
            None => self.row = Some(Row { revision: 0, owner: None, ticks_left: 0, is_unsettled: false }),
        }
    }

    fn is_busy(&self, number: usize) -> bool {
        self.workers[number].step != Step::Idle
    }

    fn owns_claim(&self, number: usize) -> bool {
        self.row.as_ref().is_some_and(|row| row.owner == Some(number))
    }

    /// A tick later; `None` where it would bring more trouble than is left.
    ///
    /// Trouble is a request that never arrives and so is never answered, a claim that ends under a live worker,
    /// and one that has to be renewed: without any left, workers and FlexPortal are prompt.
    fn after_tick(&self, needed: u8) -> Option<Self> {
        let (mut later, mut troubles) = (self.clone(), 0);
        for request in &mut later.requests {
            request.ticks_left -= 1;
            troubles += u8::from(request.ticks_left == 0 && request.sender.is_some());
        }
        later.requests.retain(|request| request.ticks_left > 0);
        for worker in &mut later.workers {
            let is_slow = self.hold == 0 && matches!(worker.step, Step::Claimed | Step::Ready);
            troubles += u8::from(worker.ticks_left == needed && is_slow);
            worker.ticks_left = worker.ticks_left.saturating_sub(1);
        }
        if let Some(row) = &mut later.row {
            let is_slow = self.hold == 0 && row.owner.is_some_and(|owner| self.is_busy(owner));
            troubles += u8::from(row.ticks_left == 1 && is_slow);
            row.ticks_left = row.ticks_left.saturating_sub(1);
        }
        later.hold = later.hold.saturating_sub(1);
        later.troubles_left = later.troubles_left.checked_sub(troubles)?;
        Some(later)
    }

    /// Leases end so much earlier, and requests wait for as long as a lease lasts, or as the step if it is longer: by then
    /// those that were under way have arrived, and whoever held a claim has to renew it.
    fn step_forward(&mut self, ticks: u8) {
        if let Some(row) = &mut self.row {
            row.ticks_left = row.ticks_left.saturating_sub(ticks);
        }
        self.hold = self.hold.max(ticks).max(LEASE);
    }

    /// Leases last longer, and no longer than one can.
    fn step_back(&mut self, ticks: u8, lease: u8) {
        if let Some(row) = &mut self.row {
            row.ticks_left = row.ticks_left.saturating_add(ticks).min(lease.max(row.ticks_left));
        }
    }

    fn claim(&mut self, number: usize, lease: u8) {
        if let Some(row) = &mut self.row {
            let is_takeover = std::mem::replace(&mut row.is_unsettled, true);
            (row.owner, row.ticks_left) = (Some(number), lease);
            let (step, revision) = (Step::Claimed, row.revision);
            self.workers[number] = Worker { step, revision, is_takeover, ticks_left: lease, version: 0 };
        }
    }

    /// A statement of its own after the claim: it may see more than the claimed revision counts.
    fn read(&mut self, number: usize, trusts: bool) {
        let worker = &mut self.workers[number];
        worker.version = self.newest;
        let is_takeover = std::mem::take(&mut worker.is_takeover);
        let believes = self.is_certain && (trusts || !is_takeover);
        if self.acknowledged == self.newest || believes && say_the_same(self.acknowledged, self.newest) {
            (worker.step, worker.ticks_left) = (Step::Acknowledged, 0);
        } else {
            worker.step = Step::Ready;
        }
    }

    /// Prolongs the claim, or finds it lost and gives up.
    fn renew(&mut self, number: usize, lease: u8) {
        match &mut self.row {
            Some(row) if row.owner == Some(number) => {
                (row.ticks_left, self.workers[number].ticks_left) = (lease, lease);
            }
            _ => self.workers[number] = Worker::default(),
        }
    }

    fn send(&mut self, number: usize) {
        let worker = &mut self.workers[number];
        (worker.step, worker.ticks_left) = (Step::Waiting, UNDER_WAY);
        self.requests.push(Request { version: worker.version, ticks_left: UNDER_WAY, sender: Some(number) });
    }

    /// FlexPortal carries a request out; returns who waits for the answer.
    fn apply(&mut self, request: usize) -> Option<usize> {
        let request = self.requests.remove(request);
        self.went_back |= request.version < self.flexportal;
        self.flexportal = request.version;
        request.sender
    }

    /// Nobody waits for the worker's request any more; tells whether it can still arrive.
    fn forsake_request(&mut self, number: usize) -> bool {
        let request = self.requests.iter_mut().find(|request| request.sender == Some(number));
        request.is_some_and(|request| request.sender.take().is_some())
    }

    /// Writes what came of a claim, if it still is the worker's.
    fn record(&mut self, number: usize, protocol: &Protocol) {
        let is_owner = self.owns_claim(number);
        let worker = std::mem::take(&mut self.workers[number]);
        if !is_owner && !protocol.has(Flaw::NoFencing) {
            return;
        }
        self.wrote_without_claim |= !is_owner;
        if worker.step == Step::Acknowledged {
            (self.acknowledged, self.is_certain) = (worker.version, true);
            self.row.take_if(|row| row.revision == worker.revision || protocol.has(Flaw::IgnoresRevision));
        } else {
            self.is_certain &= protocol.has(Flaw::ForgetsDoubt);
        }
        if let Some(row) = &mut self.row {
            let gives_back = worker.step == Step::Acknowledged || protocol.has(Flaw::GivesBackInDoubt);
            row.ticks_left = if gives_back { 0 } else { worker.ticks_left };
            (row.owner, row.is_unsettled) = (None, false);
        }
    }
}

#[test]
fn the_protocol_has_no_counterexample() {
    let checker = Protocol(None).checker().spawn_bfs().join();
    println!("{} states, runs of up to {} steps", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 100_000, "hardly anything was looked at");
}

/// Asserts that a flaw does each of these harms.
fn assert_harm(flaw: Flaw, harms: &[&'static str]) {
    let enough = HasDiscoveries::AllOf(harms.iter().copied().collect());
    let checker = Protocol(Some(flaw)).checker().finish_when(enough).spawn_bfs().join();
    for harm in harms {
        println!("{flaw:?}, against \"{harm}\": {}", checker.assert_any_discovery(harm));
    }
}

#[test]
fn without_fencing_a_late_result_undoes_a_newer_one() {
    assert_harm(Flaw::NoFencing, &[OWNERS_WRITE, ONE_AT_A_TIME, NEVER_BACK, NOTHING_IS_LOST]);
}

#[test]
fn with_a_lease_shorter_than_a_request_two_requests_overtake_each_other() {
    assert_harm(Flaw::ShortLease, &[ONE_AT_A_TIME, NEVER_BACK]);
}

#[test]
fn a_claim_given_back_after_a_timeout_lets_two_requests_overtake_each_other() {
    assert_harm(Flaw::GivesBackInDoubt, &[ONE_AT_A_TIME, NEVER_BACK]);
}

#[test]
fn without_a_hold_after_a_step_of_postgres_clock_two_requests_overtake_each_other() {
    assert_harm(Flaw::GoesOnAfterStep, &[ONE_AT_A_TIME, NEVER_BACK]);
}

#[test]
fn without_the_revision_what_arrives_during_a_request_is_lost() {
    assert_harm(Flaw::IgnoresRevision, &[NOTHING_IS_LOST]);
}

#[test]
fn without_doubt_after_a_timeout_or_a_crash_a_value_that_comes_back_is_lost() {
    assert_harm(Flaw::ForgetsDoubt, &[NOTHING_IS_LOST]);
    assert_harm(Flaw::TrustingTakeover, &[NOTHING_IS_LOST]);
}

#[test]
fn every_run_has_an_end() {
    let protocol = Protocol(None);
    let (mut on_path, mut done) = (HashSet::new(), HashSet::new());
    let mut to_visit: Vec<_> = protocol.init_states().into_iter().map(|state| (state, false)).collect();
    while let Some((state, is_left)) = to_visit.pop() {
        if is_left {
            on_path.remove(&state);
            done.insert(state);
        } else if !done.contains(&state) {
            assert!(on_path.insert(state.clone()), "a run comes back to {state:?}");
            to_visit.push((state.clone(), true));
            to_visit.extend(protocol.next_states(&state).into_iter().map(|state| (state, false)));
        }
    }
}
