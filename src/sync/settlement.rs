//! Putting the end of a sync into the words of the outbox: what became of each event, of the link, and when the
//! customer is looked at again.

use std::time::Duration;

use super::fold::{Folded, ReadEvent};
use super::translate::{self, Translated};
use super::{End, Identified, Record, Rules};
use crate::domain::retry::Failures;
use crate::domain::{
    Acknowledged, Acknowledgement, CustomerStatus, EventId, EventStatus, Field, FieldValue, Moment, Said, ValueHash,
};
use crate::flexportal::{FlexportalError, Status, Updated};
use crate::outbox::{EventResult, LinkChange, Next, Settlement, WaitingEvent};
use crate::shops::Rejection;

/// The code of events that fail by a fault of ours.
const INTERNAL: &str = "INTERNAL";

const OUR_FAULT: &str = "a fault of flexportal-sync";

/// An event that cannot be read, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable {
    event: EventId,
    code: &'static str,
    cause: &'static str,
    reason: String,
}

impl Unreadable {
    pub(super) fn rejected(event: EventId, rejection: &Rejection) -> Self {
        Self { event, code: "UNREADABLE", cause: "stored payload cannot be read", reason: rejection.to_string() }
    }

    pub(super) fn is_of(&self, event: EventId) -> bool {
        self.event == event
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    pub(super) fn panicked(event: EventId) -> Self {
        let reason = "flexportal-sync failed on this event: please report it".to_owned();
        Self { event, code: INTERNAL, cause: OUR_FAULT, reason }
    }
}

/// The events of a sync that could not be carried through fail, each with its attempts and the reason; what was done
/// stays on record.
pub(super) fn failed_for(
    events: impl Iterator<Item = (EventId, u32)>,
    reason: &str,
    Record { attempts, rest }: Record,
) -> Settlement {
    let results = events.map(|(event, attempts)| EventResult {
        event,
        status: EventStatus::Failed,
        attempts,
        failing_for: None,
        http_status: None,
        error_code: Some(INTERNAL.to_owned()),
        error: Some(reason.to_owned()),
        cause: Some(OUR_FAULT.to_owned()),
        warnings: vec![],
        flexportal_id: None,
        superseded_by: None,
        attempted_as: None,
        is_final: true,
    });
    // Whatever was sent before it came to that, nobody knows what became of it.
    Settlement {
        results: results.collect(),
        attempts,
        rest,
        link: LinkChange::Doubt,
        ..Settlement::nothing(Next::Done)
    }
}

/// What FlexPortal was sent.
enum Sent {
    Nothing,
    /// The translated values; the e-mail that it is known to have, if it is the shop's.
    Values {
        email: Option<ValueHash>,
        /// The status that the answer showed.
        status: Option<Status>,
    },
}

/// Puts an end into the words of the outbox.
pub(super) struct Closing<'a> {
    pub(super) rules: &'a Rules,
    pub(super) waiting: &'a [WaitingEvent],
    pub(super) read: &'a [ReadEvent<'a>],
    pub(super) folded: &'a Folded<'a>,
    pub(super) translated: &'a Translated<'a>,
    /// A worker died holding the customer: it may have sent whatever waits.
    pub(super) is_takeover: bool,
    /// When all this was read.
    pub(super) moment: Moment,
}

impl Closing<'_> {
    pub(super) fn settlement(
        &self,
        end: Option<End>,
        unreadable: Vec<Unreadable>,
        overtaken: Vec<(EventId, EventId)>,
        acknowledged: Acknowledged,
        record: Record,
    ) -> Settlement {
        let mut results = Vec::new();
        for Unreadable { event, code, cause, reason } in unreadable {
            let mut result = self.result(event, EventStatus::Failed);
            result.error_code = Some(code.to_owned());
            result.error = Some(reason);
            result.cause = Some(cause.to_owned());
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
        let Record { attempts, rest } = record;
        let last_status = attempts.last().and_then(|attempt| attempt.http_status);
        let (link, next) = match (end, self.folded.head) {
            (Some(end), Some(head)) => self.head_and_contributors(&mut results, head, end, acknowledged, last_status),
            _ => (LinkChange::Keep, Next::Done),
        };
        let link = if self.is_takeover && matches!(link, LinkChange::Keep) { LinkChange::Doubt } else { link };
        Settlement { results, overtaken, attempts, link, next, rest }
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
        let together: Vec<_> = std::iter::once(head).chain(self.folded.contributors.iter().copied()).collect();
        match end {
            End::Synced { who, updated } => {
                let (email, warning) = self.compare_email(&updated);
                let mut result = self.result(head, EventStatus::Synced);
                result.attempts += 1;
                result.http_status = http_status;
                result.warnings.extend(warning.filter(|warning| !self.translated.warnings.contains(warning)));
                self.push_with_contributors(results, result, &who);
                (self.acknowledge(acknowledged, who, &Sent::Values { email, status: updated.status }), Next::Done)
            }
            End::Unchanged { who: Some(who) } => {
                self.push_with_contributors(results, self.result(head, EventStatus::Unchanged), &who);
                (self.acknowledge(acknowledged, who, &Sent::Nothing), Next::Done)
            }
            End::Unchanged { who: None } => {
                results.extend(together.iter().map(|event| self.result(*event, EventStatus::Unchanged)));
                (LinkChange::Keep, Next::Done)
            }
            End::Unmatched { why, stale } => {
                let is_over = |event: &EventId| self.age(*event) >= self.rules.unmatched_max_age;
                results.extend(together.iter().map(|event| EventResult {
                    http_status,
                    error_code: Some("UNMATCHED".to_owned()),
                    error: Some(why.what.clone()),
                    cause: Some(why.cause.to_owned()),
                    is_final: is_over(event),
                    ..self.result(*event, EventStatus::Unmatched)
                }));
                let next = if together.iter().all(is_over) {
                    Next::Done
                } else {
                    Next::RetryIn(self.rules.unmatched_retry_interval)
                };
                (stale.map_or(LinkChange::Keep, |flexportal_id| LinkChange::Missing { flexportal_id }), next)
            }
            End::Failed { error, who } => {
                results.extend(
                    together.iter().map(|event| {
                        self.not_synced(*event, EventStatus::Failed, 1, http_status, &error, who.as_ref())
                    }),
                );
                (self.in_doubt(acknowledged, who, Some(&error)), Next::Done)
            }
            End::Retry { error, who, delay } => {
                results.extend(
                    together.iter().map(|event| {
                        self.not_synced(*event, EventStatus::Pending, 1, http_status, &error, who.as_ref())
                    }),
                );
                (self.in_doubt(acknowledged, who, Some(&error)), Next::RetryIn(delay))
            }
            End::Later { error, who, delay } => {
                results.extend(error.iter().flat_map(|error| together.iter().map(move |event| (event, error))).map(
                    |(event, error)| self.not_synced(*event, EventStatus::Pending, 0, http_status, error, who.as_ref()),
                ));
                let link = self.in_doubt(acknowledged, who, error.as_ref());
                (link, delay.map_or(Next::AsBefore, Next::RetryIn))
            }
        }
    }

    /// After a PUT that may or may not have been carried out, by us or by whom we took over from, what FlexPortal
    /// acknowledged before says nothing of the values that were in it.
    fn in_doubt(
        &self,
        mut acknowledged: Acknowledged,
        who: Option<Identified>,
        error: Option<&FlexportalError>,
    ) -> LinkChange {
        let is_outage = error.is_some_and(FlexportalError::is_outage);
        let who = match who {
            Some(who) if is_outage || self.is_takeover => who,
            who => return self.found(who),
        };
        let words =
            self.folded.fields.iter().filter(|(field, _)| self.is_takeover || self.translated.sent.contains_key(field));
        acknowledged.doubt(words.map(|(field, spoken)| (*field, spoken.key)));
        if self.says_inactive()
            && let Some(status) = acknowledged.0.get_mut(&Field::Status)
        {
            (status.deactivated, status.deleted) = (true, self.says_deleted());
        }
        LinkChange::Acknowledged {
            flexportal_id: who.id,
            origin: who.origin,
            acknowledged,
            occurred_at: None,
            synced_at: None,
            email: self.email(),
            status_shown: None,
        }
    }

    fn says_inactive(&self) -> bool {
        let status = self.folded.fields.get(&Field::Status);
        status.is_some_and(|status| *status.said == Said::Value(FieldValue::Status(CustomerStatus::Inactive)))
    }

    fn says_deleted(&self) -> bool {
        super::says_deleted(self.folded, self.read)
    }

    /// The e-mail of the shop's customer, where a change says it that nothing newer is known of.
    fn email(&self) -> Option<String> {
        match self.folded.fields.get(&Field::Email)?.said {
            Said::Value(FieldValue::Text(email)) => Some(email.clone().into_owned()),
            _ => None,
        }
    }

    /// A customer that was found is kept as link, also if nothing could be sent to it yet.
    fn found(&self, who: Option<Identified>) -> LinkChange {
        match who {
            Some(Identified { id: flexportal_id, origin: Some(origin) }) => {
                LinkChange::Found { flexportal_id, origin, email: self.email() }
            }
            Some(Identified { origin: None, .. }) | None => LinkChange::Keep,
        }
    }

    fn push_with_contributors(&self, results: &mut Vec<EventResult>, head: EventResult, who: &Identified) {
        let successor = head.event;
        let flexportal_id = Some(who.id.clone());
        results.push(EventResult { flexportal_id: flexportal_id.clone(), ..head });
        results.extend(self.folded.contributors.iter().map(|event| EventResult {
            flexportal_id: flexportal_id.clone(),
            superseded_by: Some(successor),
            ..self.result(*event, EventStatus::Superseded)
        }));
    }

    fn not_synced(
        &self,
        event: EventId,
        status: EventStatus,
        counts: u32,
        http_status: Option<u16>,
        error: &FlexportalError,
        who: Option<&Identified>,
    ) -> EventResult {
        let result = self.result(event, status);
        EventResult {
            attempts: result.attempts + counts,
            failing_for: self.failures(event).filter(|_| counts > 0).map(|failures| failures.lasting),
            http_status,
            error_code: error.code().map(str::to_owned),
            error: Some(error.to_string()),
            cause: Some(error.cause()),
            attempted_as: self.folded.head,
            flexportal_id: who.map(|who| who.id.clone()),
            ..result
        }
    }

    fn result(&self, event: EventId, status: EventStatus) -> EventResult {
        let waiting = self.waiting.iter().find(|waiting| waiting.id == event);
        let said = self.read.iter().find(|read| read.id() == event);
        let mut warnings = said.map(|read| read.event.warnings.clone()).unwrap_or_default();
        if self.folded.head == Some(event) {
            warnings.extend(self.translated.warnings.iter().cloned());
        }
        EventResult {
            event,
            status,
            attempts: waiting.map_or(0, |waiting| waiting.attempts),
            failing_for: None,
            http_status: None,
            error_code: None,
            error: None,
            cause: None,
            warnings,
            flexportal_id: None,
            superseded_by: None,
            attempted_as: None,
            is_final: status != EventStatus::Pending && status != EventStatus::Unmatched,
        }
    }

    /// The failed attempts of an event, one more included.
    fn failures(&self, event: EventId) -> Option<Failures> {
        let waiting = self.waiting.iter().find(|waiting| waiting.id == event)?;
        Some(super::failures(&self.rules.retry, waiting, self.moment.read_at()))
    }

    fn age(&self, event: EventId) -> Duration {
        let waiting = self.waiting.iter().find(|waiting| waiting.id == event);
        waiting.map_or(Duration::ZERO, |waiting| self.moment.read_at().since(waiting.received_at))
    }

    /// Which e-mail FlexPortal is known to have, and a warning if it is not the shop's.
    fn compare_email(&self, updated: &Updated) -> (Option<ValueHash>, Option<String>) {
        let Some(Said::Value(FieldValue::Text(ours))) = self.folded.fields.get(&Field::Email).map(|spoken| spoken.said)
        else {
            return (None, None);
        };
        match &updated.email {
            Some(theirs) if theirs.to_lowercase() != ours.to_lowercase() => {
                (None, Some(translate::EMAIL_DIFFERS.to_owned()))
            }
            Some(_) => (Some(translate::email_hash(ours)), None),
            None => (None, None),
        }
    }

    /// Notes what is settled now: every field that was spoken for, and, if something was sent, the values.
    fn acknowledge(&self, mut acknowledged: Acknowledged, who: Identified, sent: &Sent) -> LinkChange {
        for (field, spoken) in &self.folded.fields {
            let fresh =
                Acknowledgement { key: spoken.key, hash: None, acked: None, deactivated: false, deleted: false };
            let entry = acknowledged.0.entry(*field).or_insert(fresh);
            entry.key = spoken.key;
            let Sent::Values { email, .. } = sent else { continue };
            let hash = if *field == Field::Email { email.as_ref() } else { self.translated.sent.get(field) };
            if let Some(hash) = hash {
                entry.hash = Some(hash.clone());
                entry.acked = Some(self.moment.now().utc());
                entry.deactivated = *field == Field::Status && self.says_inactive();
                entry.deleted = entry.deactivated && self.says_deleted();
            }
        }
        let newest = self.folded.fields.values().map(|spoken| spoken.key.changed_at).max();
        LinkChange::Acknowledged {
            flexportal_id: who.id,
            origin: who.origin,
            acknowledged,
            occurred_at: newest,
            synced_at: matches!(sent, Sent::Values { .. }).then(|| self.moment.now()),
            email: self.email(),
            status_shown: match sent {
                Sent::Values { status, .. } => *status,
                Sent::Nothing => None,
            },
        }
    }
}
