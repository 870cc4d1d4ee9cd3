//! The floor: the same playbooks with the same input, over sessions of OpenSSH's own client that are open
//! already (ControlMaster). No Orion between them and the node.

use crate::{
    broken::{Broken, Context as _},
    child::dies_with_us,
    site::Site,
};
use orion_fleet::playbook::{Playbook, Playbooks};
use orion_testkit::{KeyPair, Worker, random_word};
use sqlx::SqlitePool;
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};

/// Longest run of one command on a node.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// Takes a uid out of the counter of the system under measurement: its nodes remember the highest uid that they saw,
/// and one that its database never gave out would set it wondering.
const TAKE_UID: &str = "UPDATE settings SET value = CAST(MAX(CAST(value AS INTEGER), 200000) + 1 AS TEXT) \
                        WHERE name = 'next_uid' RETURNING CAST(value AS INTEGER) - 1";

/// An open session of root on each worker, and the playbooks.
pub struct Floor {
    masters: Vec<Master>,
    playbooks: Playbooks,
    tenant_public_key: String,
    /// The database of the system under measurement.
    database: SqlitePool,
    /// Key with which root logs in.
    root_key: KeyPair,
}

/// An account that the floor makes: what the control plane would send for it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Name of the account.
    pub user: String,
    /// Uid of the account, never used before in this run.
    pub uid: u32,
    /// A crypt hash of no known password, as long as a real one.
    pub password_hash: String,
    /// One `authorized_keys` line.
    pub public_key: String,
}

impl Floor {
    /// Opens a session to every worker.
    ///
    /// # Errors
    /// When one does not let root in.
    pub async fn open(site: &Site) -> Result<Self, Broken> {
        let root_key = KeyPair::generate();
        let mut masters = Vec::new();
        for worker in site.workers.all() {
            worker.write_root_key(root_key.public_line());
            masters.push(Master::open(worker, &root_key.private_path(), site.directory()).await?);
        }
        Ok(Self {
            masters,
            playbooks: Playbooks::builtin().context("the built-in playbooks")?,
            tenant_public_key: site.tenant_key.public_line().to_owned(),
            database: site.database().await?,
            root_key,
        })
    }

    /// Returns the number of workers.
    pub fn workers(&self) -> usize {
        self.masters.len()
    }

    /// Returns the index of the worker with this name.
    ///
    /// # Errors
    /// When there is no session to it.
    pub fn index_of(&self, worker_name: &str) -> Result<usize, Broken> {
        let found = self.masters.iter().position(|master| master.name == worker_name);
        found.ok_or_else(|| Broken::new(format!("there is no session to {worker_name}")))
    }

    /// Returns the address of worker `index`.
    pub fn address(&self, index: usize) -> &str {
        &self.masters[index].address
    }

    /// The file of root's key.
    pub fn root_key_path(&self) -> PathBuf {
        self.root_key.private_path()
    }

    /// The `known_hosts` file with worker `index`.
    pub fn known_hosts_path(&self, index: usize) -> &Path {
        &self.masters[index].known_hosts
    }

    /// Reads what a command on worker `index` prints, over its open session.
    ///
    /// # Errors
    /// When it fails.
    pub async fn read(&self, index: usize, command: &str) -> Result<String, Broken> {
        self.masters[index].run(command, Vec::new()).await
    }

    /// An account that no node has yet.
    ///
    /// # Errors
    /// The database's.
    pub async fn new_account(&self) -> Result<Account, Broken> {
        let uid: u32 =
            sqlx::query_scalar(TAKE_UID).fetch_one(&self.database).await.context("a uid for the floor")?;
        let word = format!("{}{}{}", random_word(), random_word(), random_word());
        let public_key = self.tenant_public_key.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let password_hash = format!("$6${}${}", &word[..16], &word[..86]);
        Ok(Account { user: "floorbench".to_owned(), uid, password_hash, public_key })
    }

    /// Runs create_user on worker `index`; the time from starting `ssh` until it has ended well.
    ///
    /// # Errors
    /// When the playbook does not say `::ok`.
    pub async fn create(&self, index: usize, account: &Account) -> Result<Duration, Broken> {
        self.create_at_once(&[(index, account.clone())]).await
    }

    /// Runs create_user on several workers at once; the time until the last is done.
    ///
    /// # Errors
    /// When one of them does not say `::ok`.
    pub async fn create_at_once(&self, accounts: &[(usize, Account)]) -> Result<Duration, Broken> {
        let playbook = self.playbooks.create_user();
        let mut inputs = Vec::new();
        for (index, account) in accounts {
            let values = [
                ("user", account.user.as_str()),
                ("uid", &account.uid.to_string()),
                ("lease", &account.uid.to_string()),
                ("lease_ulid", "01K0000000000000000000000A"),
                ("is_new", "yes"),
                ("password_hash", &account.password_hash),
                ("public_key", &account.public_key),
                ("deadline_s", "3660"),
                ("agent", "yes"),
            ];
            inputs.push((*index, self.input(*index, playbook, &values).await?));
        }
        let started = Instant::now();
        let runs =
            inputs.into_iter().map(|(index, input)| self.masters[index].run(playbook.command(), input));
        let outputs = futures_util::future::join_all(runs).await;
        let elapsed = started.elapsed();
        outputs.into_iter().try_for_each(|output| confirmed(playbook, &output?))?;
        Ok(elapsed)
    }

    /// Runs delete_user on worker `index`.
    ///
    /// # Errors
    /// When the playbook does not say `::ok`.
    pub async fn delete(&self, index: usize, account: &Account) -> Result<(), Broken> {
        let playbook = self.playbooks.delete_user();
        let values = [("user", account.user.as_str()), ("uid", &account.uid.to_string())];
        let input = self.input(index, playbook, &values).await?;
        confirmed(playbook, &self.masters[index].run(playbook.command(), input).await?)
    }

    /// Framed input with the epoch that the node has: neither refused, nor in the control plane's way.
    async fn input(
        &self,
        index: usize,
        playbook: &Playbook,
        values: &[(&str, &str)],
    ) -> Result<Vec<u8>, Broken> {
        let epoch = self.masters[index].run("cat /var/lib/orion/epoch || echo 0", Vec::new()).await?;
        let epoch = epoch.trim().parse::<u64>().context("the node's epoch")?;
        playbook.stdin(epoch, values).context("the floor's values")
    }
}

fn confirmed(playbook: &Playbook, reply: &str) -> Result<(), Broken> {
    if reply.ends_with("::ok\n") {
        Ok(())
    } else {
        Err(Broken::new(format!("{} over ControlMaster: {reply}", playbook.name())))
    }
}

/// One open session. Ends when dropped.
struct Master {
    name: String,
    address: String,
    socket: PathBuf,
    known_hosts: PathBuf,
    _process: Child,
}

impl Master {
    async fn open(worker: &Worker, key: &Path, directory: &Path) -> Result<Self, Broken> {
        let socket = directory.join(format!("{}.sock", worker.name()));
        let known_hosts = directory.join(format!("{}.known_hosts", worker.name()));
        fs::write(&known_hosts, worker.ssh_address().known_hosts_line()).context("known_hosts")?;
        let address = worker.ip().to_string();
        let mut command = dies_with_us(OsStr::new("ssh"));
        command
            .args(["-F", "/dev/null", "-M", "-N", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
            .arg("-S")
            .arg(&socket)
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
            .arg("-i")
            .arg(key)
            .args(["-l", "root", &address])
            .stdin(Stdio::null());
        let process = command.spawn().context("starting ssh")?;
        let master = Self { name: worker.name().to_owned(), address, socket, known_hosts, _process: process };
        let started = Instant::now();
        while master.run("true", Vec::new()).await.is_err() {
            if started.elapsed() > Duration::from_secs(20) {
                return Err(Broken::new(format!("root cannot log in to {} with a key", master.name)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(master)
    }

    /// Runs a command over the open session, never over a new one; its standard output.
    async fn run(&self, remote_command: &str, input: Vec<u8>) -> Result<String, Broken> {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "ProxyCommand=false", "-S"])
            .arg(&self.socket)
            .args(["-l", "root", &self.address, remote_command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let running = async {
            let mut child = command.spawn().context("starting ssh")?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(&input).await.context("writing to ssh")?;
            }
            child.wait_with_output().await.context("waiting for ssh")
        };
        let output = tokio::time::timeout(COMMAND_TIMEOUT, running)
            .await
            .map_err(|_| Broken::new(format!("a command on {} hangs", self.name)))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            return Ok(text(&output.stdout));
        }
        let (said, complained) = (text(&output.stdout), text(&output.stderr));
        Err(Broken::new(format!("{}: ssh: {}: {said}{complained}", self.name, output.status)))
    }
}
