//! When is a node alive, and when is it dead? Two independent paths are weighed: the scheduler's SSH and
//! the agent's own link. Neither alone condemns a node that has both.

use crate::{Timestamp, agent::BEAT_EVERY, node::Health};
use std::time::Duration;

/// Time for which a node is not given up while its agent reports that its sshd is down.
const SSHD_DOWN_HOLD: Duration = Duration::from_secs(30);
/// How long its sshd must be down before its accounts are locked.
const LOCK_AFTER: Duration = Duration::from_secs(20);
// The order goes down with an answer to a beat: it has to be there before the node is given up.
const _: () = assert!(LOCK_AFTER.as_secs() + BEAT_EVERY.as_secs() < SSHD_DOWN_HOLD.as_secs());

/// The limits of the verdicts. Defaults are those of docs/ARCHITECTURE.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthPolicy {
    /// Failed probes that a node whose kernel refuses connections needs to be gone.
    pub refused_probes_min: u32,
    /// Time for which a refusing node must have failed to count as gone.
    pub refused_for: Duration,
    /// Time for which a silent node must not have answered to count as gone.
    pub silent_for: Duration,
    /// Time for which a node is not given up while its agent reports that its sshd is down.
    pub sshd_down_hold: Duration,
    /// Time for which such a node's sshd must be down before its accounts are locked: shortly before the node
    /// is given up, so that a short outage ends nobody's work.
    pub lock_after: Duration,
    /// Time for which an sshd may answer and not let the control plane in, while there is no link, until the
    /// node is given up.
    pub sick_for: Duration,
    /// Time within which an unknown link (its replica is gone) may be dialled again.
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
            sshd_down_hold: SSHD_DOWN_HOLD,
            lock_after: LOCK_AFTER,
            sick_for: Duration::from_secs(600),
            link_unknown_grace: Duration::from_secs(15),
            no_agent_for: Duration::from_secs(3),
        }
    }
}

/// Kind of a failure of the SSH path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The machine's kernel answers, but nobody listens: processes were killed.
    Refused,
    /// The machine does not answer at all.
    Silent,
    /// sshd answers but does not let the control plane in.
    Sick,
    /// The host key is another: another machine answers at the node's address, or the node was set up anew.
    WrongKey,
}

/// The SSH path as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SshPath {
    /// The path has not been tried yet.
    Untried,
    /// The last probe was answered (a throttling sshd answers, too).
    Up,
    /// Probes fail.
    Failing {
        /// Time of the first failed probe in this series.
        since: Timestamp,
        /// Time of the node's last answer of any kind, if there was one.
        last_answer: Option<Timestamp>,
        /// Number of failed probes in this series.
        failures: u32,
        /// Kind of the last failure.
        kind: Failure,
        /// Message of the last failure.
        detail: String,
    },
}

/// The agent's link as the scheduler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPath {
    /// The node has no agent.
    None,
    /// The agent sends heartbeats, and reports whether its own sshd answers.
    Up {
        /// Report whether the node's sshd answers; none if the agent made none.
        sshd: Option<bool>,
    },
    /// The agent stopped sending heartbeats.
    Lost,
    /// The replica that held it is gone: neither up nor lost.
    Unknown {
        /// Time since which the link is unknown.
        since: Timestamp,
    },
}

impl LinkPath {
    /// Whether there is no agent to be heard of.
    fn is_gone(self, policy: &HealthPolicy, now: Timestamp) -> bool {
        match self {
            Self::None | Self::Lost => true,
            Self::Unknown { since } => now.since(since) >= policy.link_unknown_grace,
            Self::Up { .. } => false,
        }
    }
}

/// Conclusion from the two paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The node's health from now on.
    pub health: Health,
    /// Human-readable reason of the verdict.
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
    let failing_for = now.since(since);
    if kind == Failure::Sick {
        let reason = format!("sshd answers but does not let Orion in: {detail}");
        // Neither path has been of use for long: whoever waits there would wait for ever.
        let gone = link.is_gone(policy, now) && failing_for >= policy.sick_for;
        return verdict(if gone { Health::Dead } else { Health::Unreachable }, reason);
    }
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

/// Whether the accounts of a node are to be locked that [`judge`] finds unreachable: its agent says that its sshd is
/// down, and it will soon be given up for that.
pub fn is_to_be_locked(ssh: &SshPath, link: LinkPath, policy: &HealthPolicy, now: Timestamp) -> bool {
    let SshPath::Failing { since, kind, .. } = ssh else { return false };
    let is_down = link == LinkPath::Up { sshd: Some(false) };
    let fails = matches!(kind, Failure::Refused | Failure::Silent);
    is_down && fails && now.since(*since) >= policy.lock_after
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
    fn a_node_without_an_agent_is_given_up_by_its_ssh_alone_after_a_longer_time() {
        let ssh = failing(Failure::Refused, 0, 99);
        assert_eq!(health(&ssh, LinkPath::None, 2_999), Health::Suspect);
        assert_eq!(health(&ssh, LinkPath::None, 3_000), Health::Dead);
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
    fn an_sshd_that_refuses_the_control_plane_is_given_up_only_after_long_and_without_a_link() {
        let ssh = failing(Failure::Sick, 0, 999);
        for link in [LinkPath::Lost, LinkPath::None, LinkPath::Unknown { since: at(0) }] {
            assert_eq!(health(&ssh, link, 599_999), Health::Unreachable, "{link:?}");
            assert_eq!(health(&ssh, link, 600_000), Health::Dead, "{link:?}");
        }
        assert_eq!(health(&ssh, LinkPath::Up { sshd: Some(true) }, 86_400_000), Health::Unreachable);
    }

    #[test]
    fn accounts_are_locked_shortly_before_a_node_whose_sshd_is_down_is_given_up_and_for_nothing_else() {
        let locked = |kind, link, now_ms| {
            is_to_be_locked(&failing(kind, 0, 99), link, &HealthPolicy::default(), at(now_ms))
        };
        let down = LinkPath::Up { sshd: Some(false) };
        assert!(!locked(Failure::Refused, down, 19_999));
        assert!(locked(Failure::Refused, down, 20_000) && locked(Failure::Silent, down, 20_000));
        for link in
            [LinkPath::Up { sshd: Some(true) }, LinkPath::Up { sshd: None }, LinkPath::Lost, LinkPath::None]
        {
            assert!(!locked(Failure::Refused, link, 99_000), "{link:?}");
        }
        for kind in [Failure::Sick, Failure::WrongKey] {
            assert!(!locked(kind, down, 99_000), "{kind:?}");
        }
        assert!(!is_to_be_locked(&SshPath::Up, down, &HealthPolicy::default(), at(99_000)));
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
