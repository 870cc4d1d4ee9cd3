//! One `orion-scheduler` process, and what can happen to it.

use std::{
    collections::{BTreeSet, HashMap},
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// A running scheduler. It is killed when it is dropped.
pub struct Scheduler {
    child: Child,
    log: PathBuf,
    /// A user id of its own: by that the kernel can tell its connections from all others.
    uid: u32,
}

/// A scheduler cut off from one address; dropping this joins them again.
pub struct Cut(Vec<String>);

impl Scheduler {
    /// Starts one; does not wait until it beats.
    pub fn start(directory: &Path, uid: u32, database_url: &str, master_key: &str) -> Self {
        Self::start_with(directory, uid, database_url, master_key, &[])
    }

    /// The same with settings of the test's own.
    pub fn start_with(
        directory: &Path,
        uid: u32,
        database_url: &str,
        master_key: &str,
        settings: &[(&str, &str)],
    ) -> Self {
        // What a test process of the same number has left that was killed.
        let rule = ["rule", "del", "uidrange", &format!("{uid}-{uid}")];
        while Command::new("ip").args(rule).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) {}
        let log = directory.join(format!("scheduler-{uid}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("own directory");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--clear-groups"])
            .args([format!("--reuid={uid}"), format!("--regid={uid}")])
            .arg(env!("CARGO_BIN_EXE_orion-scheduler"))
            .env_clear()
            .env("ORION_DATABASE_URL", database_url)
            .env("ORION_MASTER_KEY", master_key)
            .env("ORION_METRICS_LISTEN", "127.0.0.1:0")
            .env("ORION_LOG", "info,russh=warn,sqlx=warn")
            .envs(settings.iter().copied())
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .expect("setpriv (Debian: util-linux) starts");
        Self { child, log, uid }
    }

    /// Returns the process id, which the scheduler's name holds, too.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGKILL: it is gone without a word.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.child.wait().expect("it ends");
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Stops it in place: it does nothing, and notices nothing, until [`Scheduler::go_on`].
    pub fn pause(&self) {
        self.signal("STOP");
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, signal: &str) {
        run(Command::new("/bin/kill").args(["-s", signal, &self.pid().to_string()]));
    }

    /// The nodes that it has sessions with: their addresses, each with this side's ports. There are two for a moment where
    /// two tasks dial at once.
    pub fn sessions(&self) -> HashMap<Ipv4Addr, BTreeSet<u16>> {
        let output = Command::new("ss").args(["-tnpH", "state", "established", "dport", "=", ":22"]).output();
        let listed = output.expect("ss (Debian: iproute2) runs").stdout;
        let mine = format!("pid={},", self.pid());
        let listed = String::from_utf8(listed).expect("text");
        let of_line = |line: &str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (local, remote) = (columns.get(2)?, columns.get(3)?);
            let port = local.rsplit_once(':')?.1.parse().ok()?;
            Some((remote.rsplit_once(':')?.0.parse().ok()?, port))
        };
        let mut sessions: HashMap<Ipv4Addr, BTreeSet<u16>> = HashMap::new();
        for (address, port) in listed.lines().filter(|line| line.contains(&mine)).filter_map(of_line) {
            sessions.entry(address).or_default().insert(port);
        }
        sessions
    }

    /// Cuts this scheduler, and no other process, off from these addresses: the kernel finds no way there.
    pub fn cut_off_from(&self, addresses: &[Ipv4Addr]) -> Cut {
        let rules = addresses
            .iter()
            .map(|address| format!("pref 100 to {address} uidrange {uid}-{uid} unreachable", uid = self.uid));
        let cut = Cut(rules.collect());
        for rule in &cut.0 {
            run(Command::new("ip").args(["rule", "add"]).args(rule.split(' ')));
        }
        cut
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        // Fails when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        for rule in &self.0 {
            run(Command::new("ip").args(["rule", "del"]).args(rule.split(' ')));
        }
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
