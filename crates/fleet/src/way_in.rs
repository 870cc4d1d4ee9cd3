//! The way in of nodes whose agent does not report it: the probe login as a playbook (`probe_login.yml`).

use crate::{
    Fleet,
    fleet::target_of,
    playbook::{EPOCH_MAX, NOT_KEPT, Playbook, Reply, read_reply},
};
use orion_domain::{
    node::Node,
    reconcile::{FIRST_UID, LAST_UID},
    way_in::WayInReport,
};
use orion_ssh::{ExecOutput, ExecRequest, SshError, Target};
use std::time::Duration;

/// Time that a run may take beyond its own limit, for the transfer in both directions and `timeout -k`.
const TRANSFER: Duration = Duration::from_secs(10);

/// Outcome of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probed {
    /// The probe account logged in, or could not.
    Found {
        /// Result of the probe.
        report: WayInReport,
        /// The node's clock, in milliseconds since 1970, if it said.
        clock_ms: Option<i64>,
    },
    /// Probe without a result: the node was not reached, or was busy.
    NotKnown(String),
}

impl Fleet {
    /// Has the node prove its way in.
    pub async fn probe_way_in(&self, node: &Node) -> Probed {
        let playbook = self.playbooks.probe_login();
        let name = playbook.name();
        let target = match target_of(node) {
            Ok(target) => target,
            Err(problem) => return Probed::NotKnown(problem),
        };
        // Changes nothing that an epoch protects: whoever asks may know.
        let stdin = match playbook.stdin(EPOCH_MAX, &[]) {
            Ok(stdin) => stdin,
            Err(error) => return Probed::NotKnown(format!("{name}: {error}")),
        };
        let output = match self.run_kept(&target, playbook, &stdin).await {
            Ok(output) => output,
            Err(error) => return Probed::NotKnown(format!("{name}: {error}")),
        };
        let reply = read_reply(playbook, Some(output.status), &output.stdout, &output.stderr, &[]);
        if let Reply::Done(report) = &reply
            && report.get("deadline_process") == Some("missing")
        {
            self.start_deadline_process(node, &target).await;
        }
        found(&reply)
    }

    /// Has the list start the process that keeps the deadlines. On a clean node that was booted while the control plane was
    /// away, and has nothing that starts it at boot, nothing else would.
    async fn start_deadline_process(&self, node: &Node, target: &Target) {
        let playbook = self.playbooks.list_users();
        let values = [("uid_min", &*FIRST_UID.to_string()), ("uid_max", &*LAST_UID.to_string())];
        // An epoch protects nothing here either.
        let Ok(stdin) = playbook.stdin(EPOCH_MAX, &values) else { return };
        let request = ExecRequest {
            command: playbook.command().to_owned(),
            stdin,
            timeout: Duration::from_secs(u64::from(playbook.timeout_s())) + TRANSFER,
            output_max_bytes: 256 * 1024,
        };
        let output = match self.pool.exec(target, request).await {
            Ok(output) => output,
            // The next probe says it again.
            Err(error) => {
                tracing::debug!(node = %node.id, %error, "the node was not listed");
                return;
            }
        };
        let reply = read_reply(playbook, Some(output.status), &output.stdout, &output.stderr, &[]);
        if matches!(&reply, Reply::Done(report) if report.get("deadline_process") == Some("started")) {
            tracing::warn!(node = %node.id, "the process that keeps the deadlines did not run; it was started again");
        } else {
            tracing::warn!(node = %node.id, ?reply, "the process that keeps the deadlines does not run");
        }
    }

    /// Runs a playbook from the file that the node keeps; makes it keep one first if it has none. Where it cannot, the
    /// whole script is the command, as for other playbooks.
    async fn run_kept(
        &self,
        target: &Target,
        playbook: &Playbook,
        stdin: &[u8],
    ) -> Result<ExecOutput, SshError> {
        let run = async |command: String, stdin: &[u8]| {
            let request = ExecRequest {
                command,
                stdin: stdin.to_owned(),
                timeout: Duration::from_secs(u64::from(playbook.timeout_s())) + TRANSFER,
                output_max_bytes: 64 * 1024,
            };
            self.pool.exec(target, request).await
        };
        let kept = playbook.kept();
        let output = run(kept.command(), stdin).await?;
        if output.status != NOT_KEPT {
            return Ok(output);
        }
        if run(kept.keep_command(), kept.script().as_bytes()).await?.is_success() {
            let output = run(kept.command(), stdin).await?;
            if output.status != NOT_KEPT {
                return Ok(output);
            }
        }
        run(playbook.command().to_owned(), stdin).await
    }
}

fn found(reply: &Reply) -> Probed {
    let shut = |reason: String| Probed::Found { report: WayInReport { open: false, reason }, clock_ms: None };
    match reply {
        Reply::Done(report) => match report.get("way_in") {
            Some("open") => Probed::Found {
                report: WayInReport { open: true, reason: String::new() },
                clock_ms: clock_ms(report.get("clock_s")),
            },
            None if report.get("way_in_not_known").is_some() => {
                Probed::NotKnown(report.get("way_in_not_known").unwrap_or_default().to_owned())
            }
            Some(_) | None => Probed::Found {
                report: WayInReport {
                    open: false,
                    reason: report.get("way_in_reason").unwrap_or_default().to_owned(),
                },
                clock_ms: clock_ms(report.get("clock_s")),
            },
        },
        Reply::Refused { step, status, output } => {
            shut(format!("the probe login ended in step '{step}' with status {status}: {output}"))
        }
        Reply::InputIncomplete => shut(
            "commands over SSH lose their standard input: root's start-up files (.bashrc, /etc/bash.bashrc …) read it"
                .to_owned(),
        ),
        Reply::BadValue(value) => shut(format!("the probe login does not take its value {value}")),
        Reply::Unfit { reason } | Reply::NameUnusable { reason } => shut(reason.clone()),
        Reply::Busy => Probed::NotKnown("another run holds the node's lock".to_owned()),
        Reply::StaleEpoch { .. } | Reply::UidSeen { .. } => {
            Probed::NotKnown("the node answers something else than was asked".to_owned())
        }
        Reply::TimedOut { step } => Probed::NotKnown(format!("the probe took too long in step '{step}'")),
        Reply::Unknown { .. } => Probed::NotKnown("the probe broke off".to_owned()),
    }
}

fn clock_ms(seconds: Option<&str>) -> Option<i64> {
    // The node says whole seconds: half of one is the likeliest rest.
    seconds?.parse::<i64>().ok()?.checked_mul(1000)?.checked_add(500)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playbook::Report;

    fn report(entries: &[(&str, &str)]) -> Reply {
        let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Reply::Done(Report { entries })
    }

    #[test]
    fn only_an_open_way_in_is_open_and_a_probe_that_broke_off_says_nothing() {
        let open = found(&report(&[("clock_s", "1800000000"), ("way_in", "open")]));
        let Probed::Found { report: said, clock_ms } = open else { panic!("{open:?}") };
        assert!(said.open && clock_ms == Some(1_800_000_000_500));
        let shut = found(&report(&[("way_in", "shut"), ("way_in_reason", "/etc/nologin is there")]));
        let Probed::Found { report: said, .. } = shut else { panic!("{shut:?}") };
        assert!(!said.open && said.reason.contains("nologin"));
        assert!(matches!(found(&report(&[])), Probed::Found { report: WayInReport { open: false, .. }, .. }));
        let lost = found(&Reply::InputIncomplete);
        let Probed::Found { report: said, .. } = lost else { panic!("{lost:?}") };
        assert!(!said.open && said.reason.contains(".bashrc"));
        assert!(matches!(found(&Reply::Busy), Probed::NotKnown(_)));
        let busy = found(&report(&[("way_in_not_known", "another run holds the lock of this node")]));
        assert!(matches!(&busy, Probed::NotKnown(why) if why.contains("lock")), "{busy:?}");
        assert!(matches!(found(&Reply::Unknown { step: None }), Probed::NotKnown(_)));
    }
}
