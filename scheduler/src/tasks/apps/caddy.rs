//! One Caddy, by its admin API on a unix socket.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;

/// Configuration of all servers.
const SERVERS: &str = "/config/apps/http/servers";
/// Longest call: Caddy loads its whole configuration anew.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest configuration that is read, in bytes.
const CONFIG_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A Caddy, and what was last said of it.
pub(super) struct Caddy {
    socket: PathBuf,
    /// Tag of the configuration that has the routes which were written last.
    tag: Option<String>,
    routes: Option<Value>,
    problem: Option<String>,
}

/// The place of the routes in a Caddy's configuration.
pub(super) struct Read {
    /// Path in the admin API.
    path: String,
    /// Tag of the whole configuration of the servers.
    tag: String,
    /// The routes as they are; none where they are those that were written last.
    routes: Option<Value>,
}

impl Caddy {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), tag: None, routes: None, problem: None }
    }

    /// Finds the routes of the site whose only host is `site`.
    pub(super) async fn read(&mut self, site: &str) -> Result<Read, String> {
        let (status, tag, body) = self.call(Method::GET, SERVERS, None, Bytes::new()).await?;
        if status != 200 {
            return Err(format!("its configuration cannot be read: status {status}: {}", shown(&body)));
        }
        let tag = tag.ok_or("its configuration has no tag")?;
        let servers: Value = serde_json::from_slice(&body).map_err(|error| format!("no JSON: {error}"))?;
        let (path, routes) = place_of(&servers, site)
            .ok_or_else(|| format!("it has no site {site} with one route (caddy/apps.Caddyfile)"))?;
        let is_known = self.tag.as_ref() == Some(&tag);
        Ok(Read { path, tag, routes: (!is_known).then(|| routes.clone()) })
    }

    /// Puts the routes there if they are others; whether that changed them. Says once what is in the way.
    pub(super) async fn write(&mut self, read: Result<Read, String>, wanted: &Value) -> bool {
        let written = match read {
            Ok(read) => self.put(read, wanted).await,
            Err(problem) => Err(problem),
        };
        match written {
            Ok(written) => {
                if self.problem.take().is_some() {
                    tracing::info!(socket = %self.socket.display(), "Caddy has the routes of containers again");
                }
                written
            }
            Err(problem) => {
                if self.problem.as_ref() != Some(&problem) {
                    tracing::warn!(socket = %self.socket.display(), problem, "Caddy has not got the routes of containers; tried on");
                }
                self.problem = Some(problem);
                false
            }
        }
    }

    async fn put(&mut self, read: Read, wanted: &Value) -> Result<bool, String> {
        let there = read.routes.as_ref().or(self.routes.as_ref());
        if there == Some(wanted) {
            self.tag = Some(read.tag);
            self.routes = Some(wanted.clone());
            return Ok(false);
        }
        self.tag = None;
        let body = Bytes::from(wanted.to_string());
        let (status, _, said) = self.call(Method::PATCH, &read.path, Some(&read.tag), body).await?;
        match status {
            200 => Ok(true),
            // Somebody was faster: the next run sees what they wrote.
            412 => Ok(false),
            _ => Err(format!("the routes are refused: status {status}: {}", shown(&said))),
        }
    }

    /// Carries out a call; returns the status, the tag and the body.
    async fn call(
        &self,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: Bytes,
    ) -> Result<(u16, Option<String>, Bytes), String> {
        let call = async {
            let stream = UnixStream::connect(&self.socket).await.map_err(|error| error.to_string())?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
            let connection = tokio::spawn(connection);
            // An empty host: without `origins` no other is taken.
            let mut request = Request::builder()
                .method(method)
                .uri(path)
                .header(header::HOST, "")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::TE, "trailers");
            if let Some(tag) = if_match {
                request = request.header(header::IF_MATCH, tag);
            }
            let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
            let reply = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let (head, body) = reply.into_parts();
            let collected =
                Limited::new(body, CONFIG_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
            connection.abort();
            let trailers = collected.trailers().cloned().unwrap_or_default();
            // Caddy 2.6 has the tag in a trailer, later ones among the headers.
            let tag = head.headers.get(header::ETAG).or_else(|| trailers.get(header::ETAG));
            let tag = tag.and_then(|tag| tag.to_str().ok()).map(str::to_owned);
            Ok((head.status.as_u16(), tag, collected.to_bytes()))
        };
        tokio::time::timeout(CALL_TIMEOUT, call).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }
}

/// Returns the path of the routes of a site, and these: its one handler has to be a subroute.
fn place_of<'config>(servers: &'config Value, site: &str) -> Option<(String, &'config Value)> {
    for (name, server) in servers.as_object()? {
        for (number, route) in server["routes"].as_array().into_iter().flatten().enumerate() {
            let is_site = route["match"].as_array().is_some_and(|matches| {
                matches.len() == 1
                    && matches[0]["host"].as_array().is_some_and(|hosts| hosts.len() == 1 && hosts[0] == site)
            });
            if is_site && route["handle"].as_array().is_some_and(|handlers| handlers.len() == 1) {
                let inner = &route["handle"][0]["routes"];
                return inner
                    .is_array()
                    .then(|| (format!("{SERVERS}/{name}/routes/{number}/handle/0/routes"), inner));
            }
        }
    }
    None
}

fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_routes_stand_where_the_site_has_them() {
        let site = |host: &str| json!({ "match": [{ "host": [host] }], "handle": [{ "handler": "subroute", "routes": [1] }] });
        let servers =
            json!({ "srv0": { "routes": [site("localhost"), site("*.apps.localhost")] }, "srv1": {} });
        let (path, routes) = place_of(&servers, "*.apps.localhost").unwrap();
        assert_eq!(path, "/config/apps/http/servers/srv0/routes/1/handle/0/routes");
        assert_eq!(routes, &json!([1]));
        assert!(place_of(&servers, "*.other").is_none());
    }
}
