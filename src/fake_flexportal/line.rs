//! Connections that a handler can cut: how the fake goes silent in the middle of a request.
//!
//! A handler under [`axum::serve()`] has to answer; it cannot close its socket. So the listener hands out streams
//! that fail once they are cut, and every handler gets the [`Scissors`] for the connection it answers on.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Cuts one connection.
#[derive(Debug, Clone)]
pub(super) struct Scissors(CancellationToken);

impl Scissors {
    /// From now on nothing is read from or written to the connection; the client sees it closed.
    pub(super) fn cut(&self) {
        self.0.cancel();
    }

    /// Waits until someone cuts the connection, the client leaves, or the fake ends.
    pub(super) async fn until_cut(&self) {
        self.0.cancelled().await;
    }
}

/// Accepts connections that can be cut one by one or, through `all`, together.
#[derive(Debug)]
pub(super) struct CuttableListener {
    /// Where clients connect.
    pub(super) listener: TcpListener,
    /// Cuts every connection.
    pub(super) all: CancellationToken,
}

impl Listener for CuttableListener {
    type Io = Line;
    type Addr = Scissors;

    async fn accept(&mut self) -> (Line, Scissors) {
        // By its full name, for it waits and tries again where TcpListener's own method returns an error.
        let (stream, _) = Listener::accept(&mut self.listener).await;
        let token = self.all.child_token();
        (Line { stream, ending: Box::pin(token.clone().cancelled_owned()), token: token.clone() }, Scissors(token))
    }

    fn local_addr(&self) -> io::Result<Scissors> {
        Ok(Scissors(self.all.child_token()))
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Scissors {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.remote_addr().clone()
    }
}

/// A connection until it is cut.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    token: CancellationToken,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Line {
    fn check(&self) -> io::Result<()> {
        if self.token.is_cancelled() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }
}

impl Drop for Line {
    /// Whoever waits for the connection to be cut waits no longer.
    fn drop(&mut self) {
        self.token.cancel();
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // Polled, not only looked at: a connection that waits for its client is to wake up when it is cut.
        if self.ending.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
