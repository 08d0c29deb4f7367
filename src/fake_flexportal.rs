//! The fake FlexPortal: the three documented customer endpoints on a real socket, as strict as the documentation
//! allows, with switches for everything that can go wrong.
//!
//! It serves `demo`, `fake-flexportal` and every test. What the reference says is obeyed; where it is silent the
//! fake is strict in what it takes (closed schema, no unknown query parameters, equal ids in path and body) and plain
//! in what it gives. Everything a client sends is kept in a log, which is written before the answer goes out, so
//! that whoever has an answer finds its request there.
//!
//! ```text
//! socket ─line─▶ endpoints::receive ─state::arrive─▶ logged, course settled ─latency─▶ answer, failure or silence
//!                                                     control: /_fake/… looks at the same memory
//! ```
//!
//! On every request, in this order: the log, the rate limit, failures ordered by [`FakeFlexportal::fail_next`] (those
//! for one customer first), failures by chance; then key, tenant, refused customers, and the endpoint itself.

use std::io;
use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

mod answers;
mod behaviour;
mod control;
mod customers;
mod endpoints;
mod line;
mod options;
mod query;
mod requests;
mod schema;
mod state;
#[cfg(test)]
mod tests;

pub use behaviour::{Behaviour, Failure, Gateway, GatewayRequests, Refusal};
pub use customers::{FakeCustomer, FakeStatus};
pub use options::FakeOptions;
pub use requests::RecordedRequest;

use customers::Customers;
use line::{CuttableListener, Scissors};
use state::Shared;

/// A running fake; it ends, and closes its connections, when this is dropped.
#[derive(Debug)]
pub struct FakeFlexportal {
    shared: Arc<Shared>,
    base_url: Url,
    server: JoinHandle<()>,
    all_connections: CancellationToken,
}

impl FakeFlexportal {
    /// Starts to listen and to answer.
    ///
    /// # Errors
    /// The address cannot be bound, the file of customers cannot be read, or a switch has a value that cannot be
    /// obeyed.
    pub async fn start(options: FakeOptions) -> io::Result<Self> {
        let FakeOptions { listen_addr, api_key, tenant_id, customers: seeds, customers_file, behaviour, clock, dice } =
            options;
        behaviour.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        // One moment for all, so that the list orders them by id, the same way every time.
        let now = clock.now();
        let mut customers = Customers::default();
        for number in 1..=seeds {
            customers.add(FakeCustomer::numbered(number), now);
        }
        if let Some(file) = &customers_file {
            for customer in options::read_customers(file).await? {
                customers.add(customer, now);
            }
        }
        let shared = Arc::new(Shared::new(api_key, tenant_id, clock, dice, customers, behaviour));

        let listener = TcpListener::bind(listen_addr).await?;
        let base_url = Url::parse(&format!("http://{}", listener.local_addr()?)).map_err(io::Error::other)?;
        let all_connections = CancellationToken::new();
        let router = Router::new()
            .nest("/_fake", control::router())
            .merge(endpoints::router())
            .with_state(Arc::clone(&shared))
            .into_make_service_with_connect_info::<Scissors>();
        let listener = CuttableListener { listener, all: all_connections.clone() };
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the fake FlexPortal has stopped");
            }
        });
        Ok(Self { shared, base_url, server, all_connections })
    }

    /// Where it listens; [`FakeOptions::listen_addr`] with the real port.
    #[must_use]
    pub fn base_url(&self) -> Url {
        self.base_url.clone()
    }

    /// What clients sent, in the order of arrival: the newest 100,000 requests.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.memory().log.all()
    }

    /// Empties the log.
    pub fn forget_requests(&self) {
        self.shared.forget_requests();
    }

    /// Waits until the log holds at least `count` requests, answered or not.
    ///
    /// Waits for ever if they never come; callers set the deadline.
    pub async fn wait_for_requests(&self, count: usize) {
        // The sender lives in `self`, so the wait ends by its condition only.
        let _ = self.shared.arrivals.subscribe().wait_for(|arrived| *arrived >= count).await;
    }

    /// Every customer by id, also the inactive ones.
    #[must_use]
    pub fn customers(&self) -> Vec<FakeCustomer> {
        self.shared.memory().customers.all().cloned().collect()
    }

    /// The customer with this id.
    #[must_use]
    pub fn customer(&self, customer_id: &str) -> Option<FakeCustomer> {
        self.shared.memory().customers.get(customer_id).cloned()
    }

    /// Adds a customer, or replaces the one with the same id.
    pub fn add_customer(&self, customer: FakeCustomer) {
        self.shared.memory().customers.add(customer, self.shared.clock.now());
    }

    /// Takes a customer away, as if it had never been.
    pub fn remove_customer(&self, customer_id: &str) {
        self.shared.memory().customers.remove(customer_id);
    }

    /// The switches as they stand.
    #[must_use]
    pub fn behaviour(&self) -> Behaviour {
        self.shared.memory().behaviour.clone()
    }

    /// Sets every switch, for requests that arrive from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.memory().behaviour = behaviour;
    }

    /// Makes the next `count` requests fail, after failures that were ordered before.
    pub fn fail_next(&self, count: usize, failure: Failure) {
        self.shared.memory().fail_next(None, count, failure);
    }

    /// Makes the next `count` requests fail that name this customer in their path.
    pub fn fail_next_for(&self, customer_id: &str, count: usize, failure: Failure) {
        self.shared.memory().fail_next(Some(customer_id), count, failure);
    }
}

impl Drop for FakeFlexportal {
    fn drop(&mut self) {
        self.server.abort();
        // The server's connections are tasks of their own and would outlive it.
        self.all_connections.cancel();
    }
}
