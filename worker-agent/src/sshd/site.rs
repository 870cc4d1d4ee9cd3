//! What a site may set otherwise than usual: where the host keys lie, and who may log in.

use super::{Sshd, TOOL_MAX, is, put_all_back};
use crate::{facts, process, state::write_whole};
use orion_domain::credentials::SshPublicKey;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Rule for lease accounts: settings of a Match block take precedence over those outside of one.
const LEASE_RULE: &str = "\
# Written by `orion-agent install --open-leases`; `orion-agent uninstall` removes it. Lease accounts log in by password
# and by key, whatever sshd is told for everybody else.
Match Group orion-lease
    PasswordAuthentication yes
    PubkeyAuthentication yes
    AuthenticationMethods any
    AuthorizedKeysFile .ssh/authorized_keys
    AllowUsers *
    AllowGroups orion-lease
    DenyGroups orion-nobody
Match all
";

impl Sshd {
    /// The host keys that sshd shows, as `type base64`, ed25519 first: those that its configuration names, which need
    /// not lie at the usual places. Blocks.
    ///
    /// # Errors
    /// There is none: registering without would leave the node waiting for an admin.
    pub fn host_keys(&self) -> Result<Vec<String>, String> {
        let Ok(effective) = self.effective() else { return facts::host_keys(&self.config_dir) };
        let shown = |key: &String| {
            let kind = key.split(' ').next().unwrap_or_default();
            let offered = &effective.host_key_algorithms;
            offered.is_empty() || offered.split(',').any(|name| is_of_type(name, kind))
        };
        let mut keys: Vec<String> =
            effective.host_keys.iter().filter_map(|file| self.host_key(file)).filter(shown).collect();
        keys.sort_by_key(|key| (!key.starts_with("ssh-ed25519 "), key.clone()));
        keys.dedup();
        if keys.is_empty() {
            return Err("sshd has no host key that it could show; `ssh-keygen -A` makes them, or see its HostKey and \
                        HostKeyAlgorithms"
                .into());
        }
        Ok(keys)
    }

    /// The public half of a host key, from the file beside it or from the key itself.
    fn host_key(&self, file: &Path) -> Option<String> {
        let file = self.root.join(file.strip_prefix("/").unwrap_or(file));
        let beside = PathBuf::from(format!("{}.pub", file.display()));
        let text = fs::read_to_string(&beside).ok().or_else(|| {
            let args = ["-y", "-P", "", "-f", &file.to_string_lossy()].map(str::to_owned);
            let done = process::run("ssh-keygen", &args, TOOL_MAX).ok()?;
            done.status.success().then_some(done.stdout)
        })?;
        match text.trim().parse::<SshPublicKey>() {
            Ok(key) => Some(key.as_str().to_owned()),
            Err(why) => {
                tracing::debug!("{} is not reported: {why}", file.display());
                None
            }
        }
    }

    /// The file with the rule for lease accounts.
    pub fn lease_rule_file(&self) -> PathBuf {
        self.config_dir.join("sshd_config.d/00-orion-lease.conf")
    }

    /// Allows lease accounts to log in by password and by key, whatever else sshd is told, and nobody else.
    /// Returns whether that was not so already. Blocks.
    ///
    /// # Errors
    /// What is in the way; nothing has changed then.
    pub fn open_leases(&self) -> Result<bool, String> {
        let file = self.lease_rule_file();
        if is(&file, LEASE_RULE) {
            return Ok(false);
        }
        let before = [(file.clone(), fs::read_to_string(&file).ok())];
        let failed = |error: io::Error| format!("{} cannot be written: {error}", file.display());
        if let Some(dir) = file.parent() {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        write_whole(&file, &file.with_extension("new"), LEASE_RULE, 0o644).map_err(failed)?;
        if let Err(problem) = self.test() {
            put_all_back(&before);
            return Err(format!("sshd does not take the rule for lease accounts: {problem}"));
        }
        if !self.is_image() {
            self.reload()?;
        }
        Ok(true)
    }
}

/// Whether a signature algorithm belongs to a key of this type.
fn is_of_type(algorithm: &str, kind: &str) -> bool {
    algorithm == kind || (kind == "ssh-rsa" && matches!(algorithm, "rsa-sha2-256" | "rsa-sha2-512"))
}
