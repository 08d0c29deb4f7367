//! What the fake is started with; the same on the command line and in tests.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::behaviour::Behaviour;
use super::customers::FakeCustomer;
use crate::domain::{Clock, Dice};

/// Where the fake listens, whom it knows and how it behaves.
#[derive(Debug, Clone, clap::Args)]
pub struct FakeOptions {
    /// Address to listen on; port 0 takes any free one
    #[arg(long = "listen", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub listen_addr: SocketAddr,
    /// API key that clients have to send
    #[arg(long, value_name = "KEY", default_value = DEFAULT_API_KEY)]
    pub api_key: String,
    /// Tenant id that clients have to send
    #[arg(long, value_name = "ID", default_value = DEFAULT_TENANT_ID)]
    pub tenant_id: String,
    /// Start with customers `cus_1` to `cus_N`, e-mails `customer1@example.com` and so on
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub customers: u32,
    /// Start with the customers of this file, a JSON list of objects with `customerId`, `email` and what else is known
    #[arg(long, value_name = "FILE")]
    pub customers_file: Option<PathBuf>,
    /// How it misbehaves.
    #[command(flatten)]
    pub behaviour: Behaviour,
    /// What time it is.
    #[arg(skip = Clock::System)]
    pub clock: Clock,
    /// Where chance comes from.
    #[arg(skip = Dice::Random)]
    pub dice: Dice,
}

const DEFAULT_API_KEY: &str = "fake-key";
const DEFAULT_TENANT_ID: &str = "fake-tenant";

impl Default for FakeOptions {
    /// A free port of the loopback address, no customers, no faults.
    fn default() -> Self {
        Self {
            listen_addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_key: DEFAULT_API_KEY.to_owned(),
            tenant_id: DEFAULT_TENANT_ID.to_owned(),
            customers: 0,
            customers_file: None,
            behaviour: Behaviour::default(),
            clock: Clock::System,
            dice: Dice::Random,
        }
    }
}

/// Reads and checks the customers of a file.
pub(super) async fn read_customers(file: &Path) -> io::Result<Vec<FakeCustomer>> {
    let named = |kind, error: &dyn std::fmt::Display| io::Error::new(kind, format!("{}: {error}", file.display()));
    let bytes = tokio::fs::read(file).await.map_err(|error| named(error.kind(), &error))?;
    let customers: Vec<FakeCustomer> =
        serde_json::from_slice(&bytes).map_err(|error| named(io::ErrorKind::InvalidData, &error))?;
    for customer in &customers {
        customer.check().map_err(|error| named(io::ErrorKind::InvalidData, &error))?;
    }
    Ok(customers)
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: FakeOptions,
    }

    #[test]
    fn the_flags_are_consistent_and_their_defaults_those_of_the_library() {
        Command::command().debug_assert();
        let parsed = Command::parse_from(["fake"]).options;
        assert_eq!(parsed.listen_addr.to_string(), "127.0.0.1:9090");
        assert_eq!(parsed.behaviour, Behaviour::default());
        let library = FakeOptions::default();
        assert_eq!((parsed.api_key, parsed.tenant_id), (library.api_key, library.tenant_id));
    }

    #[test]
    fn the_behaviour_is_set_by_flags() {
        let arguments =
            "fake --customers 3 --rate-limit-per-minute 100 --error-rate 0.2 --latency-ms 30 --accept-email";
        let parsed = Command::parse_from(arguments.split(' ')).options;
        assert_eq!(parsed.customers, 3);
        let expected = Behaviour {
            rate_limit_per_minute: 100,
            error_rate: 0.2,
            latency_ms: 30,
            accept_email: true,
            ..Behaviour::default()
        };
        assert_eq!(parsed.behaviour, expected);
        assert!(Command::try_parse_from(["fake", "--error-rate", "2"]).is_err());
        assert!(Command::try_parse_from(["fake", "--error-status", "42"]).is_err());
    }
}
