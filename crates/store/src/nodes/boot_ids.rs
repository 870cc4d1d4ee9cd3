//! The kernels that a node ran, as `nodes.boot_ids` has them.

use orion_domain::Timestamp;
use serde::Deserialize;

/// A kernel that is remembered, with the moment since when it ran; up to schema 25 without.
#[derive(Deserialize)]
#[serde(untagged)]
enum BootId {
    Since(String, Timestamp),
    Bare(String),
}

impl BootId {
    fn read(self) -> (String, Option<Timestamp>) {
        match self {
            Self::Since(id, since) => (id, Some(since)),
            Self::Bare(id) => (id, None),
        }
    }
}

/// The column `nodes.boot_ids`: the kernels that a node ran, the last one first, and since when.
pub(crate) fn read_boot_ids(column: &str) -> Vec<(String, Option<Timestamp>)> {
    let known: Vec<BootId> = serde_json::from_str(column).unwrap_or_default();
    known.into_iter().map(BootId::read).collect()
}
