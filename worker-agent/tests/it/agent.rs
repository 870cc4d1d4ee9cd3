//! Starts the agent with everything it touches in a directory of its own.

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// The agent under test: the one just built, or (to try a release build) the one that `ORION_AGENT` names.
pub fn binary() -> String {
    std::env::var("ORION_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_orion-agent").into())
}

const PATIENCE: Duration = Duration::from_secs(40);

/// Waits until `found` gives something.
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn run(program: &str, args: &[&str]) -> String {
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The directories of one agent, with sshd's configuration and host key.
pub struct Home {
    pub root: tempfile::TempDir,
    pub sshd_port: u16,
}

impl Home {
    pub fn new() -> Self {
        assert_eq!(fs::metadata("/proc/self").unwrap().uid(), 0, "these tests need root");
        let root = tempfile::tempdir().unwrap();
        let home = Self { root, sshd_port: free_port() };
        let ssh = home.path("ssh");
        fs::create_dir_all(&ssh).unwrap();
        fs::create_dir_all(home.path("node/leases")).unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let key = ssh.join("ssh_host_ed25519_key");
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", "root@test", "-f", key.to_str().unwrap()]);
        let config = format!(
            "Include {ssh}/sshd_config.d/*.conf\nPort {port}\nListenAddress 127.0.0.1\nHostKey {key}\nPidFile {pid}\n\
             UsePAM no\nPasswordAuthentication no\nStrictModes no\n",
            ssh = ssh.display(),
            port = home.sshd_port,
            key = key.display(),
            pid = home.path("sshd.pid").display(),
        );
        fs::write(ssh.join("sshd_config"), config).unwrap();
        home
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A real sshd with this configuration.
    pub fn start_sshd(&self) -> Sshd {
        let config = self.path("ssh/sshd_config");
        let child = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", config.to_str().unwrap()])
            .stdin(Stdio::null())
            .stderr(File::create(self.path("sshd.log")).unwrap())
            .spawn()
            .unwrap();
        wait_for("sshd is up", || fs::read_to_string(self.path("sshd.pid")).ok());
        Sshd(child)
    }

    pub fn command(&self, api: &str) -> Command {
        let mut command = Command::new(binary());
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("RUST_LOG", "debug");
        command.args([
            "--api",
            api,
            "--hostname",
            "worker-1",
            "--refused-retry-s",
            "1",
            "--tags",
            "gpu,rack-3",
        ]);
        command.args(["--ssh-port", &self.sshd_port.to_string()]);
        for (flag, name) in [
            ("--state-dir", "agent"),
            ("--node-dir", "node"),
            ("--run-dir", "run"),
            ("--sshd-config-dir", "ssh"),
            ("--sshd-pid-file", "sshd.pid"),
        ] {
            command.arg(flag).arg(self.path(name));
        }
        command
    }

    pub fn start(&self, api: &str, join_token: &str) -> Agent {
        self.spawn(self.command(api).env("ORION_JOIN_TOKEN", join_token))
    }

    pub fn spawn(&self, command: &mut Command) -> Agent {
        let log = self.path("agent.log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stderr(file).spawn().unwrap();
        Agent::with_log(child, log)
    }

    pub fn identity(&self) -> serde_json::Value {
        let path = self.path("agent/node.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    }

    /// Writes a lease file as a playbook does.
    pub fn write_lease(&self, lease: &Lease) {
        lease.write(&self.path("node/leases"));
    }

    pub fn read_lease(&self, uid: u32) -> String {
        fs::read_to_string(self.path("node/leases").join(uid.to_string())).unwrap()
    }
}

pub struct Sshd(Child);

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Content of a lease file; seconds count from now.
#[derive(Clone)]
pub struct Lease {
    pub user: &'static str,
    pub uid: u32,
    pub boot_id: String,
    pub boot_in_s: i64,
    pub unix_in_s: i64,
    pub remaining_s: u64,
}

impl Lease {
    /// One that ends in `in_s` seconds by every clock.
    pub fn ending(user: &'static str, uid: u32, in_s: i64) -> Self {
        let remaining_s = u64::try_from(in_s).unwrap_or(0);
        Self { user, uid, boot_id: boot_id(), boot_in_s: in_s, unix_in_s: in_s, remaining_s }
    }

    pub fn text(&self) -> String {
        format!(
            "user={}\nuid={}\nlease=42\nboot_id={}\ndeadline_boot_s={}\ndeadline_unix_s={}\nremaining_s={}\n",
            self.user,
            self.uid,
            self.boot_id,
            boot_now() + self.boot_in_s,
            unix_now() + self.unix_in_s,
            self.remaining_s,
        )
    }

    pub fn write(&self, leases: &Path) {
        fs::create_dir_all(leases).unwrap();
        let beside = leases.parent().unwrap().join(format!("tmp-{}", self.uid));
        File::create(&beside).unwrap().write_all(self.text().as_bytes()).unwrap();
        fs::rename(beside, leases.join(self.uid.to_string())).unwrap();
    }
}

pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned()
}

pub fn boot_now() -> i64 {
    fs::read_to_string("/proc/uptime").unwrap().split('.').next().unwrap().parse().unwrap()
}

pub fn unix_now() -> i64 {
    run("date", &["+%s"]).trim().parse().unwrap()
}

/// The number after `key=` in a lease file.
pub fn number(text: &str, key: &str) -> i64 {
    let found = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {key} in {text}")).parse().unwrap()
}

/// A running agent; killed when dropped.
pub struct Agent {
    pub child: Child,
    log: PathBuf,
}

impl Agent {
    pub fn with_log(child: Child, log: PathBuf) -> Self {
        Self { child, log }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log has `text`, `times` times.
    pub fn logs(&self, text: &str, times: usize) {
        let until = Instant::now() + PATIENCE;
        while self.log().matches(text).count() < times {
            assert!(Instant::now() < until, "the log never says '{text}' {times} times:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Resident memory, in KiB.
    pub fn resident_kb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Asks it to end.
    pub fn terminate(&mut self) -> ExitStatus {
        run("kill", &["-TERM", &self.child.id().to_string()]);
        wait_for("the agent ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
