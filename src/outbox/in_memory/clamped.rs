//! What upkeep does once Postgres' clock was set back, for the store in memory: see `outbox::clamp`.

use std::time::Duration;

use super::InMemory;
use crate::domain::EventStatus;
use crate::flexportal::LONGEST_RETRY_AFTER;
use crate::outbox::clamp::QUOTA_AHEAD;
use crate::outbox::{HoldReason, LEASE, PROBE_INTERVAL};

impl InMemory {
    /// Moves instants that lie further ahead than they can to the latest that can be.
    pub(crate) fn clamp(&self, longest_delay: Duration) {
        let (now, mut state) = (self.clock.now(), self.state());
        for target in state.targets.values_mut() {
            if target.used_until > now + QUOTA_AHEAD {
                (target.used_until, target.free_places) = (now + QUOTA_AHEAD, vec![]);
            }
            target.step_held_until = target.step_held_until.map(|until| until.min(now + QUOTA_AHEAD));
            target.hold = target.hold.map(|(until, reason)| {
                let longest = match reason {
                    HoldReason::RateLimited => LONGEST_RETRY_AFTER,
                    HoldReason::ClockStep => QUOTA_AHEAD,
                    HoldReason::Refused | HoldReason::Failing => PROBE_INTERVAL,
                };
                (until.min(now + longest), reason)
            });
        }
        let state = &mut *state;
        for waiting in state.waiting.values_mut() {
            waiting.lease = waiting.lease.map(|(lease, until)| (lease, until.min(now + LEASE)));
            waiting.rests_until = waiting.rests_until.map(|until| until.min(now + LEASE));
            let first = state.events.get(&waiting.first_event_id);
            let is_unmatched = first.is_some_and(|event| event.status() == EventStatus::Unmatched);
            match waiting.priority {
                0 if waiting.due_at > now + LEASE => waiting.due_at = now,
                0 => {}
                _ if is_unmatched => {}
                _ => waiting.due_at = waiting.due_at.min(now + longest_delay),
            }
        }
    }
}
