//! Accepting connections, in bounded number and time, until told to stop.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::middleware::map_response;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A client that dribbles its headers, or holds a connection without asking anything, is cut off; later than the
/// usual proxy lets go of an idle connection (60 s), which would otherwise post on one that is being closed.
const HEADERS_WITHIN: Duration = Duration::from_secs(90);
/// Proxies open a few connections; beyond this the rest waits to be accepted. Well below the usual limit of open
/// files, so that Postgres and FlexPortal stay in reach.
const MAX_CONNECTIONS: usize = 512;
/// The pause after an error, which may be that no file can be opened any more.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// After the listener was closed. Who connected before has this long to ask: closed at once, a connection takes a request
/// with it that was sent and not yet read.
const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(1);

/// How far the service is on its way out.
#[derive(Debug, Clone, Default)]
pub struct Leaving {
    /// The process leaves, and still takes what comes; on connections that are kept open for no second request.
    pub asked: CancellationToken,
    /// Nobody is accepted any more; who was is served.
    pub last_call: CancellationToken,
}

/// Serves until the last call, then those who connected before it.
pub async fn serve(listener: TcpListener, app: Router, leaving: Leaving) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let asked = leaving.asked;
    let app = app.layer(map_response(move |mut response: Response| {
        let is_leaving = asked.is_cancelled();
        async move {
            if is_leaving {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }));
    let serve = |stream, place| {
        connections.spawn(serve_connection(stream, place, app.clone(), leaving.last_call.clone()));
    };
    loop {
        tokio::select! {
            accepted = accept(&listener, &room) => {
                if let Some((stream, place)) = accepted {
                    serve(stream, place);
                }
            }
            () = leaving.last_call.cancelled() => break,
        }
    }
    // Those whom the kernel has accepted would be cut off with the listener.
    if let Ok(listener) = listener.into_std() {
        while let Ok(place) = room.clone().acquire_owned().await
            && let Some(stream) = accept_waiting(&listener)
        {
            serve(stream, place);
        }
    }
    connections.close();
    connections.wait().await;
}

async fn serve_connection(stream: TcpStream, place: OwnedSemaphorePermit, app: Router, last_call: CancellationToken) {
    // Small answers must not wait for more to send.
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app));
    let mut connection = pin!(connection);
    let last_request = async {
        last_call.cancelled().await;
        tokio::time::sleep(LAST_REQUEST_WITHIN).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = last_request => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended early");
    }
    drop(place);
}

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
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

/// One whom the kernel has accepted; asks the kernel itself, since the runtime may not have heard of it yet.
fn accept_waiting(listener: &std::net::TcpListener) -> Option<TcpStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_ok()
                    && let Ok(stream) = TcpStream::from_std(stream)
                {
                    return Some(stream);
                }
            }
            // That client is gone; the next may not be.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(_) => return None,
        }
    }
}
