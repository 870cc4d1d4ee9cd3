//! A running Orion: one `orion up` process, its database, and its workers.

use super::{PATIENCE, user::User};
use orion_testkit::{Agent, Kind, MariaDb, Worker, Workers, free_port, program, random_word, wait_until};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Systems that run at once: each has a handful of processes, and the machine may have two cores.
pub static ROOM: Semaphore = Semaphore::const_new(4);

/// Log levels of `orion up`.
const LEVELS: &str = "info,orion_control_plane=debug,orion_scheduler=debug,orion_fleet=debug,russh=warn";

/// Database that holds a system's state.
#[derive(Clone, Copy, Debug)]
pub enum Database {
    Sqlite,
    /// Server that all tests share.
    MariaDb,
    /// Server of one test, which may stop it.
    OwnMariaDb,
}

/// Running `orion up` with its workers; all of it is gone when the value is dropped.
pub struct System {
    up: Up,
    workers: Workers,
    admin: User,
    admin_password: String,
    join_token: String,
    _room: SemaphorePermit<'static>,
}

impl System {
    /// `count` workers with an agent, all of them offered.
    pub async fn start(database: Database, count: usize) -> Self {
        Self::start_with_plain(database, 0, count).await
    }

    /// The first `plain` workers have no agent and are not registered; the other `with_agent` are offered.
    pub async fn start_with_plain(database: Database, plain: usize, with_agent: usize) -> Self {
        let room = ROOM.acquire().await.expect("never closed");
        let mut workers = Workers::start(plain);
        let admin_password = random_word();
        let up = Up::new(database, &admin_password);
        up.start();
        up.answers().await;
        let admin = User::log_in(&up.url(), "admin", &admin_password).await;
        let token = admin.post("/api/tokens", json!({ "note": "tests" })).await.expect(201);
        let join_token = token["token"].as_str().expect("a token").to_owned();
        let agent =
            Agent::new(&program("orion-agent"), up.port, &join_token).setting("ORION_REFUSED_RETRY_S", "1");
        workers.set_agent(agent);
        workers.grow_to(plain + with_agent);
        let system = Self { up, workers, admin, admin_password, join_token, _room: room };
        system.until_offered(&system.workers.all()[plain..]).await;
        system
    }

    /// One worker of each kind, in this order, with an agent; each can be rented by its kind as a tag.
    pub async fn start_kinds(database: Database, kinds: &[Kind]) -> Self {
        let mut system = Self::start(database, 0).await;
        for kind in kinds {
            system.add(*kind, kind.as_str());
        }
        system.until_offered(system.workers()).await;
        system
    }

    /// One more worker of this kind and with this tag; does not wait until it is offered.
    pub fn add(&mut self, kind: Kind, tag: &str) {
        let agent = Agent::new(&program("orion-agent"), self.up.port, &self.join_token);
        let agent = agent.setting("ORION_REFUSED_RETRY_S", "1").setting("ORION_WORKER_TAGS", tag);
        self.workers.set_agent(agent);
        self.workers.set_kind(kind);
        self.workers.grow_to(self.workers().len() + 1);
    }

    /// So many more workers with an agent and a Docker engine each; does not wait until they are offered.
    pub fn add_with_engine(&mut self, count: usize) {
        self.workers.set_engines();
        self.workers.grow_to(self.workers().len() + count);
    }

    /// One more worker with an engine, whose agent reports these GPUs; does not wait until it is offered.
    pub fn add_with_gpus(&mut self, list: &str) {
        let agent = Agent::new(&program("orion-agent"), self.up.port, &self.join_token);
        let agent = agent.setting("ORION_REFUSED_RETRY_S", "1").setting("ORION_AGENT_GPUS", list);
        self.workers.set_agent(agent);
        self.add_with_engine(1);
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        self.up.url()
    }

    /// The process of the control plane.
    pub fn up(&self) -> &Up {
        &self.up
    }

    /// The admin that `ORION_ADMIN_PASSWORD` made.
    pub fn admin(&self) -> &User {
        &self.admin
    }

    /// Returns the admin's password.
    pub fn admin_password(&self) -> &str {
        &self.admin_password
    }

    /// Logs the admin in anew: the old token is void.
    pub async fn log_in_again(&mut self) {
        self.admin = User::log_in(&self.url(), "admin", &self.admin_password).await;
    }

    /// Starts further workers with an agent, until there are `count`; does not wait until they are offered.
    pub fn grow_to(&mut self, count: usize) {
        self.workers.grow_to(count);
    }

    /// Returns the token with which workers join.
    pub fn join_token(&self) -> &str {
        &self.join_token
    }

    /// All workers, those without an agent first.
    pub fn workers(&self) -> &[Worker] {
        self.workers.all()
    }

    /// A new account called `name`, logged in.
    pub async fn user(&self, name: &str) -> User {
        User::sign_up(&self.url(), name).await
    }

    /// The worker with this address.
    pub fn worker_at(&self, ip: &str) -> &Worker {
        let found = self.workers().iter().find(|worker| worker.ip().to_string() == ip);
        found.unwrap_or_else(|| panic!("no worker has the address {ip}"))
    }

    /// Returns this worker's node as the admin sees it.
    pub async fn node(&self, worker: &Worker) -> Result<Value, String> {
        let nodes = self.admin.get("/api/nodes").await.expect(200);
        let found = nodes.as_array().expect("a list").iter().find(|node| node["hostname"] == worker.name());
        found.cloned().ok_or_else(|| format!("{} is not registered: {nodes}", worker.name()))
    }

    /// Waits until the node of `worker` is as `wanted` says.
    pub async fn until_node(&self, worker: &Worker, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("{}: {what}", worker.name());
        wait_until(&what, PATIENCE, async || {
            let node = self.node(worker).await?;
            if wanted(&node) { Ok(node) } else { Err(node.to_string()) }
        })
        .await
    }

    /// Waits until each of these workers can be rented.
    pub async fn until_offered(&self, workers: &[Worker]) {
        for worker in workers {
            self.until_node(worker, "offered", |node| node["offerable"] == true).await;
        }
    }

    /// Waits for `GET /api/health` to say what is wanted.
    pub async fn until_health(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_until(what, PATIENCE, async || {
            let reply = self.admin.get("/api/health").await;
            if wanted(&reply.body) { Ok(reply.body) } else { Err(reply.body.to_string()) }
        })
        .await
    }

    /// All events that the log holds until now, as the admin's feed gives them.
    pub async fn events(&self) -> Vec<Value> {
        self.admin.events().await
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- orion up ---\n{}", tail(&self.up.log()));
            for worker in self.workers() {
                eprintln!("--- agent of {} ---\n{}", worker.name(), tail(&worker.agent_log()));
            }
        }
    }
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// The `orion up` process; it can die and start again on the same data and port.
pub struct Up {
    process: Mutex<Option<Child>>,
    port: u16,
    data: TempDir,
    database_url: Option<String>,
    database_server: Option<MariaDb>,
    admin_password: String,
    /// Further settings of the process.
    settings: Mutex<Vec<(String, String)>>,
}

impl Up {
    fn new(database: Database, admin_password: &str) -> Self {
        let database_server = match database {
            Database::Sqlite | Database::MariaDb => None,
            Database::OwnMariaDb => Some(MariaDb::start()),
        };
        let database_url = match (database, &database_server) {
            (Database::Sqlite, _) => None,
            (_, Some(own)) => Some(own.create_database().url),
            (_, None) => Some(MariaDb::shared().create_database().url),
        };
        Self {
            process: Mutex::new(None),
            port: free_port(),
            data: tempfile::tempdir().expect("a temporary directory"),
            database_url,
            database_server,
            admin_password: admin_password.to_owned(),
            settings: Mutex::default(),
        }
    }

    /// Sets a variable of the process, from its next start on.
    pub fn set(&self, variable: &str, value: &str) {
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        settings.push((variable.to_owned(), value.to_owned()));
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts it; does not wait until it answers. To be called from the test's own thread, with which the
    /// process ends if the test process is killed.
    pub fn start(&self) {
        self.start_as(Command::new("setpriv").args(["--pdeathsig", "KILL"]), LEVELS);
    }

    /// The same, with a log of other levels (as `RUST_LOG`).
    pub fn start_logging(&self, levels: &str) {
        self.start_as(Command::new("setpriv").args(["--pdeathsig", "KILL"]), levels);
    }

    /// The same, with a wall clock that is off by `offset` (`+3m`); its steady clock is the machine's.
    pub fn start_at(&self, offset: &str) {
        // Not the program faketime: it stays as a parent, and what is killed would go on.
        let library = glob_one("/usr/lib/*/faketime/libfaketimeMT.so.1", "faketime");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).env("LD_PRELOAD", library).env("FAKETIME", offset);
        self.start_as(command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1"), LEVELS);
    }

    fn start_as(&self, command: &mut Command, levels: &str) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(self.log_path()).expect("own directory");
        command
            .arg(program("orion"))
            .arg("up")
            .args(["--listen", &format!("0.0.0.0:{}", self.port)])
            .arg("--data-dir")
            .arg(self.data.path().join("data"))
            .env("ORION_ADMIN_PASSWORD", &self.admin_password)
            // Everybody in a test comes from one address.
            .env("ORION_SIGNUPS_PER_HOUR", "0")
            .env("ORION_SIGNUPS_PER_MINUTE", "0")
            .env("ORION_REQUESTS_OF_USER_PER_MINUTE", "0")
            .env("ORION_REQUESTS_OF_ADDRESS_PER_MINUTE", "0")
            .env("RUST_LOG", levels)
            .env_remove("ORION_MASTER_KEY")
            .env_remove("ORION_DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        command.envs(self.settings.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned());
        if let Some(url) = &self.database_url {
            command.env("ORION_DATABASE_URL", url);
        }
        *process = Some(command.spawn().expect("setpriv (Debian: util-linux) starts"));
    }

    /// Waits until it answers.
    pub async fn answers(&self) {
        let url = format!("{}/api/health", self.url());
        let http = super::user::http();
        wait_until("orion up is healthy", PATIENCE, async || {
            let reply = http.get(&url).send().await.map_err(|error| error.to_string())?;
            let status = reply.status();
            if status.is_success() { Ok(()) } else { Err(format!("{status}\n{}", tail(&self.log()))) }
        })
        .await;
    }

    /// `kill -9`; returns when it is gone.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let mut child = process.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
    }

    /// Asks it to end; returns at once.
    pub fn terminate(&self) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let id = process.as_ref().expect("it runs").id();
        let sent = Command::new("/bin/kill").arg(id.to_string()).status();
        assert!(sent.expect("Debian: procps").success());
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&self) -> ExitStatus {
        wait_until("orion up ends", PATIENCE, async || {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            let ended = process.as_mut().expect("it runs").try_wait().expect("it is ours");
            if ended.is_some() {
                process.take();
            }
            ended.ok_or_else(|| tail(&self.log()))
        })
        .await
    }

    /// The URL of its database; none for the SQLite file in its data directory.
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// The database server, if this system has one of its own.
    pub fn database_server(&self) -> &MariaDb {
        self.database_server.as_ref().expect("Database::OwnMariaDb")
    }

    /// Returns the process's arguments, as every user of the machine can read them.
    pub fn command_line(&self) -> String {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let id = process.as_ref().expect("it runs").id();
        fs::read_to_string(format!("/proc/{id}/cmdline")).expect("it runs").replace('\0', " ")
    }

    /// Returns the memory of the process that is in use, in KiB.
    pub fn resident_kib(&self) -> u64 {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let id = process.as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Returns the log so far, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Returns the data directory: the SQLite database, if that is in use, and the master key.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.data.path().join("up.log")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = process {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The file that a pattern with one `*` for a directory names.
fn glob_one(pattern: &str, debian_package: &str) -> PathBuf {
    let (before, after) = pattern.split_once("*/").expect("a directory is left open");
    let directories = fs::read_dir(before).expect("a directory of libraries");
    let mut paths = directories.filter_map(|entry| Some(entry.ok()?.path().join(after)));
    let missing = format!("there is no {pattern}\nhint: apt-get install {debian_package}");
    paths.find(|path| path.exists()).unwrap_or_else(|| panic!("{missing}"))
}

/// Looks again and again for `length` and panics with what `broken` returns, if it returns anything.
pub async fn stays_for(length: Duration, mut broken: impl AsyncFnMut() -> Option<String>) {
    let begun = std::time::Instant::now();
    while begun.elapsed() < length {
        if let Some(what) = broken().await {
            panic!("after {:?}: {what}", begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
