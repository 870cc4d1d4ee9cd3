//! The real Caddy with the repository's own Caddyfile and its internal authority, in front of replicas of the
//! API: what passes, what does not, and what clients see of a replica that dies.

use super::{
    PATIENCE,
    services::Services,
    user::{Reply, User},
};
use futures_util::{Stream, StreamExt as _};
use orion_testkit::{Agent, Home, Workers, ended, free_port, program, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    pin::Pin,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tempfile::TempDir;

/// A running Caddy.
struct Caddy {
    process: Child,
    directory: TempDir,
    https_port: u16,
    http_port: u16,
}

impl Caddy {
    /// Starts one for these replicas, with further settings; answers for localhost and the names in `sites`.
    async fn start(sites: &[String], upstreams: &[u16], settings: &[(&str, &str)]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (https_port, http_port) = (free_port(), free_port());
        let upstreams: Vec<String> = upstreams.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let names: Vec<&str> = std::iter::once("localhost").chain(sites.iter().map(String::as_str)).collect();
        let log = File::create(directory.path().join("log")).expect("own directory");
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "caddy", "run", "--adapter", "caddyfile", "--config"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../caddy/Caddyfile"))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("XDG_DATA_HOME", directory.path())
            .env("XDG_CONFIG_HOME", directory.path())
            .env("ORION_SITE", names.join(", "))
            .env("ORION_UPSTREAMS", upstreams.join(" "))
            .env("ORION_HTTPS_PORT", https_port.to_string())
            .env("ORION_HTTP_PORT", http_port.to_string())
            .env("ORION_CADDY_BODIES", "buffer_requests")
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Debian: caddy, util-linux");
        let caddy = Self { process, directory, https_port, http_port };
        let live = format!("https://localhost:{https_port}/api/live");
        wait_until("Caddy answers", PATIENCE, async || match caddy.curl(&[&live]) {
            (200, _) => Ok(()),
            (status, said) => Err(format!("{status} {said}\n{}", caddy.log())),
        })
        .await;
        caddy
    }

    fn authority(&self) -> PathBuf {
        self.directory.path().join("caddy/pki/authorities/local/root.crt")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// curl with the authority alone as what it trusts: the status (0: none) and the body.
    fn curl(&self, arguments: &[&str]) -> (u16, String) {
        let output = Command::new("curl")
            .args([
                "--silent",
                "--max-time",
                "20",
                "--noproxy",
                "*",
                "--write-out",
                "\n%{http_code}",
                "--cacert",
            ])
            .arg(self.authority())
            .args(arguments)
            .output()
            .expect("Debian: curl");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or(("", "0"));
        (status.parse().unwrap_or(0), body.to_owned())
    }

    /// Waits until the log tells this of the replica on that port.
    async fn has_seen(&self, what: &str, port: u16) {
        let host = format!("127.0.0.1:{port}");
        wait_until(&format!("Caddy sees: {what}, {host}"), PATIENCE, async || {
            let log = self.log();
            if log.lines().any(|line| line.contains(what) && line.contains(&host)) { Ok(()) } else { Err(()) }
        })
        .await;
    }

    fn url(&self) -> String {
        format!("https://localhost:{}", self.https_port)
    }

    fn plain_url(&self) -> String {
        format!("http://localhost:{}", self.http_port)
    }

    /// Returns a client without an account that trusts the authority.
    fn anyone(&self) -> User {
        let anyone = User::anyone(&self.url());
        let pem = fs::read(self.authority()).expect("Caddy has made its authority");
        let certificate = reqwest::Certificate::from_pem(&pem).expect("a certificate");
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60));
        anyone.over(client.tls_certs_only([certificate]).build().expect("a client"))
    }
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

/// A feed of events that a client reads, and resumes where it broke off.
struct Feed {
    user: User,
    stream: Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>>,
    text: String,
    /// Position from which the feed resumes: before the events of transactions that may still be open.
    last: i64,
    /// The events that came, by their own ids; after a break some come again.
    ids: BTreeSet<i64>,
    resumed: usize,
}

impl Feed {
    async fn open(user: &User) -> Self {
        let stream = Self::connect(user, 0).await;
        Self { user: user.clone(), stream, text: String::new(), last: 0, ids: BTreeSet::new(), resumed: 0 }
    }

    async fn connect(user: &User, last: i64) -> Pin<Box<dyn Stream<Item = reqwest::Result<Vec<u8>>> + Send>> {
        let reply = wait_until("the feed answers", PATIENCE, async || {
            let reply = user.feed_after(last).await.map_err(|error| format!("{error:?}"))?;
            if reply.status() == 200 { Ok(reply) } else { Err(reply.status().to_string()) }
        })
        .await;
        Box::pin(reply.bytes_stream().map(|piece| piece.map(|bytes| bytes.to_vec())))
    }

    /// Reads until an event of this kind about this lease has come.
    async fn until(&mut self, kind: &str, lease: i64) {
        let reading = async {
            loop {
                if let Some(event) = self.next_in_text()
                    && event["kind"] == kind
                    && event["lease_id"] == lease
                {
                    return;
                }
                if self.text.contains("\n\n") {
                    continue;
                }
                self.read().await;
            }
        };
        let within = tokio::time::timeout(PATIENCE, reading).await;
        assert!(within.is_ok(), "no event {kind} of lease {lease}");
    }

    async fn read(&mut self) {
        match self.stream.next().await {
            Some(Ok(bytes)) => self.text.push_str(&String::from_utf8_lossy(&bytes)),
            Some(Err(_)) | None => {
                self.text.clear(); // half an event: the next replica tells it whole
                self.resumed += 1;
                self.stream = Self::connect(&self.user, self.last).await;
            }
        }
    }

    /// Takes one block of the text; comments and marks of progress give nothing.
    fn next_in_text(&mut self) -> Option<Value> {
        let (block, rest) =
            self.text.split_once("\n\n").map(|(block, rest)| (block.to_owned(), rest.to_owned()))?;
        self.text = rest;
        let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        self.last = field("id:")?.parse().expect("a number");
        let event: Value = serde_json::from_str(field("data:")?).expect("an event");
        self.ids.insert(event["id"].as_i64().expect("an id"));
        Some(event)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_behind_caddy_and_a_killed_replica_stops_nobody() {
    let services = Services::new().setting("ORION_TRUSTED_PROXIES", "127.0.0.1");
    let replicas = [services.control_plane(), services.control_plane()];
    let scheduler = services.scheduler();
    for service in replicas.iter().chain([&scheduler]) {
        service.is_healthy().await;
    }
    let mut workers = Workers::start(0);
    let gateway = format!("https://{}", workers.gateway());
    let caddy = Caddy::start(&[gateway], &replicas.each_ref().map(|replica| replica.port()), &[]).await;

    // Workers register, and hold their WebSocket, by TLS through Caddy.
    let password = services.admin_password().to_owned();
    let admin = caddy.anyone().logged_in("admin", &password).await;
    let token = admin.post("/api/tokens", json!({ "note": "tests" })).await.expect(201);
    let agent =
        Agent::new(&program("orion-agent"), caddy.https_port, token["token"].as_str().expect("a token"));
    workers.set_agent(agent.over_tls(&caddy.authority()).setting("ORION_REFUSED_RETRY_S", "1"));
    workers.grow_to(2);
    until_linked(&admin, 2).await;

    // curl, as the README shows it, and the whole of a rental.
    let credentials = format!(r#"{{"username":"admin","password":"{password}"}}"#);
    let login = format!("{}/auth/login", caddy.url());
    let (status, body) = caddy.curl(&[&login, "--json", &credentials]);
    assert_eq!(status, 200, "{body}");
    let zoe = caddy.anyone().signed_up("zoe").await;
    let mut feed = Feed::open(&zoe).await;
    let first = zoe.rent_one().await;
    assert_eq!(first.by_password().run("id -un").await.as_deref(), Ok("zoe\n"));
    feed.until("lease.active", first.rental_id).await;

    // Each replica dies once, without a word, while a client reads and writes.
    for killed in &replicas {
        let busy = Busy::start(&zoe);
        busy.goes_on().await;
        killed.kill();
        busy.goes_on().await;
        let lease = zoe.rent_one().await;
        zoe.release(lease.rental_id).await;
        feed.until("lease.ended", lease.rental_id).await;
        busy.stop().await;
        until_linked(&admin, 2).await;
        // Until Caddy has seen it come back, the other one must not die.
        caddy.has_seen("HTTP request failed", killed.port()).await;
        killed.start();
        killed.is_healthy().await;
        caddy.has_seen("host is up", killed.port()).await;
    }
    assert!(feed.resumed > 0, "the feed was on one of the two replicas");
    let told: BTreeSet<i64> = zoe.events().await.iter().filter_map(|event| event["id"].as_i64()).collect();
    assert_eq!(feed.ids, told, "every event, over all replicas");
    zoe.release(first.rental_id).await;
}

/// Waits until so many nodes, offered or leased, have an agent that holds a link.
async fn until_linked(admin: &User, count: usize) {
    wait_until(&format!("{count} nodes with a link"), PATIENCE, async || {
        let nodes = admin.try_send(Method::GET, "/api/nodes", None, None).await?;
        let nodes = nodes.body;
        let list = nodes.as_array().cloned().unwrap_or_default();
        let is_in_use = |node: &Value| node["offerable"] == true || node["allocated"] == true;
        let linked = list.iter().filter(|node| node["agent"] == "up" && is_in_use(node)).count();
        if linked == count { Ok(()) } else { Err(nodes.to_string()) }
    })
    .await;
}

/// A client that asks and changes things without a pause.
struct Busy {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Vec<String>>,
}

impl Busy {
    fn start(user: &User) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (user, stopped, count) = (user.clone(), Arc::clone(&stop), Arc::clone(&done));
        let task = tokio::spawn(async move {
            let mut wrong = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let read = user.try_send(Method::GET, "/api/rentals", None, None).await;
                if !matches!(&read, Ok(Reply { status: 200, .. })) {
                    wrong.push(format!("GET: {read:?}"));
                }
                // There is no such lease: the answer shows that the body has arrived and was understood.
                let body = json!({ "additional_hours": 1 });
                let written = user.try_send(Method::POST, "/api/extend/999999", Some(&body), None).await;
                let honest = |reply: &Reply| reply.status == 502 && reply.body["kind"] == "no_replica";
                match &written {
                    Ok(reply) if reply.status == 404 => {}
                    // One that was under way when the replica died.
                    Ok(reply) if honest(reply) && !wrong.iter().any(|text: &String| text == "cut off") => {
                        wrong.push("cut off".to_owned());
                    }
                    Ok(_) | Err(_) => wrong.push(format!("POST: {written:?}")),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            wrong
        });
        Self { stop, done, task }
    }

    /// Waits for twenty more rounds.
    async fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        wait_until("requests go on", PATIENCE, async || {
            let now = self.done.load(Ordering::Relaxed);
            if now >= before + 20 { Ok(()) } else { Err(now - before) }
        })
        .await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        let wrong = self.task.await.expect("the client does not panic");
        let wrong: Vec<&String> = wrong.iter().filter(|text| *text != "cut off").collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_for_everybody_stays_behind_caddy() {
    let services = Services::new().setting("ORION_TRUSTED_PROXIES", "127.0.0.1");
    let replica = services.control_plane();
    replica.answers().await;
    let caddy = Caddy::start(&["orion.localhost".to_owned()], &[replica.port()], &[]).await;
    let published = ("ORION_HTTPS_PUBLISHED", "127.0.0.1:443");
    let open = Caddy::start(&[], &[replica.port()], &[("ORION_WORKERS_HTTP", "on"), published]).await;

    for path in ["/metrics", "/metrics?x=1", "//metrics", "/%6detrics", "/METRICS", "/./metrics"] {
        let url = format!("{}{path}", caddy.url());
        let (status, body) = caddy.curl(&["--path-as-is", &url]);
        assert_eq!(status, 404, "{path}: {body}");
        assert!(!body.contains("# TYPE"), "{path}: {body}");
    }
    // Over plain http a browser is shown the way, and nothing else goes through.
    let at = |caddy: &Caddy, path: &str| format!("{}{path}", caddy.plain_url());
    let location = ["--dump-header", "-", "--output", "/dev/null"];
    for (through, shown) in [(&caddy, caddy.url()), (&open, "https://localhost".to_owned())] {
        let (status, headers) = caddy.curl(&[&location[..], &[&at(through, "/docs?x=1")]].concat());
        assert_eq!(status, 308, "{headers}");
        let wanted = format!("location: {shown}/docs?x=1\r");
        assert!(headers.to_lowercase().lines().any(|line| line == wanted.trim_end()), "{wanted}: {headers}");
    }
    let body = ["--json", r#"{"hostname":"x","ip":"10.9.9.9","ssh_port":22}"#];
    for (through, path, wanted) in [
        (&caddy, "/api/workers/register", 404),
        (&caddy, "/auth/login", 404),
        (&open, "/api/workers/register", 401),
        (&open, "/auth/login", 404),
        (&open, "/api/tokens", 404),
        (&open, "/api/workers/../tokens", 404),
    ] {
        let (status, said) = through.curl(&[&body[..], &["--path-as-is", &at(through, path)]].concat());
        assert_eq!(status, wanted, "{path}: {said}");
    }
    let with_token = ["--header", "Authorization: Bearer x"];
    let (status, said) = caddy.curl(&[&with_token[..], &[&at(&caddy, "/api/rentals")]].concat());
    assert_eq!(status, 404, "a token that came in the clear is not answered: {said}");
    let (status, said) = open.curl(&[&with_token[..], &[&at(&open, "/api/workers/link")]].concat());
    assert_eq!(status, 401, "the link's route is open: {said}");

    an_address_cannot_be_invented(&caddy, replica.port());
    the_command_line_trusts_the_authority_that_it_is_told(&caddy);
}

/// Under a name that Debian's resolver does not know.
fn the_command_line_trusts_the_authority_that_it_is_told(caddy: &Caddy) {
    let home = Home::new();
    let api = format!("https://orion.localhost:{}", caddy.https_port);
    let signup = || {
        let mut command = home.command(&["--api", &api, "signup", "ann"]);
        command.env("ORION_PASSWORD", "correct horse battery");
        command
    };
    let refused = ended(signup());
    assert_eq!(refused.code, Some(5), "{refused:?}");
    let said = format!("error: the certificate of {api} is refused: ");
    assert!(refused.err.starts_with(&said), "at once, for another try changes nothing: {refused:?}");
    assert!(
        refused.err.contains("hint: ") && refused.err.contains("--api-ca FILE or in ORION_API_CA"),
        "{refused:?}"
    );
    let mut command = signup();
    command.env("ORION_API_CA", caddy.authority());
    let done = ended(command);
    assert_eq!(done.code, Some(0), "{done:?}");
    let kept = home.run(&["ls"]);
    assert_eq!(kept.code, Some(0), "the login keeps which authority it was: {kept:?}");
}

/// The login limiter counts by address: that of the client, whatever the client says.
fn an_address_cannot_be_invented(caddy: &Caddy, replica: u16) {
    let attempt = |base: &str, from: &str, claimed: usize, name: &str| {
        let url = format!("{base}/auth/login");
        let body = format!(r#"{{"username":"{name}","password":"wrong wrong"}}"#);
        let forwarded = format!("X-Forwarded-For: 203.0.113.{claimed}");
        caddy.curl(&["--interface", from, "--header", &forwarded, "--json", &body, &url]).0
    };
    let direct = format!("http://127.0.0.1:{replica}");
    let believed: Vec<u16> = (0..7).map(|n| attempt(&direct, "127.0.0.1", n, "mallory")).collect();
    assert_eq!(believed, [401; 7], "the proxy itself is believed, or this test shows nothing");
    let mut by_proxy: Vec<u16> = (0..6).map(|n| attempt(&caddy.url(), "127.0.0.1", n, "trudy")).collect();
    assert_eq!(by_proxy.pop(), Some(429), "six tries of one client, as six addresses");
    assert_eq!(by_proxy, [401; 5]);
    assert_eq!(attempt(&caddy.url(), "127.0.0.2", 0, "trudy"), 401, "another client is another address");
}

/// A replica that takes a request whole and dies: it answers health checks, and closes all else unanswered.
struct Dying {
    port: u16,
    taken: Arc<AtomicUsize>,
}

impl Dying {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let taken = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&taken);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                std::thread::spawn(move || Self::serve(stream, &count));
            }
        });
        Self { port, taken }
    }

    fn serve(stream: TcpStream, taken: &AtomicUsize) {
        let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let mut request = String::new();
        let mut length = 0;
        while let Ok(1..) = reader.read_line(&mut request) {
            let line = request.lines().last().unwrap_or_default().to_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().expect("a number");
            }
            if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        if reader.read_exact(&mut body).is_err() {
            return;
        }
        if request.starts_with("GET /api/live") {
            drop((&stream).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"));
        } else {
            taken.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rent_whose_replica_dies_is_not_sent_to_another() {
    let replicas = [Dying::start(), Dying::start()];
    let caddy = Caddy::start(&[], &replicas.each_ref().map(|replica| replica.port), &[]).await;
    let taken = || replicas.iter().map(|replica| replica.taken.load(Ordering::SeqCst)).sum::<usize>();
    let rent = format!("{}/api/rent", caddy.url());
    let arguments = [rent.as_str(), "--json", r#"{"duration_hours":1}"#, "--header", "Idempotency-Key: one"];
    let (status, said) = caddy.curl(&arguments);
    assert_eq!((status, taken()), (502, 1), "{said}");
    let problem: Value = serde_json::from_str(&said).expect("a problem of RFC 9457");
    assert_eq!((&problem["status"], &problem["kind"]), (&json!(502), &json!("no_replica")));
    assert!(problem["detail"].as_str().is_some_and(|text| text.contains("Idempotency-Key")), "{problem}");
    // What only reads is asked of the other one, too: both are tried before anybody is told.
    let (status, said) = caddy.curl(&[&format!("{}/api/rentals", caddy.url())]);
    assert!(status >= 502 && taken() > 2, "{status}, {} requests: {said}", taken());
}
