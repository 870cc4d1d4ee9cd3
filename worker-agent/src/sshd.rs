//! This node's sshd: gives it the control plane's certificate authority, and asks whether it answers.
//!
//! A change is tested by sshd itself (`sshd -t`) before sshd is told of it, and undone when refused: a node
//! whose sshd does not start again is lost.

use crate::{process, state::write_whole};
use orion_domain::credentials::SshPublicKey;
use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

/// Longest wait for the banner.
const BANNER_MAX: Duration = Duration::from_secs(1);
const TOOL_MAX: Duration = Duration::from_secs(20);

/// Where this node's sshd keeps its things.
#[derive(Clone, Debug)]
pub struct Sshd {
    config_dir: PathBuf,
    pid_file: PathBuf,
    /// Holds the snippet that sshd was told to read: a crash between writing and telling is made good.
    told_file: PathBuf,
}

/// What sshd makes of its configuration (`sshd -T` for root).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effective {
    trusted_ca: String,
    permit_root_login: String,
    pubkey_authentication: String,
    principals_file: String,
    /// Addresses under which it is reached from this machine.
    pub listens: Vec<SocketAddr>,
}

impl Sshd {
    /// By its directories; `told_file` is the agent's.
    pub fn new(config_dir: &Path, pid_file: &Path, told_file: PathBuf) -> Self {
        Self { config_dir: config_dir.to_owned(), pid_file: pid_file.to_owned(), told_file }
    }

    fn ca_file(&self) -> PathBuf {
        self.config_dir.join("orion/user_ca.pub")
    }

    fn snippet_file(&self) -> PathBuf {
        self.config_dir.join("sshd_config.d/00-orion.conf")
    }

    /// Makes sshd trust `authority` (public keys) for logins with a certificate; does nothing where that is so
    /// already. True if something had to be done. Blocks.
    ///
    /// # Errors
    /// What is in the way; nothing has changed then.
    pub fn trust(&self, authority: &[String]) -> Result<bool, String> {
        let ca_text = authority_file(authority)?;
        let snippet = self.snippet();
        let written = is(&self.ca_file(), &ca_text) && is(&self.snippet_file(), &snippet);
        let told = self.has_been_told();
        if written && told {
            return Ok(false);
        }
        if !written {
            let before =
                [self.ca_file(), self.snippet_file()].map(|path| (fs::read_to_string(&path).ok(), path));
            let outcome = self.write(&ca_text, &snippet).and_then(|()| self.test());
            if let Err(problem) = outcome {
                for (text, path) in before {
                    put_back(&path, text.as_deref());
                }
                return Err(match self.test() {
                    Ok(()) => format!("the control plane's authority was not installed: {problem}"),
                    Err(own) => format!("sshd's own configuration must be repaired first: {own}"),
                });
            }
        }
        // The file of authorities is read with each login; only that it is to be read must be told.
        if !told {
            if !self.reload()? {
                // It may have read its configuration already and only not have said yet that it runs: it is
                // told as soon as it does.
                return Ok(!written);
            }
            write_whole(&self.told_file, &self.told_file.with_extension("new"), &snippet, 0o600)
                .map_err(|error| format!("{} cannot be written: {error}", self.told_file.display()))?;
        }
        Ok(true)
    }

    fn snippet(&self) -> String {
        format!(
            "# Written by orion-agent. The control plane logs in with short-lived certificates of this authority.\n\
             TrustedUserCAKeys {}\n",
            self.ca_file().display()
        )
    }

    /// Whether a running sshd has been told to read what was written.
    pub fn has_been_told(&self) -> bool {
        is(&self.told_file, &self.snippet())
    }

    fn write(&self, ca_text: &str, snippet: &str) -> Result<(), String> {
        for (path, text) in [(self.ca_file(), ca_text), (self.snippet_file(), snippet)] {
            let failed = |error: io::Error| format!("{} cannot be written: {error}", path.display());
            if let Some(dir) = path.parent() {
                fs::create_dir_all(dir).map_err(failed)?;
            }
            // The name beside does not end in .conf: sshd must not read it.
            write_whole(&path, &path.with_extension("new"), text, 0o644).map_err(failed)?;
        }
        Ok(())
    }

    fn call(&self, args: &[&str]) -> Result<process::Finished, String> {
        let program = ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"]
            .into_iter()
            .find(|path| Path::new(path).exists())
            .ok_or("there is no sshd on this machine; install openssh-server")?;
        let config = self.config_dir.join("sshd_config");
        let config = config.to_string_lossy();
        let all = [args, &["-f", &config]].concat();
        process::run(program, &all, TOOL_MAX).map_err(|error| error.to_string())
    }

    /// Lets sshd judge its configuration.
    fn test(&self) -> Result<(), String> {
        let done = self.call(&["-t"])?;
        if done.status.success() { Ok(()) } else { Err(format!("sshd -t: {}", done.complaint())) }
    }

    /// What sshd makes of its configuration. Blocks.
    ///
    /// # Errors
    /// What sshd says against it.
    pub fn effective(&self) -> Result<Effective, String> {
        let done = self.call(&["-T", "-C", "user=root,host=control-plane,addr=192.0.2.1"])?;
        if !done.status.success() {
            return Err(format!("sshd -T: {}", done.complaint()));
        }
        Ok(Effective::parse(&done.stdout))
    }

    /// What keeps the control plane from logging in although the authority is installed, with a remedy each.
    pub fn obstacles(&self, effective: &Effective) -> Vec<String> {
        let mut found = Vec::new();
        let main = self.config_dir.join("sshd_config");
        let ours = self.ca_file();
        if Path::new(&effective.trusted_ca) != ours {
            let snippets = self.config_dir.join("sshd_config.d/*.conf");
            found.push(match effective.trusted_ca.as_str() {
                "" | "none" => format!(
                    "{} does not take in sshd_config.d: put `Include {}` at its top and reload sshd",
                    main.display(),
                    snippets.display()
                ),
                other => format!(
                    "sshd trusts the authorities in {other} instead: add the line of {} to that file, or remove that TrustedUserCAKeys",
                    ours.display()
                ),
            });
        }
        if effective.permit_root_login == "no" {
            found.push(
                "PermitRootLogin is no: set it to prohibit-password, which allows keys and certificates"
                    .into(),
            );
        }
        if effective.pubkey_authentication == "no" {
            found.push("PubkeyAuthentication is no: certificates need it".into());
        }
        if !["", "none"].contains(&effective.principals_file.as_str()) {
            found.push(format!(
                "AuthorizedPrincipalsFile is {}: root's needs a line `root`",
                effective.principals_file
            ));
        }
        found
    }

    /// Tells the running sshd to read its configuration anew. False if none runs.
    fn reload(&self) -> Result<bool, String> {
        let running =
            fs::read_to_string(&self.pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok());
        let name = |pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if let Some(pid) = running.filter(|pid| name(*pid).starts_with("sshd")) {
            return process::hang_up(pid)
                .map(|()| true)
                .map_err(|error| format!("sshd ({pid}) cannot be told to reload: {error}"));
        }
        if Path::new("/run/systemd/system").exists() {
            let mut last = String::new();
            for unit in ["ssh", "sshd"] {
                match process::run("systemctl", &["reload-or-try-restart", unit], TOOL_MAX) {
                    Ok(done) if done.status.success() => return Ok(true),
                    Ok(done) => last = done.complaint(),
                    Err(error) => last = error.to_string(),
                }
            }
            return Err(format!("sshd cannot be told to reload: {last}"));
        }
        tracing::debug!("no sshd runs yet; it is told when it does");
        Ok(false)
    }
}

fn is(path: &Path, text: &str) -> bool {
    fs::read_to_string(path).is_ok_and(|found| found == text)
}

impl Effective {
    fn parse(text: &str) -> Self {
        let mut effective = Self::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "trustedusercakeys" => effective.trusted_ca = value.into(),
                "permitrootlogin" => effective.permit_root_login = value.into(),
                "pubkeyauthentication" => effective.pubkey_authentication = value.into(),
                "authorizedprincipalsfile" => effective.principals_file = value.into(),
                "listenaddress" => {
                    if let Ok(address) = value.split(' ').next().unwrap_or_default().parse() {
                        effective.listens.push(from_here(address));
                    }
                }
                _ => {}
            }
        }
        effective
    }
}

/// Where a socket that listens at `address` is reached from this machine.
fn from_here(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn authority_file(authority: &[String]) -> Result<String, String> {
    let mut text = String::new();
    for line in authority.iter().map(|line| line.trim()).filter(|line| !line.is_empty()) {
        let key: SshPublicKey = line
            .parse()
            .map_err(|problem| format!("the control plane's authority is no public key: {problem}"))?;
        text += key.as_str();
        text.push('\n');
    }
    if text.is_empty() { Err("the control plane named no authority".into()) } else { Ok(text) }
}

fn put_back(path: &Path, text: Option<&str>) {
    let undone = match text {
        Some(text) => write_whole(path, &path.with_extension("new"), text, 0o644),
        None => fs::remove_file(path),
    };
    if let Err(error) = undone
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::error!("{} could not be put back as it was: {error}", path.display());
    }
}

/// Whether an sshd answers at one of `addresses` within a second. One that sends callers away because too
/// many are waiting is alive.
pub async fn answers(addresses: &[SocketAddr]) -> bool {
    let ask = async {
        for address in addresses {
            if banner(*address).await.is_ok_and(|banner| is_alive(&banner)) {
                return true;
            }
        }
        false
    };
    timeout(BANNER_MAX, ask).await.unwrap_or(false)
}

async fn banner(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    let mut start = Vec::with_capacity(64);
    while start.len() < 4 && stream.read_buf(&mut start).await? > 0 {}
    Ok(start)
}

fn is_alive(banner: &[u8]) -> bool {
    [&b"SSH-"[..], b"Not allowed at this time", b"Exceeded MaxStartups"]
        .iter()
        .any(|start| banner.starts_with(start) || (banner.len() >= 4 && start.starts_with(banner)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    struct Dir {
        root: tempfile::TempDir,
        sshd: Sshd,
    }

    /// A private configuration with a host key, for `sshd -t -f`.
    fn dir(config: &str) -> Dir {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all("/run/sshd").unwrap();
        let key = path("ssh_host_ed25519_key");
        let args = ["-q", "-t", "ed25519", "-N", "", "-f", key.to_str().unwrap()];
        assert!(process::run("ssh-keygen", &args, TOOL_MAX).unwrap().status.success());
        let text = config.replace("DIR", root.path().to_str().unwrap());
        fs::write(path("sshd_config"), format!("{text}HostKey {}\n", key.display())).unwrap();
        let sshd = Sshd::new(root.path(), &path("sshd.pid"), path("told"));
        Dir { root, sshd }
    }

    const INCLUDES: &str =
        "Include DIR/sshd_config.d/*.conf\nPort 2299\nListenAddress 0.0.0.0\nListenAddress ::\n";

    #[test]
    fn the_authority_is_installed_once_and_is_in_effect() {
        let dir = dir(INCLUDES);
        assert!(dir.sshd.trust(&[format!("{CA} control")]).unwrap());
        assert!(!dir.sshd.trust(&[CA.into()]).unwrap());
        assert_eq!(fs::read_to_string(dir.sshd.ca_file()).unwrap(), format!("{CA}\n"));
        let effective = dir.sshd.effective().unwrap();
        assert_eq!(dir.sshd.obstacles(&effective), [] as [String; 0]);
        let mut listens = effective.listens;
        listens.sort();
        assert_eq!(listens, ["127.0.0.1:2299".parse().unwrap(), "[::1]:2299".parse().unwrap()]);
    }

    #[test]
    fn a_configuration_that_sshd_refuses_is_rolled_back() {
        // What follows the snippet is fine only as long as no authority is named before it.
        let dir = dir(INCLUDES);
        assert!(dir.sshd.trust(&[CA.into()]).unwrap());
        let before = fs::read_to_string(dir.sshd.snippet_file()).unwrap();
        let broken = dir.root.path().join("sshd_config.d/50-other.conf");
        fs::write(&broken, "NoSuchKeyword yes\n").unwrap();
        let other = CA.replace("JdD7", "JdD8");
        let problem = dir.sshd.trust(std::slice::from_ref(&other)).unwrap_err();
        assert!(problem.contains("repaired first") && problem.contains("NoSuchKeyword"), "{problem}");
        assert_eq!(fs::read_to_string(dir.sshd.ca_file()).unwrap(), format!("{CA}\n"));
        assert_eq!(fs::read_to_string(dir.sshd.snippet_file()).unwrap(), before);
        fs::remove_file(broken).unwrap();
        assert!(dir.sshd.trust(&[other]).unwrap());
    }

    #[test]
    fn a_first_installation_that_sshd_refuses_leaves_nothing() {
        let dir = dir("Include DIR/sshd_config.d/*.conf\nNoSuchKeyword yes\n");
        assert!(dir.sshd.trust(&[CA.into()]).is_err());
        assert!(
            !dir.sshd.ca_file().exists() && !dir.sshd.snippet_file().exists() && !dir.sshd.told_file.exists()
        );
    }

    #[test]
    fn an_authority_that_could_say_more_than_a_key_is_refused() {
        let dir = dir(INCLUDES);
        for wrong in ["", "hello", &format!("cert-authority {CA}"), &format!("{CA}\n{CA}")] {
            assert!(dir.sshd.trust(&[wrong.to_string()]).is_err(), "{wrong:?}");
        }
        assert!(!dir.sshd.ca_file().exists());
    }

    #[test]
    fn a_main_file_that_includes_nothing_is_said_with_a_remedy() {
        let dir = dir("PermitRootLogin no\n");
        assert!(dir.sshd.trust(&[CA.into()]).unwrap());
        let obstacles = dir.sshd.obstacles(&dir.sshd.effective().unwrap());
        assert_eq!(obstacles.len(), 2, "{obstacles:?}");
        assert!(obstacles[0].contains("put `Include") && obstacles[1].contains("prohibit-password"));
    }

    #[test]
    fn another_authority_before_ours_is_said() {
        let dir = dir("TrustedUserCAKeys /etc/other.pub\nInclude DIR/sshd_config.d/*.conf\n");
        assert!(dir.sshd.trust(&[CA.into()]).unwrap());
        let obstacles = dir.sshd.obstacles(&dir.sshd.effective().unwrap());
        assert!(obstacles.len() == 1 && obstacles[0].contains("/etc/other.pub"), "{obstacles:?}");
    }

    #[test]
    fn a_throttling_sshd_is_alive_and_another_service_is_not() {
        assert!(
            is_alive(b"SSH-2.0-OpenSSH_9.2p1")
                && is_alive(b"Not allowed at this time\r\n")
                && is_alive(b"SSH-")
        );
        assert!(!is_alive(b"") && !is_alive(b"220 smtp") && !is_alive(b"S"));
    }
}
