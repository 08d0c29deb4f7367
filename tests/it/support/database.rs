//! One Postgres per test run, found as `demo` finds it; one database per test, copied from a migrated template.

use flexportal_sync::domain::Clock;
use flexportal_sync::outbox::Outbox;
use flexportal_sync::throwaway_postgres::{
    Durability, FoundPostgres, create_database, drop_database, fresh_database_name,
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{Connection, Executor, PgConnection};
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;
use tokio::runtime::Runtime;

use super::in_time;

/// The server of this run. It lives on a runtime of its own, since each test's ends with the test.
struct Server {
    runtime: Runtime,
    postgres: FoundPostgres,
    template: String,
}

static SERVER: OnceLock<Server> = OnceLock::new();

fn server() -> &'static Server {
    SERVER.get_or_init(|| {
        let start = || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
            let (postgres, template) = runtime.block_on(async {
                let given =
                    std::env::var_os("DATABASE_URL").and_then(|url| url.into_string().ok()).map(SecretString::from);
                let postgres = FoundPostgres::find(given.as_ref(), Durability::Fast).await?;
                // Past the capture of tests that pass.
                let _ = writeln!(std::io::stderr(), "tests run on {}", postgres.describe());
                let template = fresh_database_name("flexportal_sync_template");
                let url = create_database(postgres.url(), &template, None).await?;
                let outbox = Outbox::new(&url, 1, Clock::System).map_err(anyhow::Error::msg)?;
                outbox.migrate().await?;
                outbox.close().await;
                anyhow::Ok((postgres, template))
            })?;
            anyhow::Ok(Server { runtime, postgres, template })
        };
        // Called from within a test's runtime, which may not wait for another one.
        std::thread::spawn(start).join().expect("no panic").unwrap_or_else(|error| panic!("{error:#}"))
    })
}

/// Asks a database until the answer is yes, also while it is away.
pub async fn wait_until(pool: &sqlx::PgPool, sql: &'static str) {
    let asking = async {
        while !sqlx::query_scalar::<_, Option<bool>>(sql).fetch_one(pool).await.is_ok_and(|yes| yes == Some(true)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    in_time(sql, asking).await;
}

/// What a statement took, in a transaction that stays open: whoever needs it waits, until this is released or dropped.
pub struct Hold {
    connection: PgConnection,
    pid: i32,
    pool: sqlx::PgPool,
}

impl Hold {
    /// Waits until somebody waits for it.
    pub async fn is_met(&self) {
        let asking = async {
            while self.waiting().await.is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        in_time("somebody who needs what is held", asking).await;
    }

    /// Whoever waits goes on.
    pub async fn release(self) {
        self.connection.close().await.expect("closed");
    }

    /// Whoever waits is cut off, and what they were at is not carried out.
    pub async fn turn_away(self) {
        let cutting = async {
            let cut = "select pg_terminate_backend(pid) from unnest($1) as pid";
            loop {
                let waiting = self.waiting().await;
                if waiting.is_empty() {
                    break;
                }
                sqlx::query(cut).bind(waiting).execute(&self.pool).await.expect("cut");
            }
        };
        in_time("everybody cut off", cutting).await;
        self.release().await;
    }

    async fn waiting(&self) -> Vec<i32> {
        let waiting = "select pid from pg_stat_activity where $1 = any(pg_blocking_pids(pid))";
        sqlx::query_scalar(waiting).bind(self.pid).fetch_all(&self.pool).await.expect("an answer")
    }
}

/// A database of a test's own, gone when the test is over.
pub struct Database {
    pub url: SecretString,
    pub pool: sqlx::PgPool,
    name: String,
}

/// Makes one.
pub async fn database() -> Database {
    let server = tokio::task::spawn_blocking(server).await.expect("a server");
    let name = fresh_database_name("flexportal_sync_test");
    let url = create_database(server.postgres.url(), &name, Some(&server.template)).await.expect("a database");
    let pool =
        sqlx::postgres::PgPoolOptions::new().max_connections(3).connect_lazy(url.expose_secret()).expect("a pool");
    Database { url, pool, name }
}

impl Database {
    /// Takes what the statement takes, and keeps it.
    pub async fn hold(&self, statement: &'static str) -> Hold {
        let mut connection = PgConnection::connect(self.url.expose_secret()).await.expect("a connection");
        let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut connection).await.expect("an answer");
        connection.execute("begin").await.expect("begun");
        connection.execute(statement).await.expect("taken");
        Hold { connection, pid, pool: self.pool.clone() }
    }

    /// Carries out a statement and tells how many rows it changed.
    pub async fn execute(&self, statement: &'static str) -> u64 {
        sqlx::query(statement).execute(&self.pool).await.expect("carried out").rows_affected()
    }

    /// One number.
    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("a number")
    }

    /// A pool on the server's own database.
    pub async fn admin(&self) -> sqlx::PgPool {
        let server = SERVER.get().expect("this database is on it");
        let options = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        options.connect(server.postgres.url().expose_secret()).await.expect("a connection")
    }

    /// As if the server went away under the service: what it has open breaks, too.
    pub async fn go_away(&self) {
        let mut own = self.pool.acquire().await.expect("a connection");
        self.allow_connections(false).await;
        let cut = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where datname = current_database() and application_name = 'flexportal-sync'";
        sqlx::query(cut).execute(&mut *own).await.expect("cut");
    }

    /// As if the server went away, for this database, and came back.
    pub async fn allow_connections(&self, allowed: bool) {
        let statement = format!(r#"alter database "{}" allow_connections {allowed}"#, self.name);
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(&self.admin().await).await.expect("altered");
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let Some(server) = SERVER.get() else { return };
        let name = std::mem::take(&mut self.name);
        if server.postgres.is_throwaway() {
            return; // goes with the server
        }
        let dropped = server.runtime.spawn(async move { drop_database(server.postgres.url(), &name).await });
        // A thread of its own waits, since this one may be driving a test.
        let waiting = std::thread::spawn(move || server.runtime.block_on(dropped));
        let _ = waiting.join();
    }
}
