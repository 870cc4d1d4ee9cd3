//! From a bound socket to a stopped service: connections, how long each may idle, and the soft stop.

use crate::{App, router::router};
use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io::ErrorKind, net::SocketAddr, pin::pin, time::Duration};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Longest time that open requests may take after a stop was requested.
const SOFT_STOP: Duration = Duration::from_secs(10);
/// Pause after the system had no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves the API on `listener` until the app's shutdown is asked for, then lets open requests finish.
///
/// # Errors
/// None today: what the listener refuses is logged and tried again.
pub async fn serve(app: App, listener: TcpListener) -> std::io::Result<()> {
    // Before the first request: until the clocks were compared no work on nodes is taken.
    app.compare_clocks().await;
    let [links, streams, rights, containers] = [app.clone(), app.clone(), app.clone(), app.clone()];
    app.tasks.spawn(async move { links.agents().tend_links().await });
    app.tasks.spawn(async move { streams.events().tell_streams().await });
    app.tasks.spawn(async move { rights.accounts().tend_rights().await });
    app.tasks.spawn(async move { containers.containers().tend_streams().await });
    let nodes = app.clone();
    app.tasks.spawn(async move { nodes.nodes().keep_reserved().await });
    let router = router(app.clone());
    let connections = TaskTracker::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = app.shutdown.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    if !is_of_one_connection(error.kind()) {
                        tracing::warn!(%error, "no connection can be accepted now; it is tried again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    continue;
                }
            },
        };
        connections.spawn(serve_connection(app.clone(), stream, peer, router.clone()));
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(SOFT_STOP, connections.wait()).await.is_err() {
        tracing::warn!("some requests were still open after {} s", SOFT_STOP.as_secs());
    }
    app.tasks.close();
    if tokio::time::timeout(SOFT_STOP, app.tasks.wait()).await.is_err() {
        tracing::warn!("some work was still going on; the next process finishes it");
    }
    Ok(())
}

/// The client was gone before its turn came.
fn is_of_one_connection(kind: ErrorKind) -> bool {
    [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset, ErrorKind::ConnectionRefused].contains(&kind)
}

async fn serve_connection(app: App, stream: TcpStream, peer: SocketAddr, router: Router) {
    // Small replies must not wait for the client's delayed ACK; a socket that refuses this is still a socket.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request)
    });
    let mut stream = TimeoutWriter::new(stream);
    stream.set_timeout(Some(app.config.unread_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.config.head_timeout)
        .serve_connection(TokioIo::new(Box::pin(stream)), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = app.shutdown.cancelled() => {
            // The request that is under way is answered, and no other begun.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection ended");
    }
}
