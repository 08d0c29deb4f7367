//! A Postgres for `demo` and the tests: a given one, else the machine's own programs, else a container.
//!
//! Nothing is left behind, whatever ends this process, `kill -9` included:
//! - A cluster of the machine's own programs runs below a shell that holds a pipe to us (`cluster.sh`);
//!   when the pipe closes, the shell stops the server and removes its folder.
//! - A container runs below a shell that waits for a lock we hold; when our connection breaks, it ends, and
//!   Docker removes it.
//! - On a given server the caller creates databases of its own and drops them; those, and only those, outlive
//!   a `kill -9`.

use std::fmt;
use std::str::FromStr;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use url::Url;
use uuid::Uuid;

mod cluster;
mod container;

use cluster::Cluster;
// For a cluster with a life of its own, such as the tests' that is stopped and started again.
pub use cluster::{candidates as server_programs, shell as server_shell};
use container::Container;

/// Whether what is committed survives a crash of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// As any Postgres: a commit waits for the disk.
    Durable,
    /// A commit waits for nothing; much faster, and the data is thrown away anyway.
    Fast,
}

impl Durability {
    /// Options of the server.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Durable => &[],
            Self::Fast => &["-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"],
        }
    }
}

/// Connections that a throwaway server takes: tests run side by side, each with a pool of its own.
const MAX_CONNECTIONS: &str = "max_connections=200";

/// Why there is no Postgres, or why it does not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// The given address is none, or nobody answers there.
    #[error("no Postgres answers at the given DATABASE_URL: {0}; start it, or mend the address")]
    Unreachable(#[source] sqlx::Error),
    /// Neither programs nor a container engine could be used.
    #[error(
        "there is no Postgres to use\n{}\n\
         install one:    sudo apt-get install postgresql    (Debian, Ubuntu)\n\
         \x20               brew install postgresql@17         (macOS)\n\
         or start one:   docker run --rm -d -p 127.0.0.1:5432:5432 -e POSTGRES_PASSWORD=postgres postgres:17-alpine\n\
         \x20               export DATABASE_URL=postgres://postgres:postgres@127.0.0.1:5432/postgres",
        tried.join("\n")
    )]
    NoneFound {
        /// What was tried and why it did not do, one line or more each.
        tried: Vec<String>,
    },
    /// It was told to stop and did not.
    #[error("the throwaway Postgres did not stop: {0}")]
    DidNotStop(String),
    /// Not a name that [`create_database`] and [`drop_database`] take.
    #[error("`{0}` is not a database name of ours: it may hold a-z, 0-9 and _, at most 63 of them")]
    BadName(String),
    /// The database could not be created or dropped.
    #[error("database `{name}`: {source}")]
    Database {
        /// Which.
        name: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
}

/// A Postgres that answers. A throwaway one lives until this is dropped or the process ends.
pub struct FoundPostgres {
    url: SecretString,
    description: String,
    keeper: Keeper,
}

/// What keeps it alive.
enum Keeper {
    /// It is not ours.
    Given,
    /// Boxed, as the two differ much in size.
    Cluster(Box<Cluster>),
    Container(Box<Container>),
}

impl FoundPostgres {
    /// Finds one and waits until it answers: a second or two for a new cluster, longer where an image must be
    /// fetched.
    ///
    /// # Errors
    /// [`PostgresError::Unreachable`] where `database_url` is given and does not answer: another server in its
    /// place would surprise. [`PostgresError::NoneFound`] with what was tried and what to type.
    pub async fn find(database_url: Option<&SecretString>, durability: Durability) -> Result<Self, PostgresError> {
        if let Some(url) = database_url {
            let version = server_version(url).await.map_err(PostgresError::Unreachable)?;
            let description = format!("Postgres {version} at DATABASE_URL");
            return Ok(Self { url: url.clone(), description, keeper: Keeper::Given });
        }
        let mut tried = Vec::new();
        for programs in cluster::candidates() {
            match Self::cluster(&programs, durability).await {
                Ok(found) => return Ok(found),
                Err(reason) => tried.push(format!("{}: {reason}", programs.display())),
            }
        }
        if tried.is_empty() {
            tried.push("programs: no initdb and postgres on the path or in the usual folders".to_owned());
        }
        match Self::container(durability).await {
            Ok(found) => Ok(found),
            Err(reason) => {
                tried.push(format!("container: {reason}"));
                Err(PostgresError::NoneFound { tried })
            }
        }
    }

    async fn cluster(programs: &std::path::Path, durability: Durability) -> Result<Self, String> {
        let cluster = Cluster::start(programs, durability).await?;
        let url = cluster.url();
        let version = server_version(&url).await.map_err(|error| error.to_string())?;
        let description = format!("Postgres {version} from {}, throwaway cluster", programs.display());
        Ok(Self { url, description, keeper: Keeper::Cluster(Box::new(cluster)) })
    }

    async fn container(durability: Durability) -> Result<Self, String> {
        let container = Container::start(durability).await?;
        let url = container.url().clone();
        let version = server_version(&url).await.map_err(|error| error.to_string())?;
        let description = format!("Postgres {version} in a throwaway container of {}", container::IMAGE);
        Ok(Self { url, description, keeper: Keeper::Container(Box::new(container)) })
    }

    /// Address of the server's database `postgres` (or the given address), with rights to create others.
    ///
    /// Other processes of the same user, and of root, can use it as long as this value lives.
    #[must_use]
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// Which one it is, for people: `Postgres 15.14 from /usr/lib/postgresql/15/bin, throwaway cluster`.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.description
    }

    /// Whether it goes when this value goes; a given one stays.
    #[must_use]
    pub fn is_throwaway(&self) -> bool {
        !matches!(self.keeper, Keeper::Given)
    }

    /// Stops a throwaway server and waits until it and its files are gone; leaves a given one alone.
    ///
    /// Dropping the value does the same without waiting.
    ///
    /// # Errors
    /// [`PostgresError::DidNotStop`] after 20 s.
    pub async fn stop(self) -> Result<(), PostgresError> {
        match self.keeper {
            Keeper::Given => Ok(()),
            Keeper::Cluster(cluster) => cluster.stop().await.map_err(PostgresError::DidNotStop),
            Keeper::Container(container) => container.stop().await.map_err(PostgresError::DidNotStop),
        }
    }
}

impl fmt::Debug for FoundPostgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FoundPostgres").field(&self.description).finish()
    }
}

/// A database name that nobody had before: `prefix` and twelve random digits.
#[must_use]
pub fn fresh_database_name(prefix: &str) -> String {
    let random = Uuid::new_v4().simple().to_string();
    format!("{prefix}_{}", &random[..12])
}

/// Creates a database on the server of `server_url`, a copy of `template` if one is named, and returns its
/// address: the same with the other name.
///
/// # Errors
/// [`PostgresError::BadName`]; [`PostgresError::Database`] if it exists, the user may not, or somebody is
/// connected to the template.
pub async fn create_database(
    server_url: &SecretString,
    name: &str,
    template: Option<&str>,
) -> Result<SecretString, PostgresError> {
    check_name(name)?;
    let statement = match template {
        None => format!(r#"create database "{name}""#),
        Some(template) => {
            check_name(template)?;
            format!(r#"create database "{name}" template "{template}""#)
        }
    };
    execute(server_url, statement).await.map_err(|source| PostgresError::Database { name: name.to_owned(), source })?;
    address_of(server_url, name)
}

/// Drops a database, if it is there, and cuts off whoever is connected to it.
///
/// # Errors
/// [`PostgresError::BadName`]; [`PostgresError::Database`] if the user may not or the server is away.
pub async fn drop_database(server_url: &SecretString, name: &str) -> Result<(), PostgresError> {
    check_name(name)?;
    execute(server_url, format!(r#"drop database if exists "{name}" with (force)"#))
        .await
        .map_err(|source| PostgresError::Database { name: name.to_owned(), source })
}

/// The address of another database on the same server.
fn address_of(server_url: &SecretString, name: &str) -> Result<SecretString, PostgresError> {
    let mut url = Url::parse(server_url.expose_secret())
        .map_err(|error| PostgresError::Unreachable(sqlx::Error::Configuration(error.into())))?;
    url.set_path(name);
    // `?dbname=` would win over the path.
    if url.query_pairs().any(|(key, _)| key == "dbname") {
        let others: Vec<_> = url.query_pairs().filter(|(key, _)| key != "dbname").map(own).collect();
        url.query_pairs_mut().clear().extend_pairs(others);
    }
    Ok(String::from(url).into())
}

fn own((key, value): (std::borrow::Cow<'_, str>, std::borrow::Cow<'_, str>)) -> (String, String) {
    (key.into_owned(), value.into_owned())
}

fn check_name(name: &str) -> Result<(), PostgresError> {
    let is_allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.is_empty() || name.len() > 63 || !name.chars().all(is_allowed) {
        return Err(PostgresError::BadName(name.to_owned()));
    }
    Ok(())
}

/// `statement` holds nothing but our words and names that `check_name` let pass.
async fn execute(server_url: &SecretString, statement: String) -> Result<(), sqlx::Error> {
    let mut connection = connect(server_url).await?;
    connection.execute(AssertSqlSafe(statement)).await?;
    connection.close().await
}

async fn server_version(url: &SecretString) -> Result<String, sqlx::Error> {
    let mut connection = connect(url).await?;
    let version: String = sqlx::query_scalar("show server_version").fetch_one(&mut connection).await?;
    connection.close().await?;
    // Distributions add their own: `15.14 (Debian 15.14-0+deb12u1)`.
    Ok(version.split_whitespace().next().unwrap_or_default().to_owned())
}

async fn connect(url: &SecretString) -> Result<PgConnection, sqlx::Error> {
    PgConnection::connect_with(&PgConnectOptions::from_str(url.expose_secret())?).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_address_differs_from_the_servers_in_its_name_only() {
        for (server, expected) in [
            ("postgres://u:p%40@h:5433/postgres?sslmode=require", "postgres://u:p%40@h:5433/demo_1?sslmode=require"),
            ("postgres://postgres@localhost/?host=%2Ftmp%2Fx", "postgres://postgres@localhost/demo_1?host=%2Ftmp%2Fx"),
            ("postgres://h/a?dbname=b&user=u", "postgres://h/demo_1?user=u"),
        ] {
            let address = address_of(&server.into(), "demo_1").expect("an address");
            assert_eq!(address.expose_secret(), expected);
        }
    }

    #[test]
    fn only_plain_names_get_into_a_statement() {
        assert!(check_name(&fresh_database_name("flexportal_sync_demo")).is_ok());
        for bad in ["", "a b", "a\"b", "A", "ä", &"a".repeat(64)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn without_a_postgres_the_error_says_what_to_type() {
        let error = PostgresError::NoneFound { tried: vec!["container: no engine answers".into()] }.to_string();
        for expected in ["container: no engine answers", "apt-get install postgresql", "brew install", "docker run"] {
            assert!(error.contains(expected), "{error}");
        }
    }

    #[tokio::test]
    async fn a_given_address_that_does_not_answer_is_not_replaced() {
        let url = "postgres://u:hunter2@127.0.0.1:1/db".into();
        let error = FoundPostgres::find(Some(&url), Durability::Fast).await.expect_err("nobody listens there");
        assert!(matches!(error, PostgresError::Unreachable(_)));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
