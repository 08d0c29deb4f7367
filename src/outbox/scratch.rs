//! A database of a test's own.

use secrecy::SecretString;

use super::Outbox;
use crate::domain::Clock;
use crate::throwaway_postgres::{Durability, FoundPostgres, create_database, drop_database, fresh_database_name};

/// An empty database; whoever made it removes it.
pub(super) struct Scratch {
    postgres: FoundPostgres,
    name: String,
    url: SecretString,
}

impl Scratch {
    pub(super) async fn new(purpose: &str) -> Self {
        let given = std::env::var_os("DATABASE_URL").and_then(|url| url.into_string().ok()).map(SecretString::from);
        let postgres = FoundPostgres::find(given.as_ref(), Durability::Fast).await.expect("a Postgres");
        let name = fresh_database_name(&format!("flexportal_sync_{purpose}"));
        let url = create_database(postgres.url(), &name, None).await.expect("a database");
        Self { postgres, name, url }
    }

    /// A store in it, with few connections and all migrations.
    pub(super) async fn outbox(&self, clock: Clock) -> Outbox {
        let outbox = Outbox::new(&self.url, 4, clock).expect("an address");
        outbox.migrate().await.expect("migrated");
        outbox
    }

    pub(super) async fn remove(self) {
        drop_database(self.postgres.url(), &self.name).await.expect("dropped");
        self.postgres.stop().await.expect("stopped");
    }
}
