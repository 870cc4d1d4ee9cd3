//! When is a node alive, and when is it dead? Two independent paths are weighed: the scheduler's SSH and
//! the agent's own link. Neither alone condemns a node that has both.

use crate::{Timestamp, node::Health};
use std::time::Duration;

/// The limits of the verdicts. Defaults are those of docs/ARCHITECTURE.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Failed probes that a node whose kernel refuses connections needs to be gone.
    pub refused_probes_min: u32,
    /// How long a refusing node must have failed to be gone.
    pub refused_for: Duration,
    /// How long a silent node must not have answered to be gone.
    pub silent_for: Duration,
    /// How long a node is left alone when its agent says that its sshd is down.
    pub sshd_down_hold: Duration,
    /// How long an unknown link (its replica is gone) may take to be dialled again.
    pub link_unknown_grace: Duration,
    /// Longer limits for a node that has no agent: the SSH path alone decides.
    pub no_agent_for: Duration,
}

impl Default for HealthPolicy {
    fn default() -> Self {
        Self {
            refused_probes_min: 3,
            refused_for: Duration::from_millis(600),
            silent_for: Duration::from_secs(5),
            sshd_down_hold: Duration::from_secs(30),
            link_unknown_grace: Duration::from_secs(15),
            no_agent_for: Duration::from_secs(3),
        }
    }
}

/// In which way the SSH path fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The machine's kernel answers, but nobody listens: processes were killed.
    Refused,
    /// Nothing answers.
    Silent,
    /// sshd answers but does not let the control plane in.
    Sick,
    /// Another machine answers at the node's address, or the node was set up anew: its host key is another.
    WrongKey,
}

/// The SSH path as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshPath {
    /// Not tried yet.
    Untried,
    /// The last probe was answered (a throttling sshd answers, too).
    Up,
    /// Probes fail.
    Failing {
        /// When the first probe of this row failed.
        since: Timestamp,
        /// When the node last answered anything, if ever.
        last_answer: Option<Timestamp>,
        /// How many failed in this row.
        failures: u32,
        /// In which way the last one did.
        kind: Failure,
        /// What it said.
        detail: String,
    },
}

/// The agent's link as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPath {
    /// The node has no agent.
    None,
    /// It beats, and says whether its own sshd answers.
    Up {
        /// None if it did not say.
        sshd: Option<bool>,
    },
    /// It stopped.
    Lost,
    /// The replica that held it is gone: neither up nor lost.
    Unknown {
        /// Since when.
        since: Timestamp,
    },
}

/// What follows from the two paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The node's health from now on.
    pub health: Health,
    /// Why, for people.
    pub reason: String,
}

/// Weighs both paths.
pub fn judge(ssh: &SshPath, link: LinkPath, policy: &HealthPolicy, now: Timestamp) -> Verdict {
    let verdict = |health, reason: String| Verdict { health, reason };
    let (since, last_answer, failures, kind, detail) = match ssh {
        SshPath::Untried => return verdict(Health::Unknown, "not probed yet".into()),
        SshPath::Up => {
            let reason = match link {
                LinkPath::Lost => "SSH answers; the agent's link is lost",
                LinkPath::Unknown { .. } => "SSH answers; the agent's link is unknown",
                LinkPath::None => "SSH answers; no agent",
                LinkPath::Up { .. } => "SSH answers",
            };
            return verdict(Health::Alive, reason.into());
        }
        SshPath::Failing { since, last_answer, failures, kind, detail } => {
            (*since, *last_answer, *failures, *kind, detail)
        }
    };
    if kind == Failure::Sick {
        return verdict(Health::Unreachable, format!("sshd answers but does not let Orion in: {detail}"));
    }
    let failing_for = now.since(since);
    if kind == Failure::WrongKey {
        // Never accepted. But if the node's own agent does not answer either, the node is not there any more.
        let gone = matches!(link, LinkPath::Lost | LinkPath::None) && failing_for >= policy.sshd_down_hold;
        let health = if gone { Health::Dead } else { Health::Unreachable };
        return verdict(health, format!("another host key answers at its address: {detail}"));
    }
    let gone = match kind {
        Failure::Refused => failures >= policy.refused_probes_min && failing_for >= policy.refused_for,
        Failure::Silent => now.since(last_answer.unwrap_or(since)) >= policy.silent_for && failures >= 2,
        Failure::Sick | Failure::WrongKey => false,
    };
    if !gone {
        return verdict(Health::Suspect, format!("SSH failed {failures} times: {detail}"));
    }
    match link {
        LinkPath::Lost => verdict(Health::Dead, format!("SSH and the agent's link are gone: {detail}")),
        LinkPath::None if failing_for >= policy.no_agent_for => {
            verdict(Health::Dead, format!("SSH is gone, and there is no agent: {detail}"))
        }
        LinkPath::None => verdict(Health::Suspect, format!("SSH failed {failures} times: {detail}")),
        LinkPath::Unknown { since } if now.since(since) >= policy.link_unknown_grace => verdict(
            Health::Dead,
            format!("SSH is gone, and the agent did not dial again after its replica went: {detail}"),
        ),
        LinkPath::Unknown { .. } => {
            verdict(Health::Suspect, format!("SSH is gone; waiting for the agent to dial again: {detail}"))
        }
        LinkPath::Up { sshd: Some(false) } => verdict(
            if failing_for >= policy.sshd_down_hold { Health::Dead } else { Health::Unreachable },
            format!("the agent says that its sshd is down: {detail}"),
        ),
        LinkPath::Up { sshd: Some(true) | None } => {
            verdict(Health::Unreachable, format!("SSH does not answer, but the agent does: {detail}"))
        }
    }
}

/// The pause before a failing node is probed again: 0.2 s, 0.4 s, 0.8 s … at most 3 s.
pub fn reprobe_after(failures: u32) -> Duration {
    Duration::from_millis(200u64.saturating_mul(1 << failures.saturating_sub(1).min(4)).min(3_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_micros(millis * 1000)
    }

    fn failing(kind: Failure, since_ms: i64, failures: u32) -> SshPath {
        SshPath::Failing {
            since: at(since_ms),
            last_answer: Some(at(since_ms)),
            failures,
            kind,
            detail: "x".into(),
        }
    }

    fn health(ssh: &SshPath, link: LinkPath, now_ms: i64) -> Health {
        judge(ssh, link, &HealthPolicy::default(), at(now_ms)).health
    }

    #[test]
    fn one_failed_probe_is_not_death() {
        assert_eq!(health(&failing(Failure::Refused, 0, 1), LinkPath::Lost, 60_000), Health::Suspect);
    }

    #[test]
    fn a_node_whose_processes_were_killed_is_dead_within_a_second() {
        assert_eq!(health(&failing(Failure::Refused, 0, 3), LinkPath::Lost, 599), Health::Suspect);
        assert_eq!(health(&failing(Failure::Refused, 0, 3), LinkPath::Lost, 600), Health::Dead);
    }

    #[test]
    fn a_silent_node_is_dead_only_after_five_seconds() {
        assert_eq!(health(&failing(Failure::Silent, 0, 9), LinkPath::Lost, 4_999), Health::Suspect);
        assert_eq!(health(&failing(Failure::Silent, 0, 9), LinkPath::Lost, 5_000), Health::Dead);
    }

    #[test]
    fn a_node_whose_agent_answers_is_unreachable_and_not_dead() {
        let ssh = failing(Failure::Silent, 0, 99);
        assert_eq!(health(&ssh, LinkPath::Up { sshd: Some(true) }, 3_600_000), Health::Unreachable);
        assert_eq!(health(&ssh, LinkPath::Up { sshd: None }, 3_600_000), Health::Unreachable);
    }

    #[test]
    fn a_node_whose_sshd_is_down_is_held_for_thirty_seconds() {
        let ssh = failing(Failure::Refused, 0, 99);
        assert_eq!(health(&ssh, LinkPath::Up { sshd: Some(false) }, 29_999), Health::Unreachable);
        assert_eq!(health(&ssh, LinkPath::Up { sshd: Some(false) }, 30_000), Health::Dead);
    }

    #[test]
    fn a_lost_link_alone_leaves_the_node_alive() {
        assert_eq!(health(&SshPath::Up, LinkPath::Lost, 0), Health::Alive);
    }

    #[test]
    fn a_link_whose_replica_died_is_given_time_to_dial_again() {
        let ssh = failing(Failure::Refused, 0, 99);
        assert_eq!(health(&ssh, LinkPath::Unknown { since: at(0) }, 14_999), Health::Suspect);
        assert_eq!(health(&ssh, LinkPath::Unknown { since: at(0) }, 15_000), Health::Dead);
    }

    #[test]
    fn an_sshd_that_refuses_the_control_plane_is_never_taken_for_dead() {
        assert_eq!(health(&failing(Failure::Sick, 0, 999), LinkPath::Lost, 3_600_000), Health::Unreachable);
    }

    #[test]
    fn an_address_with_another_host_key_is_given_up_only_when_the_agent_is_gone_too() {
        let ssh = failing(Failure::WrongKey, 0, 99);
        assert_eq!(health(&ssh, LinkPath::Up { sshd: Some(true) }, 3_600_000), Health::Unreachable);
        assert_eq!(health(&ssh, LinkPath::Lost, 29_999), Health::Unreachable);
        assert_eq!(health(&ssh, LinkPath::Lost, 30_000), Health::Dead);
    }

    #[test]
    fn probes_of_a_failing_node_come_quickly_and_then_slower() {
        let pauses: Vec<u128> = (1..=7).map(|n| reprobe_after(n).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1600, 3000, 3000, 3000]);
    }
}
