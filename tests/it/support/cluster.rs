//! A Postgres of a test's own that is stopped and started again, on the same data and at the same address.
//!
//! As durable as Postgres is unless told otherwise: what it acknowledged is there when it is back.

use std::io::Write;
use std::process::Stdio;

use flexportal_sync::throwaway_postgres::{server_programs, server_shell};
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgPoolOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout};

use super::in_time;

const SCRIPT: &str = include_str!("cluster.sh");

/// How a server ends that was not asked politely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// `pg_ctl stop -m immediate`: its socket goes with it.
    Stopped,
    /// `kill -9`: its socket stays, and nobody listens there.
    Killed,
}

/// The server. The shell that keeps it removes everything when this is dropped, or when the tests are killed.
pub struct Cluster {
    pub url: SecretString,
    pub pool: sqlx::PgPool,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Cluster {
    /// Starts one with these options of the server; `None`, said loudly, on a machine without the programs.
    pub async fn start(options: &[&str]) -> Option<Self> {
        let Some(programs) = server_programs().into_iter().find(|folder| folder.join("pg_ctl").is_file()) else {
            // Past the capture of tests that pass: a skipped one must not look like them.
            let _ = writeln!(std::io::stderr(), "\n!!! SKIPPED a test with a Postgres that restarts: no pg_ctl here\n");
            return None;
        };
        let mut shell = server_shell(SCRIPT, &programs).expect("a user for the server");
        shell.args(options).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = tokio::process::Command::from(shell).spawn().expect("it starts");
        let orders = shell.stdin.take().expect("piped");
        let mut answers = BufReader::new(shell.stdout.take().expect("piped")).lines();
        let folder = in_time("a cluster", answers.next_line()).await.expect("readable").unwrap_or_default();
        let folder = folder.strip_prefix("folder ").unwrap_or_else(|| panic!("no cluster: {folder}"));
        let mut url = url::Url::parse("postgres://postgres@localhost:5432/postgres").expect("a constant");
        url.query_pairs_mut().append_pair("host", folder).append_pair("sslmode", "disable");
        let url = SecretString::from(String::from(url));
        let pool = PgPoolOptions::new().max_connections(3).connect_lazy(url.expose_secret()).expect("a pool");
        let mut cluster = Self { url, pool, orders, answers };
        cluster.obey("start").await;
        Some(cluster)
    }

    /// The server goes away.
    pub async fn goes_away(&mut self, outage: Outage) {
        self.obey(match outage {
            Outage::Stopped => "stop",
            Outage::Killed => "kill",
        })
        .await;
    }

    /// The server is back.
    pub async fn comes_back(&mut self) {
        self.obey("start").await;
    }

    async fn obey(&mut self, order: &str) {
        self.orders.write_all(format!("{order}\n").as_bytes()).await.expect("the shell is there");
        let answer = in_time(order, self.answers.next_line()).await.expect("readable");
        assert_eq!(answer.as_deref(), Some(order), "what the server said");
    }
}
