//! Putting the end of a sync into the words of the outbox: what became of each event, of the link, and when the
//! customer is looked at again.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::fold::{Folded, ReadEvent};
use super::requests::Requests;
use super::translate::{self, Translated};
use super::{End, Rules};
use crate::domain::{
    Acknowledged, Acknowledgement, EventId, EventStatus, Field, FieldValue, FlexportalCustomerId, Said, ValueHash,
};
use crate::flexportal::{FlexportalError, Updated};
use crate::outbox::{EventResult, LinkChange, LinkOrigin, Next, Settlement, WaitingEvent};

/// What FlexPortal was sent.
enum Sent {
    Nothing,
    /// The translated values; and the e-mail that it is known to have, if it is the shop's.
    Values {
        email: Option<ValueHash>,
    },
}

/// Puts an end into the words of the outbox.
pub(super) struct Closing<'a> {
    pub(super) rules: &'a Rules,
    pub(super) waiting: &'a [WaitingEvent],
    pub(super) read: &'a [ReadEvent],
    pub(super) folded: &'a Folded,
    pub(super) translated: &'a Translated,
    pub(super) now: DateTime<Utc>,
}

impl Closing<'_> {
    pub(super) fn settlement(
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
                (self.acknowledge(acknowledged, id, origin, &Sent::Values { email }), Next::Done)
            }
            End::Unchanged { id, origin } => {
                settled(id.as_ref(), EventStatus::Unchanged, vec![], results);
                let link = id.map_or(LinkChange::Keep, |id| self.acknowledge(acknowledged, id, origin, &Sent::Nothing));
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
        sent: &Sent,
    ) -> LinkChange {
        for (field, spoken) in &self.folded.fields {
            let (at, event) = spoken.moment;
            let entry = acknowledged.0.entry(*field).or_insert(Acknowledgement { at, event, hash: None, acked: None });
            (entry.at, entry.event) = (at, event);
            let Sent::Values { email } = sent else { continue };
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
            synced_at: matches!(sent, Sent::Values { .. }).then_some(self.now),
        }
    }
}
