//! This node's sshd: gives it the control plane's certificate authority, and takes it away again.
//!
//! A change is tested by sshd itself (`sshd -t`) before sshd is told of it, and undone when refused: a node
//! whose sshd does not start again is lost.

mod effective;
mod site;

pub use effective::Effective;

use crate::{process, state::write_whole};
use orion_domain::{credentials::SshPublicKey, ssh_algorithms::no_usable_host_key};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

const TOOL_MAX: Duration = Duration::from_secs(20);

/// Paths of this node's sshd.
#[derive(Clone, Debug)]
pub struct Sshd {
    config_dir: PathBuf,
    pid_file: PathBuf,
    /// Holds the snippet that sshd was told to read: a crash between writing and telling is made good.
    told_file: PathBuf,
    /// The system that sshd belongs to: `/`, or the directory of an image.
    root: PathBuf,
}

impl Sshd {
    /// Takes the paths of this machine's sshd; `told_file` is the agent's.
    pub fn new(config_dir: &Path, pid_file: &Path, told_file: PathBuf) -> Self {
        let (config_dir, pid_file) = (config_dir.to_owned(), pid_file.to_owned());
        Self { config_dir, pid_file, told_file, root: "/".into() }
    }

    /// The sshd of the system that lies in the directory `root`, at the usual places. If that is not `/`,
    /// nothing of it runs, and nobody is told of a change.
    pub fn of_system(root: &Path, told_file: PathBuf) -> Self {
        let pid_file = root.join("run/sshd.pid");
        Self { config_dir: root.join("etc/ssh"), pid_file, told_file, root: root.to_owned() }
    }

    /// The file with the control plane's authority.
    pub fn ca_file(&self) -> PathBuf {
        self.config_dir.join("orion/user_ca.pub")
    }

    /// The file that tells sshd of it.
    pub fn snippet_file(&self) -> PathBuf {
        self.config_dir.join("sshd_config.d/00-orion.conf")
    }

    /// Whether it belongs to an image and not to this machine.
    fn is_image(&self) -> bool {
        self.root != Path::new("/")
    }

    /// A path as sshd itself sees it.
    fn inside(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.to_owned(), |rest| Path::new("/").join(rest))
    }

    /// Makes sshd trust `authority` (public keys) for logins with a certificate; does nothing where that is so
    /// already. True if something had to be done. Blocks.
    ///
    /// # Errors
    /// What is in the way; nothing has changed then.
    pub fn trust(&self, authority: &[String]) -> Result<bool, String> {
        let written = self.install(authority)?;
        if self.is_image() || self.has_been_told() {
            return Ok(written);
        }
        // The file of authorities is read with each login; only that it is to be read must be told.
        if !self.reload()? {
            // It may have read its configuration already and only not have said yet that it runs: it is
            // told as soon as it does.
            return Ok(written);
        }
        write_whole(&self.told_file, &self.told_file.with_extension("new"), &self.snippet(), 0o600)
            .map_err(|error| format!("{} cannot be written: {error}", self.told_file.display()))?;
        Ok(true)
    }

    /// Whether `authority` is public keys and nothing else.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_authority(authority: &[String]) -> Result<(), String> {
        authority_file(authority).map(drop)
    }

    /// Puts the files in place, if sshd takes them. True if they were not there.
    fn install(&self, authority: &[String]) -> Result<bool, String> {
        let ca_text = authority_file(authority)?;
        let snippet = self.snippet();
        if is(&self.ca_file(), &ca_text) && is(&self.snippet_file(), &snippet) {
            return Ok(false);
        }
        let before = self.files();
        let outcome = self.write(&ca_text, &snippet).and_then(|()| self.test());
        if let Err(problem) = outcome {
            put_all_back(&before);
            return Err(match self.test() {
                Ok(()) => format!("the control plane's authority was not installed: {problem}"),
                Err(own) => format!("sshd's own configuration must be repaired first: {own}"),
            });
        }
        Ok(true)
    }

    /// The opposite of [`Self::trust`]: removes the files, after sshd has taken its configuration without
    /// them, and tells it. True if there was anything. Blocks.
    ///
    /// # Errors
    /// What is in the way; the files are there as before, if they could be put back.
    pub fn distrust(&self) -> Result<bool, String> {
        let before = self.files();
        if before.iter().all(|(_, text)| text.is_none()) {
            return Ok(false);
        }
        // A configuration that was broken before is not the fault of what is removed.
        let was_well = self.test().is_ok();
        for (path, _) in &before {
            remove_if_there(path)
                .map_err(|error| format!("{} cannot be removed: {error}", path.display()))?;
        }
        if let (true, Err(problem)) = (was_well, self.test()) {
            put_all_back(&before);
            return Err(format!(
                "sshd does not take its configuration without {}: {problem}",
                self.snippet_file().display()
            ));
        }
        if !self.is_image() {
            self.reload()?;
        }
        Ok(true)
    }

    fn files(&self) -> [(PathBuf, Option<String>); 3] {
        [self.ca_file(), self.snippet_file(), self.lease_rule_file()].map(|path| {
            let text = fs::read_to_string(&path).ok();
            (path, text)
        })
    }

    fn snippet(&self) -> String {
        format!(
            "# Written by orion-agent. The control plane logs in with short-lived certificates of this authority.\n\
             TrustedUserCAKeys {}\n",
            self.inside(&self.ca_file()).display()
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

    /// The server itself, as seen inside its system.
    ///
    /// # Errors
    /// There is none.
    pub fn program(&self) -> Result<&'static str, String> {
        ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd", "/usr/bin/sshd"]
            .into_iter()
            .find(|path| self.root.join(path.trim_start_matches('/')).exists())
            .ok_or_else(|| {
                let place = if self.is_image() {
                    format!("in {}", self.root.display())
                } else {
                    "on this machine".into()
                };
                format!("there is no sshd {place}; install openssh-server")
            })
    }

    fn call(&self, args: &[&str]) -> Result<process::Finished, String> {
        let program = self.program()?;
        let config = self.inside(&self.config_dir.join("sshd_config"));
        let config = config.to_string_lossy();
        let all = [args, &["-f", &config]].concat();
        let done = if self.is_image() {
            let root = self.root.to_string_lossy();
            process::run("chroot", &[&[&*root, program], &all[..]].concat(), TOOL_MAX)
        } else {
            process::run(program, &all, TOOL_MAX)
        };
        done.map_err(|error| error.to_string())
    }

    /// Checks sshd's configuration with `sshd -t`. What belongs to a running sshd, and not to its
    /// configuration, is lent to it for as long as that takes.
    ///
    /// # Errors
    /// What it says.
    pub fn test(&self) -> Result<(), String> {
        let mut lent = Vec::new();
        let mut lent_key = None;
        loop {
            let mut args = vec!["-t"];
            args.extend(lent_key.iter().flat_map(|key: &String| ["-h", key]));
            let done = self.call(&args)?;
            if done.status.success() {
                return Ok(());
            }
            // sshd's service makes this directory; it may not have been started yet.
            let run_dir = self.root.join("run/sshd");
            if done.stderr.contains("privilege separation directory")
                && fs::DirBuilder::new().mode(0o755).create(&run_dir).is_ok()
            {
                lent.push(Removed(run_dir));
                continue;
            }
            // An image has no host keys, or all machines made of it would have the same.
            if done.stderr.contains("no hostkeys available") && self.is_image() && lent_key.is_none() {
                let key = self.config_dir.join("orion-test-key");
                lent.extend([Removed(key.clone()), Removed(key.with_extension("pub"))]);
                make_key(&key)?;
                lent_key = Some(self.inside(&key).to_string_lossy().into_owned());
                continue;
            }
            return Err(format!("sshd -t: {}", done.complaint()));
        }
    }

    /// Returns sshd's effective configuration. Blocks.
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

    /// Lists what keeps the control plane from logging in although the authority is installed, with a remedy
    /// each.
    pub fn obstacles(&self, effective: &Effective) -> Vec<String> {
        let mut found = Vec::new();
        let main = self.config_dir.join("sshd_config");
        let ours = self.inside(&self.ca_file());
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
        found.extend(effective.disagreements());
        found
    }

    /// Returns the host keys that sshd shows, if the control plane can verify one of them. Blocks.
    ///
    /// # Errors
    /// There is none, or none that it verifies; with the remedy.
    pub fn usable_host_keys(&self) -> Result<Vec<String>, String> {
        let keys = self.host_keys()?;
        let parsed: Vec<SshPublicKey> = keys.iter().filter_map(|line| line.parse().ok()).collect();
        no_usable_host_key(&parsed).map_or(Ok(keys), Err)
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

fn make_key(path: &Path) -> Result<(), String> {
    let args = ["-q", "-t", "ed25519", "-N", "", "-f", &path.to_string_lossy()];
    let made = process::run("ssh-keygen", &args, TOOL_MAX).map_err(|error| error.to_string())?;
    if made.status.success() { Ok(()) } else { Err(format!("ssh-keygen: {}", made.complaint())) }
}

/// A file or an empty directory that goes when this does.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0).or_else(|_| fs::remove_dir(&self.0));
    }
}

fn put_all_back(files: &[(PathBuf, Option<String>)]) {
    for (path, text) in files {
        put_back(path, text.as_deref());
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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
    fn the_host_keys_are_those_that_sshd_shows() {
        let dir = dir(INCLUDES);
        let path = |name: &str| dir.root.path().join(name);
        for (kind, name) in [("ed25519", "site_key"), ("rsa", "other_rsa")] {
            let file = path(name);
            let args = ["-q", "-t", kind, "-N", "", "-f", file.to_str().unwrap()];
            assert!(process::run("ssh-keygen", &args, TOOL_MAX).unwrap().status.success());
        }
        let public = |name: &str| {
            let text = fs::read_to_string(path(name)).unwrap();
            text.split(' ').take(2).collect::<Vec<_>>().join(" ").trim().to_owned()
        };
        let site = public("site_key.pub");
        // A key at the usual place that sshd is not told to use, and one without its public half.
        fs::remove_file(path("site_key.pub")).unwrap();
        fs::write(path("sshd_config"), format!("HostKey {}\n", path("site_key").display())).unwrap();
        assert_eq!(dir.sshd.host_keys().unwrap(), [site]);
        let (ed25519, rsa) = (path("ssh_host_ed25519_key"), path("other_rsa"));
        let only_rsa = "HostKeyAlgorithms rsa-sha2-512";
        let config = format!("HostKey {}\nHostKey {}\n{only_rsa}\n", ed25519.display(), rsa.display());
        fs::write(path("sshd_config"), config).unwrap();
        assert_eq!(dir.sshd.host_keys().unwrap(), [public("other_rsa.pub")]);
        let refused = dir.sshd.usable_host_keys().unwrap_err();
        assert!(refused.contains("(ssh-rsa)") && refused.contains("ssh-keygen"), "{refused}");
        let disagreements = dir.sshd.effective().unwrap().disagreements();
        assert!(
            disagreements.len() == 1 && disagreements[0].starts_with("HostKeyAlgorithms"),
            "{disagreements:?}"
        );
    }

    #[test]
    fn algorithms_without_a_common_one_are_named_on_both_sides() {
        for (line, ours) in [
            ("KexAlgorithms diffie-hellman-group16-sha512", "curve25519-sha256"),
            ("Ciphers aes192-ctr", "aes256-ctr"),
            ("Ciphers aes256-ctr\nMACs umac-128@openssh.com", "hmac-sha2-256"),
            ("CASignatureAlgorithms rsa-sha2-512", "ssh-ed25519"),
            ("PubkeyAcceptedAlgorithms rsa-sha2-512", "ssh-ed25519-cert-v01@openssh.com"),
        ] {
            let dir = dir(&format!("{line}\n"));
            let (setting, theirs) = line.lines().last().unwrap().split_once(' ').unwrap();
            let found = dir.sshd.effective().unwrap().disagreements();
            let said = found.join("; ");
            assert!(
                found.len() == 1 && [setting, theirs, ours].iter().all(|part| said.contains(part)),
                "{line}: {said}"
            );
        }
        for fine in ["Ciphers aes256-ctr", "KexAlgorithms ecdh-sha2-nistp384", "MACs hmac-sha2-512"] {
            assert_eq!(
                dir(&format!("{fine}\n")).sshd.effective().unwrap().disagreements(),
                [] as [String; 0]
            );
        }
    }

    #[test]
    fn the_rule_for_lease_accounts_is_taken_by_sshd_and_goes_with_the_rest() {
        let dir = dir(INCLUDES);
        assert!(dir.sshd.open_leases().unwrap() && !dir.sshd.open_leases().unwrap());
        dir.sshd.test().unwrap();
        assert!(dir.sshd.distrust().unwrap());
        assert!(!dir.sshd.lease_rule_file().exists());
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
}
