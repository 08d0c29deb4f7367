//! The load: keep-alive connections that send one webhook after the other, and cost as little as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::server::Server;
use super::webhooks::Webhook;
use super::{count, per_second};

/// How webhooks are sent.
pub(crate) struct Load {
    pub(crate) connections: usize,
    pub(crate) lasts: Duration,
    /// So many a second, whether or not earlier ones were answered; else as fast as they are answered.
    pub(crate) rate: Option<f64>,
}

/// Requests of all loads so far: ids are never the same.
static SENT: AtomicUsize = AtomicUsize::new(0);

impl Load {
    /// Sends webhooks in turn, any number of times, and fails unless every one is accepted.
    pub(crate) async fn put(&self, addr: &str, webhooks: &[Webhook]) -> anyhow::Result<Measured> {
        // What the tasks share must outlive the call in the eyes of the compiler; it ends before this returns.
        let next = AtomicUsize::new(0);
        let began = Instant::now();
        let ends = began + self.lasts;
        let connection = |place: usize| {
            let next = &next;
            async move {
                let mut connection = Connection::open(addr).await?;
                let mut times = Vec::new();
                let gap = self.rate.map(|rate| Duration::from_secs_f64(count(self.connections) / rate));
                let mut due = began + gap.unwrap_or_default().mul_f64(count(place) / count(self.connections));
                loop {
                    if gap.is_some() {
                        tokio::time::sleep_until(due).await;
                    } else {
                        due = Instant::now();
                    }
                    if due >= ends {
                        return anyhow::Ok(times);
                    }
                    let webhook = &webhooks[next.fetch_add(1, Ordering::Relaxed) % webhooks.len()];
                    connection.send(webhook).await?;
                    times.push(due.elapsed());
                    due += gap.unwrap_or_default();
                }
            }
        };
        let times = futures_util::future::try_join_all((0..self.connections).map(connection)).await?;
        Ok(Measured::of(times.concat(), began.elapsed()))
    }

    /// Sends each webhook once.
    pub(crate) async fn once(server: &Server, webhooks: &[Webhook]) -> anyhow::Result<()> {
        let next = Arc::new(AtomicUsize::new(0));
        let connection = |_| async {
            let mut connection = Connection::open(server.addr()).await?;
            while let Some(webhook) = webhooks.get(next.fetch_add(1, Ordering::Relaxed)) {
                connection.send(webhook).await?;
            }
            anyhow::Ok(())
        };
        futures_util::future::try_join_all((0..32).map(connection)).await?;
        Ok(())
    }
}

/// A connection to whoever takes webhooks.
pub(crate) struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(addr: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(addr).await.context("no connection is taken")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, request: Vec::new(), answer: Vec::new() })
    }

    /// Sends a webhook and reads the whole answer, which has to be `accepted`.
    pub(crate) async fn send(&mut self, webhook: &Webhook) -> anyhow::Result<()> {
        webhook.write(SENT.fetch_add(1, Ordering::Relaxed), &mut self.request);
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                bail!("the connection was closed");
            }
            if let Some(length) = length_of_message(&self.answer)?
                && self.answer.len() >= length
            {
                break;
            }
        }
        let answer = String::from_utf8_lossy(&self.answer);
        if !answer.starts_with("HTTP/1.1 200 ") || !answer.contains(r#""status":"accepted""#) {
            bail!("a webhook was not accepted: {answer}");
        }
        Ok(())
    }
}

/// How long an HTTP message is by its head, once that is complete.
pub(crate) fn length_of_message(bytes: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).context("a head that is not text")?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>())
    });
    Ok(Some(head + 4 + length.transpose().context("a length that is none")?.unwrap_or(0)))
}

/// How long things took.
pub(crate) struct Measured {
    times: Vec<Duration>,
    lasted: Duration,
}

impl Measured {
    pub(crate) fn of(mut times: Vec<Duration>, lasted: Duration) -> Self {
        times.sort_unstable();
        Self { times, lasted }
    }

    pub(crate) fn count(&self) -> usize {
        self.times.len()
    }

    /// Per second.
    pub(crate) fn rate(&self) -> f64 {
        per_second(self.times.len(), self.lasted)
    }

    pub(crate) fn percentile(&self, share: f64) -> Duration {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within the list")]
        let place = (count(self.times.len()) * share) as usize;
        self.times.get(place.min(self.times.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}
