//! Connections that were used a moment ago.
//!
//! The pool asks the server before and after each use whether the connection still stands: trips beside the one of the
//! statement, and the connection is not free until the last is back. Statements that follow each other closely need none
//! of them. They take the connection of the last one as it is, so that few are in use and their server processes know the
//! tables. One whose statement failed, or was given up, is closed; the others go back to the pool then, which tests them,
//! for what one met they may meet, too. So does whatever was not used for a moment when the next asks.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use scopeguard::ScopeGuard;
use sqlx::Postgres;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgPool};

/// A connection that was used so recently is taken to stand.
const UNTESTED_FOR: Duration = Duration::from_secs(1);
/// Then the pool has a look at it, and makes another once it is old. One that nobody used for so long is closed: testing a
/// connection that was cut silently takes as long as the system's own patience.
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

/// A connection in use. Unless it is [kept](WarmConnection::keep), it is closed, also where its user is cancelled: nobody
/// knows where it stands. (sqlx 0.9 does not know of a transaction whose `begin` was cancelled.)
pub(super) struct WarmConnection {
    connection: ScopeGuard<Used, fn(Used)>,
    away_since: Instant,
}

/// A connection, and where it may be kept.
type Used = (PoolConnection<Postgres>, Warm);

impl Warm {
    /// Keeps connections of a pool.
    pub(super) fn of(pool: PgPool) -> Self {
        let half = usize::try_from(pool.options().get_max_connections() / 2).unwrap_or(MOST);
        Self { pool, most: MOST.min(half), kept: Arc::default() }
    }

    /// The connection that was used last, or one of the pool's.
    ///
    /// # Errors
    /// None can be had.
    pub(super) async fn connection(&self) -> Result<WarmConnection, sqlx::Error> {
        self.connection_at(Instant::now()).await
    }

    async fn connection_at(&self, now: Instant) -> Result<WarmConnection, sqlx::Error> {
        let (connection, away_since) = match self.take(now) {
            Some(Kept { connection, away_since, .. }) => (connection, away_since),
            // Boxed: it is large, holds what connecting takes, and is rarely needed.
            None => (Box::pin(self.pool.acquire()).await?, now),
        };
        let connection = scopeguard::guard((connection, self.clone()), close as fn(_));
        Ok(WarmConnection { connection, away_since })
    }

    /// Gives all of them back.
    pub(super) fn give_back(&self, now: Instant) {
        // Dropped after the lock.
        let mut all = std::mem::take(&mut *self.kept());
        for kept in &mut all {
            if now.saturating_duration_since(kept.used_at) >= AWAY_FOR {
                kept.connection.close_on_drop();
            }
        }
    }

    fn take(&self, now: Instant) -> Option<Kept> {
        let last = self.kept().pop()?;
        let (unused, away) =
            (now.saturating_duration_since(last.used_at), now.saturating_duration_since(last.away_since));
        if unused < UNTESTED_FOR && away < AWAY_FOR {
            return Some(last);
        }
        self.kept().push(last);
        self.give_back(now);
        None
    }

    fn keep(&self, kept: Kept) {
        // Somebody may be waiting for one at the pool.
        let is_wanted = self.pool.size() >= self.pool.options().get_max_connections() && self.pool.num_idle() == 0;
        let mut all = self.kept();
        // Asked under the lock: whoever closes the pool gives all back afterwards.
        if all.len() < self.most && !is_wanted && !self.pool.is_closed() {
            all.push(kept);
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn close((mut connection, warm): Used) {
    connection.close_on_drop();
    warm.give_back(Instant::now());
}

impl WarmConnection {
    /// All went well: the next statement may have it.
    pub(super) fn keep(self) {
        self.keep_at(Instant::now());
    }

    fn keep_at(self, used_at: Instant) {
        let away_since = self.away_since;
        let (connection, warm) = ScopeGuard::into_inner(self.connection);
        warm.keep(Kept { connection, used_at, away_since });
    }
}

impl Deref for WarmConnection {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection.0
    }
}

impl DerefMut for WarmConnection {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Clock;
    use crate::outbox::scratch::Scratch;

    /// The server process behind a connection, and the connection.
    async fn next(warm: &Warm, now: Instant) -> (i32, WarmConnection) {
        let mut connection = warm.connection_at(now).await.expect("a connection");
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *connection).await.expect("a number");
        (pid, connection)
    }

    #[tokio::test]
    async fn the_last_one_is_used_again_until_it_fails_grows_cold_or_is_wanted_elsewhere() {
        let scratch = Scratch::new("warm").await;
        let outbox = scratch.outbox(Clock::System).await;
        let (warm, now) = (&outbox.warm, Instant::now());
        let (first, one) = next(warm, now).await;
        let (second, other) = next(warm, now).await;
        assert_ne!(first, second);
        one.keep_at(now);
        other.keep_at(now);
        for _ in 0..3 {
            let (pid, again) = next(warm, now).await;
            assert_eq!(pid, second, "the one that was used last");
            again.keep_at(now);
        }
        drop(next(warm, now).await);
        assert_eq!(warm.kept().len(), 0, "what one met the others may meet");
        let (third, new) = next(warm, now).await;
        assert_ne!(third, second, "one that is not said to be well is closed");
        new.keep_at(now);

        let (pid, tested) = next(warm, now + UNTESTED_FOR / 2).await;
        assert_eq!(pid, third);
        tested.keep_at(now);
        let cold = next(warm, now + UNTESTED_FOR).await.1;
        assert_eq!((warm.kept().len(), cold.away_since), (0, now + UNTESTED_FOR), "from the pool");
        cold.keep_at(now + AWAY_FOR);
        let long_away = next(warm, now + AWAY_FOR + UNTESTED_FOR).await.1;
        assert_eq!(long_away.away_since, now + AWAY_FOR + UNTESTED_FOR, "from the pool");

        let mut all = vec![long_away];
        for _ in 1..4 {
            all.push(next(warm, now).await.1);
        }
        for connection in all {
            connection.keep_at(now);
        }
        assert_eq!(warm.kept().len(), 0, "the pool has given all it has: somebody may wait for one");
        while outbox.pool.num_idle() < 4 {
            tokio::task::yield_now().await;
        }
        let all = [next(warm, now).await.1, next(warm, now).await.1, next(warm, now).await.1];
        for connection in all {
            connection.keep_at(now);
        }
        assert_eq!(warm.kept().len(), 2, "half of the pool's");
        let (_, in_use) = next(warm, now).await;
        let ends = async {
            tokio::task::yield_now().await;
            in_use.keep_at(now);
        };
        tokio::join!(outbox.close(), ends);
        assert_eq!(warm.kept().len(), 0, "nobody keeps a connection of a pool that is closed");
        scratch.remove().await;
    }

    #[tokio::test]
    async fn the_pool_gives_nobody_a_connection_with_a_transaction_that_another_left_open() {
        let scratch = Scratch::new("warm").await;
        let outbox = scratch.outbox(Clock::System).await;
        let mut connection = outbox.pool.acquire().await.expect("a connection");
        let pid = "select pg_backend_pid()";
        let left: i32 = sqlx::query_scalar(pid).fetch_one(&mut *connection).await.expect("a number");
        // As after a `begin` whose caller was cancelled: sqlx does not know of it.
        sqlx::raw_sql("begin").execute(&mut *connection).await.expect("begun");
        drop(connection);
        while outbox.pool.num_idle() == 0 {
            tokio::task::yield_now().await;
        }
        let mut connection = outbox.pool.acquire().await.expect("a connection");
        assert_eq!(sqlx::query_scalar::<_, i32>(pid).fetch_one(&mut *connection).await.expect("a number"), left);
        sqlx::raw_sql("create table kept ()").execute(&mut *connection).await.expect("created");
        let seen = "select count(*) from pg_class where relname = 'kept'";
        let seen: i64 = sqlx::query_scalar(seen).fetch_one(&outbox.pool).await.expect("a number");
        assert_eq!(seen, 1, "committed, for everybody to see");
        drop(connection);
        outbox.close().await;
        scratch.remove().await;
    }
}
