//! From a claimed customer to a settled one: lines two and three of the picture, in order.
//!
//! read → fold → translate → identify → one PUT → decide → settle. The steps are pure; what they need from the
//! world is asked here.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::config::Identity;
use crate::domain::{
    Acknowledged, CustomerEvent, Dice, EventId, Field, FlexportalCustomerId, Moment, OrderKey, PgInstant, RetryPolicy,
    ShopCustomerId, SourceName,
};
use crate::flexportal::{Api, Exchange, FlexportalError, Updated};
use crate::outbox::{
    Attempt, ClaimedCustomer, HoldReason, Known, Link, LinkOrigin, PROBE_INTERVAL, Queue, Settlement, StoreError,
    WaitingEvent,
};
use crate::shops::{Rejection, Shop};

pub mod breaker;
pub mod decide;
pub mod fold;
pub mod identify;
pub mod preview;
mod requests;
mod settlement;
pub mod sharing;
#[cfg(test)]
mod simulation;
pub mod translate;
mod worker;

use crate::domain::retry::Failures;
use decide::Verdict;
use fold::ReadEvent;
use identify::Match;
use requests::Requests;
use settlement::{Closing, Unreadable};
use sharing::StatusWord;
use translate::Translated;
pub use worker::{StepOutcome, Worker};

/// After this a value that FlexPortal acknowledged is sent again: staff or an order may have replaced it.
const ACKNOWLEDGED_FOR: Duration = Duration::from_hours(24);
/// `Retry-After: 0` means at once; asked over and over, that would be a loop.
const SHORTEST_HOLD: Duration = Duration::from_secs(1);
/// A customer that FlexPortal did not know is asked for by its id once in so long, if nothing is told of it.
const MISSING_TRIED_EVERY: Duration = Duration::from_hours(24);
/// A customer whose probe failed lets others have the next ones.
const AFTER_A_PROBE: Duration = PROBE_INTERVAL.saturating_mul(2);

/// What every customer's sync needs to know.
#[derive(Debug)]
pub(crate) struct Rules {
    shops: BTreeMap<SourceName, Arc<Shop>>,
    retry: RetryPolicy,
    unmatched_retry_interval: Duration,
    unmatched_max_age: Duration,
    dice: Dice,
}

/// Why a sync stops half-way.
#[derive(Debug)]
pub(crate) enum Interrupted {
    /// The lease had ended: another worker has the customer now.
    ClaimLost,
    /// The database is away.
    Store(StoreError),
    /// The target is held or the service is leaving.
    NotNow,
}

/// What a sync has done so far: it goes on record whatever becomes of the rest.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// The requests made.
    attempts: Vec<Attempt>,
    /// For how long the last of them may still arrive.
    rest: Option<Duration>,
}

/// How a customer's sync ended, before it is written down.
enum End {
    /// FlexPortal acknowledged it.
    Synced { who: Identified, updated: Updated },
    /// There was nothing to send, or nothing new.
    Unchanged { who: Option<Identified> },
    /// FlexPortal has no such customer; `stale` is the id that led nowhere.
    Unmatched { why: Unmatched, stale: Option<FlexportalCustomerId> },
    /// A person is needed.
    Failed { error: FlexportalError, who: Option<Identified> },
    /// Once more, later.
    Retry { error: FlexportalError, who: Option<Identified>, delay: Duration },
    /// Nobody's fault: no attempt is counted.
    Later { error: Option<FlexportalError>, who: Option<Identified>, delay: Option<Duration> },
}

/// Why a customer is unmatched.
struct Unmatched {
    /// For counting.
    cause: &'static str,
    /// For people: the ids, where there are any.
    what: String,
}

/// A customer of FlexPortal, and how we know that it is the shop's.
#[derive(Debug, Clone)]
struct Identified {
    id: FlexportalCustomerId,
    /// None if the link says so already.
    origin: Option<LinkOrigin>,
}

/// Syncs one claimed customer and says what is to be written down.
///
/// # Errors
/// [`Interrupted::ClaimLost`] and [`Interrupted::Store`]: nothing is to be written down, whoever claims the customer
/// next begins anew.
pub(crate) async fn sync_customer(
    rules: &Rules,
    shop: &Shop,
    claimed: &ClaimedCustomer,
    known: &Known,
    requests: &mut Requests<'_, impl Queue, impl Api>,
    record: &mut Record,
) -> Result<Settlement, Interrupted> {
    let (read, unreadable) = read_all(&known.waiting, |event| shop.read(&event.topic, &event.payload));
    let (given_up, _) = read_all(&known.given_up, |event| shop.read(&event.topic, &event.payload));
    let link = known.link.as_ref();
    let missing_to_try = missing_to_try(known);
    let mut who = known_id(shop, &claimed.customer, &read, link, missing_to_try);
    let mut stale = None;
    let merged_into = read.iter().rev().find_map(|read| read.event.merged_into.as_ref());
    if let Some(kept) = merged_into {
        requests.merge(kept).await?;
    }
    let merged_into = merged_into.or(link.and_then(|link| link.merged_into.as_ref()));
    let mut status_word = None;
    // Once more if the id leads nowhere, with what a lookup finds; and once it is known who else leads to the customer.
    let (folded, translated, acknowledged, end) = loop {
        let acknowledged = acknowledged_by(who.as_ref(), link, claimed.is_takeover());
        let mut folded = fold::fold(&read, &acknowledged);
        let head = folded.head.and_then(|head| read.iter().find(|read| read.id() == head));
        let asks_for_sharers = head.filter(|_| status_word.is_none()).and_then(|head| {
            let says_deleted = says_deleted(&folded, &read);
            let returns = returns(link, &acknowledged, head.key);
            (says_deleted || returns || acknowledged.newest().is_none()).then_some(Sharing { says_deleted, returns })
        });
        if let (Some(head), Some(word)) = (head, &status_word) {
            StatusWord::apply(word, &mut folded, head.key);
        }
        let mut translated = translate::translate(&folded.fields, &acknowledged, requests.wishes());
        translated.warnings.extend(status_word.as_ref().and_then(StatusWord::warning).map(str::to_owned));
        let Some(head) = folded.head else { break (folded, translated, acknowledged, None) };
        requests.trace(head, &known.waiting);
        let tried = known.waiting.iter().find(|event| event.id == head);
        let attempts = tried.map_or(0, |event| event.attempts);
        let failures = tried.map(|event| failures(&rules.retry, event, known.moment.read_at())).unwrap_or_default();
        let mut steps = Steps {
            rules,
            requests,
            record,
            is_restless: claimed.is_restless,
            read: &read,
            may_look_up: shop.source().identity == Identity::Email,
            stale: stale.as_ref(),
            source: &claimed.source,
            customer: &claimed.customer,
            link,
            merged_into,
            sharing: asks_for_sharers,
            acknowledged: &acknowledged,
            translated: &translated,
            head,
            number: attempts + 1,
            failures,
            moment: known.moment,
            missing_to_try,
            found: None,
        };
        let came_to = steps.run(who.take()).await;
        let found = steps.found;
        match came_to {
            Ok(Step::End(end)) => break (folded, translated, acknowledged, Some(end)),
            Ok(Step::LookedUpAgain { found, instead_of }) => {
                // Who else leads to it is another question.
                (who, stale, status_word) = (Some(found), Some(instead_of), None);
            }
            Ok(Step::Reconsidered { who: known, word }) => (who, status_word) = (Some(known), Some(word)),
            Err(Interrupted::NotNow) => {
                // A customer found meanwhile is kept as link.
                let end = End::Later { error: None, who: found, delay: None };
                break (folded, translated, acknowledged, Some(end));
            }
            Err(interrupted @ (Interrupted::ClaimLost | Interrupted::Store(_))) => return Err(interrupted),
        }
    };
    let overtaken = fold::overtaken(&given_up, &folded, &acknowledged);
    let closing = Closing {
        rules,
        waiting: &known.waiting,
        read: &read,
        folded: &folded,
        translated: &translated,
        is_takeover: claimed.is_takeover(),
        moment: known.moment,
    };
    Ok(closing.settlement(end, unreadable, overtaken, acknowledged, std::mem::take(record)))
}

/// What this very customer of FlexPortal acknowledged; of another one's only what was said, not the values. After a worker
/// died holding the customer, nobody knows the values: it may have sent anything.
fn acknowledged_by(who: Option<&Identified>, link: Option<&Link>, is_takeover: bool) -> Acknowledged {
    match (who, link) {
        (_, Some(link)) if is_takeover => link.acknowledged.without_values(),
        (_, None) => Acknowledged::default(),
        (Some(who), Some(link)) if link.known_id() == Some(&who.id) => link.acknowledged.clone(),
        (_, Some(link)) => link.acknowledged.without_values(),
    }
}

/// Reads events one by one: what is wrong with one of them, were it our own fault, stays with that one.
fn read_all<'a>(
    events: &'a [WaitingEvent],
    read: impl Fn(&'a WaitingEvent) -> Result<CustomerEvent<'a>, Rejection>,
) -> (Vec<ReadEvent<'a>>, Vec<Unreadable>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for event in events {
        match catch_unwind(AssertUnwindSafe(|| read(event))) {
            Ok(Ok(said)) => good.push(ReadEvent { key: order_key(event, &said), event: said }),
            Ok(Err(rejection)) => bad.push(Unreadable::rejected(event.id, &rejection)),
            // The hook of `telemetry` has logged where it was.
            Err(_panic) => bad.push(Unreadable::panicked(event.id)),
        }
    }
    (good, bad)
}

fn order_key(stored: &WaitingEvent, read: &CustomerEvent<'_>) -> OrderKey {
    let WaitingEvent { id: event, occurred_at: changed_at, triggered_at, .. } = *stored;
    OrderKey { changed_at, is_creation: read.is_creation, triggered_at, event }
}

/// The id of a link that led nowhere, if it is to be tried again: with the next change, and once a day.
fn missing_to_try(known: &Known) -> Option<&FlexportalCustomerId> {
    let link = known.link.as_ref()?;
    let tried_at = link.missing_tried_at?;
    let is_told_since = known.waiting.iter().any(|event| !event.is_unmatched);
    let is_long_ago = known.moment.read_at().since(tried_at) >= MISSING_TRIED_EVERY;
    link.flexportal_id.as_ref().filter(|_| is_told_since || is_long_ago)
}

/// An id carried by the event, else the link's, else, where it is configured so, the shop's own. One that FlexPortal does not
/// know is known only if it is to be tried again and something beside the link says it.
fn known_id(
    shop: &Shop,
    customer: &ShopCustomerId,
    read: &[ReadEvent<'_>],
    link: Option<&Link>,
    missing_to_try: Option<&FlexportalCustomerId>,
) -> Option<Identified> {
    // An old event must not tie its customer to what it was before.
    let newest_settled = link.and_then(|link| link.acknowledged.newest());
    let carried = fold::newest_flexportal_id(read)
        .filter(|(key, _)| newest_settled.is_none_or(|settled| settled <= *key))
        .map(|(_, id)| id.clone());
    let linked = link.and_then(|link| link.known_id().cloned());
    let is_known_to_be_missing =
        |id: &FlexportalCustomerId| link.is_some_and(|link| link.is_missing(id)) && missing_to_try.is_none();
    let same = match shop.source().identity {
        Identity::SameId => FlexportalCustomerId::parse(customer.as_str()).ok(),
        Identity::Email => None,
    };
    let is_linked = |id: &FlexportalCustomerId| link.is_some_and(|link| link.flexportal_id.as_ref() == Some(id));
    let id = [carried, linked, same].into_iter().flatten().find(|id| !is_known_to_be_missing(id))?;
    Some(Identified { origin: (!is_linked(&id)).then_some(LinkOrigin::Event), id })
}

/// The failed attempts of an event since it began anew, if one fails now; `read_at` and the last attempt are instants of the
/// same clock.
fn failures(policy: &RetryPolicy, event: &WaitingEvent, read_at: PgInstant) -> Failures {
    let attempts = (event.attempts + 1).saturating_sub(event.forgiven_attempts);
    let lasting = match event.failing {
        Some((before, at)) if attempts > 1 => policy.lasting(before, read_at.since(at)),
        _ => Duration::ZERO,
    };
    Failures { attempts, lasting }
}

/// Whether the newest word on the status is that the shop deleted the customer.
fn says_deleted(folded: &fold::Folded<'_>, read: &[ReadEvent<'_>]) -> bool {
    let status = folded.fields.get(&Field::Status);
    status.is_some_and(|status| read.iter().any(|read| read.id() == status.key.event && read.event.is_deletion))
}

/// Whether a customer that was deleted in the shop, and set inactive for it, is told of again, by something newer.
fn returns(link: Option<&Link>, acknowledged: &Acknowledged, head: OrderKey) -> bool {
    let status = link.and_then(|link| link.acknowledged.0.get(&Field::Status));
    acknowledged.is_deactivated_by_deletion() && status.is_none_or(|status| status.key < head)
}

/// Why it matters who else leads to the customer, but for a lookup.
#[derive(Debug, Clone, Copy)]
struct Sharing {
    says_deleted: bool,
    returns: bool,
}

/// The requests of one customer's sync, in order.
struct Steps<'a, 'r, Q: Queue, A> {
    rules: &'a Rules,
    requests: &'a mut Requests<'r, Q, A>,
    record: &'a mut Record,
    is_restless: bool,
    read: &'a [ReadEvent<'a>],
    may_look_up: bool,
    /// The id that led nowhere before.
    stale: Option<&'a FlexportalCustomerId>,
    source: &'a SourceName,
    customer: &'a ShopCustomerId,
    link: Option<&'a Link>,
    /// The customer that the shop merged this one into.
    merged_into: Option<&'a ShopCustomerId>,
    /// Until it is known.
    sharing: Option<Sharing>,
    acknowledged: &'a Acknowledged,
    translated: &'a Translated<'a>,
    /// The event that the requests are recorded under, and which of its attempts this is.
    head: EventId,
    number: u32,
    /// Its failed attempts, were this one of them.
    failures: Failures,
    moment: Moment,
    /// See [`missing_to_try`].
    missing_to_try: Option<&'a FlexportalCustomerId>,
    /// Whom the lookup found.
    found: Option<Identified>,
}

/// What the steps came to.
enum Step {
    End(End),
    /// An id led nowhere, and the e-mail leads to another customer: everything anew for that one.
    LookedUpAgain {
        found: Identified,
        instead_of: FlexportalCustomerId,
    },
    /// It is known who else leads to the customer: everything anew, with this word on the status.
    Reconsidered {
        who: Identified,
        word: StatusWord,
    },
}

impl<Q: Queue, A: Api> Steps<'_, '_, Q, A> {
    async fn run(&mut self, known: Option<Identified>) -> Result<Step, Interrupted> {
        if self.translated.sent.is_empty() {
            return Ok(Step::End(End::Unchanged { who: known }));
        }
        let mut looked_up = None;
        let who = match known {
            Some(known) => known,
            None => match self.look_up().await? {
                Ok(Match::One(id)) => {
                    let who = Identified { id, origin: Some(LinkOrigin::Lookup) };
                    if self.is_restless {
                        // Others go first: who it is stays true, what it says is soon outdated.
                        tracing::debug!(event.id = %self.head, "found, and given back: it may change again");
                        return Ok(Step::End(End::Later { error: None, who: Some(who), delay: None }));
                    }
                    who
                }
                Ok(no_match) => match self.missing_to_try {
                    // Its id may lead somewhere again.
                    Some(id) => {
                        looked_up = Some(no_match);
                        Identified { id: id.clone(), origin: None }
                    }
                    None if self.is_deletion_of_nobody(&no_match) => {
                        return Ok(Step::End(End::Unchanged { who: None }));
                    }
                    None => return Ok(Step::End(unmatched(&no_match, None))),
                },
                Err(error) => return Ok(Step::End(self.end_of_error(error, None))),
            },
        };
        self.found = Some(who.clone());
        if let Some(sharing) = self.sharing {
            let word = self.status_word(sharing, &who.id).await?;
            if word != StatusWord::AsSaid {
                return Ok(Step::Reconsidered { who, word });
            }
        }
        if is_acknowledged(self.translated, self.acknowledged, self.moment.now()) {
            return Ok(Step::End(End::Unchanged { who: Some(who) }));
        }
        let exchange = self.requests.update_customer(self.head, &self.translated.for_customer(&who.id)).await?;
        if exchange.may_still_arrive() {
            self.record.rest = Some(self.requests.longest_under_way().saturating_sub(exchange.duration));
        }
        Ok(match self.recorded(exchange) {
            Ok(updated) => Step::End(End::Synced { who, updated }),
            Err(FlexportalError::CustomerNotFound) => match self.is_confirmed().await? {
                Ok(()) => {
                    self.found = None;
                    match looked_up {
                        Some(no_match) => Step::End(unmatched(&no_match, Some(who.id))),
                        None => self.look_up_again(who.id).await?,
                    }
                }
                Err(error) => Step::End(self.end_of_error(error, Some(who))),
            },
            Err(error) => Step::End(self.end_of_error(error, Some(who))),
        })
    }

    /// Whether the shop deleted somebody whom nobody knew: there is nothing to set inactive, now or later.
    fn is_deletion_of_nobody(&self, no_match: &Match) -> bool {
        let is_deleted = self.sharing.is_some_and(|sharing| sharing.says_deleted);
        is_deleted && *no_match == Match::None && self.link.is_none() && self.translated.sent.len() == 1
    }

    /// What becomes of the status, by who else leads to the customer.
    async fn status_word(&mut self, sharing: Sharing, id: &FlexportalCustomerId) -> Result<StatusWord, Interrupted> {
        if let Some(kept) = self.merged_into.filter(|_| sharing.says_deleted) {
            return Ok(StatusWord::Withhold(format!(
                "{id} was not set inactive: the shop merged the customer into {kept}"
            )));
        }
        let mut sharers = self.requests.sharers(id, None).await?;
        if sharing.says_deleted {
            return Ok(sharing::on_deletion(id, &sharers));
        }
        if sharing.returns {
            let status_shown = self.link.and_then(|link| link.status_shown);
            sharers.push(sharing::returned(self.source, self.customer, status_shown));
        }
        Ok(sharing::on_return(&sharers))
    }

    /// Whether it is FlexPortal that answers 404: a list as documented shows it, or a refusal of its own. One more 404 shows
    /// nothing: whatever answered the first may have answered the second.
    async fn is_confirmed(&mut self) -> Result<Result<(), FlexportalError>, Interrupted> {
        let exchange = self.requests.show_yourself().await?;
        Ok(match exchange.outcome {
            Ok(()) => Ok(()),
            Err(error @ FlexportalError::RateLimited { .. }) => Err(error),
            Err(_) => Err(FlexportalError::Unavailable {
                code: Some("NOT_CONFIRMED".to_owned()),
                what: "it answered that there is no such customer, and did not answer a list then".to_owned(),
            }),
        })
    }

    /// An id led nowhere: the e-mail may lead to another customer, but no more than once.
    async fn look_up_again(&mut self, id: FlexportalCustomerId) -> Result<Step, Interrupted> {
        if let Some(first) = self.stale {
            return Ok(Step::End(unmatched(&Match::None, Some(first.clone()))));
        }
        Ok(match self.look_up().await? {
            Ok(Match::One(found)) if found != id => {
                let found = Identified { id: found, origin: Some(LinkOrigin::Lookup) };
                Step::LookedUpAgain { found, instead_of: id }
            }
            Ok(Match::One(_)) => {
                let error = FlexportalError::Unavailable {
                    code: Some("CONTRADICTION".to_owned()),
                    what: format!("it answered that there is no customer {id}, and lists it"),
                };
                Step::End(self.end_of_error(error, None))
            }
            Ok(no_match) => Step::End(unmatched(&no_match, Some(id))),
            Err(error) => Step::End(self.end_of_error(error, None)),
        })
    }

    async fn look_up(&mut self) -> Result<Result<Match, FlexportalError>, Interrupted> {
        let Some(email) = self.email().await? else { return Ok(Ok(Match::None)) };
        let matching = match self.ask_for(&email).await? {
            Ok(matching) => matching,
            Err(error) => return Ok(Err(error)),
        };
        let Match::One(id) = matching else { return Ok(Ok(matching)) };
        let sharers = self.requests.sharers(&id, Some(&email)).await?;
        Ok(Ok(match sharing::holder(self.source, &sharers) {
            Some(holder) => Match::Taken { id, by: holder.customer.clone() },
            None => Match::One(id),
        }))
    }

    async fn ask_for(&mut self, email: &str) -> Result<Result<Match, FlexportalError>, Interrupted> {
        for inactive in [false, true] {
            let mut found = Vec::new();
            for form in identify::forms(email) {
                let exchange = self.requests.find_by_email(&form, inactive).await?;
                match self.recorded(exchange) {
                    Ok(more) => found.extend(more),
                    Err(error) => return Ok(Err(error)),
                }
            }
            match identify::matching(email, &found) {
                Match::None => {}
                answer @ (Match::One(_) | Match::Several | Match::Taken { .. }) => return Ok(Ok(answer)),
            }
        }
        Ok(Ok(Match::None))
    }

    /// The newest e-mail that a waiting event gives, else the last that any event of this customer gave.
    async fn email(&mut self) -> Result<Option<String>, Interrupted> {
        if !self.may_look_up {
            return Ok(None);
        }
        match fold::newest_email(self.read) {
            Some(email) => Ok(Some(email.to_owned())),
            None => self.requests.last_known_email().await,
        }
    }

    fn recorded<T>(&mut self, exchange: Exchange<T>) -> Result<T, FlexportalError> {
        let error = exchange.outcome.as_ref().err();
        self.record.attempts.push(Attempt {
            event: self.head,
            attempt: self.number,
            operation: exchange.operation,
            started: exchange.started,
            duration: exchange.duration,
            request_body: exchange.request_body,
            http_status: exchange.http_status,
            error_code: error.and_then(FlexportalError::code).map(str::to_owned),
            error: error.map(ToString::to_string),
            response_body: exchange.response_body,
        });
        exchange.outcome
    }

    fn end_of_error(&self, error: FlexportalError, who: Option<Identified>) -> End {
        let roll = self.rules.dice.roll();
        match decide::decide(&error, self.failures, &self.rules.retry, roll, self.requests.is_probe()) {
            Verdict::RetryIn(delay) => End::Retry { error, who, delay },
            Verdict::PauseTarget | Verdict::HoldTarget(_) => End::Later { error: Some(error), who, delay: None },
            Verdict::StayPaused => End::Later { error: Some(error), who, delay: Some(AFTER_A_PROBE) },
            // A lookup that finds nobody is no error, and a PUT's 404 was looked up again.
            Verdict::Fail | Verdict::LookUpAgain => End::Failed { error, who },
        }
    }
}

/// Whether FlexPortal acknowledged every value of the body within the last day.
fn is_acknowledged(translated: &Translated<'_>, acknowledged: &Acknowledged, now: PgInstant) -> bool {
    translated.sent.iter().all(|(field, hash)| {
        acknowledged.0.get(field).is_some_and(|settled| {
            settled.hash.as_ref() == Some(hash)
                && settled.acked.is_some_and(|acked| now.since(acked) < ACKNOWLEDGED_FOR)
        })
    })
}

fn unmatched(answer: &Match, stale: Option<FlexportalCustomerId>) -> End {
    let (cause, what) = match answer {
        Match::Several => ("several FlexPortal customers have this e-mail", None),
        Match::One(_) | Match::None => ("FlexPortal knows no such customer (yet)", None),
        Match::Taken { id, by } => (
            "the FlexPortal customer with this e-mail is another shop customer's",
            Some(format!(
                "FlexPortal's {id} has this e-mail, but is linked to customer {by} of this shop, whose e-mail has changed \
                 since: say who it is with `links import`"
            )),
        ),
    };
    End::Unmatched { why: Unmatched { cause, what: what.unwrap_or_else(|| cause.to_owned()) }, stale }
}

/// For what, and how long, an error holds its whole target, if at all.
fn hold_for(error: &FlexportalError) -> Option<(HoldReason, Duration)> {
    use FlexportalError as E;
    match error {
        E::Unauthorized { .. } => Some((HoldReason::Refused, PROBE_INTERVAL)),
        E::RateLimited { retry_after } => Some((HoldReason::RateLimited, (*retry_after).max(SHORTEST_HOLD))),
        E::Refused { .. }
        | E::CustomerNotFound
        | E::Unavailable { .. }
        | E::TimedOut
        | E::Unreached(_)
        | E::Disconnected(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_makes_reading_panic_fails_alone() {
        let event = |n: u128| WaitingEvent {
            id: EventId(uuid::Uuid::from_u128(n)),
            topic: "customer.updated".to_owned(),
            payload: n.to_string(),
            occurred_at: chrono::DateTime::UNIX_EPOCH,
            triggered_at: None,
            received_at: chrono::DateTime::UNIX_EPOCH,
            is_unmatched: false,
            attempts: 0,
            forgiven_attempts: 0,
            failing: None,
            traceparent: None,
        };
        let events = [event(1), event(2), event(3)];
        let (read, unreadable) = read_all(&events, |event| {
            assert_ne!(event.payload, "2", "poison");
            Ok(CustomerEvent::of(ShopCustomerId::parse("c").expect("an id")))
        });
        assert_eq!(read.iter().map(|event| event.id().0.as_u128()).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(unreadable, [Unreadable::panicked(EventId(uuid::Uuid::from_u128(2)))]);
    }
}
