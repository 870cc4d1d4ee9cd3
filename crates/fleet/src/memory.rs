//! Nodes that remember more than the database does: it was restored from a backup, and is brought up to what they
//! have seen.
//!
//! Lives here: reading what a node remembers, having it compared, and telling of it. Does not live here: the
//! comparison (orion-store), and how a node remembers (`playbooks/lib/uids.sh`).

use crate::{
    Fleet,
    playbook::{seen_epoch, seen_uid},
};
use orion_domain::{
    NodeId,
    reconcile::{FIRST_UID, LAST_UID},
};
use orion_store::{Cas, HighWaterCompared, HighWaterMarks, StoreError, UidRange};

/// Prints what a node remembers, for [`read_memory`]; always succeeds. So cheap that it is the command by which a
/// scheduler sees that a node works.
pub const MEMORY_COMMAND: &str =
    "exec /bin/sh -c 'cat /var/lib/orion/epoch /var/lib/orion/highest_uid 2>/dev/null; :'";

/// Parses the output of [`MEMORY_COMMAND`]: a line with the epoch, and one with the highest uid and its
/// lease's ULID. Values that are missing or malformed become 0.
pub fn read_memory(stdout: &[u8]) -> HighWaterMarks {
    let mut memory = HighWaterMarks::default();
    for line in String::from_utf8_lossy(stdout).lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next(), words.next()) {
            (Some(epoch), None) => memory.epoch = seen_epoch(epoch).unwrap_or(0),
            (Some(uid), Some(_)) => memory.highest_uid = seen_uid(uid).unwrap_or(0),
            (None, _) => {}
        }
    }
    memory
}

impl Fleet {
    /// The uids of accounts.
    pub fn uids(&self) -> UidRange {
        UidRange { first: FIRST_UID, last: LAST_UID }
    }

    /// Has what a node remembers compared with the database, which is raised to it if need be. A node that
    /// remembers what cannot be is quarantined.
    ///
    /// # Errors
    /// The database's.
    pub async fn compare_high_water(&self, node: NodeId, memory: HighWaterMarks) -> Result<(), StoreError> {
        match self.store.nodes().reconcile_high_water(node, memory, self.uids(), self.now()).await? {
            HighWaterCompared::Known | HighWaterCompared::Gone => {}
            HighWaterCompared::Raised { epoch, next_uid } => {
                tracing::warn!(
                    %node, epoch, next_uid,
                    "the database is older than this node: was a backup restored? It was raised to what the node has seen"
                );
                self.nudge.all();
            }
            HighWaterCompared::Impossible(reason) => {
                if let Cas::Done(_) = self.store.nodes().quarantine(node, &reason, self.now()).await? {
                    tracing::error!(%node, reason, "a node remembers what cannot be; it is quarantined");
                    self.nudge.all();
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_is_read_line_by_line_and_what_is_missing_is_nothing() {
        let memory = |epoch, highest_uid| HighWaterMarks { epoch, highest_uid };
        assert_eq!(
            read_memory(b"1763690000000\n200017 01K0000000000000000000000A\n"),
            memory(1_763_690_000_000, 200_017)
        );
        assert_eq!(read_memory(b"200017 01K0000000000000000000000A\n"), memory(0, 200_017));
        assert_eq!(read_memory(b"77\n"), memory(77, 0));
        assert_eq!(read_memory(b""), memory(0, 0));
        assert_eq!(read_memory(b"junk\njunk junk\n\xff\n"), memory(0, 0));
        assert_eq!(read_memory(b"-1\n99999999999 X\n"), memory(0, u32::MAX), "no uid is that high");
    }
}
