//! How much one piece of work on a node begins. Whoever else wants something of the node waits for its claim, and no lease
//! is ready before the end of the piece that began its containers.

use orion_domain::{LeaseId, container::ContainerAction};
use std::collections::HashSet;

/// Containers that one piece of work begins at most, and networks that it makes.
const AT_ONCE_MAX: usize = 8;

/// What a piece of work has begun, and whom it leaves to the next one.
#[derive(Default)]
pub(super) struct Portion {
    networks: usize,
    containers: usize,
    left: HashSet<LeaseId>,
}

impl Portion {
    /// Whether this is done now, and not left to the next piece of work.
    pub(super) fn takes(&mut self, action: &ContainerAction) -> bool {
        let Some((lease, begun)) = self.count_of(action) else { return true };
        if *begun >= AT_ONCE_MAX {
            self.left.insert(lease);
        }
        !self.left.contains(&lease)
    }

    /// Counts what was taken and done. A container that only waits is none: others are begun in its place.
    pub(super) fn done(&mut self, action: &ContainerAction) {
        if let Some((_, begun)) = self.count_of(action) {
            *begun += 1;
        }
    }

    /// The lease that something is begun for, and how many of the kind were; none of what ends something.
    const fn count_of(&mut self, action: &ContainerAction) -> Option<(LeaseId, &mut usize)> {
        match action {
            ContainerAction::CreateNetwork { lease } => Some((*lease, &mut self.networks)),
            ContainerAction::Create { lease, .. } | ContainerAction::Start { lease, .. } => {
                Some((*lease, &mut self.containers))
            }
            ContainerAction::RemoveContainer { .. }
            | ContainerAction::RemoveNetwork { .. }
            | ContainerAction::RemoveVolume { .. }
            | ContainerAction::Stop { .. } => None,
        }
    }

    /// The leases that are left to the next piece of work.
    pub(super) const fn left(&self) -> &HashSet<LeaseId> {
        &self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(lease: usize) -> ContainerAction {
        let lease = LeaseId(i64::try_from(lease).unwrap());
        ContainerAction::Create { lease, container: lease.to_string() }
    }

    #[test]
    fn what_waits_keeps_no_place_and_a_lease_that_is_left_is_left_whole() {
        let mut portion = Portion::default();
        for lease in 0..AT_ONCE_MAX + 3 {
            assert!(portion.takes(&create(lease)));
            // Three wait for their images.
            if lease >= 3 {
                portion.done(&create(lease));
            }
        }
        assert!(portion.left().is_empty());
        let late = AT_ONCE_MAX + 3;
        assert!(!portion.takes(&create(late)));
        let id = LeaseId(i64::try_from(late).unwrap());
        assert!(!portion.takes(&ContainerAction::CreateNetwork { lease: id }));
        assert!(portion.takes(&ContainerAction::Stop { container: "c".into(), id: "1".into() }));
        assert_eq!(portion.left().iter().collect::<Vec<_>>(), [&id]);
    }
}
