//! How Orion marks what it makes in an engine.

use crate::LeaseId;

/// Label with the ULID of the lease, on containers, networks and volumes.
pub const LEASE_LABEL: &str = "orion.lease";
/// Label with the ULID of the container.
pub const CONTAINER_LABEL: &str = "orion.container";
/// Label with the incarnation of the container: it grows each time that the container is made anew.
pub const EPOCH_LABEL: &str = "orion.epoch";

/// Returns the name of the `number`-th container of a lease.
pub fn container_name(lease: LeaseId, number: u32) -> String {
    format!("orion-{lease}-{number}")
}

/// Returns the name of the network of a lease.
pub fn network_name(lease: LeaseId) -> String {
    format!("orion-{lease}")
}

/// Returns the name of the bridge of a lease's network on its node, at most 15 characters as the kernel wants it. The
/// firewall knows it by its beginning (`playbooks/lib/firewall_rules.sh`).
pub fn bridge_name(lease: LeaseId) -> String {
    format!("orion-{}", lease.0.rem_euclid(1_000_000_000))
}

/// Returns whether [`container_name`] gives such names. A label alone does not show that Orion made a container: one
/// from an image that was committed from a tenant's container has the labels, too.
pub fn is_container_name(name: &str) -> bool {
    let numbers = name.strip_prefix("orion-").and_then(|rest| rest.split_once('-'));
    numbers.is_some_and(|(lease, number)| is_number(lease) && is_number(number))
}

/// Returns whether [`network_name`] gives such names.
pub fn is_network_name(name: &str) -> bool {
    name.strip_prefix("orion-").is_some_and(is_number)
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_orion_gives_are_known_again_and_no_others() {
        assert!(is_container_name(&container_name(LeaseId(7), 1)));
        assert!(is_network_name(&network_name(LeaseId(7))));
        assert_eq!(bridge_name(LeaseId(7)), "orion-7");
        assert!(bridge_name(LeaseId(i64::MAX)).len() <= 15);
        for other in
            ["", "orion", "orion-", "orion-7", "orion-7-", "orion--1", "orion-x-1", "orion-7-1-2", "web"]
        {
            assert!(!is_container_name(other), "{other}");
        }
        for other in ["bridge", "orion", "orion-", "orion-7-1", "orion-x"] {
            assert!(!is_network_name(other), "{other}");
        }
    }
}
