//! The service, put together: intake and worker around one outbox.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminState};
use crate::config::{Config, Source};
use crate::domain::{Clock, Dice};
use crate::http::{self, AppState, Leaving, Standing};
use crate::inspect::Previewer;
use crate::metrics::Metrics;
use crate::outbox::{Committer, KnownTarget, Outbox, StoreError, Wake, timely};
use crate::shops::Shop;
use crate::sync::Worker;
use crate::upkeep::Upkeep;

/// Which parts run in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// Intake and worker.
    All,
    /// Webhook intake only.
    Intake,
    /// Sync worker only; the probes answer all the same.
    Worker,
}

impl Role {
    /// Whether webhooks are taken.
    #[must_use]
    pub fn takes_webhooks(self) -> bool {
        matches!(self, Self::All | Self::Intake)
    }

    /// Whether customers are synced.
    #[must_use]
    pub fn syncs(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }
}

/// Connections to Postgres per process for its worker: one listens, and its tasks take the others for a statement at a
/// time. Few, since hosted databases allow some twenty, and two processes must find room in them.
const CONNECTIONS: u32 = 4;
/// Of the deliveries, beside: one commit at a time, and a probe.
const INTAKE_CONNECTIONS: u32 = 2;
/// Those of the admin API, beside: however people ask, the live work has its own.
const ADMIN_CONNECTIONS: u32 = 3;
/// The same for scrapes of metrics: one may still be at a question that took too long.
const SCRAPE_CONNECTIONS: u32 = 2;
/// Answers that are under way when the listener stops get this long; the worker, before, has its own limit.
const LAST_ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// Orchestrators kill after 30 s.
const LEAVE_WITHIN: Duration = Duration::from_secs(28);
/// Between two writings of what somebody should know.
const NOTICES_EVERY: Duration = Duration::from_secs(2);
/// Between two attempts to reach the database at the start.
const DATABASE_DELAY: Duration = Duration::from_secs(1);
/// A migration whose connection was lost is begun again so often; not for ever, since whoever uses its tables waits for
/// each of them.
const MIGRATION_RETRIES: u32 = 3;

/// The parts of a service, ready but not running.
#[derive(Debug)]
pub struct Service {
    outbox: Outbox,
    /// Of the deliveries: its connections have settings of their own.
    intake: Outbox,
    shops: Arc<[Arc<Shop>]>,
    /// The worker, if this process has one; tests drive it by hand.
    pub worker: Option<Worker>,
    wake: Wake,
    metrics: Metrics,
    standing: Standing,
    clock: Clock,
    max_body_bytes: usize,
    retention: Duration,
    longest_delay: Duration,
    role: Role,
    targets: Vec<KnownTarget>,
    /// The admin API and the console, where there is a token.
    admin: Option<axum::Router>,
}

/// A running service.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub addr: SocketAddr,
    leaving: Leaving,
    serving: JoinHandle<()>,
    /// Those that let go before the listener stops.
    working: Vec<JoinHandle<()>>,
    /// Nothing more can be noticed.
    served: CancellationToken,
    noting: JoinHandle<()>,
}

impl Service {
    /// Puts the parts together; reaches for nothing yet.
    ///
    /// # Errors
    /// What of the configuration cannot be used.
    pub fn new(config: &Config, role: Role, clock: Clock, dice: Dice) -> anyhow::Result<Self> {
        let database_url = config.database_url.as_ref().context("DATABASE_URL is not set")?;
        let wake = Wake::default();
        let shops: Vec<_> = config
            .sources
            .iter()
            .cloned()
            .map(|source| Shop::new(source).map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(anyhow::Error::msg)?;
        let metrics = Metrics::new(shops.iter().map(|shop| shop.source()), &config.targets);
        let outbox = Outbox::new(database_url, CONNECTIONS, clock.clone())
            .map_err(anyhow::Error::msg)?
            .of_targets(&config.targets)
            .noting(metrics.notices().clone());
        let intake = Outbox::for_intake(database_url, INTAKE_CONNECTIONS, clock.clone())
            .map_err(anyhow::Error::msg)?
            .noting(metrics.notices().clone());
        let scraped =
            Outbox::for_people(database_url, SCRAPE_CONNECTIONS, clock.clone()).map_err(anyhow::Error::msg)?;
        let worker = role
            .syncs()
            .then(|| Worker::new(config, &shops, outbox.clone(), wake.clone(), &metrics, &clock, dice))
            .transpose()
            .map_err(anyhow::Error::msg)?;
        let admin = config.admin_token.as_ref().map(|token| {
            let outbox =
                Outbox::for_people(database_url, ADMIN_CONNECTIONS, clock.clone())?.of_targets(&config.targets);
            let previewer = Arc::new(Previewer::new(config, &shops)?);
            Ok(admin::router(AdminState { outbox, previewer }, token))
        });
        let admin = admin.transpose().map_err(|fault: String| anyhow::anyhow!(fault))?;
        Ok(Self {
            outbox,
            intake,
            admin,
            shops: shops.into(),
            worker,
            wake,
            metrics,
            standing: Standing::new(scraped, clock.clone()),
            clock,
            max_body_bytes: config.max_body_bytes,
            retention: config.retention,
            longest_delay: config.retry.longest_delay(),
            role,
            targets: config.targets.iter().map(KnownTarget::from).collect(),
        })
    }

    /// The store.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }

    /// The store as intake has it, with connections of its own.
    #[must_use]
    pub fn intake(&self) -> &Outbox {
        &self.intake
    }

    /// Brings the database up to date, waiting for one that is away, and notes what is configured.
    ///
    /// # Errors
    /// What waiting will not mend: a password, a missing database, migrations of another version, or one that found its
    /// table held or was cut off each time.
    pub async fn prepare_database(&self, migrate: bool) -> anyhow::Result<()> {
        let mut cut_off = 0;
        loop {
            match self.try_prepare(migrate).await {
                Ok(()) => return Ok(()),
                Err(error)
                    if matches!(error, StoreError::Migrations(_)) && error.is_cut() && cut_off < MIGRATION_RETRIES =>
                {
                    cut_off += 1;
                    tracing::warn!(error = %error, "a migration was cut off; beginning it again");
                    tokio::time::sleep(DATABASE_DELAY).await;
                }
                Err(error) if may_pass(&error) => {
                    tracing::warn!(error = %error, "the database is away; trying again every second");
                    tokio::time::sleep(DATABASE_DELAY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn try_prepare(&self, migrate: bool) -> Result<(), StoreError> {
        if migrate {
            self.outbox.migrate().await?;
        } else if self.outbox.missing_migrations().await? > 0 {
            return Err(StoreError::NotMigrated);
        }
        // Those without a secret are another process's to note: a worker knows them by their defaults only.
        let all = self.shops.iter().map(|shop| shop.source());
        let sources: Vec<&Source> = all.filter(|source| !source.secrets.is_empty()).collect();
        self.outbox.register(&sources, &self.targets).await
    }

    /// Runs the parts in the background, on a listener that is bound already.
    ///
    /// # Errors
    /// If the listener has no address.
    pub fn start(
        self,
        listener: TcpListener,
        prepare: Prepare,
    ) -> anyhow::Result<(Running, JoinHandle<anyhow::Result<()>>)> {
        let addr = listener.local_addr().context("the listener has no address")?;
        let leaving = Leaving::default();
        let wake = self.wake.clone();
        let (intake, metrics) = (self.intake.clone(), self.metrics.clone());
        let committer = self.role.takes_webhooks().then(|| Committer::start(intake, metrics, move || wake.wake()));
        let state = AppState {
            shops: self.shops.clone(),
            committer,
            outbox: self.intake.clone(),
            metrics: self.metrics.clone(),
            standing: self.standing.clone(),
            clock: self.clock.clone(),
            max_body_bytes: self.max_body_bytes,
            reading: Arc::new(Semaphore::new(http::MAX_READING_BYTES)),
            leaving: leaving.clone(),
        };
        let app = http::app(state, self.admin.clone().unwrap_or_default());
        let serving = tokio::spawn(http::serve(listener, app, leaving.clone()));
        let mut working = vec![];
        let prepared = CancellationToken::new();
        let once_prepared = |part: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let (prepared, shutdown) = (prepared.clone(), leaving.asked.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = prepared.cancelled() => part.await,
                    () = shutdown.cancelled() => {}
                }
            })
        };
        if let Some(worker) = self.worker.clone() {
            working.push(once_prepared(Box::pin(worker.run(leaving.asked.clone()))));
            let upkeep = Upkeep::new(self.outbox.clone(), self.retention, self.longest_delay, self.clock.clone());
            working.push(once_prepared(Box::pin(upkeep.run(leaving.asked.clone()))));
        }
        let served = CancellationToken::new();
        let noting = once_prepared(Box::pin(keep_notices(self.outbox.clone(), served.clone())));
        let preparing = tokio::spawn(async move {
            let result = match prepare {
                Prepare::Migrate => self.prepare_database(true).await,
                Prepare::Leave => self.prepare_database(false).await,
                Prepare::Nothing => Ok(()),
            };
            if result.is_ok() {
                prepared.cancel();
            }
            result
        });
        Ok((Running { addr, leaving, serving, working, served, noting }, preparing))
    }
}

/// Writes what somebody should know to the database, every few seconds and once more at the end.
async fn keep_notices(outbox: Outbox, shutdown: CancellationToken) {
    loop {
        let is_last = tokio::time::timeout(NOTICES_EVERY, shutdown.cancelled()).await.is_ok();
        if let Err(error) = timely(outbox.keep_notices()).await {
            tracing::debug!(error = %error, "notices wait for the database");
        }
        if is_last {
            return;
        }
    }
}

/// What a starting service does to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepare {
    /// Applies missing migrations.
    Migrate,
    /// Leaves the schema as it is.
    Leave,
    /// It was prepared before.
    Nothing,
}

impl Running {
    /// Resolves if intake or worker ends without being told to: by a panic.
    pub async fn a_part_ended(&mut self) {
        let parts = [&mut self.serving, &mut self.noting].into_iter().chain(&mut self.working);
        let _ = futures_util::future::select_all(parts).await;
    }

    /// Stops claiming, finishes what is under way, and takes in until then: nothing else may listen here for a while.
    pub async fn stop(self) {
        self.leaving.asked.cancel();
        for part in self.working {
            ended(part).await;
        }
        tracing::info!("all customers are let go: whoever connects now is not heard any more");
        self.leaving.last_call.cancel();
        if tokio::time::timeout(LAST_ANSWERS_WITHIN, ended(self.serving)).await.is_err() {
            tracing::warn!("some connections were still open");
        }
        self.served.cancel();
        ended(self.noting).await;
    }
}

/// Waits until a part has ended, however it does; awaiting one that was seen to end would panic.
async fn ended(part: JoinHandle<()>) {
    if !part.is_finished() {
        let _ = part.await;
    }
}

/// Runs the service until `signal`, then leaves in order.
///
/// # Errors
/// What keeps it from starting.
pub async fn serve(config: &Config, role: Role, migrate: bool, signal: impl Future<Output = ()>) -> anyhow::Result<()> {
    let service = Service::new(config, role, Clock::System, Dice::Random)?;
    let listener = match TcpListener::bind(config.listen_addr).await {
        Ok(listener) => listener,
        Err(error) => bail!(
            "cannot listen on {}: {error}\nchoose another LISTEN_ADDR, or stop what listens there",
            config.listen_addr
        ),
    };
    let (outbox, intake) = (service.outbox().clone(), service.intake().clone());
    let prepare = if migrate { Prepare::Migrate } else { Prepare::Leave };
    let (mut running, mut preparing) = service.start(listener, prepare)?;
    tracing::info!(
        addr = %running.addr,
        role = ?role,
        sources = ?config.sources.iter().map(|source| source.name.as_str()).collect::<Vec<_>>(),
        targets = ?config.targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>(),
        version = env!("CARGO_PKG_VERSION"),
        "listening"
    );
    let mut signal = std::pin::pin!(signal);
    let prepared = tokio::select! {
        prepared = &mut preparing => Some(prepared),
        () = &mut signal => None,
    };
    match prepared {
        Some(Ok(Ok(()))) => {
            tracing::info!("ready");
            tokio::select! {
                () = signal => {}
                () = running.a_part_ended() => bail!("a part of the service ended by itself: see the log, and start it again"),
            }
        }
        Some(Ok(Err(error))) => return Err(error),
        Some(Err(panic)) => bail!("preparing the database failed: {panic}"),
        None => preparing.abort(),
    }
    // From here on the probe says so.
    running.leaving.asked.cancel();
    tracing::info!("leaving: finishing what is under way");
    let leaving = async {
        running.stop().await;
        outbox.close().await;
        intake.close().await;
    };
    if tokio::time::timeout(LEAVE_WITHIN, leaving).await.is_err() {
        tracing::warn!("not everything ended in time: customers in flight are taken over when their lease ends");
    }
    tracing::info!("left");
    Ok(())
}

/// Whether waiting may mend it: not a wrong password (class 28), a missing database (3D), or missing rights
/// and tables (42).
fn may_pass(error: &StoreError) -> bool {
    use sqlx::migrate::MigrateError;
    match error {
        StoreError::Unavailable(_) | StoreError::Migrations(MigrateError::Execute(_)) => {
            error.sqlstate().is_none_or(|code| !["28", "3D", "42"].iter().any(|class| code.starts_with(class)))
        }
        StoreError::Refused(_) | StoreError::Inconsistent(_) | StoreError::NotMigrated | StoreError::Migrations(_) => {
            false
        }
    }
}
