//! A FlexPortal that answers every PUT alike, and costs as little as it can.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::load::length_of_message;

/// FlexPortal `PUT /v1/customers/{customerId}`, as far as its answer is read.
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"success\":true}";
/// Whoever waits longer waits for ever.
const PATIENCE: Duration = Duration::from_mins(5);

/// It counts the requests, and knows when the last came.
pub(crate) struct Stub {
    addr: SocketAddr,
    received: Arc<Received>,
}

#[derive(Debug, Default)]
struct Received {
    so_far: Mutex<SoFar>,
    /// Whoever waits is woken by the one that was waited for: to be woken by each would be part of what is measured.
    is_enough: Notify,
}

#[derive(Debug, Clone, Copy, Default)]
struct SoFar {
    count: usize,
    last_at: Option<Instant>,
    awaited: Option<usize>,
    /// When the one that is waited for came, or was found to have come.
    awaited_at: Option<Instant>,
}

impl Stub {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port")?;
        let addr = listener.local_addr()?;
        let received = Arc::new(Received::default());
        let stub = Self { addr, received: received.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks off is the client's affair.
                tokio::spawn(answer_all(stream, received.clone()));
            }
        });
        Ok(stub)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests that came in so far.
    pub(crate) fn received(&self) -> usize {
        self.received.so_far().count
    }

    /// Waits until so many requests came in all, and says when the last of them did, or one after it if that was before.
    pub(crate) async fn wait_for(&self, requests: usize) -> anyhow::Result<Instant> {
        let received = async {
            loop {
                let is_enough = self.received.is_enough.notified();
                if let Some(at) = self.received.so_far().when(requests) {
                    return at;
                }
                is_enough.await;
            }
        };
        tokio::time::timeout(PATIENCE, received).await.context("the requests do not come")
    }
}

impl Received {
    fn so_far(&self) -> MutexGuard<'_, SoFar> {
        self.so_far.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn one(&self) {
        let mut so_far = self.so_far();
        so_far.count += 1;
        so_far.last_at = Some(Instant::now());
        if so_far.awaited == Some(so_far.count) {
            so_far.awaited_at = so_far.last_at;
            self.is_enough.notify_one();
        }
    }
}

impl SoFar {
    /// When so many had come; from now on it is that many that are waited for.
    fn when(&mut self, requests: usize) -> Option<Instant> {
        if self.awaited != Some(requests) {
            self.awaited = Some(requests);
            self.awaited_at = (self.count >= requests).then(|| self.last_at.unwrap_or_else(Instant::now));
        }
        self.awaited_at
    }
}

async fn answer_all(mut stream: TcpStream, received: Arc<Received>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        loop {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            if length_of_message(&bytes)?.is_some_and(|length| bytes.len() >= length) {
                break;
            }
        }
        received.one();
        stream.write_all(ANSWER).await?;
    }
}
