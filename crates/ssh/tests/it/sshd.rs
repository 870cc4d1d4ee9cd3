//! A real sshd on 127.0.0.1 with a configuration, a host key and a trusted CA of its own.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orion_ssh::{ControlCa, ExecRequest, HostKey, Pool, PoolConfig, Target};
use tempfile::TempDir;

const SSHD: &str = "/usr/sbin/sshd";

pub struct Sshd {
    child: Child,
    dir: TempDir,
    pub port: u16,
    pub host_key: HostKey,
    pub ca: Arc<ControlCa>,
}

impl Sshd {
    /// Starts an sshd with an ed25519 host key and these additional lines in its configuration.
    pub fn start(more: &str) -> Self {
        Self::start_with_host_key("ed25519", more)
    }

    pub fn start_with_host_key(key_type: &str, more: &str) -> Self {
        assert!(Path::new(SSHD).exists(), "{SSHD} is missing: apt-get install openssh-server");
        // The directory that Debian's sshd wants for privilege separation.
        fs::create_dir_all("/run/sshd").expect("these tests must run as root");
        let dir = tempfile::tempdir().unwrap();
        let host_key_path = dir.path().join("host_key");
        let keygen = Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", key_type, "-f"])
            .arg(&host_key_path)
            .status()
            .expect("ssh-keygen is missing: apt-get install openssh-client");
        assert!(keygen.success());
        let host_key = fs::read_to_string(dir.path().join("host_key.pub")).unwrap().parse().unwrap();
        let ca = Arc::new(ControlCa::generate());
        let ca_path = dir.path().join("ca.pub");
        fs::write(&ca_path, ca.public_line() + "\n").unwrap();
        fs::set_permissions(&ca_path, fs::Permissions::from_mode(0o644)).unwrap();
        // The port may be taken between the probe and sshd's bind: then another one.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let config = format!(
                "{more}\nListenAddress 127.0.0.1:{port}\nHostKey {}\nTrustedUserCAKeys {}\nPidFile none\n\
                 UsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
                 KbdInteractiveAuthentication no\nAuthorizedKeysFile none\nStrictModes no\nLogLevel VERBOSE\n\
                 SetEnv HOME={}\n",
                host_key_path.display(),
                ca_path.display(),
                // bash reads ~/.bashrc for commands under sshd: not this machine's.
                dir.path().display(),
            );
            fs::write(dir.path().join("config"), config).unwrap();
            let log = fs::File::create(dir.path().join("log")).unwrap();
            let mut child = Command::new(SSHD)
                .args(["-D", "-e", "-f"])
                .arg(dir.path().join("config"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap();
            if listens(&mut child, dir.path()) {
                return Self { child, dir, port, host_key, ca };
            }
        }
        panic!("sshd does not start:\n{}", fs::read_to_string(dir.path().join("log")).unwrap());
    }

    pub fn target(&self) -> Target {
        self.target_through(self.port)
    }

    /// Returns this sshd as the target of node 1, through a proxy at `port`.
    pub fn target_through(&self, port: u16) -> Target {
        Target { node_id: 1, host: "127.0.0.1".into(), port, host_keys: vec![self.host_key.clone()] }
    }

    pub fn pool(&self) -> Pool {
        self.pool_with(PoolConfig::default())
    }

    pub fn pool_with(&self, config: PoolConfig) -> Pool {
        Pool::new(config, Arc::clone(&self.ca))
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The processes that sshd made for its connections (root's sessions have one each).
    pub fn sessions(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
    }

    pub fn signal(pid: u32, signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &pid.to_string()]).status().unwrap();
        assert!(status.success(), "kill -s {signal} {pid}");
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        for pid in self.sessions() {
            // It may have ended by itself.
            let _ =
                Command::new("kill").args(["-s", "KILL", &pid.to_string()]).stderr(Stdio::null()).status();
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listens(child: &mut Child, dir: &Path) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if fs::read_to_string(dir.join("log")).unwrap().contains("Server listening") {
            return true;
        }
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// A command with a limit.
pub fn command(text: impl Into<String>, timeout: Duration) -> ExecRequest {
    let mut request = ExecRequest::new(text);
    request.timeout = timeout;
    request
}

/// Waits until `state` holds; panics with `what` after `limit`.
pub async fn until(what: &str, limit: Duration, mut state: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !state() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Processes of this machine whose command line contains `marker`.
pub fn processes_with(marker: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if line.contains(marker) {
            found.push(line);
        }
    }
    found
}
