//! Logins as a tenant makes them: by OpenSSH's own client, with the host key pinned beforehand.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use openssh::{KnownHosts, SessionBuilder};
use tempfile::TempDir;
use tokio::process::Command;

use crate::host::require_program;

/// Shows ssh the password. Not a file that a test writes: whoever runs a program that was written a moment ago may
/// hear `Text file busy`, since a process that is just being started by another thread still has it open.
const ASKPASS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/askpass.sh");

/// A node's sshd and the one host key it must show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshAddress {
    /// Address and port on which sshd listens.
    pub socket: SocketAddr,
    /// `ssh-ed25519 AAAA…`, without a comment.
    pub host_key: String,
}

impl SshAddress {
    /// `host_key` is a public key line; a comment at its end is dropped.
    #[must_use]
    pub fn new(socket: SocketAddr, host_key: &str) -> Self {
        let words: Vec<&str> = host_key.split_whitespace().take(2).collect();
        Self { socket, host_key: words.join(" ") }
    }

    /// The line for a known_hosts file.
    #[must_use]
    pub fn known_hosts_line(&self) -> String {
        let ip = self.socket.ip();
        match self.socket.port() {
            22 => format!("{ip} {}\n", self.host_key),
            port => format!("[{ip}]:{port} {}\n", self.host_key),
        }
    }
}

/// Reason for the failure of a login or its command, with the client's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// The node answered and does not let this user in with this password or key.
    Refused(String),
    /// The node shows another host key than the pinned one.
    HostKeyChanged(String),
    /// No answer, or none in SSH within the time limit.
    Unreachable(String),
    /// The connection was made and then closed by the node: before the login, or during the command.
    Closed(String),
    /// Logged in; the command ended with another status than 0.
    Command {
        /// The exit status.
        status: i32,
        /// Standard output and standard error.
        output: String,
    },
    /// Any other failure, described by the text.
    Other(String),
}

impl LoginError {
    fn from_client(text: &str) -> Self {
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
        let text = || text.trim().to_owned();
        if says(&["HOST IDENTIFICATION HAS CHANGED", "Host key verification failed", "host key is known for"])
        {
            Self::HostKeyChanged(text())
        } else if says(&["Permission denied", "Too many authentication failures"]) {
            Self::Refused(text())
        } else if says(&["Connection refused", "No route to host", "timed out", "unreachable"]) {
            Self::Unreachable(text())
        } else if says(&[
            "closed by",
            "reset by",
            "Broken pipe",
            "Connection closed",
            "kex_exchange_identification",
        ]) {
            Self::Closed(text())
        } else {
            Self::Other(text())
        }
    }
}

enum Credential {
    Password(String),
    PrivateKey(PathBuf),
}

/// A user's way into one node.
pub struct SshClient {
    address: SshAddress,
    user: String,
    credential: Credential,
    connect_timeout: Duration,
    /// known_hosts, the password's file.
    directory: TempDir,
}

impl SshClient {
    /// Logs in with a password (and with nothing else).
    ///
    /// # Panics
    /// When Debian's openssh-client is missing.
    #[must_use]
    pub fn with_password(address: SshAddress, user: &str, password: &str) -> Self {
        Self::new(address, user, Credential::Password(password.to_owned()))
    }

    /// Logs in with the private key in this file, and the certificate `FILE-cert.pub` if there is one.
    ///
    /// # Panics
    /// When Debian's openssh-client is missing.
    #[must_use]
    pub fn with_private_key(address: SshAddress, user: &str, private_key: &Path) -> Self {
        Self::new(address, user, Credential::PrivateKey(private_key.to_owned()))
    }

    fn new(address: SshAddress, user: &str, credential: Credential) -> Self {
        require_program("ssh", "openssh-client");
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("known_hosts"), address.known_hosts_line()).expect("own directory");
        if let Credential::Password(password) = &credential {
            fs::write(directory.path().join("password"), format!("{password}\n")).expect("own directory");
        }
        Self {
            address,
            user: user.to_owned(),
            credential,
            connect_timeout: Duration::from_secs(10),
            directory,
        }
    }

    /// The limit for connecting and logging in together; 10 s otherwise. Whole seconds, at least one.
    #[must_use]
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Logs in, runs `command` in the user's shell, logs out; the command's standard output.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub async fn run(&self, command: &str) -> Result<String, LoginError> {
        match &self.credential {
            Credential::Password(_) => self.run_with_password(command).await,
            Credential::PrivateKey(_) => {
                let session = self.session().await?;
                let output = session.raw_command(command).output().await;
                let closed = session.close().await;
                let output = output.map_err(|error| LoginError::from_client(&describe(&error)))?;
                closed.map_err(|error| LoginError::from_client(&describe(&error)))?;
                answer(output.status.code(), &output.stdout, &output.stderr)
            }
        }
    }

    /// A session that stays open (ControlMaster), for several commands; only with a private key.
    ///
    /// # Errors
    /// See [`LoginError`].
    ///
    /// # Panics
    /// For a client with a password.
    pub async fn session(&self) -> Result<openssh::Session, LoginError> {
        let Credential::PrivateKey(private_key) = &self.credential else {
            panic!("a kept session needs a private key");
        };
        let mut builder = SessionBuilder::default();
        builder
            .user(self.user.clone())
            .port(self.address.socket.port())
            .keyfile(private_key)
            .known_hosts_check(KnownHosts::Strict)
            .user_known_hosts_file(self.directory.path().join("known_hosts"))
            .connect_timeout(self.connect_timeout)
            .control_directory(self.directory.path())
            .config_file("/dev/null");
        let connecting = builder.connect(self.address.socket.ip().to_string());
        // ssh's own limit ends with the banner; a node that hangs later is cut here
        match tokio::time::timeout(self.connect_timeout + Duration::from_secs(1), connecting).await {
            Ok(session) => session.map_err(|error| LoginError::from_client(&describe(&error))),
            Err(_) => Err(LoginError::Unreachable(format!("no login within {:?}", self.connect_timeout))),
        }
    }

    async fn run_with_password(&self, remote_command: &str) -> Result<String, LoginError> {
        let directory = self.directory.path();
        let mut command = Command::new("setsid");
        command
            .args(["--wait", "ssh", "-F", "/dev/null", "-T"])
            .args(["-o", "PreferredAuthentications=password", "-o", "PubkeyAuthentication=no"])
            .args(["-o", "NumberOfPasswordPrompts=1", "-o", "StrictHostKeyChecking=yes"])
            .args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "UpdateHostKeys=no"])
            .args(["-o", "KexAlgorithms=^curve25519-sha256"])
            .arg("-o")
            .arg(format!("UserKnownHostsFile={}", directory.join("known_hosts").display()))
            .arg("-o")
            .arg(format!("ConnectTimeout={}", self.connect_timeout.as_secs().max(1)))
            .args(["-l", &self.user, "-p", &self.address.socket.port().to_string()])
            .args([&self.address.socket.ip().to_string(), "--", remote_command])
            .env("SSH_ASKPASS", ASKPASS)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .env("ORION_TEST_PASSWORD_FILE", directory.join("password"))
            .env_remove("SSH_AUTH_SOCK")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = command.output().await.map_err(|error| LoginError::Other(error.to_string()))?;
        answer(output.status.code(), &output.stdout, &output.stderr)
    }
}

/// ssh ends with 255 for its own failures, otherwise with the command's status.
fn answer(status: Option<i32>, stdout: &[u8], stderr: &[u8]) -> Result<String, LoginError> {
    let [stdout, stderr] = [stdout, stderr].map(String::from_utf8_lossy);
    match status {
        Some(0) => Ok(stdout.into_owned()),
        Some(255) | None => Err(LoginError::from_client(&stderr)),
        Some(status) => Err(LoginError::Command { status, output: format!("{stdout}{stderr}") }),
    }
}

/// An error with its sources, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |source| source.source());
    sources.fold(error.to_string(), |text, source| format!("{text}: {source}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_prints_becomes_the_matching_error() {
        let of = |text: &str| LoginError::from_client(text);
        assert!(matches!(of("alice@10.0.0.1: Permission denied (password)."), LoginError::Refused(_)));
        assert!(matches!(
            of("ssh: connect to host a port 22: Connection refused"),
            LoginError::Unreachable(_)
        ));
        assert!(matches!(of("Connection timed out during banner exchange"), LoginError::Unreachable(_)));
        assert!(matches!(of("Connection closed by 10.0.0.1 port 22"), LoginError::Closed(_)));
        assert!(matches!(
            of("No ED25519 host key is known for a and you have requested strict checking."),
            LoginError::HostKeyChanged(_)
        ));
        assert!(matches!(of("what?"), LoginError::Other(_)));
    }

    #[test]
    fn a_port_other_than_22_is_part_of_the_known_hosts_name() {
        let key = "ssh-ed25519 AAAA root@worker";
        let line = |socket: &str| SshAddress::new(socket.parse().unwrap(), key).known_hosts_line();
        assert_eq!(line("10.0.0.1:22"), "10.0.0.1 ssh-ed25519 AAAA\n");
        assert_eq!(line("10.0.0.1:2222"), "[10.0.0.1]:2222 ssh-ed25519 AAAA\n");
    }
}
