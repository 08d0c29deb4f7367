//! The outbox: all SQL there is.
//!
//! It guarantees:
//! - a delivery is stored once, and once it is stored its customer is due ([`Committer`], [`Outbox::store`]);
//! - one worker at a time has a customer claimed ([`Outbox::claim`]), and only for as long as its lease lasts;
//! - a result is written only by whoever holds the lease, all of it or nothing ([`Outbox::settle`]);
//! - a change that arrives while its customer is claimed is not forgotten: every arrival counts up the
//!   customer's `revision`, and settling leaves a customer due whose revision is not the one that was claimed.
//!
//! Deliveries are written once. What changes lives beside them: `waiting_customers` is the queue, one narrow
//! row per customer with work waiting; `event_states` holds what became of an event. An event without a state
//! is `pending`, or `in_flight` while its customer is claimed; people read all of it as `outbox_events`.
//!
//! Everything that replicas must agree on is decided by Postgres' clock. Statements take `$n::timestamptz` in
//! its place, which is null but in tests that move time by hand. The process's own clock is out of reach here.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::FutureExt;
use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};

use crate::config::Target;
use crate::domain::{Clock, PgClock, PgInstant, TargetName, Tenant};
use crate::notices::Notices;

mod activity;
mod arrival;
mod claim;
mod clamp;
mod committer;
mod erase;
mod gathering;
mod head;
mod hearing;
#[cfg(test)]
pub(crate) mod in_memory;
mod inspect;
mod intervene;
mod links;
mod notices;
mod overtaken;
mod place;
mod privacy;
mod queue;
mod read;
mod retention;
#[cfg(test)]
mod scratch;
mod settle;
mod sharing;
mod shops;
mod store;
mod targets;
mod wake;
mod warm;

pub use activity::Activity;
pub use claim::{ClaimedCustomer, Look};
pub use clamp::Clamped;
pub use committer::{CommitError, Committer};
pub use erase::Erased;
pub use hearing::Standing;
pub use inspect::*;
pub use intervene::{DoneBy, Intervention, Remedy};
pub use links::{LinkChange, LinkOrigin, LinksImported, NewLink};
pub use privacy::{OfShop, PrivacyRequest};
pub use queue::Queue;
pub use read::{Known, Link, WaitingEvent};
pub use settle::{Attempt, EventResult, Next, Settled, Settlement};
pub use sharing::Sharer;
pub use shops::{ShopDecision, SpokenShop};
pub use store::{NewEvent, StoreOutcome};
pub use targets::{Budget, Grant, HoldReason, KnownTarget, Leave, PROBE_INTERVAL};
pub use wake::Wake;

static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!();
    // During a rollout, or after a rollback, the database is ahead of this program; no migration makes an older
    // one fail for good.
    migrations.set_ignore_missing(true);
    migrations
});

/// How long a claim lasts without renewal: the longest that a customer of a dead worker waits.
pub const LEASE: Duration = Duration::from_secs(30);

/// How long to try for a connection: until then a server that refuses them, or is full, is asked again and again.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// What keeps the store from doing its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Away, overloaded, restarting: may pass by itself.
    #[error("the database is unavailable: {0}")]
    Unavailable(#[source] sqlx::Error),
    /// Postgres cannot take the value (SQLSTATE class 22, or one of its limits): never passes by itself.
    #[error("the database refuses the data: {0}")]
    Refused(#[source] sqlx::Error),
    /// A row holds what nobody can have written.
    #[error("the database holds something unreadable: {0}")]
    Inconsistent(String),
    /// Migrations are missing, and may not be applied.
    #[error("migrations are missing: run flexportal-sync migrate, or serve without --no-migrate")]
    NotMigrated,
    /// A migration could not be applied.
    #[error("a migration could not be applied: {0}")]
    Migrations(#[from] sqlx::migrate::MigrateError),
}

/// What keeps people from being shown what they look for.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cursor of another list, or none at all.
    #[error(transparent)]
    Cursor(#[from] BadCursor),
}

impl From<sqlx::Error> for InspectError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl StoreError {
    /// Postgres' code for what happened, if it said one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<String> {
        let (Self::Unavailable(error)
        | Self::Refused(error)
        | Self::Migrations(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _))) = self
        else {
            return None;
        };
        error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
    }

    /// Whether somebody else's lock was waited for in vain.
    pub(crate) fn is_of_lock(&self) -> bool {
        self.sqlstate().as_deref() == Some("55P03")
    }

    /// Whether the connection is gone, by a restart of the server or something on the way: another one may do.
    pub(crate) fn is_cut(&self) -> bool {
        let (Self::Unavailable(error) | Self::Migrations(MigrateError::ExecuteMigration(error, _))) = self else {
            return false;
        };
        matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_))
            // 57P01 and so on is the server's leaving, class 08 the connection's.
            || self.sqlstate().is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        match (&error, code.as_deref()) {
            // Class 22 is data; class 54 is a limit of Postgres, such as the length of an index entry.
            (_, Some(code)) if code.starts_with("22") || code.starts_with("54") => Self::Refused(error),
            (sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_), _) => Self::Inconsistent(error.to_string()),
            _ => Self::Unavailable(error),
        }
    }
}

/// Settings of Postgres that the promise rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `synchronous_commit`: what a commit waits for.
    pub synchronous_commit: String,
    /// `transaction_isolation`.
    pub transaction_isolation: String,
    /// `statement_timeout`; `0` for none.
    pub statement_timeout: String,
    /// `fsync`: whether the server's own commits are on disk at all.
    pub is_flushed: bool,
}

/// The database, through one pool.
#[derive(Debug, Clone)]
pub struct Outbox {
    pool: PgPool,
    warm: warm::Warm,
    options: Arc<PgConnectOptions>,
    clock: PgClock,
    notices: Notices,
    /// Of the targets that this process syncs to.
    tenants: Arc<BTreeMap<TargetName, Tenant>>,
    hash_key: Arc<tokio::sync::OnceCell<sharing::HashKey>>,
    heads: Arc<head::Heads>,
    reading: Arc<read::Reading>,
    finishing: Arc<settle::Settling>,
    settling: Arc<settle::Settling>,
}

impl Outbox {
    /// Prepares the pool for the live work; the first connection is made when it is needed.
    ///
    /// # Errors
    /// A text that says what is wrong with the address.
    pub fn new(database_url: &SecretString, max_connections: u32, clock: Clock) -> Result<Self, String> {
        Self::connecting(database_url, max_connections, clock, LIVE)
    }

    /// The same for storing deliveries.
    ///
    /// # Errors
    /// A text that says what is wrong with the address.
    pub fn for_intake(database_url: &SecretString, max_connections: u32, clock: Clock) -> Result<Self, String> {
        Self::connecting(database_url, max_connections, clock, INTAKE)
    }

    /// The same for what people ask: each question is planned for what it is narrowed down by.
    ///
    /// # Errors
    /// A text that says what is wrong with the address.
    pub fn for_people(database_url: &SecretString, max_connections: u32, clock: Clock) -> Result<Self, String> {
        Self::connecting(database_url, max_connections, clock, FOR_PEOPLE)
    }

    fn connecting(
        database_url: &SecretString,
        max_connections: u32,
        clock: Clock,
        settings: &'static str,
    ) -> Result<Self, String> {
        let options: PgConnectOptions = database_url
            .expose_secret()
            .parse()
            .map_err(|_| "DATABASE_URL cannot be read: postgres://user:password@host:5432/database".to_owned())?;
        // What fails is told where it is handled, and a slow statement by what it holds up.
        let options = options.application_name("flexportal-sync").disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(CONNECT_WITHIN)
            .after_connect(move |connection, _| Box::pin(set(connection, settings)))
            // sqlx 0.9 does not know of a transaction whose `begin` was cancelled: the next would write into it, and
            // nobody would commit. (Mostly there is none, of which Postgres would warn: see `client_min_messages`.)
            .after_release(|connection, _| {
                Box::pin(async move { sqlx::raw_sql("rollback").execute(connection).await.map(|_| true) })
            })
            .connect_lazy_with(options.clone());
        Ok(Self {
            warm: warm::Warm::of(pool.clone()),
            pool,
            options: Arc::new(options),
            clock: clock.into(),
            notices: Notices::default(),
            tenants: Arc::default(),
            hash_key: Arc::default(),
            heads: Arc::default(),
            reading: Arc::default(),
            finishing: Arc::default(),
            settling: Arc::default(),
        })
    }

    /// The same, for a process that syncs to these targets: it looks at the links of their tenants.
    #[must_use]
    pub fn of_targets(mut self, targets: &[Target]) -> Self {
        self.tenants = Arc::new(targets.iter().map(|target| (target.name.clone(), target.tenant())).collect());
        self
    }

    fn tenant_of(&self, target: &TargetName) -> Tenant {
        self.tenants.get(target).cloned().unwrap_or_default()
    }

    /// What time it is, by Postgres' clock.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn now(&self) -> Result<PgInstant, StoreError> {
        let now = sqlx::query_scalar!(
            r#"select coalesce($1::timestamptz, clock_timestamp()) as "now!: PgInstant""#,
            self.clock.for_postgres() as _,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(now)
    }

    /// Applies the migrations that are missing; several processes may do so at once.
    ///
    /// # Errors
    /// [`StoreError::Migrations`], also if the database is away.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        // A connection of its own: building an index, or waiting for another process that does, may take long.
        let unhurried = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT_WITHIN);
        let unhurried = unhurried.connect_with(PgConnectOptions::clone(&self.options)).await?;
        let migrated = MIGRATIONS.run(&unhurried).await;
        unhurried.close().await;
        Ok(migrated?)
    }

    /// How many migrations are missing in the database.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be asked.
    pub async fn missing_migrations(&self) -> Result<usize, StoreError> {
        let has_table = sqlx::query_scalar!(r#"select to_regclass('_sqlx_migrations') is not null as "has!""#)
            .fetch_one(&self.pool)
            .await?;
        let applied = if has_table {
            // Not checked at build time: the table is sqlx's own.
            sqlx::query_scalar::<_, i64>("select count(*) from _sqlx_migrations where success")
                .fetch_one(&self.pool)
                .await?
        } else {
            0
        };
        Ok(MIGRATIONS.iter().count().saturating_sub(usize::try_from(applied).unwrap_or(0)))
    }

    /// Whether deliveries can be written: not on a standby, in read-only mode, or without the right to.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be asked.
    pub async fn is_writable(&self) -> Result<bool, StoreError> {
        let is_writable = sqlx::query_scalar!(
            r#"
            select not pg_is_in_recovery()
                and current_setting('transaction_read_only') = 'off'
                and has_table_privilege('deliveries', 'insert') as "is_writable!"
            "#,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(is_writable)
    }

    /// What the connections to this database have for settings that the promise rests on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be reached.
    pub async fn settings(&self) -> Result<Settings, StoreError> {
        let settings = sqlx::query_as!(
            Settings,
            r#"
            -- settings
            select
                current_setting('synchronous_commit') as "synchronous_commit!",
                current_setting('transaction_isolation') as "transaction_isolation!",
                current_setting('statement_timeout') as "statement_timeout!",
                current_setting('fsync') = 'on' as "is_flushed!"
            "#,
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(settings)
    }

    /// The server's version, such as `15.18`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be reached.
    pub async fn server_version(&self) -> Result<String, StoreError> {
        let version = sqlx::query_scalar!(r#"select current_setting('server_version') as "version!""#)
            .fetch_one(&self.pool)
            .await?;
        Ok(version)
    }

    /// Closes all connections.
    pub async fn close(&self) {
        // From its first moment on nothing is kept warm any more.
        let closed = self.pool.close();
        self.warm.give_back(std::time::Instant::now());
        closed.await;
    }
}

/// Of every connection, whatever the role or the database has for its own: what we rely on is set by us. Each statement sees
/// what was committed before it; and a commit is on disk, and on a synchronous standby, before it is told (a stricter
/// setting stays).
const ALWAYS: &str = "set default_transaction_isolation = 'read committed'; \
                      select set_config('synchronous_commit', 'on', false) \
                      where current_setting('synchronous_commit') <> 'remote_apply'; \
                      set idle_in_transaction_session_timeout = '30s'; set jit = off; set client_min_messages = error";

/// Nothing here takes long; what does is stuck, and holds what others wait for. A group that meets a row which somebody
/// holds is done one by one, before we stop waiting for its answer. Compiling a statement of ours takes longer than carrying
/// it out.
///
/// Each finds its rows by an index where there is one, whatever the statistics say. Tables are empty at times, the queue
/// nearly always, and what was planned for an empty one reads all of a full one, or of the dead rows that it left behind:
/// for the one row that is expected, going through an index from end to end costs as much as looking something up. So there
/// is no choice: one plan, no scan of a table where an index can answer, subqueries that cannot be joined (`offset 0`), and
/// rows are written where they were found (`ctid`) if they are locked, or if whoever changed them meanwhile is right. Where
/// more than one index would do, an order is asked for that only the right one has, if there is one; and what can only be
/// written by joining, and is rare, is planned each time (not `persistent`).
const LIVE: &str = "set statement_timeout = '30s'; set lock_timeout = '2s'; \
                    set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off";

/// As [`LIVE`], but for two things. Nobody's delivery waits for a row of the queue that somebody else holds
/// (`store::QUEUE_LOCK_TIMEOUT`). And no statement is cut off by the server: a commit that waits for a synchronous standby
/// would end as if it had been there; whoever has waited too long ends the connection, and says 503.
const INTAKE: &str = "set statement_timeout = 0; set lock_timeout = '100ms'; \
                      set plan_cache_mode = force_generic_plan; set enable_seqscan = off; set enable_bitmapscan = off";

/// One plan for a filter that is set and one that is not would read everything.
const FOR_PEOPLE: &str = "set statement_timeout = '30s'; set plan_cache_mode = force_custom_plan";

async fn set(connection: &mut PgConnection, settings: &'static str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(ALWAYS).execute(&mut *connection).await?;
    sqlx::raw_sql(settings).execute(connection).await?;
    Ok(())
}

/// How long to wait for a statement before the connection counts as dead: one that a failover or a firewall
/// cut silently would otherwise keep us waiting for minutes.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Waits for the database no longer than it can take.
///
/// # Errors
/// [`StoreError::Unavailable`] 5 s from now; the statement may have been carried out nevertheless.
pub fn timely<T>(
    statement: impl Future<Output = Result<T, StoreError>>,
) -> impl Future<Output = Result<T, StoreError>> {
    // Not an `async fn`, which would have room for the statement twice: once as it is given, once where it is awaited.
    tokio::time::timeout(ANSWER_WITHIN, statement)
        .map(|answer| answer.unwrap_or(Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut))))
}

/// A duration as Postgres takes it, in seconds.
fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
