//! Accepting connections, in bounded number and time, until told to stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// A client that dribbles its headers, or holds a connection without asking anything, is cut off; later than the
/// usual proxy lets go of an idle connection (60 s), which would otherwise post on one that is being closed.
const HEADERS_WITHIN: Duration = Duration::from_secs(90);
/// Proxies open a few connections; beyond this the rest waits to be accepted. Well below the usual limit of open
/// files, so that Postgres and FlexPortal stay in reach.
const MAX_CONNECTIONS: usize = 512;
/// The pause after an error, which may be that no file can be opened any more.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// Serves until `shutdown`, then finishes the answers that are under way.
pub async fn serve(listener: TcpListener, app: Router, shutdown: CancellationToken) {
    let connections = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &room) => accepted,
            () = shutdown.cancelled() => break,
        };
        let Some((stream, place)) = accepted else { continue };
        // Small answers must not wait for more to send.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %error, "a connection ended early");
            }
            drop(place);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    // The semaphore is never closed.
    let place = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(error = %error, "a connection could not be accepted");
            tokio::time::sleep(ACCEPT_DELAY).await;
            None
        }
    }
}
