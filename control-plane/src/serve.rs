//! From a bound socket to a stopped service.

use crate::{App, router::router};
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpListener;

/// How long open requests may take after a stop was asked for.
const SOFT_STOP: Duration = Duration::from_secs(10);

/// Serves the API on `listener` until the app's shutdown is asked for, then lets open requests finish.
///
/// # Errors
/// When the listener fails.
pub async fn serve(app: App, listener: TcpListener) -> std::io::Result<()> {
    app.tasks.spawn(app.clone().tend_links());
    let service = router(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let stop = app.shutdown.clone();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move { stop.cancelled().await });
    let stopped = tokio::select! {
        stopped = server.into_future() => stopped,
        () = async { app.shutdown.cancelled().await; tokio::time::sleep(SOFT_STOP).await } => {
            tracing::warn!("some requests were still open after {} s", SOFT_STOP.as_secs());
            Ok(())
        }
    };
    app.tasks.close();
    if tokio::time::timeout(SOFT_STOP, app.tasks.wait()).await.is_err() {
        tracing::warn!("some work was still going on; the next process finishes it");
    }
    stopped
}
