//! A FlexPortal that loses, delays and refuses requests, and that notices whatever should never reach it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::history::{Fault, Setting};
use super::{Chance, Steps};
use crate::domain::OrderKey;
use crate::flexportal::{Api, Exchange, FlexportalError, Found, Operation, UpdateCustomer, Updated};

/// On its way to FlexPortal a request takes this long at most: what the budget leaves for the network.
const LONGEST_WAY: Duration = Duration::from_millis(240);
/// So many times less where FlexPortal is near.
const NEARER: u32 = 40;
/// A request that nothing ails is carried out within this.
const USUALLY_WITHIN: Duration = Duration::from_millis(400);

#[derive(Debug, Clone)]
pub(super) struct SimulatedFlexportal {
    state: Arc<Mutex<State>>,
    chance: Chance,
    steps: Steps,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) fault: Fault,
    /// By id: e-mail, and each field's value.
    customers: BTreeMap<String, (String, BTreeMap<String, String>)>,
    /// Of the last minute.
    arrivals: VecDeque<Instant>,
    limit: u32,
    setting: Setting,
    /// PUTs that were sent and can still be carried out, by customer.
    under_way: BTreeMap<String, usize>,
    /// When a value was said.
    said: BTreeMap<(String, String), Vec<OrderKey>>,
    /// Values that must not be sent any more.
    erased: BTreeSet<String>,
    /// What should never have happened.
    pub(super) wrong: Vec<String>,
}

/// What becomes of a request.
enum Course {
    Answered,
    Failed(FlexportalError),
    /// Lost sight of: carried out late or never.
    Lost {
        is_carried_out: bool,
        seen: Seen,
    },
}

/// What the sender of a lost request gets to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Nothing,
    BrokenConnection,
    /// 502: the gateway has lost sight of it, too.
    BadGateway,
}

/// What a request is answered: the status, where an error is meant to have one, and the outcome.
type Answer<T> = (Option<u16>, Result<T, FlexportalError>);

impl SimulatedFlexportal {
    pub(super) fn new(setting: &Setting, chance: Chance, steps: Steps) -> Self {
        let state = State {
            fault: Fault::None,
            customers: BTreeMap::new(),
            arrivals: VecDeque::new(),
            limit: setting.limit_of_flexportal.unwrap_or(setting.limit),
            setting: setting.clone(),
            under_way: BTreeMap::new(),
            said: BTreeMap::new(),
            erased: BTreeSet::new(),
            wrong: vec![],
        };
        Self { state: Arc::new(Mutex::new(state)), chance, steps }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics holding it")
    }

    /// A request arrives and is carried out, or not; `answer` is what its sender gets to see, if it waits so long.
    async fn receive<T: Send + 'static>(
        self,
        put: Option<String>,
        carry_out: impl FnOnce(&mut State) -> Result<T, FlexportalError> + Send + 'static,
        answer: oneshot::Sender<Answer<T>>,
    ) {
        let nearer = if self.state().setting.is_near { NEARER } else { 1 };
        tokio::time::sleep(self.chance.up_to(LONGEST_WAY / nearer)).await;
        self.steps.count();
        let (course, wait) = {
            let mut state = self.state();
            state.arrives();
            let course = state.course(&self.chance, put.is_some());
            let wait = match course {
                Course::Lost { .. } => state.setting.carried_out_within,
                Course::Answered | Course::Failed(_) => USUALLY_WITHIN / nearer,
            };
            (course, self.chance.up_to(wait))
        };
        let is_carried_out = match course {
            Course::Answered => true,
            Course::Failed(_) => false,
            Course::Lost { is_carried_out, .. } => is_carried_out,
        };
        let carried_out = async {
            tokio::time::sleep(wait).await;
            let mut state = self.state();
            if let Some(id) = put {
                *state.under_way.entry(id).or_default() -= 1;
            }
            is_carried_out.then(|| carry_out(&mut state))
        };
        match course {
            Course::Answered => drop(carried_out.await.map(|outcome| answer.send((None, outcome)))),
            Course::Failed(error) => {
                carried_out.await;
                drop(answer.send((None, Err(error))));
            }
            Course::Lost { seen, .. } => {
                let noticed = async {
                    tokio::time::sleep(self.chance.up_to(USUALLY_WITHIN)).await;
                    match seen {
                        Seen::Nothing => std::future::pending().await, // the connection stays open
                        Seen::BrokenConnection => drop(answer),
                        Seen::BadGateway => drop(answer.send((Some(502), Err(unavailable("502"))))),
                    }
                };
                tokio::join!(carried_out, noticed);
            }
        }
    }
}

fn unavailable(what: &str) -> FlexportalError {
    FlexportalError::Unavailable { code: None, what: what.to_owned() }
}

impl State {
    pub(super) fn customer(&mut self, id: &str, email: &str) {
        self.customers.insert(id.to_owned(), (email.to_owned(), BTreeMap::new()));
    }

    /// Merges a customer into another record, as FlexPortal's support does: what is known of it stays.
    pub(super) fn merge(&mut self, email: &str, into: &str) {
        let id = self.customers.iter().find(|(_, (of, _))| of == email).map(|(id, _)| id.clone());
        if let Some(record) = id.and_then(|id| self.customers.remove(&id)) {
            self.customers.insert(into.to_owned(), record);
        }
    }

    pub(super) fn has(&self, id: &str) -> bool {
        self.customers.contains_key(id)
    }

    pub(super) fn id_of(&self, email: &str) -> Option<String> {
        self.customers.iter().find(|(_, (of, _))| of == email).map(|(id, _)| id.clone())
    }

    pub(super) fn value(&self, email: &str, field: &str) -> Option<&str> {
        let (_, values) = self.customers.values().find(|(of, _)| of == email)?;
        values.get(field).map(String::as_str)
    }

    pub(super) fn is_said(&mut self, field: &str, value: &str, key: OrderKey) {
        self.said.entry((field.to_owned(), value.to_owned())).or_default().push(key);
    }

    pub(super) fn is_erased(&mut self, values: impl Iterator<Item = String>) {
        self.erased.extend(values.filter(|value| !value.is_empty()));
    }

    fn is_sent(&mut self, id: &str, body: &Json) {
        let values = body.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
        let erased: Vec<_> = values.filter(|value| self.erased.contains(*value)).map(str::to_owned).collect();
        self.wrong.extend(erased.into_iter().map(|value| format!("{id}: {value} was sent after it was erased")));
    }

    fn arrives(&mut self) {
        let now = Instant::now();
        self.arrivals.push_back(now);
        while self.arrivals.front().is_some_and(|at| now - *at >= Duration::from_mins(1)) {
            self.arrivals.pop_front();
        }
        if self.limit > 0 && self.arrivals.len() > self.limit as usize {
            self.wrong.push(format!("{} requests within a minute, the limit is {}", self.arrivals.len(), self.limit));
        }
    }

    fn course(&self, chance: &Chance, is_put: bool) -> Course {
        let lost = |is_carried_out, seen| Course::Lost { is_carried_out, seen };
        match self.fault {
            Fault::None if chance.of(self.setting.late) => lost(true, Seen::Nothing),
            Fault::None => Course::Answered,
            Fault::Some => match chance.below(20) {
                0..=2 => Course::Failed(unavailable("503")),
                3 => lost(false, Seen::BrokenConnection),
                4 => lost(true, Seen::BrokenConnection),
                5 => lost(true, Seen::BadGateway),
                6 => lost(false, Seen::Nothing),
                7 => lost(true, Seen::Nothing),
                _ => Course::Answered,
            },
            Fault::Down => Course::Failed(unavailable("503")),
            Fault::Hanging => lost(chance.of(0.7), Seen::Nothing),
            Fault::Unauthorized => Course::Failed(FlexportalError::Unauthorized { code: None }),
            Fault::Impostor if is_put => Course::Failed(FlexportalError::CustomerNotFound),
            Fault::Impostor => Course::Failed(unavailable("404")),
            Fault::Limiting => {
                let retry_after = Duration::from_secs([0, 1, 20, 60][chance.below(4)]);
                Course::Failed(FlexportalError::RateLimited { retry_after })
            }
        }
    }

    fn update(&mut self, id: &str, body: &Json) -> Result<Updated, FlexportalError> {
        let Some((email, values)) = self.customers.get_mut(id) else { return Err(FlexportalError::CustomerNotFound) };
        let fields = body.as_object().into_iter().flatten().filter(|(field, _)| *field != "customerId");
        let given: Vec<_> =
            fields.filter_map(|(field, value)| Some((field.clone(), value.as_str()?.to_owned()))).collect();
        if given.iter().any(|(_, value)| value.starts_with("refused")) {
            return Err(FlexportalError::Refused { code: None, message: "not a value".to_owned(), fields: vec![] });
        }
        for (field, value) in given {
            if let Some(before) = values.get(&field) {
                let keys = |value: &str| self.said.get(&(field.clone(), value.to_owned()));
                let newest = keys(&value).and_then(|keys| keys.iter().max());
                let oldest_before = keys(before).and_then(|keys| keys.iter().min());
                if newest < oldest_before {
                    self.wrong.push(format!("{id}: {field} went back from {before} to {value}, which is older"));
                }
            }
            values.insert(field, value);
        }
        Ok(Updated { email: Some(email.clone()), status: None })
    }

    fn find(&self, email: &str, inactive: bool) -> Vec<Found> {
        let found = self.customers.iter().filter(|(_, (of, _))| !inactive && of.eq_ignore_ascii_case(email));
        found.map(|(id, (email, _))| Found { customer_id: id.clone(), email: email.clone() }).collect()
    }
}

/// A worker's line to it.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) flexportal: SimulatedFlexportal,
    pub(super) timeout: Duration,
    pub(super) longest_under_way: Duration,
}

impl Line {
    async fn ask<T: Send + 'static>(
        &self,
        operation: Operation,
        put: Option<String>,
        request_body: Option<String>,
        carry_out: impl FnOnce(&mut State) -> Result<T, FlexportalError> + Send + 'static,
    ) -> Exchange<T> {
        let started = Instant::now();
        let (answer, answered) = oneshot::channel();
        // It goes on its way, whatever becomes of the worker.
        tokio::spawn(self.flexportal.clone().receive(put, carry_out, answer));
        let (http_status, outcome) = match tokio::time::timeout(self.timeout, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => (None, Err(FlexportalError::Disconnected("dropped".to_owned()))),
            Err(_) => (None, Err(FlexportalError::TimedOut)),
        };
        let duration = started.elapsed();
        Exchange { operation, started, duration, request_body, http_status, response_body: None, outcome }
    }
}

impl Api for Line {
    fn longest_under_way(&self) -> Duration {
        self.longest_under_way
    }

    async fn update_customer(&self, update: &UpdateCustomer<'_>, body: String, _key: &str) -> Exchange<Updated> {
        let id = update.customer_id.as_str().to_owned();
        let parsed: Json = serde_json::from_str(&body).expect("a body");
        {
            let mut state = self.flexportal.state();
            state.is_sent(&id, &parsed);
            let under_way = state.under_way.entry(id.clone()).or_default();
            *under_way += 1;
            if *under_way > 1 {
                state.wrong.push(format!("{id}: two requests are under way"));
            }
        }
        let put = Some(id.clone());
        self.ask(Operation::UpdateCustomer, put, Some(body), move |state| state.update(&id, &parsed)).await
    }

    async fn find_by_email(&self, email: &str, inactive: bool) -> Exchange<Vec<Found>> {
        let email = email.to_owned();
        self.ask(Operation::FindByEmail, None, None, move |state| Ok(state.find(&email, inactive))).await
    }

    async fn list_one(&self) -> Exchange<Vec<Found>> {
        self.ask(Operation::List, None, None, move |_| Ok(vec![])).await
    }
}
