//! The service on a Postgres in a container, through testcontainers.

use std::io::Write;

use flexportal_sync::domain::Clock;
use flexportal_sync::outbox::Outbox;
use secrecy::SecretString;
use testcontainers_modules::postgres::Postgres;
use testcontainers_modules::testcontainers::ImageExt;
use testcontainers_modules::testcontainers::runners::AsyncRunner;

#[tokio::test]
async fn the_migrations_apply_to_a_postgres_in_a_container() {
    let container = match Postgres::default().with_tag("17-alpine").start().await {
        Ok(container) => container,
        Err(error) => {
            // Past the capture of tests that pass: a skipped one must not look like them.
            let mut loud = std::io::stderr();
            let _ = writeln!(loud, "\n!!! SKIPPED the container test: no container engine, or no image: {error}\n");
            return;
        }
    };
    let port = container.get_host_port_ipv4(5432).await.expect("a port");
    let url = SecretString::from(format!("postgres://postgres:postgres@127.0.0.1:{port}/postgres"));
    let outbox = Outbox::new(&url, 2, Clock::System).expect("an address");
    outbox.migrate().await.expect("the migrations apply");
    assert_eq!(outbox.missing_migrations().await.expect("an answer"), 0);
    eprintln!("the container test ran on Postgres {}", outbox.server_version().await.expect("an answer"));
}
