//! A FlexPortal that answers every PUT alike, and costs as little as it can.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
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
    received: watch::Receiver<(usize, Instant)>,
}

impl Stub {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no port")?;
        let addr = listener.local_addr()?;
        let (count, received) = watch::channel((0, Instant::now()));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A connection that breaks off is the client's affair.
                tokio::spawn(answer_all(stream, count.clone()));
            }
        });
        Ok(Self { addr, received })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Requests that came in so far.
    pub(crate) fn received(&self) -> usize {
        self.received.borrow().0
    }

    /// Waits until so many requests came in all, and says when the last of them did.
    pub(crate) async fn wait_for(&self, requests: usize) -> anyhow::Result<Instant> {
        let mut received = self.received.clone();
        let waiting = received.wait_for(|(count, _)| *count >= requests);
        let received = tokio::time::timeout(PATIENCE, waiting).await.context("the requests do not come")??;
        Ok(received.1)
    }
}

async fn answer_all(mut stream: TcpStream, count: watch::Sender<(usize, Instant)>) -> anyhow::Result<()> {
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
        count.send_modify(|(count, at)| (*count, *at) = (*count + 1, Instant::now()));
        stream.write_all(ANSWER).await?;
    }
}
