//! Group commit: while one commit is under way, the next group gathers.
//!
//! Nobody waits for a timer: an event that arrives when nothing is under way is committed at once, and the
//! busier it gets the larger the groups. The line is bounded; who does not fit in is told to come back.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::{NewEvent, Outbox, StoreError, StoreOutcome, timely};
use crate::metrics::Metrics;

/// Deliveries in line at most.
const MAX_WAITING: usize = 1024;
/// Bytes of payload in line at most.
const MAX_WAITING_BYTES: u32 = 64 * 1024 * 1024;
/// Deliveries in one commit at most: beyond this the gain per row is gone and the wait is not.
const MAX_GROUP: usize = 256;

/// For so long nobody is told again: workers find what there is, however often they are woken.
const TELLS_AGAIN_AFTER: Duration = Duration::from_millis(5);
/// After the database failed.
const TRIES_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Why a delivery was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The line is full, or the service is leaving: come back later.
    #[error("too many deliveries are waiting to be stored")]
    Overloaded,
    /// The database is away: come back later.
    #[error("the database is unavailable")]
    Unavailable,
    /// Postgres cannot take this delivery, ever.
    #[error("the database refuses the data")]
    Refused,
}

struct Waiting {
    event: NewEvent,
    answer: oneshot::Sender<Result<StoreOutcome, CommitError>>,
    /// Given back once it is answered.
    room: tokio::sync::OwnedSemaphorePermit,
}

/// Where intake hands its deliveries in.
#[derive(Debug, Clone)]
pub struct Committer {
    line: mpsc::Sender<Waiting>,
    room: Arc<tokio::sync::Semaphore>,
}

impl Committer {
    /// Starts the task that commits; it ends when the last handle is gone and the line is empty.
    ///
    /// `committed` is called after each commit that may have stored something: the signal for a worker in this process.
    #[must_use]
    pub fn start(outbox: Outbox, metrics: Metrics, committed: impl Fn() + Send + 'static) -> Self {
        let (line, waiting) = mpsc::channel(MAX_WAITING);
        tokio::spawn(commit_groups(outbox, metrics, waiting, committed));
        Self { line, room: Arc::new(tokio::sync::Semaphore::new(MAX_WAITING_BYTES as usize)) }
    }

    /// Hands a delivery in and waits until it is committed.
    ///
    /// If the caller stops waiting, it is committed all the same.
    ///
    /// # Errors
    /// [`CommitError`]; only after [`CommitError::Unavailable`] may it have been stored nevertheless.
    pub async fn commit(&self, event: NewEvent) -> Result<StoreOutcome, CommitError> {
        let size = u32::try_from(event.delivery.payload.len()).unwrap_or(MAX_WAITING_BYTES);
        let room = self.room.clone().try_acquire_many_owned(size).map_err(|_| CommitError::Overloaded)?;
        let (answer, outcome) = oneshot::channel();
        self.line.try_send(Waiting { event, answer, room }).map_err(|_| CommitError::Overloaded)?;
        outcome.await.unwrap_or(Err(CommitError::Unavailable))
    }

    /// Whether a delivery would find room now.
    #[must_use]
    pub fn has_room(&self) -> bool {
        !self.line.is_closed() && self.line.capacity() > 0 && self.room.available_permits() > 0
    }
}

async fn commit_groups(outbox: Outbox, metrics: Metrics, mut line: mpsc::Receiver<Waiting>, committed: impl Fn()) {
    let (news, told) = mpsc::channel(1);
    tokio::spawn(tell_workers(outbox.clone(), told));
    let mut group = Vec::with_capacity(MAX_GROUP);
    while line.recv_many(&mut group, MAX_GROUP).await > 0 {
        if commit_group(&outbox, &metrics, std::mem::take(&mut group)).await {
            committed();
            // No room: they are about to be told anyway.
            let _ = news.try_send(());
        }
    }
}

/// Wakes the workers of other processes: at once after a commit, and once for all commits of the moments after that. They
/// poll, too, in case this process dies, or leaves, in between.
async fn tell_workers(outbox: Outbox, mut news: mpsc::Receiver<()>) {
    while news.recv().await.is_some() {
        while let Err(error) = timely(outbox.wake_all()).await {
            tracing::debug!(error = %error, "workers could not be told of new deliveries");
            if news.is_closed() {
                return;
            }
            tokio::time::sleep(TRIES_AGAIN_AFTER).await;
        }
        tokio::time::sleep(TELLS_AGAIN_AFTER).await;
    }
}

/// Commits a group and answers everybody in it; tells whether anything may have been stored.
async fn commit_group(outbox: &Outbox, metrics: &Metrics, group: Vec<Waiting>) -> bool {
    let (events, answers): (Vec<_>, Vec<_>) =
        group.into_iter().map(|waiting| (waiting.event, (waiting.answer, waiting.room))).unzip();
    let outcomes: Vec<_> = match timely(outbox.store(&events)).await {
        Ok(outcomes) => {
            metrics.group_committed(outcomes.len());
            outcomes.into_iter().map(Ok).collect()
        }
        Err(StoreError::Refused(_)) if events.len() > 1 => {
            // One of them spoils the statement: each for itself, so that it is the only one to be refused.
            let mut outcomes = Vec::with_capacity(events.len());
            for event in &events {
                outcomes.push(timely(outbox.store(std::slice::from_ref(event))).await.map(|outcome| outcome[0]));
            }
            outcomes.into_iter().map(|outcome| outcome.map_err(|error| reported(&error, 1))).collect()
        }
        Err(error) => {
            let count = events.len();
            events
                .iter()
                .enumerate()
                .map(|(n, _)| Err(if n == 0 { reported(&error, count) } else { told(&error) }))
                .collect()
        }
    };
    let may_be_stored = |outcome: &_| matches!(outcome, Ok(StoreOutcome::Stored(_)) | Err(CommitError::Unavailable));
    let is_news = outcomes.iter().any(may_be_stored);
    for ((answer, _room), outcome) in answers.into_iter().zip(outcomes) {
        // Whoever stopped waiting will send it again and be told that it is a duplicate.
        let _ = answer.send(outcome);
    }
    is_news
}

fn reported(error: &StoreError, deliveries: usize) -> CommitError {
    tracing::error!(error = %error, deliveries, "deliveries could not be stored; the shop was answered 503, or 400 if they can never be stored");
    told(error)
}

fn told(error: &StoreError) -> CommitError {
    match error {
        StoreError::Refused(_) => CommitError::Refused,
        StoreError::Unavailable(_)
        | StoreError::Inconsistent(_)
        | StoreError::NotMigrated
        | StoreError::Migrations(_) => CommitError::Unavailable,
    }
}
