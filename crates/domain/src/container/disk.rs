//! The disk on which a node's engine keeps images and containers: when it is too full for more.

/// Part of the limits by which a disk that was too full must be above them: else it would be so again at once.
const MARGIN: u64 = 4;

/// Part of a disk that `free_mb_min` asks for at most: a small disk is no full one.
const SMALL_PART: u64 = 5;

/// Size of the file system on which an engine keeps its data, and what is free of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Free space for root in MiB.
    pub free_mb: u64,
    /// Free and used space in MiB.
    pub total_mb: u64,
}

/// What must be free on the disk of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskPolicy {
    /// Percent of the disk.
    pub free_percent_min: u64,
    /// MiB, and at most a fifth of the disk.
    pub free_mb_min: u64,
}

impl Default for DiskPolicy {
    fn default() -> Self {
        Self { free_percent_min: 5, free_mb_min: 2_048 }
    }
}

impl DiskPolicy {
    /// Returns why a disk is too full for containers; none where it is not. `was_full` says how it was seen before.
    pub fn objection(&self, disk: Disk, was_full: bool) -> Option<String> {
        let part = disk.total_mb.saturating_mul(self.free_percent_min).div_ceil(100);
        let needed = self.free_mb_min.min(disk.total_mb / SMALL_PART).max(part);
        let needed = if was_full { needed.saturating_add(needed / MARGIN) } else { needed };
        let Disk { free_mb, total_mb } = disk;
        (free_mb < needed).then(|| {
            format!("{free_mb} MiB of {total_mb} are free on the disk of its container engine, and {needed} must be")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_below_either_limit_and_free_only_well_above_both() {
        let policy = DiskPolicy::default();
        let is_full = |free_mb, total_mb, was| policy.objection(Disk { free_mb, total_mb }, was).is_some();
        // 5 % of 100 GiB are more than 2 GiB, of 10 GiB less.
        assert!(is_full(5_119, 102_400, false) && !is_full(5_120, 102_400, false));
        assert!(is_full(2_047, 10_240, false) && !is_full(2_048, 10_240, false));
        assert!(is_full(2_559, 10_240, true) && !is_full(2_560, 10_240, true));
        // Of a disk of 1500 MiB a fifth.
        assert!(is_full(299, 1_500, false) && !is_full(300, 1_500, false));
        let said = policy.objection(Disk { free_mb: 100, total_mb: 10_240 }, false).unwrap();
        assert_eq!(said, "100 MiB of 10240 are free on the disk of its container engine, and 2048 must be");
        let none = DiskPolicy { free_percent_min: 0, free_mb_min: 0 };
        assert_eq!(none.objection(Disk { free_mb: 0, total_mb: 1 }, true), None);
    }
}
