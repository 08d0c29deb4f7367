//! From a claimed customer to a settled one: lines two and three of the picture, in order.
//!
//! read → fold → translate → identify → one PUT → decide → settle. The steps are pure; what they need from the
//! world is asked here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::config::Identity;
use crate::domain::{
    Acknowledged, Acknowledgement, Dice, EventId, EventStatus, Field, FieldValue, FlexportalCustomerId, RetryPolicy,
    Said, SourceName, ValueHash,
};
use crate::flexportal::{Exchange, FlexportalError, Updated};
use crate::outbox::{
    Attempt, ClaimedCustomer, EventResult, HoldReason, Link, LinkChange, LinkOrigin, Next, Outbox, Settlement,
    StoreError, WaitingEvent,
};
use crate::shops::Shop;

pub mod decide;
pub mod fold;
pub mod identify;
mod requests;
pub mod translate;
mod worker;

use decide::Verdict;
use fold::{Folded, ReadEvent};
use identify::Match;
use requests::{Interrupted, Requests};
use translate::Translated;
pub use worker::{StepOutcome, Worker};

/// After this a value that FlexPortal acknowledged is sent again: staff or an order may have replaced it.
const ACKNOWLEDGED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Work of a source that is not configured (any more) is looked at again after this.
const UNCONFIGURED_DELAY: Duration = Duration::from_secs(60);

/// What every customer's sync needs to know.
#[derive(Debug)]
pub(crate) struct Rules {
    shops: BTreeMap<SourceName, Arc<Shop>>,
    retry: RetryPolicy,
    unmatched_retry_interval: Duration,
    unmatched_max_age: Duration,
    dice: Dice,
}

/// How a customer's sync ended, before it is written down.
enum End {
    Synced {
        id: FlexportalCustomerId,
        origin: Option<LinkOrigin>,
        updated: Updated,
    },
    Unchanged {
        id: Option<FlexportalCustomerId>,
        origin: Option<LinkOrigin>,
    },
    Unmatched {
        why: &'static str,
        drop_link: bool,
    },
    Failed(FlexportalError),
    Retry(FlexportalError, Duration),
    /// Nobody's fault: no attempt is counted.
    Later {
        error: Option<FlexportalError>,
        found: Option<(FlexportalCustomerId, LinkOrigin)>,
    },
}

/// Who it is, and how we know; no origin if the link was there.
type Identified = (FlexportalCustomerId, Option<LinkOrigin>);

/// Syncs one claimed customer and says what is to be written down; `None` if the claim was lost on the way.
pub(crate) async fn sync_customer(
    rules: &Rules,
    outbox: &Outbox,
    requests: &mut Requests<'_>,
    claimed: &mut ClaimedCustomer,
) -> Result<Option<Settlement>, StoreError> {
    let waiting = outbox.waiting_events(claimed).await?;
    let Some(shop) = rules.shops.get(&claimed.source) else {
        tracing::warn!(source = %claimed.source, events = waiting.len(), "events wait for a source that is not configured");
        return Ok(Some(Settlement {
            results: vec![],
            attempts: vec![],
            link: LinkChange::Keep,
            next: Next::In(UNCONFIGURED_DELAY),
        }));
    };
    let (read, unreadable) = read_all(shop, &waiting);
    let link = outbox.link(&claimed.source, &claimed.customer).await?;
    let known_id = known_id(shop, claimed, &read, link.as_ref());
    let acknowledged = match (&link, &known_id) {
        (Some(link), Some((id, _))) if link.flexportal_id == *id => link.acknowledged.clone(),
        // What another FlexPortal customer acknowledged says nothing of this one.
        _ => Acknowledged::default(),
    };
    let folded = fold::fold(&read, &acknowledged);
    let translated = translate::translate(&folded.fields, &acknowledged, requests.wishes());

    let mut end = None;
    if let Some(head) = folded.head {
        let number = waiting.iter().find(|event| event.id == head).map_or(1, |event| event.attempts + 1);
        let forgiven = waiting.iter().find(|event| event.id == head).map_or(0, |event| event.forgiven_attempts);
        requests.are_for(head, number);
        let email = match fold::newest_email(&read) {
            Some(email) => Some(email.to_owned()),
            None if known_id.is_none() => outbox.last_known_email(&claimed.source, &claimed.customer).await?,
            None => None,
        };
        let mut steps = Steps {
            rules,
            requests,
            email,
            may_look_up: shop.source().identity == Identity::Email,
            acknowledged: &acknowledged,
            translated: &translated,
            attempt: number.saturating_sub(forgiven),
        };
        end = Some(match steps.run(head, known_id).await {
            Ok(end) => end,
            Err(Interrupted::ClaimLost) => return Ok(None),
            Err(Interrupted::Store(error)) => return Err(error),
            Err(Interrupted::NotNow { found }) => End::Later { error: None, found },
        });
    }
    let now = outbox.clock().now();
    let writing = Writing { rules, waiting: &waiting, read: &read, folded: &folded, translated: &translated, now };
    Ok(Some(writing.settlement(end, unreadable, acknowledged, requests)))
}

fn read_all(shop: &Shop, waiting: &[WaitingEvent]) -> (Vec<ReadEvent>, Vec<(EventId, String)>) {
    let (mut read, mut unreadable) = (Vec::new(), Vec::new());
    for event in waiting {
        match shop.read(&event.topic, &event.payload) {
            Ok(said) => read.push(ReadEvent { id: event.id, occurred_at: event.occurred_at, event: said }),
            Err(rejection) => unreadable.push((event.id, rejection.to_string())),
        }
    }
    (read, unreadable)
}

/// An id carried by the event, else the link's.
fn known_id(shop: &Shop, claimed: &ClaimedCustomer, read: &[ReadEvent], link: Option<&Link>) -> Option<Identified> {
    let carried = match shop.source().identity {
        Identity::SameId => FlexportalCustomerId::parse(claimed.customer.as_str()).ok(),
        Identity::Email => fold::newest_flexportal_id(read).cloned(),
    };
    match (carried, link) {
        (Some(id), Some(link)) if link.flexportal_id == id => Some((id, None)),
        (Some(id), _) => Some((id, Some(LinkOrigin::Event))),
        (None, Some(link)) => Some((link.flexportal_id.clone(), None)),
        (None, None) => None,
    }
}

/// The requests of one customer's sync, in order.
struct Steps<'a, 'r> {
    rules: &'a Rules,
    requests: &'a mut Requests<'r>,
    email: Option<String>,
    may_look_up: bool,
    acknowledged: &'a Acknowledged,
    translated: &'a Translated,
    attempt: u32,
}

impl Steps<'_, '_> {
    async fn run(&mut self, head: EventId, known: Option<Identified>) -> Result<End, Interrupted> {
        if self.translated.sent.is_empty() {
            let (id, origin) = known.map_or((None, None), |(id, origin)| (Some(id), origin));
            return Ok(End::Unchanged { id, origin });
        }
        let mut stale_id = None;
        let mut identified = known;
        loop {
            let (id, origin) = match identified.take() {
                Some(identified) => identified,
                None => match self.look_up().await? {
                    Ok(Match::One(id)) if stale_id.as_ref() != Some(&id) => (id, Some(LinkOrigin::Lookup)),
                    Ok(Match::Several) => {
                        return Ok(unmatched("several FlexPortal customers have this e-mail", &stale_id));
                    }
                    Ok(Match::One(_) | Match::None) => {
                        return Ok(unmatched("FlexPortal knows no such customer yet", &stale_id));
                    }
                    Err(error) => return Ok(self.end_of_error(error, None)),
                },
            };
            if self.is_acknowledged() {
                return Ok(End::Unchanged { id: Some(id), origin });
            }
            let update = self.translated.for_customer(&id);
            let found = origin.map(|origin| (id.clone(), origin));
            let outcome =
                self.requests.update_customer(head, &update).await.map_err(|error| error.having(found.clone()))?;
            match outcome {
                Ok(updated) => return Ok(End::Synced { id, origin, updated }),
                Err(FlexportalError::CustomerNotFound) if stale_id.is_none() => stale_id = Some(id),
                Err(FlexportalError::CustomerNotFound) => {
                    return Ok(unmatched("FlexPortal does not know the id that it gave itself", &stale_id));
                }
                Err(error) => return Ok(self.end_of_error(error, found)),
            }
        }
    }

    async fn look_up(&mut self) -> Result<Result<Match, FlexportalError>, Interrupted> {
        let Some(email) = self.email.clone().filter(|_| self.may_look_up) else { return Ok(Ok(Match::None)) };
        for (form, inactive) in identify::questions(&email) {
            match self.requests.find_by_email(&form, inactive).await? {
                Ok(found) => match identify::matching(&email, &found) {
                    Match::None => {}
                    answer @ (Match::One(_) | Match::Several) => return Ok(Ok(answer)),
                },
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(Match::None))
    }

    /// Whether FlexPortal acknowledged every value of the body within the last day.
    fn is_acknowledged(&self) -> bool {
        let now = self.requests.now();
        self.translated.sent.iter().all(|(field, hash)| {
            self.acknowledged.0.get(field).is_some_and(|settled| {
                settled.hash.as_ref() == Some(hash)
                    && settled.acked.is_some_and(|acked| (now - acked).to_std().unwrap_or_default() < ACKNOWLEDGED_FOR)
            })
        })
    }

    fn end_of_error(&self, error: FlexportalError, found: Option<(FlexportalCustomerId, LinkOrigin)>) -> End {
        let outcome: Result<(), _> = Err(error);
        let verdict = decide::decide(&outcome, self.attempt, &self.rules.retry, self.rules.dice.roll());
        let Err(error) = outcome else { unreachable!("it was made of an error") };
        match verdict {
            Verdict::RetryIn(delay) => End::Retry(error, delay),
            Verdict::PauseTarget | Verdict::HoldTarget(_) => End::Later { error: Some(error), found },
            // A lookup that finds nothing is no error; a PUT's 404 was handled before.
            Verdict::Fail | Verdict::Synced | Verdict::LookUpAgain => End::Failed(error),
        }
    }
}

fn unmatched(why: &'static str, stale_id: &Option<FlexportalCustomerId>) -> End {
    End::Unmatched { why, drop_link: stale_id.is_some() }
}

/// Puts an end into the words of the outbox.
struct Writing<'a> {
    rules: &'a Rules,
    waiting: &'a [WaitingEvent],
    read: &'a [ReadEvent],
    folded: &'a Folded,
    translated: &'a Translated,
    now: DateTime<Utc>,
}

impl Writing<'_> {
    fn settlement(
        &self,
        end: Option<End>,
        unreadable: Vec<(EventId, String)>,
        acknowledged: Acknowledged,
        requests: &mut Requests<'_>,
    ) -> Settlement {
        let mut results = Vec::new();
        for (event, error) in unreadable {
            let mut result = self.result(event, EventStatus::Failed);
            result.error_code = Some("UNREADABLE".to_owned());
            result.error = Some(error);
            results.push(result);
        }
        for event in &self.folded.silent {
            results.push(self.result(*event, EventStatus::Unchanged));
        }
        for (event, successor) in &self.folded.superseded {
            let mut result = self.result(*event, EventStatus::Superseded);
            result.superseded_by = Some(*successor);
            results.push(result);
        }
        let (Some(end), Some(head)) = (end, self.folded.head) else {
            return Settlement { results, attempts: requests.take_log(), link: LinkChange::Keep, next: Next::Done };
        };
        let (link, next) = self.head_and_contributors(&mut results, head, end, acknowledged, requests.last_status());
        Settlement { results, attempts: requests.take_log(), link, next }
    }

    /// The head and the events whose words went out with it share its fate; once it is settled as sent, or as
    /// known already, the contributors are superseded by it.
    fn head_and_contributors(
        &self,
        results: &mut Vec<EventResult>,
        head: EventId,
        end: End,
        acknowledged: Acknowledged,
        http_status: Option<u16>,
    ) -> (LinkChange, Next) {
        let together = || std::iter::once(head).chain(self.folded.contributors.iter().copied());
        let settled =
            |id: Option<&FlexportalCustomerId>, status, warnings: Vec<String>, results: &mut Vec<EventResult>| {
                for event in together() {
                    let mut result = self.result(event, if event == head { status } else { EventStatus::Superseded });
                    result.flexportal_id = id.cloned();
                    if event == head {
                        result.attempts += u32::from(status == EventStatus::Synced);
                        result.http_status = http_status.filter(|_| status == EventStatus::Synced);
                        result.warnings.extend(warnings.iter().cloned());
                    } else {
                        result.superseded_by = Some(head);
                    }
                    results.push(result);
                }
            };
        let mut not_settled =
            |status, error: Option<&FlexportalError>, counts: bool, is_final: &dyn Fn(EventId) -> bool| {
                for event in together() {
                    let mut result = self.result(event, status);
                    result.attempts += u32::from(counts);
                    result.http_status = http_status;
                    result.error_code = error.and_then(FlexportalError::code).map(str::to_owned);
                    result.error = error.map(ToString::to_string);
                    result.is_final = is_final(event);
                    results.push(result);
                }
            };
        match end {
            End::Synced { id, origin, updated } => {
                let (email, warning) = self.compare_email(&updated);
                settled(Some(&id), EventStatus::Synced, warning.into_iter().collect(), results);
                (self.acknowledge(acknowledged, id, origin, Some(email)), Next::Done)
            }
            End::Unchanged { id, origin } => {
                settled(id.as_ref(), EventStatus::Unchanged, vec![], results);
                let link = id.map_or(LinkChange::Keep, |id| self.acknowledge(acknowledged, id, origin, None));
                (link, Next::Done)
            }
            End::Unmatched { why, drop_link } => {
                let is_over = |event| self.age(event) >= self.rules.unmatched_max_age;
                not_settled(EventStatus::Unmatched, None, false, &is_over);
                let all_over = together().all(is_over);
                for result in results.iter_mut().filter(|result| result.status == EventStatus::Unmatched) {
                    result.error_code = Some("UNMATCHED".to_owned());
                    result.error = Some(why.to_owned());
                }
                let link = if drop_link { LinkChange::Drop } else { LinkChange::Keep };
                (link, if all_over { Next::Done } else { Next::In(self.rules.unmatched_retry_interval) })
            }
            End::Failed(error) => {
                not_settled(EventStatus::Failed, Some(&error), true, &|_| true);
                (LinkChange::Keep, Next::Done)
            }
            End::Retry(error, delay) => {
                not_settled(EventStatus::Pending, Some(&error), true, &|_| false);
                (LinkChange::Keep, Next::In(delay))
            }
            End::Later { error, found } => {
                if error.is_some() {
                    not_settled(EventStatus::Pending, error.as_ref(), false, &|_| false);
                }
                let link = found
                    .map_or(LinkChange::Keep, |(flexportal_id, origin)| LinkChange::Found { flexportal_id, origin });
                (link, Next::In(Duration::ZERO))
            }
        }
    }

    fn result(&self, event: EventId, status: EventStatus) -> EventResult {
        let waiting = self.waiting.iter().find(|waiting| waiting.id == event);
        let said = self.read.iter().find(|read| read.id == event);
        let mut warnings = said.map(|read| read.event.warnings.clone()).unwrap_or_default();
        if self.folded.head == Some(event) {
            warnings.extend(self.translated.warnings.iter().cloned());
        }
        EventResult {
            event,
            status,
            attempts: waiting.map_or(0, |waiting| waiting.attempts),
            http_status: None,
            error_code: None,
            error: None,
            warnings,
            flexportal_id: None,
            superseded_by: None,
            is_final: status != EventStatus::Pending && status != EventStatus::Unmatched,
        }
    }

    fn age(&self, event: EventId) -> Duration {
        let waiting = self.waiting.iter().find(|waiting| waiting.id == event);
        waiting.map_or(Duration::ZERO, |waiting| (self.now - waiting.received_at).to_std().unwrap_or_default())
    }

    /// Which e-mail FlexPortal is known to have, and a warning if it is not the shop's.
    fn compare_email(&self, updated: &Updated) -> (Option<ValueHash>, Option<String>) {
        let Some(Said::Value(FieldValue::Text(ours))) =
            self.folded.fields.get(&Field::Email).map(|spoken| &spoken.said)
        else {
            return (None, None);
        };
        match &updated.email {
            Some(theirs) if theirs.to_lowercase() != ours.to_lowercase() => {
                (None, Some(translate::EMAIL_DIFFERS.to_owned()))
            }
            Some(_) => (Some(ValueHash::of(ours)), None),
            None => (None, None),
        }
    }

    /// Notes what is settled now: every field that was spoken for, and, if something was sent, the values.
    fn acknowledge(
        &self,
        mut acknowledged: Acknowledged,
        flexportal_id: FlexportalCustomerId,
        origin: Option<LinkOrigin>,
        sent_with_email: Option<Option<ValueHash>>,
    ) -> LinkChange {
        for (field, spoken) in &self.folded.fields {
            let (at, event) = spoken.moment;
            let entry = acknowledged.0.entry(*field).or_insert(Acknowledgement { at, event, hash: None, acked: None });
            (entry.at, entry.event) = (at, event);
            let Some(email) = &sent_with_email else { continue };
            let hash = if *field == Field::Email { email.as_ref() } else { self.translated.sent.get(field) };
            if let Some(hash) = hash {
                entry.hash = Some(hash.clone());
                entry.acked = Some(self.now);
            }
        }
        let newest = self.folded.fields.values().map(|spoken| spoken.moment.0).max();
        LinkChange::Acknowledged {
            flexportal_id,
            origin,
            acknowledged,
            occurred_at: newest.unwrap_or(self.now),
            synced_at: sent_with_email.is_some().then_some(self.now),
        }
    }
}

/// One request as it is recorded.
fn recorded<T>(exchange: &Exchange<T>, event: EventId, attempt: u32) -> Attempt {
    let error = exchange.outcome.as_ref().err();
    Attempt {
        event,
        attempt,
        operation: exchange.operation,
        started_at: exchange.started_at,
        duration: exchange.duration,
        request_body: exchange.request_body.clone(),
        http_status: exchange.http_status,
        error_code: error.and_then(FlexportalError::code).map(str::to_owned),
        error: error.map(ToString::to_string),
        response_body: exchange.response_body.clone(),
    }
}

/// What to hold a target for after an outcome, if anything.
fn hold_for<T>(outcome: &Result<T, FlexportalError>) -> Option<(HoldReason, Duration)> {
    match decide::decide(outcome, 1, &RetryPolicy::default(), 0.0) {
        Verdict::PauseTarget => Some((HoldReason::Refused, crate::outbox::PROBE_INTERVAL)),
        Verdict::HoldTarget(wait) => Some((HoldReason::RateLimited, wait)),
        Verdict::Synced | Verdict::Fail | Verdict::LookUpAgain | Verdict::RetryIn(_) => None,
    }
}
