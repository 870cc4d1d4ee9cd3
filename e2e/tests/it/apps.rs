//! The ports of containers in a browser, through two real Caddys with the repository's own configuration.

use super::{
    PATIENCE,
    container_life::{rented, system},
    system::System,
    user::User,
};
use futures_util::StreamExt as _;
use orion_testkit::{Worker, free_port, program, wait_until};
use reqwest::{Client, Method, Response, StatusCode, header, redirect::Policy};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Longest that a right outlives its end.
const RIGHT_ENDS: Duration = Duration::from_secs(15);
/// Answers with the request's headers, with a stream of events, or as a WebSocket that says what it hears.
const SERVER: &str = r#"
all=
while read -r line; do line=${line%?}; [ -n "$line" ] || break; all="$all$line
"; done
case $all in
"GET /stream"*)
  printf 'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n'
  while printf 'data: tick\n\n'; do sleep 0.2; done ;;
*websocket*)
  printf 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n'
  exec cat ;;
esac
all="I am $NAME
$all"
printf 'HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %s\r\nConnection: close\r\n\r\n%s' "${#all}" "$all"
"#;

/// A running Caddy for the ports of containers.
struct Caddy {
    process: Child,
    directory: TempDir,
    port: u16,
}

impl Caddy {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let process = run(directory.path(), port);
        let caddy = Self { process, directory, port };
        caddy.answers().await;
        caddy
    }

    async fn answers(&self) {
        wait_until("Caddy answers", PATIENCE, async || {
            let there = self.socket().exists() && self.authority().exists();
            if there { Ok(()) } else { Err(self.log()) }
        })
        .await;
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("admin.sock")
    }

    fn authority(&self) -> PathBuf {
        self.directory.path().join("caddy/pki/authorities/local/root.crt")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Kills it, and starts it with the configuration of its file alone.
    async fn start_again(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
        drop(fs::remove_file(self.socket()));
        self.process = run(self.directory.path(), self.port);
        self.answers().await;
    }

    /// A browser without a cookie jar, for these hosts.
    fn browser(&self, hosts: &[&str]) -> Client {
        super::user::http();
        let pem = fs::read(self.authority()).expect("Caddy has made its authority");
        let certificate = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let place = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let client = Client::builder().no_proxy().redirect(Policy::none()).timeout(Duration::from_secs(60));
        let client = hosts.iter().fold(client, |client, host| client.resolve(host, place));
        client.http1_only().tls_certs_only([certificate]).build().expect("a client")
    }
}

fn run(directory: &Path, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(directory.join("log")).expect("own directory");
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "caddy", "run", "--adapter", "caddyfile", "--config"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../caddy/apps.Caddyfile"))
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("XDG_DATA_HOME", directory)
        .env("XDG_CONFIG_HOME", directory)
        .env("ORION_APPS_SOCKET", format!("unix/{}", directory.join("admin.sock").display()))
        .env("ORION_APPS_HTTPS_PORT", port.to_string())
        .env("ORION_APPS_HTTP_PORT", free_port().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("Debian: caddy, util-linux")
}

impl Drop for Caddy {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        if std::thread::panicking() {
            eprintln!("--- caddy ---\n{}", self.log());
        }
    }
}

/// A system whose containers are reached through these Caddys.
async fn behind(caddies: &[&Caddy], workers: usize) -> System {
    let system = system(workers).await;
    let port = caddies[0].port;
    let sockets: Vec<String> = caddies.iter().map(|caddy| caddy.socket().display().to_string()).collect();
    let api = system.url();
    let up = system.up();
    up.kill();
    up.set("ORION_APPS_DOMAIN", &format!("apps.localhost:{port}"));
    up.set("ORION_SITE", "localhost");
    up.set("ORION_CADDY_ADMIN", &sockets.join(","));
    up.set("ORION_APPS_AUTH", api.trim_start_matches("http://"));
    // The Caddys are on this machine.
    up.set("ORION_PROXY_ADDRESSES", &gateway(&system.workers()[0]));
    up.start();
    up.answers().await;
    system.until_offered(system.workers()).await;
    system
}

fn gateway(worker: &Worker) -> String {
    let [first, second, ..] = worker.ip().octets();
    format!("{first}.{second}.0.1")
}

fn server(name: &str) -> Value {
    json!({
        "image": "bb:1", "name": name, "ports": [8080], "env": { "NAME": name }, "files": { "/server": SERVER },
        "command": ["nc", "-ll", "-p", "8080", "-e", "sh", "/server"],
    })
}

fn name_of(url: &str) -> String {
    let host = url.strip_prefix("https://").and_then(|rest| rest.split([':', '/']).next());
    host.expect("a URL with a host").to_owned()
}

async fn try_get(browser: &Client, url: &str, cookie: &str) -> reqwest::Result<Response> {
    let request = browser.get(url);
    let request = if cookie.is_empty() { request } else { request.header(header::COOKIE, cookie) };
    request.send().await
}

async fn get(browser: &Client, url: &str, cookie: &str) -> Response {
    try_get(browser, url, cookie).await.expect("Caddy answers")
}

/// Waits until the page says this.
async fn until_page(browser: &Client, url: &str, cookie: &str, status: u16) -> String {
    wait_until(&format!("{url} gives {status}"), PATIENCE, async || {
        // A Caddy that takes a new configuration may close a connection that has just been made.
        let reply = try_get(browser, url, cookie).await.map_err(|error| format!("{error:?}"))?;
        let (seen, text) = (reply.status().as_u16(), reply.text().await.unwrap_or_default());
        if seen == status { Ok(text) } else { Err(format!("{seen} {text}")) }
    })
    .await
}

async fn come_in(browser: &Client, ida: &User, container: &str) -> String {
    let opened = ida.post(&format!("{container}/open"), json!({})).await.expect(200);
    cookie_of(browser, opened["url"].as_str().expect("a URL")).await
}

/// The same by the command line.
async fn come_in_by_command_line(
    browser: &Client,
    (system, ida): (&System, &User),
    words: [&str; 2],
) -> String {
    let mut orion = Command::new(program("orion"));
    orion.arg("open").args(words).env("ORION_API", system.url()).env("ORION_TOKEN", &ida.token);
    let opened = orion.output().expect("it runs");
    assert!(opened.status.success(), "{opened:?}");
    cookie_of(browser, String::from_utf8_lossy(&opened.stdout).trim()).await
}

/// The cookie that a URL which works once gives.
async fn cookie_of(browser: &Client, url: &str) -> String {
    let reply = get(browser, url, "").await;
    assert_eq!(reply.status(), StatusCode::SEE_OTHER, "{}", reply.text().await.unwrap_or_default());
    assert_eq!(reply.headers()[header::LOCATION], "/");
    let set = reply.headers()[header::SET_COOKIE].to_str().expect("ASCII").to_owned();
    for part in ["__Host-orion=", "; Secure", "; HttpOnly", "; Path=/", "; SameSite=Lax"] {
        assert!(set.contains(part), "{set}");
    }
    let again = get(browser, url, "").await;
    assert_eq!(again.status(), StatusCode::FORBIDDEN, "it works once");
    set.split(';').next().expect("a cookie").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_container_is_its_owners_alone_and_its_streams_end() {
    let (first, second) = (Caddy::start().await, Caddy::start().await);
    let system = behind(&[&first, &second], 1).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id;
    let made = ida.post(&path, server("web")).await.expect(201);
    let url = made["access_url"].as_str().expect("a URL").to_owned();
    assert_eq!(url, format!("https://{lease}-8080.apps.localhost:{}/", first.port));
    let (host, short) = (name_of(&url), format!("{lease}.apps.localhost"));
    let browser = first.browser(&[&host, &short, "1-1.apps.localhost"]);
    until_page(&browser, &url, "", 401).await;

    let cookie = come_in(&browser, &ida, &format!("{path}/web")).await;
    let reply = browser
        .post(format!("{url}path?query=1"))
        .header(header::COOKIE, format!("theme=dark; {cookie}; mode=1"))
        .header("X-Forwarded-User", "root")
        .bearer_auth(&ida.token)
        .send()
        .await
        .expect("a reply");
    assert_eq!(reply.status(), 200);
    let page = reply.text().await.expect("a page");
    assert!(page.starts_with("I am web\nPOST /path?query=1 HTTP/1.1\n"), "{page}");
    assert!(page.contains("Cookie: theme=dark; mode=1\n"), "{page}");
    for secret in ["__Host-orion", &ida.token, "root", "Orion-"] {
        assert!(!page.contains(secret), "{secret} reaches the container: {page}");
    }
    let own = browser.get(&url).header(header::COOKIE, &cookie).bearer_auth("the-app-s-own").send().await;
    let page = own.expect("a reply").text().await.expect("a page");
    assert!(page.contains("Authorization: Bearer the-app-s-own\n"), "{page}");

    // Of that host alone, and of that user.
    let port = first.port;
    for (other, status) in [(short.as_str(), 401), ("1-1.apps.localhost", 404)] {
        let reply = get(&browser, &format!("https://{other}:{port}/"), &cookie).await;
        assert_eq!(reply.status(), status, "{other}");
    }
    let changed = format!("{}x", cookie.trim_end_matches(char::is_alphanumeric));
    assert_eq!(get(&browser, &url, &changed).await.status(), 401);
    system.user("eve").await.post(&format!("{path}/web/open"), json!({})).await.expect(404);
    // The other Caddy has the same.
    let beside = second.browser(&[&host]);
    let there = url.replace(&first.port.to_string(), &second.port.to_string());
    until_page(&beside, &there, "", 401).await;
    assert_eq!(get(&beside, &there, &cookie).await.status(), 200);

    // A public one asks nobody, and gets no token of the API's all the same.
    let mut body = server("open");
    body["public"] = json!(true);
    body["ports"] = json!([8080, 9090]);
    ida.try_send(Method::DELETE, &format!("{path}/web"), None, None).await.expect("a reply").expect(200);
    ida.post(&path, body).await.expect(201);
    let page = until_page(&browser, &url, "", 200).await;
    assert!(page.starts_with("I am open\n"), "{page}");
    let reply = browser.get(&url).bearer_auth(&ida.token).send().await.expect("a reply");
    assert!(!reply.text().await.expect("a page").contains(&ida.token));
    ida.try_send(Method::DELETE, &format!("{path}/open"), None, None).await.expect("a reply").expect(200);
    until_page(&browser, &url, "", 404).await;

    // Streams pass; a WebSocket ends with the right, an event stream with the container.
    ida.post(&path, server("last")).await.expect(201);
    until_page(&browser, &url, "", 401).await;
    let cookie = come_in(&browser, &ida, &format!("{path}/last")).await;
    let mut events = get(&browser, &format!("{url}stream"), &cookie).await.bytes_stream();
    assert!(events.next().await.expect("an event").is_ok());
    let mut socket = web_socket(&browser, &url, &cookie).await;
    ida.post("/api/auth/logout", json!({})).await.expect(200);
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(RIGHT_ENDS, socket.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "it ends with the right");
    assert_eq!(get(&browser, &url, &cookie).await.status(), 401);
    let ida = User::log_in(&system.url(), &ida.name, &ida.password).await;
    let words = [lease.to_string(), "last".to_owned()];
    let words = words.each_ref().map(String::as_str);
    let cookie = come_in_by_command_line(&browser, (&system, &ida), words).await;
    let mut socket = web_socket(&browser, &url, &cookie).await;
    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    let closed = async {
        drop(socket.read_to_end(&mut rest).await);
        while let Some(Ok(_)) = events.next().await {}
    };
    tokio::time::timeout(RIGHT_ENDS, closed).await.expect("both end with the lease");
    until_page(&browser, &url, &cookie, 404).await;
}

/// A WebSocket to the container, which says what it hears.
async fn web_socket(browser: &Client, url: &str, cookie: &str) -> reqwest::Upgraded {
    let asked = browser.get(url).header(header::COOKIE, cookie).header(header::CONNECTION, "Upgrade");
    let asked = asked.header(header::UPGRADE, "websocket").header("Sec-WebSocket-Version", "13");
    let reply = asked.header("Sec-WebSocket-Key", "x3JJHMbDL1EzLkh9GBhXDw==").send().await.expect("a reply");
    assert_eq!(reply.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut socket = reply.upgrade().await.expect("a stream");
    socket.write_all(b"hello\n").await.expect("it is open");
    let mut heard = [0; 6];
    socket.read_exact(&mut heard).await.expect("the container hears it");
    assert_eq!(&heard, b"hello\n");
    socket
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_there_at_once_after_a_move_and_a_restart_of_caddy_and_gone_with_its_lease() {
    let mut caddy = Caddy::start().await;
    let system = behind(&[&caddy], 2).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let made = ida.post(&path, server("web")).await.expect(201);
    let url = made["access_url"].as_str().expect("a URL").to_owned();
    let browser = caddy.browser(&[&name_of(&url)]);
    until_page(&browser, &url, "", 401).await;
    let cookie = come_in(&browser, &ida, &format!("{path}/web")).await;
    assert!(until_page(&browser, &url, &cookie, 200).await.starts_with("I am web\n"));

    caddy.start_again().await;
    until_page(&browser, &url, &cookie, 200).await;

    let old = system.worker_at(&ticket.host_ip);
    let node = made["node_id"].clone();
    old.kill();
    wait_until("it runs on the other node", PATIENCE * 2, async || {
        let view = ida.get(&format!("{path}/web")).await.expect(200);
        let moved = view["state"] == "running" && view["node_id"] != node && !view["node_id"].is_null();
        if moved { Ok(()) } else { Err(view.to_string()) }
    })
    .await;
    let running = Instant::now();
    until_page(&browser, &url, &cookie, 200).await;
    assert!(running.elapsed() < Duration::from_secs(2), "{:?}", running.elapsed());

    // The next lease on that node may get the same port: the visitors of the one before do not see it.
    ida.post(&format!("/api/release/{}", ticket.rental_id), json!({})).await.expect(200);
    let eve = system.user("eve").await;
    let (_, eves) = rented(&system, &eve).await;
    let mut body = server("eves");
    body["public"] = json!(true);
    let theirs = eve.post(&eves, body).await.expect(201);
    let open = theirs["access_url"].as_str().expect("a URL").to_owned();
    let browser = caddy.browser(&[&name_of(&url), &name_of(&open)]);
    for _ in 0..20 {
        let page = get(&browser, &url, &cookie).await.text().await.expect("a reply");
        assert!(!page.contains("I am eves"), "{page}");
    }
    assert!(until_page(&browser, &open, "", 200).await.starts_with("I am eves\n"));
    until_page(&browser, &url, &cookie, 404).await;
}
