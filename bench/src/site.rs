//! The system under measurement: `orion up` with its default settings on a fresh SQLite database, and real
//! workers with the agent, as `launch_workers.sh` makes them.
//!
//! Everything is gone when the [`Site`] is dropped; when this process is killed, too.

use crate::{
    api::Api,
    broken::{Broken, Context as _},
    child::{dies_with_us, log_tail, program},
    plan::Options,
    progress::Progress,
};
use orion_testkit::{Agent, KeyPair, Worker, Workers, free_port, random_word};
use sqlx::{SqlitePool, sqlite::SqliteConnectOptions};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::process::Child;

/// Longest wait for the system to start or to calm down.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The account that rents.
const USERNAME: &str = "benchmark";
/// Image of workers with an engine: BusyBox.
pub const IMAGE: &str = "bench:1";

/// A running system.
pub struct Site {
    up: Child,
    /// The rented workers.
    pub workers: Workers,
    /// The account that rents.
    pub api: Api,
    admin: Api,
    /// Key with which the tenant logs in.
    pub tenant_key: KeyPair,
    log: PathBuf,
    directory: TempDir,
}

impl Site {
    /// Starts it with so many workers; returns when every one of them is offered.
    ///
    /// # Errors
    /// When a binary is missing or something does not come up.
    pub async fn start(options: &Options, workers_count: usize) -> Result<Self, Broken> {
        let mut site = Self::start_empty(options).await?;
        site.grow_to(workers_count).await?;
        Ok(site)
    }

    /// Starts it with one worker that has a Docker engine, with the image [`IMAGE`] on it; returns when it is offered.
    ///
    /// # Errors
    /// When a binary is missing or something does not come up.
    pub async fn start_with_engine(options: &Options) -> Result<Self, Broken> {
        let mut site = Self::start_empty(options).await?;
        site.workers.set_engines();
        site.workers.grow_to(1);
        for worker in site.workers.all() {
            worker.wait_for_engine();
            worker.make_image(IMAGE);
        }
        site.settle().await?;
        Ok(site)
    }

    async fn start_empty(options: &Options) -> Result<Self, Broken> {
        let _progress = Progress::start("starting orion up and its workers", 0);
        let (orion, agent) = (program(&options.bin_dir, "orion")?, program(&options.bin_dir, "orion-agent")?);
        let directory = tempfile::tempdir().context("a temporary directory")?;
        let log = options.log.clone().unwrap_or_else(|| directory.path().join("up.log"));
        // The bridge first: `orion up` listens on its address.
        let mut workers = Workers::start(0);
        let port = free_port();
        let base = format!("http://{}:{port}", workers.gateway());
        let admin_password = random_word();
        let listen = format!("{}:{port}", workers.gateway());
        let up = start_up(&orion, &listen, &directory.path().join("data"), &log, &admin_password)?;
        let anonymous = Api::anonymous(&base)?;
        wait_until_healthy(&anonymous, &log).await?;
        let admin = anonymous.log_in("admin", &admin_password).await?;
        let password = random_word();
        anonymous.sign_up(USERNAME, &password).await?;
        let api = anonymous.log_in(USERNAME, &password).await?;
        workers.set_agent(Agent::new(&agent, port, &admin.join_token().await?));
        let tenant_key = KeyPair::generate();
        Ok(Self { up, workers, api, admin, tenant_key, log, directory })
    }

    /// Makes so many workers run, and waits until all are offered.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn grow_to(&mut self, count: usize) -> Result<(), Broken> {
        self.workers.grow_to(count);
        self.settle().await
    }

    /// Waits until every worker is offered: nothing is rented, dirty or dead.
    ///
    /// # Errors
    /// When that takes longer than a minute and a half, with what the nodes are.
    pub async fn settle(&self) -> Result<(), Broken> {
        let (wanted, started) = (self.workers.all().len(), Instant::now());
        loop {
            let (offered, nodes) = self.admin.nodes().await?;
            if offered == wanted {
                return Ok(());
            }
            if started.elapsed() > SETTLE_TIMEOUT {
                let nodes = nodes.join("\n  ");
                return Err(Broken::new(format!("{offered} of {wanted} nodes are offered:\n  {nodes}")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// The worker of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn worker(&self, name: &str) -> Result<&Worker, Broken> {
        let found = self.workers.all().iter().find(|worker| worker.name() == name);
        found.ok_or_else(|| Broken::new(format!("the API names a worker '{name}' that was never started")))
    }

    /// Process id of `orion up`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn up_pid(&self) -> Result<u32, Broken> {
        self.up.id().ok_or_else(|| Broken::new("orion up has ended"))
    }

    /// The database of `orion up`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn database(&self) -> Result<SqlitePool, Broken> {
        let options = SqliteConnectOptions::new()
            .filename(self.directory.path().join("data").join("orion.db"))
            .busy_timeout(Duration::from_secs(5));
        SqlitePool::connect_with(options).await.context("the database of orion up")
    }

    /// A directory of this run, for other parts' files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The last lines that `orion up` wrote.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

fn start_up(
    orion: &Path,
    listen: &str,
    data_dir: &Path,
    log: &Path,
    admin_password: &str,
) -> Result<Child, Broken> {
    let log = File::create(log).context("the log of orion up")?;
    let mut command = dies_with_us(orion.as_os_str());
    command.args(["up", "--listen", listen, "--data-dir"]).arg(data_dir);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ORION_") {
            command.env_remove(name);
        }
    }
    command
        .env("ORION_ADMIN_PASSWORD", admin_password)
        // What is measured is the work, not the limits of one client.
        .env("ORION_SIGNUPS_PER_HOUR", "0")
        .env("ORION_SIGNUPS_PER_MINUTE", "0")
        .env("ORION_REQUESTS_OF_USER_PER_MINUTE", "0")
        .env("ORION_REQUESTS_OF_ADDRESS_PER_MINUTE", "0")
        .env("ORION_USER_NODES_MAX", "100000")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("starting orion up")
}

async fn wait_until_healthy(api: &Api, log: &Path) -> Result<(), Broken> {
    let started = Instant::now();
    while !api.is_healthy().await {
        if started.elapsed() > SETTLE_TIMEOUT {
            return Err(Broken::new("orion up does not answer").with_log(&log_tail(log)));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
