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
    Attempt, ClaimedCustomer, HoldReason, Link, LinkChange, LinkOrigin, Next, Outbox, PROBE_INTERVAL, Settlement,
    StoreError, WaitingEvent, timely,
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
/// `Retry-After: 0` means at once; asked over and over, that would be a loop.
const SHORTEST_HOLD: Duration = Duration::from_secs(1);
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
    /// FlexPortal acknowledged it.
    Synced { who: Identified, updated: Updated },
    /// There was nothing to send, or nothing new.
    Unchanged { who: Option<Identified> },
    /// FlexPortal has no such customer; `stale` is the id that led nowhere.
    Unmatched { why: &'static str, stale: Option<FlexportalCustomerId> },
    /// A person is needed.
    Failed { error: FlexportalError, who: Option<Identified> },
    /// Once more, later.
    Retry { error: FlexportalError, who: Option<Identified>, delay: Duration },
    /// Nobody's fault: no attempt is counted.
    Later { error: Option<FlexportalError>, who: Option<Identified> },
}

/// A customer of FlexPortal, and how we know that it is the shop's.
#[derive(Debug, Clone)]
struct Identified {
    id: FlexportalCustomerId,
    /// None if the link says so already.
    origin: Option<LinkOrigin>,
}

/// Syncs one claimed customer and says what is to be written down; `None` if the claim was lost on the way.
pub(crate) async fn sync_customer(
    rules: &Rules,
    outbox: &Outbox,
    requests: &mut Requests<'_>,
    claimed: &mut ClaimedCustomer,
) -> Result<Option<Settlement>, StoreError> {
    let Some(shop) = rules.shops.get(&claimed.source) else {
        tracing::warn!(source = %claimed.source, "events wait for a source that is not configured here");
        let (results, attempts, link) = (vec![], vec![], LinkChange::Keep);
        return Ok(Some(Settlement { results, attempts, link, next: Next::In(UNCONFIGURED_DELAY) }));
    };
    let waiting = timely(outbox.waiting_events(claimed)).await?;
    requests.started_on(&waiting);
    let (read, unreadable) = read_all(shop, &waiting);
    let link = timely(outbox.link(&claimed.source, &claimed.customer)).await?;
    let mut who = known_id(shop, claimed, &read, link.as_ref());
    let mut stale = None;
    // Twice at most: if the id leads nowhere, once more with what a lookup finds.
    let (folded, translated, acknowledged, end) = loop {
        let acknowledged = acknowledged_by(who.as_ref(), link.as_ref());
        let folded = fold::fold(&read, &acknowledged);
        let translated = translate::translate(&folded.fields, &acknowledged, requests.wishes());
        let Some(head) = folded.head else { break (folded, translated, acknowledged, None) };
        let tried = waiting.iter().find(|event| event.id == head);
        let (attempts, forgiven) = tried.map_or((0, 0), |event| (event.attempts, event.forgiven_attempts));
        requests.are_for(head, attempts + 1);
        let mut steps = Steps {
            rules,
            outbox,
            requests,
            claimed,
            read: &read,
            may_look_up: shop.source().identity == Identity::Email,
            stale: stale.as_ref(),
            acknowledged: &acknowledged,
            translated: &translated,
            attempt: attempts + 1 - forgiven,
        };
        match steps.run(head, who.take()).await {
            Ok(Step::End(end)) => break (folded, translated, acknowledged, Some(end)),
            Ok(Step::LookedUpAgain { found, instead_of }) => (who, stale) = (Some(found), Some(instead_of)),
            Err(Interrupted::NotNow { who }) => {
                break (folded, translated, acknowledged, Some(End::Later { error: None, who }));
            }
            Err(Interrupted::ClaimLost) => return Ok(None),
            Err(Interrupted::Store(error)) => return Err(error),
        }
    };
    let now = outbox.clock().now();
    let closing = Closing { rules, waiting: &waiting, read: &read, folded: &folded, translated: &translated, now };
    Ok(Some(closing.settlement(end, unreadable, acknowledged, requests)))
}

/// What this very customer of FlexPortal acknowledged; another one's word says nothing of it.
fn acknowledged_by(who: Option<&Identified>, link: Option<&Link>) -> Acknowledged {
    match (who, link) {
        (Some(who), Some(link)) if who.id == link.flexportal_id => link.acknowledged.clone(),
        _ => Acknowledged::default(),
    }
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
        Identity::Email => {
            // An old event must not tie its customer to what it was before.
            let newest_settled = link.and_then(|link| link.acknowledged.newest());
            fold::newest_flexportal_id(read)
                .filter(|(moment, _)| newest_settled.is_none_or(|settled| settled < *moment))
                .map(|(_, id)| id.clone())
        }
    };
    let is_linked = |id: &FlexportalCustomerId| link.is_some_and(|link| link.flexportal_id == *id);
    match carried {
        Some(id) => Some(Identified { origin: (!is_linked(&id)).then_some(LinkOrigin::Event), id }),
        None => link.map(|link| Identified { id: link.flexportal_id.clone(), origin: None }),
    }
}

/// The requests of one customer's sync, in order.
struct Steps<'a, 'r> {
    rules: &'a Rules,
    outbox: &'a Outbox,
    requests: &'a mut Requests<'r>,
    claimed: &'a ClaimedCustomer,
    read: &'a [ReadEvent],
    may_look_up: bool,
    /// The id that led nowhere before.
    stale: Option<&'a FlexportalCustomerId>,
    acknowledged: &'a Acknowledged,
    translated: &'a Translated,
    attempt: u32,
}

/// What the steps came to.
enum Step {
    End(End),
    /// An id led nowhere, and the e-mail leads to another customer: everything anew for that one.
    LookedUpAgain {
        found: Identified,
        instead_of: FlexportalCustomerId,
    },
}

impl Steps<'_, '_> {
    async fn run(&mut self, head: EventId, known: Option<Identified>) -> Result<Step, Interrupted> {
        if self.translated.sent.is_empty() {
            return Ok(Step::End(End::Unchanged { who: known }));
        }
        let who = match known {
            Some(known) => known,
            None => match self.look_up().await? {
                Ok(Match::One(id)) => Identified { id, origin: Some(LinkOrigin::Lookup) },
                Ok(no_match) => return Ok(Step::End(unmatched(&no_match, None))),
                Err(error) => return Ok(Step::End(self.end_of_error(error, None))),
            },
        };
        if self.is_acknowledged() {
            return Ok(Step::End(End::Unchanged { who: Some(who) }));
        }
        let update = self.translated.for_customer(&who.id);
        let outcome = self.requests.update_customer(head, &update).await.map_err(|stop| stop.knowing(&who))?;
        Ok(match outcome {
            Ok(updated) => Step::End(End::Synced { who, updated }),
            Err(FlexportalError::CustomerNotFound) => self.look_up_again(who.id).await?,
            Err(error) => Step::End(self.end_of_error(error, Some(who))),
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
            Ok(no_match) => Step::End(unmatched(&no_match, Some(id))),
            Err(error) => Step::End(self.end_of_error(error, None)),
        })
    }

    async fn look_up(&mut self) -> Result<Result<Match, FlexportalError>, Interrupted> {
        let Some(email) = self.email().await? else { return Ok(Ok(Match::None)) };
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

    /// The newest e-mail that a waiting event gives, else the last that any event of this customer gave.
    async fn email(&self) -> Result<Option<String>, Interrupted> {
        if !self.may_look_up {
            return Ok(None);
        }
        if let Some(email) = fold::newest_email(self.read) {
            return Ok(Some(email.to_owned()));
        }
        let known = timely(self.outbox.last_known_email(&self.claimed.source, &self.claimed.customer)).await;
        known.map_err(Interrupted::Store)
    }

    /// Whether FlexPortal acknowledged every value of the body within the last day, and nobody can have sent it
    /// anything since.
    fn is_acknowledged(&self) -> bool {
        if self.claimed.claims > 1 {
            // A worker died holding this customer: nobody knows what it had sent.
            return false;
        }
        let now = self.requests.now();
        self.translated.sent.iter().all(|(field, hash)| {
            self.acknowledged.0.get(field).is_some_and(|settled| {
                settled.hash.as_ref() == Some(hash)
                    && settled.acked.is_some_and(|acked| (now - acked).to_std().unwrap_or_default() < ACKNOWLEDGED_FOR)
            })
        })
    }

    fn end_of_error(&self, error: FlexportalError, who: Option<Identified>) -> End {
        match decide::decide(&error, self.attempt, &self.rules.retry, self.rules.dice.roll()) {
            Verdict::RetryIn(delay) => End::Retry { error, who, delay },
            Verdict::PauseTarget | Verdict::HoldTarget(_) => End::Later { error: Some(error), who },
            // A lookup that finds nobody is no error, and a PUT's 404 was looked up again.
            Verdict::Fail | Verdict::LookUpAgain => End::Failed { error, who },
        }
    }
}

fn unmatched(answer: &Match, stale: Option<FlexportalCustomerId>) -> End {
    let why = match answer {
        Match::Several => "several FlexPortal customers have this e-mail",
        Match::One(_) | Match::None => "FlexPortal knows no such customer (yet)",
    };
    End::Unmatched { why, stale }
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

/// For what, and how long, an error holds its whole target, if at all.
fn hold_for(error: &FlexportalError) -> Option<(HoldReason, Duration)> {
    use FlexportalError as E;
    match error {
        E::Unauthorized { .. } => Some((HoldReason::Refused, PROBE_INTERVAL)),
        E::RateLimited { retry_after } => Some((HoldReason::RateLimited, (*retry_after).max(SHORTEST_HOLD))),
        E::Refused { .. } | E::CustomerNotFound | E::Unavailable { .. } | E::TimedOut | E::Disconnected(_) => None,
    }
}
