//! The services as processes of their own on one MariaDB: any number of `orion-control-plane` and
//! `orion-scheduler`, each of which can be killed and started again.

use super::{PATIENCE, user};
use orion_testkit::{Database, MariaDb, free_port, program, random_word, wait_until};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, PoisonError},
};
use tempfile::TempDir;

/// 32 bytes in base64: the tests' master key.
pub const MASTER_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Master key other than [`MASTER_KEY`].
pub const OTHER_MASTER_KEY: &str = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// State that services share: a database, a master key, the first admin's password.
pub struct Services {
    database: Database,
    admin_password: String,
    directory: TempDir,
    further: BTreeMap<String, String>,
}

impl Services {
    /// A new, empty database on the server that all tests share; no process yet.
    pub fn new() -> Self {
        Self {
            database: MariaDb::shared().create_database(),
            admin_password: random_word(),
            directory: tempfile::tempdir().expect("a temporary directory"),
            further: BTreeMap::new(),
        }
    }

    /// One more variable for all processes that start from now on.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.further.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Uses another database.
    #[must_use]
    pub fn on(self, database: Database) -> Self {
        Self { database, ..self }
    }

    /// Returns the database that the services share.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The first admin's password.
    pub fn admin_password(&self) -> &str {
        &self.admin_password
    }

    /// The first admin, logged in at this replica.
    pub async fn admin(&self, replica: &Service) -> user::User {
        user::User::log_in(&replica.url(), "admin", &self.admin_password).await
    }

    /// A replica of the API on a port of its own; started, perhaps not yet answering.
    pub fn control_plane(&self) -> Service {
        self.started("orion-control-plane", "ORION_LISTEN", "0.0.0.0")
    }

    /// A scheduler; started, perhaps not yet answering.
    pub fn scheduler(&self) -> Service {
        self.started("orion-scheduler", "ORION_METRICS_LISTEN", "127.0.0.1")
    }

    fn started(&self, name: &'static str, listen: &str, address: &str) -> Service {
        let port = free_port();
        let mut environment = self.further.clone();
        environment.extend(
            [
                ("ORION_DATABASE_URL", self.database.url.as_str()),
                ("ORION_MASTER_KEY", MASTER_KEY),
                ("ORION_ADMIN_PASSWORD", &self.admin_password),
                ("ORION_LOG", "info,orion_control_plane=debug,orion_scheduler=debug,orion_fleet=debug"),
                (listen, &format!("{address}:{port}")),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let log = self.directory.path().join(format!("{name}-{port}.log"));
        let service = Service { name, port, environment, log, process: Mutex::new(None) };
        service.start();
        service
    }
}

/// One process of a service.
pub struct Service {
    name: &'static str,
    port: u16,
    environment: BTreeMap<String, String>,
    log: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Service {
    /// Returns the URL on which the service listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Returns the port on which the service listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it (again); does not wait until it answers.
    pub fn start(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(process.is_none(), "it runs already");
        let log = File::options().create(true).append(true).open(&self.log).expect("own directory");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program(self.name))
            // Everybody in a test comes from one address.
            .env("ORION_SIGNUPS_PER_HOUR", "0")
            .env("ORION_SIGNUPS_PER_MINUTE", "0")
            .env("ORION_REQUESTS_OF_USER_PER_MINUTE", "0")
            .env("ORION_REQUESTS_OF_ADDRESS_PER_MINUTE", "0")
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        *process = Some(child.expect("setpriv (Debian: util-linux) starts"));
    }

    /// Waits until it says that it is alive (not: healthy, which needs a scheduler, too).
    pub async fn answers(&self) {
        self.until("/api/live").await;
    }

    /// Waits until it says that all its parts work.
    pub async fn is_healthy(&self) {
        self.until("/api/health").await;
    }

    async fn until(&self, path: &str) {
        let url = format!("{}{path}", self.url());
        let http = user::http();
        wait_until(&format!("{} answers at {path}", self.name), PATIENCE, async || {
            let reply = http.get(&url).send().await.map_err(|error| format!("{error}\n{}", self.log()))?;
            let status = reply.status();
            if status.is_success() { Ok(()) } else { Err(format!("{status}\n{}", self.log())) }
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

    /// Sends a signal by name: `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, signal: &str) {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let id = process.as_ref().expect("it runs").id();
        let sent = Command::new("/bin/kill").args(["-s", signal, &id.to_string()]).status();
        assert!(sent.expect("Debian: procps").success());
    }

    /// Waits for the process to end by itself.
    pub async fn ended(&self) -> ExitStatus {
        wait_until(&format!("{} ends", self.name), PATIENCE, async || {
            let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
            match process.as_mut().expect("it runs").try_wait().expect("it is ours") {
                Some(status) => {
                    process.take();
                    Ok(status)
                }
                None => Err("it still runs".to_owned()),
            }
        })
        .await
    }

    /// Returns the log so far, over all starts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let process = self.process.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = process {
            // It may have ended by itself.
            drop(child.kill());
            drop(child.wait());
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "--- {}:{} ---\n{}",
                self.name,
                self.port,
                lines[lines.len().saturating_sub(60)..].join("\n")
            );
        }
    }
}
