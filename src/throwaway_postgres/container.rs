//! A throwaway Postgres in a container, for machines with Docker and without Postgres programs.
//!
//! The container ends by itself when its owner's connection breaks (see the script), and the engine removes
//! what has ended. The library would clean up only where it gets to run its destructors.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgConnection;
use testcontainers_modules::postgres::Postgres;
use testcontainers_modules::testcontainers::runners::AsyncRunner;
use testcontainers_modules::testcontainers::{ContainerAsync, ImageExt};
use uuid::Uuid;

use super::{Durability, MAX_CONNECTIONS, connect};

const SCRIPT: &str = include_str!("container.sh");
const TAG: &str = "17-alpine";

/// What the container is made of.
pub(super) const IMAGE: &str = "postgres:17-alpine";

/// Of the advisory lock that says that the owner lives; any number that fits into 31 bits.
const OWNERS_LOCK: i64 = 0x5f1e;
/// The image may have to be fetched over a slow line.
const START_DEADLINE: Duration = Duration::from_mins(5);

/// A running container. Dropping it breaks the connection, and the container ends on its own.
pub(super) struct Container {
    url: SecretString,
    handle: ContainerAsync<Postgres>,
    /// Holds the owner's lock.
    _owner: PgConnection,
}

impl Container {
    /// Fetches the image if need be, starts a container and waits until its server answers.
    pub(super) async fn start(durability: Durability) -> Result<Self, String> {
        // Its port is open on all of the machine's addresses.
        let password = Uuid::new_v4().simple().to_string();
        let lock = OWNERS_LOCK.to_string();
        let command = ["sh", "-c", SCRIPT, "throwaway-postgres", &lock, "-c", MAX_CONNECTIONS];
        let container = Postgres::default()
            .with_password(&password)
            .with_tag(TAG)
            .with_cmd(command.iter().chain(durability.options()).copied())
            .with_host_config_modifier(|config| config.auto_remove = Some(true))
            .with_startup_timeout(START_DEADLINE)
            .start()
            .await
            .map_err(|error| error.to_string())?;
        let host = container.get_host().await.map_err(|error| error.to_string())?;
        let port = container.get_host_port_ipv4(5432).await.map_err(|error| error.to_string())?;
        let url = SecretString::from(format!("postgres://postgres:{password}@{host}:{port}/postgres"));
        let owner = hold_owners_lock(&url).await.map_err(|error| error.to_string())?;
        Ok(Self { url, handle: container, _owner: owner })
    }

    pub(super) fn url(&self) -> &SecretString {
        &self.url
    }

    /// Waits until the container is gone.
    pub(super) async fn stop(self) -> Result<(), String> {
        match self.handle.rm().await {
            Ok(()) => Ok(()),
            // The engine, which was told to remove what has ended, was quicker.
            Err(error) => {
                let message = error.to_string();
                let is_going = message.contains("already in progress") || message.contains("No such container");
                if is_going { Ok(()) } else { Err(message) }
            }
        }
    }
}

async fn hold_owners_lock(url: &SecretString) -> Result<PgConnection, sqlx::Error> {
    let mut owner = connect(url).await?;
    sqlx::query("select pg_advisory_lock($1)").bind(OWNERS_LOCK).execute(&mut owner).await?;
    sqlx::query("comment on database postgres is 'owned'").execute(&mut owner).await?;
    Ok(owner)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    fn exists(container: &str) -> bool {
        let output = Command::new("docker").args(["ps", "-aq", "--no-trunc"]).output().expect("docker");
        String::from_utf8_lossy(&output.stdout).contains(container)
    }

    async fn eventually_gone(container: &str) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while exists(container) {
            assert!(Instant::now() < deadline, "{container} is still there");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[tokio::test]
    #[ignore = "needs Docker"]
    async fn a_container_answers_and_is_gone_after_stop() {
        let container = Container::start(Durability::Fast).await.expect("starts");
        let id = container.handle.id().to_owned();
        let mut connection = connect(container.url()).await.expect("answers");
        let fsync: String = sqlx::query_scalar("show fsync").fetch_one(&mut connection).await.expect("answers");
        assert_eq!(fsync, "off");
        assert!(exists(&id));
        container.stop().await.expect("stops");
        eventually_gone(&id).await;
    }

    /// Says which container is its own, then waits to be killed.
    #[tokio::test]
    #[ignore = "needs Docker; runs in a process of its own, started by the test below"]
    async fn owner_that_is_killed() {
        let container = Container::start(Durability::Fast).await.expect("starts");
        println!("\nowned {}", container.handle.id());
        std::future::pending::<()>().await;
    }

    #[tokio::test]
    #[ignore = "needs Docker"]
    async fn a_container_is_gone_after_its_owner_was_killed() {
        let this_test = std::env::current_exe().expect("a test binary");
        let mut owner = Command::new(this_test)
            .args(["--ignored", "--exact", "--nocapture"])
            .arg("throwaway_postgres::container::tests::owner_that_is_killed")
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let output = BufReader::new(owner.stdout.take().expect("piped"));
        let id = output
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("owned ").map(str::to_owned))
            .expect("the owner has a container");
        assert!(exists(&id));
        owner.kill().expect("SIGKILL");
        owner.wait().expect("killed");
        eventually_gone(&id).await;
    }
}
