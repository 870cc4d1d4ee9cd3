//! Which scheduler looks after which node: rendezvous hashing over the schedulers that live (Thaler and
//! Ravishankar, "Using name-based mappings to increase hit rates", 1998).
//!
//! Every scheduler that knows the same names comes to the same result without asking anybody. When one goes,
//! only its own nodes change hands; when one comes, it takes its part from all others.

use crate::{NodeId, WebhookId};

/// The number by which schedulers share a thing: a node, a webhook, the event log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShareKey(i64);

impl ShareKey {
    /// The event log, which one scheduler fans out to the webhooks.
    pub const EVENT_LOG: Self = Self(0);
}

impl From<NodeId> for ShareKey {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

impl From<WebhookId> for ShareKey {
    fn from(webhook: WebhookId) -> Self {
        Self(webhook.0)
    }
}

/// Returns the weight of the scheduler `name` for `key`; of all live schedulers the one with the highest owns it. The
/// same on every machine and in every version: it must never be computed otherwise.
pub fn weight(key: impl Into<ShareKey>, name: &str) -> u64 {
    let ShareKey(key) = key.into();
    // FNV-1a over the name and the number's bytes; a byte that no name has stands between them.
    let bytes = name.bytes().chain([0xff]).chain(key.to_le_bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    // FNV's upper bits hardly change with the last bytes: MurmurHash3's finalizer spreads them.
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// One scheduler's view of who looks after what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    me: String,
    others: Vec<String>,
}

impl Share {
    /// The share of `me` beside the schedulers `live` (which may name `me`, too).
    pub fn new(me: &str, live: impl IntoIterator<Item = String>) -> Self {
        let mut others: Vec<String> = live.into_iter().filter(|name| name != me).collect();
        others.sort_unstable();
        others.dedup();
        Self { me: me.to_owned(), others }
    }

    /// Returns whether this scheduler owns the node, or whatever else has the key.
    pub fn is_mine(&self, key: impl Into<ShareKey>) -> bool {
        let key = key.into();
        let mine = (weight(key, &self.me), self.me.as_str());
        self.others.iter().all(|other| (weight(key, other), other.as_str()) < mine)
    }

    /// Returns the other schedulers in the order in which they are asked for a peer probe of the node: by weight.
    pub fn peers_for(&self, node: NodeId) -> Vec<String> {
        let mut peers = self.others.clone();
        peers.sort_unstable_by_key(|name| std::cmp::Reverse(weight(node, name)));
        peers
    }

    /// The other live schedulers, by name.
    pub fn others(&self) -> &[String] {
        &self.others
    }

    /// Whether there is no other scheduler.
    pub fn is_alone(&self) -> bool {
        self.others.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (1..=count).map(|number| format!("host-{number}-4711-01JD000000000000000000000{number}")).collect()
    }

    fn owner(node: NodeId, live: &[String]) -> String {
        let owners: Vec<&String> =
            live.iter().filter(|name| Share::new(name, live.to_vec()).is_mine(node)).collect();
        assert_eq!(owners.len(), 1, "{node} has exactly one owner, not {owners:?}");
        owners[0].clone()
    }

    #[test]
    fn every_node_has_exactly_one_owner_and_the_shares_are_about_equal() {
        for count in 1..=5 {
            let live = names(count);
            let mut shares = vec![0_usize; count];
            for node in 1..=6_000 {
                let owner = owner(NodeId(node), &live);
                shares[live.iter().position(|name| *name == owner).unwrap()] += 1;
            }
            let fair = 6_000 / count;
            for share in &shares {
                assert!(share.abs_diff(fair) < fair / 10, "{shares:?}");
            }
        }
    }

    #[test]
    fn when_one_goes_only_its_own_nodes_change_hands() {
        let live = names(4);
        let (gone, left) = (&live[2], [&live[..2], &live[3..]].concat());
        let mut inherited = std::collections::HashSet::new();
        for node in (1..=2_000).map(NodeId) {
            let (before, after) = (owner(node, &live), owner(node, &left));
            if before == *gone {
                inherited.insert(after);
            } else {
                assert_eq!(before, after, "{node}");
            }
        }
        assert_eq!(inherited.len(), 3, "all others inherit");
    }

    #[test]
    fn the_first_peer_is_the_one_that_would_inherit_the_node() {
        let live = names(4);
        for node in (1..=200).map(NodeId) {
            let owner_now = owner(node, &live);
            let peers = Share::new(&owner_now, live.clone()).peers_for(node);
            assert_eq!(peers.len(), 3);
            let left: Vec<String> = live.iter().filter(|name| **name != owner_now).cloned().collect();
            assert_eq!(peers[0], owner(node, &left));
        }
    }

    #[test]
    fn one_scheduler_alone_has_every_node_and_nobody_to_ask() {
        let alone = Share::new("a", ["a".to_owned()]);
        assert!(alone.is_alone());
        assert!((1..=1_000).all(|node| alone.is_mine(NodeId(node))));
        assert!(alone.peers_for(NodeId(1)).is_empty());
    }

    #[test]
    fn the_hash_is_the_same_for_ever() {
        // Schedulers of two versions share the nodes while one is replaced by the other.
        let seen: Vec<u64> = [(1, "a"), (2, "a"), (1, "b"), (i64::MAX, "scheduler-1")]
            .map(|(n, name)| weight(NodeId(n), name))
            .into();
        assert_eq!(seen, WEIGHTS);
    }

    const WEIGHTS: [u64; 4] =
        [0xd656_ce46_917c_b6d1, 0x7c9f_30c0_f819_df70, 0xd67c_5a2a_c048_c970, 0x3b73_d30d_3b87_b03d];

    #[test]
    fn a_share_knows_the_other_schedulers() {
        let live = ["b", "c", "a", "b"].map(str::to_owned);
        let share = Share::new("a", live);
        assert_eq!(share.others(), ["b", "c"]);
        assert!(!share.is_alone() && Share::new("a", ["a".to_owned()]).is_alone());
    }
}
