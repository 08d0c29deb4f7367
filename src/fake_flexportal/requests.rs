//! The log of what clients sent, in the order of arrival.

use std::collections::VecDeque;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// The newest this many requests are kept, so that a long demonstration does not fill the memory.
const MAX_REQUESTS: usize = 100_000;

/// One request to a customer endpoint, or to a path that FlexPortal does not have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedRequest {
    /// Counts up from 1 in the order of arrival; never starts over.
    pub sequence: u64,
    /// When the whole request had been read.
    #[serde(serialize_with = "in_microseconds")]
    pub received_at: DateTime<Utc>,
    /// `GET`, `PUT`, …
    pub method: String,
    /// As sent, still percent-encoded.
    pub path: String,
    /// As sent, without the question mark.
    pub query: Option<String>,
    /// Header `Tenant-ID`.
    pub tenant_id: Option<String>,
    /// Header `Idempotency-Key`.
    pub idempotency_key: Option<String>,
    /// The body as JSON, or as a string where it is not JSON; none if it was empty or too long to read.
    pub body: Option<Value>,
    /// Status of the answer; none while there is none, and for good if there never was one.
    pub status: Option<u16>,
    /// When it was over: carried out and its answer on the way, or its connection cut; none while it is under way.
    #[serde(default, serialize_with = "in_microseconds")]
    pub ended_at: Option<DateTime<Utc>>,
}

/// A time, or one that there may be.
fn in_microseconds<'a, S: Serializer>(
    at: impl Into<Option<&'a DateTime<Utc>>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match at.into() {
        Some(at) => serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true)),
        None => serializer.serialize_none(),
    }
}

/// The newest requests.
#[derive(Debug, Default)]
pub(super) struct RequestLog {
    kept: VecDeque<RecordedRequest>,
    last_sequence: u64,
}

impl RequestLog {
    /// Adds a request, whatever sequence it claims, and gives its own.
    pub(super) fn add(&mut self, mut request: RecordedRequest) -> u64 {
        self.last_sequence += 1;
        request.sequence = self.last_sequence;
        if self.kept.len() == MAX_REQUESTS {
            self.kept.pop_front();
        }
        self.kept.push_back(request);
        self.last_sequence
    }

    /// Notes the end of a request, and the answer if there was one, if the request is still kept.
    pub(super) fn ended(&mut self, sequence: u64, status: Option<u16>, at: DateTime<Utc>) {
        // Sequences have no gaps, so the place follows from the first that is kept.
        let place = self.kept.front().and_then(|first| usize::try_from(sequence.checked_sub(first.sequence)?).ok());
        if let Some(request) = place.and_then(|place| self.kept.get_mut(place)) {
            request.status = status;
            request.ended_at = Some(at);
        }
    }

    pub(super) fn all(&self) -> Vec<RecordedRequest> {
        self.kept.iter().cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RecordedRequest {
        RecordedRequest {
            sequence: 0,
            received_at: DateTime::UNIX_EPOCH,
            method: "GET".to_owned(),
            path: "/v1/customers".to_owned(),
            query: None,
            tenant_id: None,
            idempotency_key: None,
            body: None,
            status: None,
            ended_at: None,
        }
    }

    #[test]
    fn the_oldest_give_way_and_answers_find_their_request() {
        let mut log = RequestLog::default();
        for _ in 0..MAX_REQUESTS + 5 {
            log.add(request());
        }
        let end = |log: &mut RequestLog, sequence, status| log.ended(sequence, Some(status), DateTime::UNIX_EPOCH);
        end(&mut log, 3, 200);
        end(&mut log, 6, 201);
        end(&mut log, 100_005, 202);
        end(&mut log, 100_006, 203);
        let kept = log.all();
        assert_eq!(kept.len(), MAX_REQUESTS);
        assert_eq!((kept[0].sequence, kept[0].status), (6, Some(201)));
        assert_eq!(kept.iter().filter(|request| request.status.is_some()).count(), 2);
        assert_eq!(kept[MAX_REQUESTS - 1].status, Some(202));

        log.clear();
        end(&mut log, 100_005, 500);
        assert_eq!(log.add(request()), 100_006, "sequences never start over");
    }

    #[test]
    fn times_are_written_with_microseconds() {
        let mut ended = request();
        ended.ended_at = DateTime::from_timestamp(1, 0);
        let written = serde_json::to_value(&ended).expect("serializable");
        assert_eq!(written["received_at"], "1970-01-01T00:00:00.000000Z");
        assert_eq!(written["ended_at"], "1970-01-01T00:00:01.000000Z");
        let read: RecordedRequest = serde_json::from_value(written).expect("readable");
        assert_eq!(read, ended);
    }
}
