//! A playbook whose script a node keeps: `/run/orion/NAME-HASH.sh`, until it boots.
//!
//! The way in of each node without an agent is proved every 45 s, by a script of 20 kB. As a command line it would go over
//! the wire each time, and russh holds two buffers of twice its size for each session from then on.

use super::compile::quote;
use super::parse::PlaybookFile;
use sha2::{Digest as _, Sha256};

/// Exit status of [`Kept::command`] where the node does not have the script: nothing was run. No playbook ends so.
pub const NOT_KEPT: u32 = 79;

/// A playbook that is run from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    path: String,
    timeout_s: u32,
    script: String,
}

impl Kept {
    pub(super) fn new(file: &PlaybookFile, script: String) -> Self {
        let hash: String = Sha256::digest(&script).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { path: format!("/run/orion/{}-{hash}.sh", file.name), timeout_s: file.timeout_s, script }
    }

    /// The command line of a run; [`NOT_KEPT`] where the node does not have the script. Standard input and reply are those
    /// of [`super::Playbook::command`].
    pub fn command(&self) -> String {
        let (path, timeout_s) = (&self.path, self.timeout_s);
        let script =
            format!("[ -s {path} ] || exit {NOT_KEPT}; exec timeout -k 5 {timeout_s} /bin/sh {path}");
        format!("exec /bin/sh -c {}", quote(&script))
    }

    /// The command line that makes the node keep the script, in place of other versions, which comes on standard input.
    /// Root alone may read it, and it is whole or not there.
    pub fn keep_command(&self) -> String {
        let (path, length) = (&self.path, self.script.len());
        let others = path.rsplit_once('-').map_or(path.as_str(), |(name, _)| name);
        let script = format!(
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin; umask 077; new={path}.$$; mkdir -p /run/orion && rm -f {others}-* && \
             cat >$new && [ \"$(wc -c <$new)\" -eq {length} ] && mv -f $new {path} && exit 0; rm -f $new; exit 1"
        );
        format!("exec /bin/sh -c {}", quote(&script))
    }

    /// Standard input of [`Self::keep_command`].
    pub fn script(&self) -> &str {
        &self.script
    }
}

#[cfg(test)]
mod tests {
    use crate::playbook::Playbooks;

    #[test]
    fn a_run_of_a_kept_script_is_a_short_command_and_another_script_another_file() {
        let playbooks = Playbooks::builtin().expect("good files");
        let (probe, list) = (playbooks.probe_login().kept(), playbooks.list_users().kept());
        assert!(probe.command().len() < 256 && probe.keep_command().len() < 512, "{probe:?}");
        assert!(probe.command().contains("/run/orion/probe_login-"));
        assert!(probe.keep_command().contains("rm -f /run/orion/probe_login-* "));
        assert_ne!(probe.path, list.path);
        assert!(playbooks.probe_login().command().len() > probe.script().len());
    }
}
