//! The whole way, from the webhook to the PUT, burst after burst for long: does the memory stay where it is?

use std::time::Duration;

use anyhow::ensure;
use tokio::time::Instant;

use super::load::Load;
use super::server::{Role, Server};
use super::stub::Stub;
use super::{Bench, DRAINED_BODY_BYTES, count, webhooks};

/// Lines of the table.
const LINES: usize = 10;
/// Of a round.
const ROUND_WITHIN: Duration = Duration::from_mins(5);

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scale {
    /// Rounds are begun for so long.
    pub(crate) lasts: Duration,
    /// Changes in a round, each of another customer; each round changes all of them.
    pub(crate) customers: usize,
}

/// The memory when so many events were through, and the most until then.
struct Sample {
    events: usize,
    bytes: u64,
    peak: u64,
}

impl Sample {
    fn of(server: &Server, events: usize) -> anyhow::Result<Self> {
        Ok(Self { events, bytes: server.memory_bytes()?, peak: server.peak_memory_bytes()? })
    }
}

impl Bench<'_> {
    pub(crate) async fn soak(&self, scale: Scale) -> anyhow::Result<()> {
        let stub = Stub::start().await?;
        let server = Server::start(Role::All, &self.url, Some(stub.addr())).await?;
        let began = Instant::now();
        let mut samples = vec![Sample::of(&server, 0)?];
        while began.elapsed() < scale.lasts || samples.len() < 3 {
            let webhooks = webhooks::of_generic(scale.customers, DRAINED_BODY_BYTES)?;
            Load::once(&server, &webhooks).await?;
            let sent = Instant::now();
            while self.count("select count(*) from waiting_customers").await? > 0 {
                ensure!(sent.elapsed() < ROUND_WITHIN, "the changes of a round do not reach FlexPortal");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            samples.push(Sample::of(&server, samples.len() * scale.customers)?);
        }
        // The system's own maximum is counted roughly, and can be told lower than before.
        let mut most = 0;
        for sample in &mut samples {
            most = sample.peak.max(sample.bytes).max(most);
            sample.peak = most;
        }
        let events = samples.last().map_or(0, |sample| sample.events);
        let through = "select count(*) from event_states where status in ('synced', 'superseded')";
        let through = self.count(through).await?;
        ensure!(through == i64::try_from(events)?, "{through} of {events} events are through");
        println!(
            "\nsoak: {events} events of {DRAINED_BODY_BYTES} bytes, {} at a time, from the webhook to the PUT in {:.0} s\n",
            scale.customers,
            began.elapsed().as_secs_f64(),
        );
        println!("| events | memory | at most until then |");
        println!("|-------:|-------:|-------------------:|");
        let last = samples.len() - 1;
        let mut lines: Vec<_> = (0..=LINES).map(|line| last * line / LINES).collect();
        lines.dedup();
        for sample in lines.iter().map(|line| &samples[*line]) {
            println!("| {} | {} | {} |", sample.events, mebibytes(sample.bytes), mebibytes(sample.peak));
        }
        Ok(())
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", count(usize::try_from(bytes).unwrap_or(0)) / 1024.0 / 1024.0)
}
