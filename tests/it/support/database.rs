//! One Postgres per test run, found as `demo` finds it; one database per test, copied from a migrated template.

use flexportal_sync::domain::Clock;
use flexportal_sync::outbox::Outbox;
use flexportal_sync::throwaway_postgres::{
    Durability, FoundPostgres, create_database, drop_database, fresh_database_name,
};
use secrecy::{ExposeSecret, SecretString};
use std::io::Write;
use std::sync::OnceLock;
use tokio::runtime::Runtime;

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
    /// A pool on the server's own database.
    pub async fn admin(&self) -> sqlx::PgPool {
        let server = SERVER.get().expect("this database is on it");
        let options = sqlx::postgres::PgPoolOptions::new().max_connections(1);
        options.connect(server.postgres.url().expose_secret()).await.expect("a connection")
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
