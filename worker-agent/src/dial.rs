//! The way to the control plane: its address, TCP, TLS where asked for, and a single HTTP request.
//!
//! Not a general client: no pools, no redirects, no proxies. One request a connection, which is what a
//! registration needs, and the smallest in memory.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Request, Uri,
    body::Bytes,
    client::conn::http1,
    header::{CONNECTION, CONTENT_TYPE, DATE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT},
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use orion_domain::{Clock as _, SystemClock, Timestamp};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UdpSocket, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

/// Longest wait for a TCP connection, or for the TLS handshake.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the reply to a request.
const REPLY_MAX: Duration = Duration::from_secs(30);
/// Largest reply that is read, in bytes.
const REPLY_BYTES_MAX: usize = 256 * 1024;

/// The pause that a reply asks for.
pub fn asked_pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Value of the agent's `User-Agent` header.
pub const AGENT: &str = concat!("orion-agent/", env!("CARGO_PKG_VERSION"));

/// A connection, encrypted or not.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Reason for a missing reply.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address, or none that may be used.
    #[error("the address of {0} was not found: {1}")]
    Resolve(String, std::io::Error),
    /// Failure to connect.
    #[error("{0} does not take the connection: {1}")]
    Connect(String, std::io::Error),
    /// Failure to make a trusted encrypted connection.
    #[error("no trusted TLS connection to {0}: {1}")]
    Tls(String, String),
    /// The connection broke or did not speak HTTP.
    #[error("{0} did not answer: {1}")]
    Http(String, String),
}

/// A reply to a request.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The server's wish when to try again, in whole seconds.
    pub retry_after: Option<Duration>,
    /// Body of the reply, read to its end.
    pub body: Bytes,
}

/// Address of the control plane's API, and the rules for connections to it.
#[derive(Debug)]
pub struct Api {
    url: String,
    tls: bool,
    host: String,
    port: u16,
    prefix: String,
    ca_file: Option<PathBuf>,
    insecure_http: bool,
}

impl Api {
    /// Takes `http://host[:port][/prefix]` or the same with https.
    ///
    /// # Errors
    /// A sentence with a hint: not such a URL, or plain http to another machine without `insecure_http`.
    pub fn parse(url: &str, ca_file: Option<PathBuf>, insecure_http: bool) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "'{url}' is no address of a control plane: {why}\nhint: for example https://orion.example"
            )
        };
        let uri: Uri = url.parse().map_err(|_| wrong("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it starts with neither https:// nor http://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') || uri.query().is_some() || authority.host().is_empty() {
            return Err(wrong("it may hold only a host, a port and a path"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let api = Self {
            url: url.trim_end_matches('/').to_owned(),
            tls,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            ca_file,
            insecure_http,
            host,
        };
        if api.only_loopback() && !api.names_loopback() {
            return Err(format!(
                "'{url}' is plain http to another machine: tokens could be read on the way\n\
                 hint: use https:// (with --api-ca FILE for a private authority), or --insecure-http in a network that you trust"
            ));
        }
        Ok(api)
    }

    fn only_loopback(&self) -> bool {
        !self.tls && !self.insecure_http
    }

    fn names_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }

    /// `ws://…` or `wss://…` of `path`.
    pub fn websocket_url(&self, path: &str) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://{}{}{path}", self.authority(), self.prefix)
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Resolves the API's addresses. Plain http without leave goes to loopback only, whatever the name says.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, DialError> {
        let failed = |error| DialError::Resolve(self.host.clone(), error);
        let found = timeout(CONNECT_MAX, lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(|_| failed(std::io::ErrorKind::TimedOut.into()))?
            .map_err(failed)?;
        let usable: Vec<_> = found.filter(|at| !self.only_loopback() || at.ip().is_loopback()).collect();
        if usable.is_empty() { Err(failed(std::io::ErrorKind::AddrNotAvailable.into())) } else { Ok(usable) }
    }

    /// The address that this machine would use as the source of a connection to the API: the route is
    /// asked, nothing is sent.
    pub async fn source_address(&self) -> Result<IpAddr, DialError> {
        let mut last = std::io::ErrorKind::AddrNotAvailable.into();
        for to in self.addresses().await? {
            match source_towards(to).await {
                Ok(ip) => return Ok(ip),
                Err(error) => last = error,
            }
        }
        Err(DialError::Connect(self.host.clone(), last))
    }

    /// Opens a connection, encrypted for https.
    pub async fn connect(&self) -> Result<Box<dyn Io>, DialError> {
        let mut last = std::io::ErrorKind::AddrNotAvailable.into();
        for to in self.addresses().await? {
            match timeout(CONNECT_MAX, TcpStream::connect(to)).await {
                Ok(Ok(stream)) => {
                    // Without it a beat would wait for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    return if self.tls { self.encrypt(stream).await } else { Ok(Box::new(stream)) };
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = std::io::ErrorKind::TimedOut.into(),
            }
        }
        Err(DialError::Connect(self.authority(), last))
    }

    async fn encrypt(&self, stream: TcpStream) -> Result<Box<dyn Io>, DialError> {
        let failed = |why: String| DialError::Tls(self.host.clone(), why);
        // Read anew for each connection, so that a renewed file needs no restart.
        let roots = roots(self.ca_file.as_deref()).map_err(failed)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(error.to_string()))?;
        match timeout(CONNECT_MAX, TlsConnector::from(Arc::new(config)).connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed("the handshake took too long".into())),
        }
    }

    /// Returns by how many milliseconds this machine's clock is ahead of the control plane's, to about a
    /// second.
    ///
    /// # Errors
    /// It did not answer, or did not say what time it is.
    pub async fn clock_off_ms(&self) -> Result<i64, DialError> {
        let failed = |why: String| DialError::Http(self.authority(), why);
        let request = Request::get(format!("{}/api/live", self.prefix))
            .header(HOST, self.authority())
            .header(USER_AGENT, AGENT)
            .header(CONNECTION, "close")
            .body(Full::new(Bytes::new()))
            .map_err(|error| failed(error.to_string()))?;
        let (head, _) = self.exchange(request).await?;
        let date = head.headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(http_date);
        let theirs = date.ok_or_else(|| failed("it did not say what time it is".into()))?;
        // Whole seconds: half of one is the likeliest rest.
        Ok((SystemClock.now().as_micros() - theirs.as_micros()) / 1000 - 500)
    }

    /// Sends `body` as JSON and reads the reply.
    pub async fn post_json(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Result<Reply, DialError> {
        let failed = |why: String| DialError::Http(self.authority(), why);
        let mut request = Request::post(format!("{}{path}", self.prefix))
            .header(HOST, self.authority())
            .header(USER_AGENT, AGENT)
            .header(CONTENT_TYPE, "application/json")
            .header(CONNECTION, "close");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|error| failed(error.to_string()))?;
        let (head, body) = self.exchange(request).await?;
        Ok(Reply { status: head.status.as_u16(), retry_after: asked_pause(&head.headers), body })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(Parts, Bytes), DialError> {
        let failed = |why: String| DialError::Http(self.authority(), why);
        let stream = self.connect().await?;
        let exchange = async {
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let driver = tokio::spawn(connection);
            let reply = sender.send_request(request).await?;
            let (head, body) = reply.into_parts();
            let body = Limited::new(body, REPLY_BYTES_MAX).collect().await;
            driver.abort();
            Ok::<_, hyper::Error>((head, body))
        };
        let (head, body) = timeout(REPLY_MAX, exchange)
            .await
            .map_err(|_| failed(format!("no reply within {} s", REPLY_MAX.as_secs())))?
            .map_err(|error| failed(error.to_string()))?;
        let body = body.map_err(|error| failed(error.to_string()))?.to_bytes();
        Ok((head, body))
    }
}

/// `Sat, 28 Nov 2026 19:00:00 GMT` (RFC 9110).
fn http_date(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split(' ').skip(1);
    let (day, month, year, time) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    format!("{year}-{month:02}-{day}T{time}Z").parse().ok()
}

impl std::fmt::Display for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

async fn source_towards(to: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(to).await?;
    Ok(socket.local_addr()?.ip())
}

/// The certificates that may vouch for the API: those of `ca_file`, or the system's.
///
/// # Errors
/// They cannot be read, or there are none.
pub fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = ca_file {
        let shown = file.display();
        let certificates = CertificateDer::pem_file_iter(file)
            .and_then(|found| found.collect::<Result<Vec<_>, _>>())
            .map_err(|error| format!("{shown} cannot be read as PEM certificates: {error}"))?;
        for certificate in certificates {
            roots
                .add(certificate)
                .map_err(|error| format!("a certificate in {shown} is unusable: {error}"))?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(
            "there are no trusted certificates; install ca-certificates, or give --api-ca FILE".into()
        );
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_leaves_the_machine_only_with_leave() {
        for url in
            ["http://10.0.0.1", "http://orion.example:8080", "http://[fd00::1]/", "http://127.0.0.1.example"]
        {
            let problem = Api::parse(url, None, false).unwrap_err();
            assert!(problem.contains("plain http"), "{problem}");
            assert!(Api::parse(url, None, true).is_ok());
        }
        for url in [
            "http://127.0.0.1:80",
            "http://127.9.9.9",
            "http://localhost:1/x/",
            "http://[::1]:1",
            "https://a.b",
        ] {
            assert!(Api::parse(url, None, false).is_ok(), "{url}");
        }
    }

    #[test]
    fn what_is_no_api_address_is_refused() {
        for url in ["", "orion.example", "ftp://x", "http://", "https://u:p@x", "https://x/?q=1", "ws://x"] {
            assert!(Api::parse(url, None, true).is_err(), "{url:?} was accepted");
        }
    }

    #[test]
    fn a_path_before_the_api_is_kept() {
        let api = Api::parse("https://orion.example/lab/", None, false).unwrap();
        assert_eq!(api.websocket_url("/api/x"), "wss://orion.example:443/lab/api/x");
        let api = Api::parse("http://[::1]:8080", None, false).unwrap();
        assert_eq!(api.websocket_url("/api/x"), "ws://[::1]:8080/api/x");
    }
}
