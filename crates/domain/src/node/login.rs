//! Whether logins of leases are known to work on a node.

use super::{Health, LinkState, Node};
use crate::{
    Timestamp,
    way_in::{Way, one_line, told},
};

/// Checks that logins of leases are known to work on this node now; `open_at` is when one was last seen
/// to work.
///
/// # Errors
/// The reason, for people.
pub fn login_works(node: &Node, open_at: Option<Timestamp>, now: Timestamp) -> Result<(), String> {
    match node.health {
        Health::Alive => {}
        Health::Unknown | Health::Suspect | Health::Unreachable | Health::Dead => {
            return Err(format!("its node is {}: {}", node.health.as_str(), one_line(&node.health_reason)));
        }
    }
    match (node.way_in.way, &node.way_in.reason) {
        (Way::Open, _) => {}
        (Way::Unknown, _) => return Err("the node has not proven yet that it lets lease accounts in".into()),
        (Way::Shut, Some(reason)) => return Err(format!("the machine lets no lease account in: {reason}")),
        (Way::Shut, None) => return Err("the machine lets no lease account in".into()),
    }
    if node.link == LinkState::Up && node.agent_sees_sshd == Some(false) {
        return Err("its agent says that sshd does not answer".into());
    }
    if node.is_dirty() {
        return Err("its node is being brought to what it should hold".into());
    }
    match told(node.way_in.way, open_at, now) {
        Way::Open => Ok(()),
        Way::Unknown | Way::Shut => Err("no login was seen to work there since".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::way_in::WayIn;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_micros(second * 1_000_000)
    }

    fn node() -> Node {
        Node {
            health_reason: "SSH answers".into(),
            way_in: WayIn { way: Way::Open, reason: None, since: at(0), by_agent: true },
            ..crate::node::tests::free_node()
        }
    }

    #[test]
    fn a_login_works_only_where_the_way_in_was_seen_open_in_the_last_90_seconds() {
        assert_eq!(login_works(&node(), Some(at(10)), at(100)), Ok(()));
        assert!(login_works(&node(), Some(at(10)), at(101)).is_err());
        assert!(login_works(&node(), None, at(0)).is_err());
        for health in [Health::Unknown, Health::Suspect, Health::Unreachable, Health::Dead] {
            let why = login_works(&Node { health, ..node() }, Some(at(10)), at(11)).unwrap_err();
            assert!(why.contains(health.as_str()), "{why}");
        }
        let way_in = |way, reason| WayIn { way, reason, since: at(0), by_agent: true };
        let shut = Node { way_in: way_in(Way::Shut, Some("/etc/nologin is there".into())), ..node() };
        assert!(login_works(&shut, Some(at(10)), at(11)).unwrap_err().contains("/etc/nologin"));
        let unknown = Node { way_in: way_in(Way::Unknown, None), ..node() };
        assert!(login_works(&unknown, Some(at(10)), at(11)).is_err());
        let silent = Node { agent_sees_sshd: Some(false), ..node() };
        assert!(login_works(&silent, Some(at(10)), at(11)).unwrap_err().contains("sshd"));
        assert!(login_works(&Node { desired_version: 3, ..node() }, Some(at(10)), at(11)).is_err());
    }
}
