//! The port at which the routes are served: who may call, and over what.

use super::{Containers, Reply, failed};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use orion_domain::Secret;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use sha2::{Digest as _, Sha256};
use std::{convert::Infallible, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Connections at once; others wait.
const CONNECTIONS_MAX: usize = 64;
/// Largest body.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Longest that a client may take for a TLS handshake, for a request's head, and for its body.
const CLIENT_MAX: Duration = Duration::from_secs(15);

/// Where the routes are served.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Address and port.
    pub address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
}

impl Listen {
    /// Checks an address with the certificate and key for it.
    ///
    /// # Errors
    /// A sentence with a hint: without TLS it must be loopback.
    pub fn check(
        address: SocketAddr,
        certificate: Option<&Path>,
        key: Option<&Path>,
    ) -> Result<Self, String> {
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(Arc::new(tls(certificate, key)?)),
            (None, None) if address.ip().is_loopback() => None,
            (None, None) => {
                return Err(format!(
                    "the container routes are not served at {address} without TLS: the node token could be read on the way\n\
                     hint: give --containers-cert and --containers-key, or listen on 127.0.0.1"
                ));
            }
            (Some(_), None) | (None, Some(_)) => {
                return Err("--containers-cert and --containers-key belong together".into());
            }
        };
        Ok(Self { address, tls })
    }
}

fn tls(certificate: &Path, key: &Path) -> Result<ServerConfig, String> {
    let certificates = CertificateDer::pem_file_iter(certificate)
        .and_then(|found| found.collect::<Result<Vec<_>, _>>())
        .map_err(|error| format!("{} cannot be read as PEM certificates: {error}", certificate.display()))?;
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("{} cannot be read as a PEM key: {error}", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(certificates, private));
    config.map_err(|error| format!("the certificate {} cannot be used: {error}", certificate.display()))
}

/// Serves the routes until `stop`. `token` is the node token once there is one: nobody may call before.
///
/// # Errors
/// The port cannot be listened at.
pub async fn serve(
    listen: Listen,
    containers: Containers,
    token: watch::Receiver<Option<Secret>>,
    stop: CancellationToken,
) -> Result<(), String> {
    let listener = TcpListener::bind(listen.address)
        .await
        .map_err(|error| format!("the container routes cannot be served at {}: {error}", listen.address))?;
    tracing::info!("the container routes are served at {}", listen.address);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Too many open files, say: it passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, containers, token) = (listen.tls.clone(), containers.clone(), token.clone());
        tokio::spawn(async move {
            match tls {
                None => converse(stream, &containers, &token).await,
                Some(tls) => {
                    let encrypted = timeout(CLIENT_MAX, TlsAcceptor::from(tls).accept(stream)).await;
                    if let Ok(Ok(stream)) = encrypted {
                        converse(stream, &containers, &token).await;
                    }
                }
            }
            drop(place);
        });
    }
}

async fn converse<S>(stream: S, containers: &Containers, token: &watch::Receiver<Option<Secret>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request: Request<Incoming>| async move {
        let (status, body) = if may_call(&request, token) {
            answer(containers, request).await
        } else {
            failed(401, "the node token is missing or wrong")
        };
        Ok::<_, Infallible>(response(status, &body))
    });
    let mut server = http1::Builder::new();
    // A client that hangs up leaves its container half made otherwise.
    server.timer(TokioTimer::new()).header_read_timeout(CLIENT_MAX).half_close(true);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("a connection of the container routes broke: {error}");
    }
}

fn response(status: u16, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() =
        hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    if status == 401 {
        headers.insert(WWW_AUTHENTICATE, hyper::header::HeaderValue::from_static("Bearer"));
    }
    response
}

/// Whether the request has the node token. Digests are compared: how long that takes says nothing of the token.
fn may_call(request: &Request<Incoming>, token: &watch::Receiver<Option<Secret>>) -> bool {
    let given = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let given = given.and_then(|value| value.strip_prefix("Bearer "));
    match (given, &*token.borrow()) {
        (Some(given), Some(token)) => Sha256::digest(given.trim()) == Sha256::digest(token.expose()),
        (Some(_) | None, _) => false,
    }
}

async fn answer(containers: &Containers, request: Request<Incoming>) -> Reply {
    let (head, body) = request.into_parts();
    let Some(path) = unescaped(head.uri.path()) else { return failed(400, "the path is not UTF-8") };
    match (&head.method, path.as_str()) {
        (&Method::GET, "/health") => containers.health().await,
        (&Method::GET, "/containers") => containers.list().await,
        (&Method::POST, "/start_container") => {
            match timeout(CLIENT_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await {
                Ok(Ok(body)) => containers.start(&body.to_bytes()).await,
                Ok(Err(error)) => failed(400, format!("the body cannot be read: {error}")),
                Err(_) => failed(408, "the body did not come in time"),
            }
        }
        (&Method::POST, path) => {
            match (path.strip_prefix("/stop_container/"), path.strip_prefix("/test_image/")) {
                (Some(name), _) if !name.is_empty() => containers.stop(name).await,
                (_, Some(image)) if !image.is_empty() => containers.test_image(image).await,
                (_, _) => failed(404, "there is no such route"),
            }
        }
        (_, _) => failed(404, "there is no such route"),
    }
}

/// A path without its percent signs.
fn unescaped(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = (*first == b'%').then(|| after.get(..2)).flatten();
        let value = hex
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(value.unwrap_or(*first));
        rest = if value.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_tls_only_this_machine_is_served() {
        let at = |address: &str| address.parse().unwrap();
        assert!(Listen::check(at("127.0.0.1:5000"), None, None).is_ok());
        assert!(Listen::check(at("[::1]:5000"), None, None).is_ok());
        let problem = Listen::check(at("0.0.0.0:5000"), None, None).unwrap_err();
        assert!(problem.contains("without TLS") && problem.contains("hint: "), "{problem}");
        let file = Path::new("/nowhere/cert.pem");
        assert!(Listen::check(at("0.0.0.0:5000"), Some(file), None).unwrap_err().contains("belong together"));
        assert!(
            Listen::check(at("0.0.0.0:5000"), Some(file), Some(file)).unwrap_err().contains("cannot be read")
        );
    }

    #[test]
    fn a_path_loses_its_percent_signs_and_nothing_else() {
        assert_eq!(unescaped("/test_image/a%2Fb:1").as_deref(), Some("/test_image/a/b:1"));
        assert_eq!(unescaped("/x%zz%").as_deref(), Some("/x%zz%"));
        assert_eq!(unescaped("/%ff"), None);
    }
}
