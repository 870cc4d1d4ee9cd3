//! The HTTP side: one request and its retries.
//!
//! Lives here: addresses, TLS, headers, retries, paging. Does not live here: what a refusal means
//! ([`crate::refusal`]), what the commands ask for, or how it is shown.

use crate::{
    config::Session,
    error::{CliError, Kind},
    output::note,
    refusal,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{Certificate, Method, Response, StatusCode, Upgraded, Url, header};
use rustls::CertificateError;
use serde_json::Value;
use std::{
    error::Error,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

/// Maximum number of retries of a request whose connection failed.
const RETRIES_MAX: u32 = 3;
/// Time limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit of an ordinary request; one that makes a node work gets [`LONG_TIMEOUT`].
const TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit of a rental or a release: several nodes may be tried.
pub const LONG_TIMEOUT: Duration = Duration::from_secs(150);
/// The largest reply that is read, in bytes.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The most pages of a list that are read.
const PAGES_MAX: usize = 1000;

/// An open WebSocket.
pub type WebSocket = WebSocketStream<Upgraded>;

/// Whether a request may be sent again when it is unknown what became of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// Yes: it changes nothing, or the same thing once (reads, releases, requests under an idempotency key).
    Safe,
    /// Repetition only if no connection came up, so that the API cannot have seen the request.
    IfNeverSent,
}

/// A request that changes something.
#[derive(Debug)]
pub struct Post<'a> {
    /// Path of the request, from its first slash.
    pub path: &'a str,
    /// The JSON body.
    pub body: Value,
    /// The `Idempotency-Key`, where there is one.
    pub key: Option<&'a str>,
    /// Condition for repeating the request when the connection fails.
    pub repeat: Repeat,
    /// Time limit of one attempt.
    pub timeout: Duration,
}

impl<'a> Post<'a> {
    /// A request that is not repeated once it may have been seen.
    pub fn new(path: &'a str, body: Value) -> Self {
        Self { path, body, key: None, repeat: Repeat::IfNeverSent, timeout: TIMEOUT }
    }

    /// The same under an idempotency key, and so safe to repeat.
    #[must_use]
    pub fn under_key(self, key: &'a str) -> Self {
        Self { key: Some(key), repeat: Repeat::Safe, ..self }
    }
}

/// A connection to one API, as one user or as nobody.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    api: String,
    token: Option<String>,
    user: Option<String>,
}

struct Reply {
    status: StatusCode,
    retry_after_s: Option<u64>,
    next_cursor: Option<String>,
    body: Vec<u8>,
}

/// Failure of one attempt to get a reply.
#[derive(Debug)]
struct Lost {
    never_sent: bool,
    /// Error in the API's certificate, if that is the cause.
    certificate: Option<CertificateError>,
    why: String,
}

impl From<reqwest::Error> for Lost {
    fn from(error: reqwest::Error) -> Self {
        let certificate = refused_certificate(&error);
        Self { never_sent: error.is_connect(), certificate, why: root_cause(&error) }
    }
}

/// An API address in the form that is kept and compared: scheme and authority, perhaps a path, no slash at
/// its end.
///
/// # Errors
/// When it is no http(s) address.
pub fn parse_api(text: &str) -> Result<String, String> {
    let url = Url::parse(text.trim()).map_err(|error| format!("'{text}' is no address ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("'{text}' is no http:// or https:// address"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("an API address has no user, password, query or fragment".into());
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Whether requests to `api` never leave this machine.
pub fn is_local(api: &str) -> bool {
    let host = host_of(api);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || is_below_localhost(&host)
        || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn host_of(api: &str) -> String {
    Url::parse(api).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// Names that are loopback whatever a resolver says (RFC 6761, section 6.3); Debian's own knows only `localhost`.
fn is_below_localhost(host: &str) -> bool {
    host.strip_suffix('.').unwrap_or(host).ends_with(".localhost")
}

impl Client {
    /// A client of `api`, as the user of `session` or as nobody. `ca`: a PEM file of further certificate
    /// authorities to trust.
    ///
    /// # Errors
    /// When the CA file is unusable.
    pub fn new(api: &str, session: Option<&Session>, ca: Option<&Path>) -> Result<Self, CliError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("orion/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            // A redirect would carry the token to wherever it points.
            .redirect(reqwest::redirect::Policy::none());
        if is_local(api) {
            builder = builder.no_proxy();
        }
        let host = host_of(api);
        if is_below_localhost(&host) {
            // Port 0 stands for the one of the URL.
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            builder = builder.resolve_to_addrs(&host, &loopback.map(|ip| SocketAddr::new(ip, 0)));
        }
        if !api.starts_with("https:") {
            // No TLS, so the system's certificates need not be loaded (10 ms of a 15 ms command).
            builder = builder.tls_certs_only([]);
        } else if let Some(path) = ca {
            let pem = fs::read(path).map_err(|error| CliError::file("cannot read", path, &error))?;
            let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if certificates.is_empty() {
                return Err(CliError::new(Kind::Usage, format!("{} holds no certificate", path.display()))
                    .hint("--api-ca takes a PEM file"));
            }
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder
            .build()
            .map_err(|error| CliError::failed(format!("cannot set up HTTP: {}", root_cause(&error))))?;
        Ok(Self {
            http,
            api: api.to_owned(),
            token: session.map(|session| session.token.clone()),
            user: session.map(|session| session.user.clone()),
        })
    }

    /// The API's address.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Reads `path` (from the first slash, query included).
    ///
    /// # Errors
    /// No connection, a refusal, or a reply that is no JSON.
    pub async fn get(&self, path: &str) -> Result<Value, CliError> {
        let reply = self.exchange(Method::GET, path, None, None, Repeat::Safe, TIMEOUT).await?;
        self.value(&reply)
    }

    /// The same for a reply that others have to be asked for.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_patiently(&self, path: &str) -> Result<Value, CliError> {
        let reply = self.exchange(Method::GET, path, None, None, Repeat::Safe, LONG_TIMEOUT).await?;
        self.value(&reply)
    }

    /// Reads `/api/health`, also when it says that a part is down.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn health(&self) -> Result<Value, CliError> {
        let outcome = self.request(Method::GET, "/api/health").timeout(TIMEOUT).send().await;
        let reply = match outcome {
            Ok(response) => read(response).await,
            Err(error) => Err(error.into()),
        };
        let reply = reply.map_err(|lost| self.unreachable(&lost, Repeat::Safe))?;
        let says_how_it_is = reply.status.is_success() || reply.status == StatusCode::SERVICE_UNAVAILABLE;
        if !says_how_it_is {
            return Err(self.refusal(&reply));
        }
        self.value(&reply)
    }

    /// Reads a list, all pages of it.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn list(&self, path: &str) -> Result<Vec<Value>, CliError> {
        let mut items = Vec::new();
        let mut page = path.to_owned();
        for _ in 0..PAGES_MAX {
            let reply = self.exchange(Method::GET, &page, None, None, Repeat::Safe, TIMEOUT).await?;
            let Value::Array(mut more) = self.value(&reply)? else {
                return Err(CliError::failed(format!("the API's reply to GET {path} is no list")));
            };
            items.append(&mut more);
            // Only the cursor is taken from the link: where it is sent stays ours to say.
            let Some(cursor) = reply.next_cursor else { break };
            let separator = if path.contains('?') { '&' } else { '?' };
            page = format!("{path}{separator}cursor={}", escape(&cursor));
        }
        Ok(items)
    }

    /// Sends `post`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post(&self, post: Post<'_>) -> Result<Value, CliError> {
        let Post { path, body, key, repeat, timeout } = post;
        let reply = self.exchange(Method::POST, path, Some(&body), key, repeat, timeout).await?;
        self.value(&reply)
    }

    /// Puts `body` at `path`; a second time is as good as once.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let reply = self.exchange(Method::PUT, path, Some(body), None, Repeat::Safe, TIMEOUT).await?;
        self.value(&reply)
    }

    /// Deletes what is at `path`; a second time is as good as once.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> Result<Value, CliError> {
        let reply = self.exchange(Method::DELETE, path, None, None, Repeat::Safe, LONG_TIMEOUT).await?;
        self.value(&reply)
    }

    /// Opens an event stream. One attempt; the caller reconnects.
    ///
    /// # Errors
    /// No connection or a refusal.
    pub async fn stream(&self, path: &str, last_event_id: Option<&str>) -> Result<Response, CliError> {
        let mut request = self.request(Method::GET, path).header(header::ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = self.answered(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let reply = read(response).await.map_err(|lost| self.unreachable(&lost, Repeat::Safe))?;
        Err(self.refusal(&reply))
    }

    /// Opens a WebSocket at `path`. One attempt.
    ///
    /// # Errors
    /// No connection or a refusal.
    pub async fn websocket(&self, path: &str) -> Result<WebSocket, CliError> {
        let key = STANDARD.encode(rand::random::<[u8; 16]>());
        let request = self
            .request(Method::GET, path)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, &key);
        let response = self.answered(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let reply = read(response).await.map_err(|lost| self.unreachable(&lost, Repeat::Safe))?;
            return Err(self.refusal(&reply));
        }
        let accepted = response.headers().get(header::SEC_WEBSOCKET_ACCEPT).cloned();
        if accepted.is_none_or(|accepted| accepted != derive_accept_key(key.as_bytes())) {
            return Err(CliError::failed(format!("what {} opened is no WebSocket", self.api)));
        }
        let stream =
            response.upgrade().await.map_err(|error| self.unreachable(&error.into(), Repeat::Safe))?;
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, None).await)
    }

    async fn answered(&self, request: reqwest::RequestBuilder) -> Result<Response, CliError> {
        tokio::time::timeout(TIMEOUT, request.send())
            .await
            .map_err(|_| CliError::new(Kind::Unavailable, format!("{} does not answer", self.api)))?
            .map_err(|error| self.unreachable(&Lost::from(error), Repeat::Safe))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.api));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
        repeat: Repeat,
        timeout: Duration,
    ) -> Result<Reply, CliError> {
        let mut retries = 0;
        loop {
            let mut request = self.request(method.clone(), path).timeout(timeout);
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            let outcome = match request.send().await {
                Ok(response) => read(response).await,
                Err(error) => Err(error.into()),
            };
            let why = match outcome {
                // A gateway's word that it lost the API is a lost connection, too.
                Ok(reply) if matches!(reply.status.as_u16(), 502 | 504) && repeat == Repeat::Safe => {
                    if retries == RETRIES_MAX {
                        return Err(self.refusal(&reply));
                    }
                    format!("the gateway answered {}", reply.status)
                }
                Ok(reply) if reply.status.is_success() => return Ok(reply),
                Ok(reply) => return Err(self.refusal(&reply)),
                Err(lost) => {
                    let may_help = lost.certificate.is_none() && (lost.never_sent || repeat == Repeat::Safe);
                    if retries == RETRIES_MAX || !may_help {
                        return Err(self.unreachable(&lost, repeat));
                    }
                    lost.why
                }
            };
            retries += 1;
            note(&format!(
                "connection to {} failed ({why}); attempt {} of {}",
                self.api,
                retries + 1,
                RETRIES_MAX + 1
            ));
            tokio::time::sleep(Duration::from_millis(100 << retries)).await;
        }
    }

    fn value(&self, reply: &Reply) -> Result<Value, CliError> {
        if reply.body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&reply.body).map_err(|error| {
            CliError::failed(format!("the reply of {} is no JSON ({error})", self.api))
                .hint("is this the address of an Orion API? Another one: --api URL or ORION_API")
        })
    }

    fn unreachable(&self, lost: &Lost, repeat: Repeat) -> CliError {
        if let Some(problem) = &lost.certificate {
            return CliError::new(
                Kind::Unavailable,
                format!("the certificate of {} is refused: {}", self.api, lost.why),
            )
            .hint(certificate_hint(problem));
        }
        if lost.never_sent {
            return CliError::new(
                Kind::Unavailable,
                format!("cannot reach the API at {}: {}", self.api, lost.why),
            )
            .hint("is it running (orion up)? Another address: --api URL or ORION_API");
        }
        let error = CliError::new(
            Kind::Unavailable,
            format!("the connection to {} was lost: {}", self.api, lost.why),
        );
        match repeat {
            Repeat::Safe => error.hint("try again in a moment"),
            Repeat::IfNeverSent => {
                error.hint("the request may have been carried out; look (orion ls) before you repeat it")
            }
        }
    }

    fn refusal(&self, reply: &Reply) -> CliError {
        refusal::error(reply.status, &reply.body, reply.retry_after_s, &self.api, self.user.as_deref())
    }
}

async fn read(mut response: Response) -> Result<Reply, Lost> {
    let header =
        |name| response.headers().get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let status = response.status();
    let retry_after_s = header(header::RETRY_AFTER).and_then(|value| value.trim().parse().ok());
    let next_cursor = header(header::LINK).and_then(cursor_of);
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > REPLY_BYTES_MAX {
            return Err(Lost {
                never_sent: false,
                certificate: None,
                why: format!("a reply of more than {REPLY_BYTES_MAX} bytes"),
            });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Reply { status, retry_after_s, next_cursor, body })
}

/// The `cursor` of a `Link: <…?cursor=abc>; rel="next"` header.
fn cursor_of(link: &str) -> Option<String> {
    let next = link.split(',').find(|part| part.contains("rel=\"next\"") || part.contains("rel=next"))?;
    let target = next.split_once('<')?.1.split_once('>')?.0;
    let query = format!("http://x/?{}", target.split_once('?')?.1);
    Url::parse(&query)
        .ok()?
        .query_pairs()
        .find(|(name, _)| name == "cursor")
        .map(|(_, value)| value.into_owned())
}

/// `text` as one segment of a path or one value of a query.
pub fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// Returns the error in the peer's certificate, where that is why there is no connection.
fn refused_certificate(error: &(dyn Error + 'static)) -> Option<CertificateError> {
    if let Some(rustls::Error::InvalidCertificate(problem)) = error.downcast_ref() {
        return Some(problem.clone());
    }
    // An I/O error does not count what it wraps among its sources.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    next.and_then(refused_certificate)
}

fn certificate_hint(problem: &CertificateError) -> &'static str {
    if *problem == CertificateError::UnknownIssuer {
        "is its authority a private one? Give the authority's certificate with --api-ca FILE or in ORION_API_CA"
    } else {
        "look at the address (--api URL or ORION_API), the certificate of the API, and this machine's clock; \
         --api-ca FILE or ORION_API_CA names a private authority"
    }
}

fn root_cause(error: &dyn Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_and_kept_in_one_form() {
        assert_eq!(parse_api("http://h:8080/"), Ok("http://h:8080".into()));
        assert_eq!(parse_api("https://H.example/orion/"), Ok("https://h.example/orion".into()));
        for wrong in ["h:8080", "ftp://h", "http://u:p@h", "http://h/?a=b", ""] {
            assert!(parse_api(wrong).is_err(), "{wrong:?} was accepted");
        }
        assert!(
            is_local("http://127.0.0.1:8080") && is_local("http://[::1]:1") && is_local("http://localhost")
        );
        assert!(is_local("https://orion.localhost") && is_local("https://a.Localhost.:8443/x"));
        assert!(!is_local("http://10.0.0.1") && !is_local("http://localhost.example"));
        assert!(!is_local("http://notlocalhost") && !is_local("http://orion.localhost.example"));
    }

    #[test]
    fn a_link_header_gives_its_cursor_and_nothing_else() {
        assert_eq!(cursor_of(r#"<http://evil/x?limit=2&cursor=a%2Fb>; rel="next""#), Some("a/b".into()));
        assert_eq!(cursor_of(r#"</x?cursor=1>; rel="prev""#), None);
    }

    #[test]
    fn escapes_keep_a_segment_a_segment() {
        assert_eq!(escape("../a b?ü"), "..%2Fa%20b%3F%C3%BC");
    }
}
