//! From a claimed customer to a settled one: lines two and three of the picture, in order.
//!
//! read → fold → translate → identify → one PUT → decide → settle. The steps are pure; what they need from the
//! world is asked here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::Identity;
use crate::domain::{Acknowledged, Dice, EventId, FlexportalCustomerId, RetryPolicy, SourceName};
use crate::flexportal::{Exchange, FlexportalError, Updated};
use crate::outbox::{
    Attempt, ClaimedCustomer, HoldReason, Link, LinkChange, LinkOrigin, Next, Outbox, Settlement, StoreError,
    WaitingEvent,
};
use crate::shops::Shop;

pub mod decide;
pub mod fold;
pub mod identify;
mod requests;
mod settlement;
pub mod translate;
mod worker;

use decide::Verdict;
use fold::ReadEvent;
use identify::Match;
use requests::{Interrupted, Requests};
use settlement::Closing;
use translate::Translated;
pub use worker::{StepOutcome, Worker};

/// After this a value that FlexPortal acknowledged is sent again: staff or an order may have replaced it.
const ACKNOWLEDGED_FOR: Duration = Duration::from_hours(24);
/// Work of a source that is not configured (any more) is looked at again after this.
const UNCONFIGURED_DELAY: Duration = Duration::from_mins(1);

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
    let closing = Closing { rules, waiting: &waiting, read: &read, folded: &folded, translated: &translated, now };
    Ok(Some(closing.settlement(end, unreadable, acknowledged, requests)))
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
                        return Ok(unmatched("several FlexPortal customers have this e-mail", stale_id.as_ref()));
                    }
                    Ok(Match::One(_) | Match::None) => {
                        return Ok(unmatched("FlexPortal knows no such customer yet", stale_id.as_ref()));
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
                    return Ok(unmatched("FlexPortal does not know the id that it gave itself", stale_id.as_ref()));
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

fn unmatched(why: &'static str, stale_id: Option<&FlexportalCustomerId>) -> End {
    End::Unmatched { why, drop_link: stale_id.is_some() }
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
