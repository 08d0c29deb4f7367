//! Sending as shops do: each delivery at its time, whether or not earlier ones were answered, and again until it
//! is answered 200.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use chrono::{DateTime, TimeDelta, Utc};
use flexportal_sync::domain::{Clock, EventId};
use flexportal_sync::shops::sign::{sign, usual_topic};
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::burst::{Burst, due_after};
use super::judge::Accepted;

/// The webhook secret of all sources.
pub(crate) const SECRET: &str = "drill-secret";

/// Attempts to get one delivery accepted, a second apart.
const ATTEMPTS: usize = 30;
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What was answered.
#[derive(Debug)]
pub(crate) struct Sent {
    /// By change.
    pub(crate) accepted: Vec<Option<Accepted>>,
    /// Answers `duplicate`.
    pub(crate) duplicates: usize,
    /// Answers `accepted` to a delivery that had been accepted, as another event.
    pub(crate) taken_twice: usize,
    /// Other answers, or none, after which the delivery was sent again.
    pub(crate) repeated: usize,
    /// From the beginning of each request to the end of its answer.
    pub(crate) answer_times: Vec<TimeDelta>,
    /// From the first to the last.
    pub(crate) took: TimeDelta,
}

/// One delivery, answered 200.
struct Answered {
    change: usize,
    is_duplicate: bool,
    event: EventId,
    at: DateTime<Utc>,
    took: TimeDelta,
    attempts: usize,
}

/// Sends the whole burst to an intake; `begun` counts the deliveries that are on their way or answered.
pub(crate) async fn send(burst: Arc<Burst>, addr: &str, begun: &watch::Sender<usize>) -> anyhow::Result<Sent> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(10)).no_proxy().build();
    let client = client.context("no HTTP client")?;
    let addr: Arc<str> = addr.into();
    let (started, start) = (Clock::System.now(), Instant::now());
    let mut answers = JoinSet::new();
    for (place, change) in burst.deliveries.iter().copied().enumerate() {
        tokio::time::sleep_until(start + due_after(place).to_std().unwrap_or_default()).await;
        answers.spawn(deliver(client.clone(), Arc::clone(&addr), Arc::clone(&burst), change));
        begun.send_replace(place + 1);
    }
    let mut sent = Sent {
        accepted: vec![None; burst.changes.len()],
        duplicates: 0,
        taken_twice: 0,
        repeated: 0,
        answer_times: Vec::with_capacity(burst.deliveries.len()),
        took: Clock::System.now() - started,
    };
    while let Some(answered) = answers.join_next().await {
        sent.note(&answered.context("a delivery was not carried out")??);
    }
    Ok(sent)
}

impl Sent {
    fn note(&mut self, answered: &Answered) {
        self.repeated += answered.attempts - 1;
        self.answer_times.push(answered.took);
        self.duplicates += usize::from(answered.is_duplicate);
        let now = Accepted { event: answered.event, answered_at: answered.at };
        match &mut self.accepted[answered.change] {
            Some(before) => {
                self.taken_twice += usize::from(before.event != now.event);
                before.answered_at = now.answered_at.min(before.answered_at);
            }
            none => *none = Some(now),
        }
    }
}

async fn deliver(
    client: reqwest::Client,
    addr: Arc<str>,
    burst: Arc<Burst>,
    change: usize,
) -> anyhow::Result<Answered> {
    let kind = burst.customer_of(change).kind;
    let url = format!("http://{addr}/webhooks/{}", kind.as_str());
    let (secret, id, body) = (SecretString::from(SECRET), format!("drill-{change}"), burst.body(change));
    for attempts in 1..=ATTEMPTS {
        let begun = Clock::System.now();
        let headers = sign(kind, &secret, usual_topic(kind), &id, &body, begun).map_err(anyhow::Error::msg)?;
        let mut request = client.post(&url).body(body.clone());
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Ok(answer) = request.send().await
            && answer.status() == 200
            && let Ok(answer) = answer.json::<Value>().await
        {
            let at = Clock::System.now();
            let is_duplicate = match answer["status"].as_str() {
                Some("accepted") => false,
                Some("duplicate") => true,
                other => bail!("change {change} was answered 200 {other:?}"),
            };
            let event = serde_json::from_value(answer["eventId"].clone()).context("an answer without an event id")?;
            return Ok(Answered { change, is_duplicate, event, at, took: at - begun, attempts });
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    bail!("change {change} was not accepted in {ATTEMPTS} attempts")
}
