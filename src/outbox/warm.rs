//! Connections that were used a moment ago.
//!
//! The pool asks the server before and after each use whether the connection still stands: two trips beside the one of the
//! statement, and the connection is not free until the second is back. Statements that follow each other closely need
//! neither. They take the connection of the last one as it is, so that few are in use and their server processes know
//! the tables. Whatever fails goes back to the pool, which tests it, and the others with it; so does what has not been used
//! for a while, or has been here for long.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};

/// A connection that was used so recently is taken to stand.
const UNTESTED_FOR: Duration = Duration::from_secs(1);
/// Then the pool has a look at it, and makes another once it is old.
const AWAY_FOR: Duration = Duration::from_mins(1);
/// So many are kept at most, and no more than half of what the pool may have: the rest stays where everybody finds it.
const MOST: usize = 4;

/// Connections that stay away from their pool between one statement and the next.
#[derive(Debug, Clone)]
pub(super) struct Warm {
    pool: PgPool,
    most: usize,
    kept: Arc<Mutex<Vec<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    connection: PoolConnection<Postgres>,
    used_at: Instant,
    away_since: Instant,
}

/// A connection in use. Unless it is [kept](WarmConnection::keep), it goes back to the pool and is tested.
pub(super) struct WarmConnection<'a> {
    warm: &'a Warm,
    connection: PoolConnection<Postgres>,
    away_since: Instant,
}

impl Warm {
    pub(super) fn of(pool: PgPool) -> Self {
        let half = usize::try_from(pool.options().get_max_connections() / 2).unwrap_or(MOST);
        Self { pool, most: MOST.min(half), kept: Arc::default() }
    }

    /// The connection that was used last, or one of the pool's.
    ///
    /// # Errors
    /// None can be had.
    pub(super) async fn connection(&self) -> Result<WarmConnection<'_>, sqlx::Error> {
        if let Some(Kept { connection, away_since, .. }) = self.take() {
            return Ok(WarmConnection { warm: self, connection, away_since });
        }
        // Boxed: it is large, holds what connecting takes, and is rarely needed.
        let connection = Box::pin(self.pool.acquire()).await?;
        Ok(WarmConnection { warm: self, connection, away_since: Instant::now() })
    }

    /// Gives all of them back: what one met, the others would.
    pub(super) fn clear(&self) {
        // Dropped after the lock.
        let _given_back = std::mem::take(&mut *self.kept());
    }

    fn take(&self) -> Option<Kept> {
        let last = self.kept().pop()?;
        if last.used_at.elapsed() < UNTESTED_FOR && last.away_since.elapsed() < AWAY_FOR {
            return Some(last);
        }
        self.clear();
        None
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WarmConnection<'_> {
    /// All went well: the next statement may have it.
    pub(super) fn keep(self) {
        let Self { warm, connection, away_since } = self;
        let kept = Kept { connection, used_at: Instant::now(), away_since };
        let mut all = warm.kept();
        // Asked under the lock: whoever closes the pool clears this afterwards.
        if all.len() < warm.most && !warm.pool.is_closed() {
            all.push(kept);
        }
    }
}

impl Deref for WarmConnection<'_> {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for WarmConnection<'_> {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Clock;
    use crate::outbox::scratch::Scratch;

    /// The server process behind a connection, and the connection.
    async fn next(warm: &Warm) -> (i32, WarmConnection<'_>) {
        let mut connection = warm.connection().await.expect("a connection");
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *connection).await.expect("a number");
        (pid, connection)
    }

    #[tokio::test]
    async fn the_last_one_is_used_again_and_what_failed_or_grew_cold_goes_back() {
        let scratch = Scratch::new("warm").await;
        let outbox = scratch.outbox(Clock::System).await;
        let warm = &outbox.warm;
        let (first, one) = next(warm).await;
        let (second, other) = next(warm).await;
        assert_ne!(first, second);
        one.keep();
        other.keep();
        for _ in 0..3 {
            let (pid, again) = next(warm).await;
            assert_eq!(pid, second, "the one that was used last");
            again.keep();
        }
        let (_, one) = next(warm).await;
        let (_, other) = next(warm).await;
        let (_, third) = next(warm).await;
        [one, other, third].into_iter().for_each(WarmConnection::keep);
        assert_eq!(warm.kept().len(), 2, "half of the pool's");
        drop(next(warm).await);
        assert_eq!(warm.kept().len(), 1, "not said to be well: back to the pool");

        warm.kept()[0].used_at -= UNTESTED_FOR;
        let (_, tested) = next(warm).await;
        assert_eq!(warm.kept().len(), 0, "one that grew cold: back to the pool");
        tested.keep();
        warm.kept()[0].away_since -= AWAY_FOR;
        let (_, tested) = next(warm).await;
        assert_eq!(warm.kept().len(), 0, "so is one that was away for long");
        tested.keep();

        let (_, in_use) = next(warm).await;
        let closing = outbox.close();
        let ends = async {
            tokio::task::yield_now().await;
            in_use.keep();
        };
        tokio::join!(closing, ends);
        assert_eq!(warm.kept().len(), 0, "nobody keeps a connection of a pool that is closed");
        scratch.remove().await;
    }
}
