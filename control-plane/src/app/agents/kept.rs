//! What a node keeps of its lease, compared with what the database says: a login that was locked there, or a deadline
//! that is another one, is not left so.

use orion_domain::{LeaseId, Timestamp, agent::KeptDeadline, lease::Lease};
use std::time::{Duration, Instant};

/// Time for which node and database have to differ: a change reaches one before the other.
const DIFFERS_FOR: Duration = Duration::from_secs(5);
/// Pause before a node is looked at again for the same: the first look may not have helped.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// The lease that a clean node should keep open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Number of the lease.
    pub lease: LeaseId,
    /// Uid of the lease's account.
    pub uid: u32,
    /// Time at which the node should close the login, grace included.
    pub closes_at: Timestamp,
}

impl Wanted {
    /// Returns what the node of an active lease should keep; none if it gives no login.
    pub fn new(lease: &Lease, grace: Duration) -> Option<Self> {
        let uid = lease.account.as_ref()?.uid;
        Some(Self { lease: lease.id, uid, closes_at: lease.until.plus(grace) })
    }
}

/// Logins that one node should keep and does keep, and the time since which they differ.
#[derive(Debug, Default)]
pub struct Kept {
    /// The leases whose logins the node should keep open; none while it is not clean.
    wanted: Vec<Wanted>,
    /// The accounts that the node told of: uid, when it closes the login, and whether it has.
    told: Vec<(u32, Timestamp, bool)>,
    differs_since: Option<Instant>,
    doubted: Option<Instant>,
}

impl Kept {
    /// The database says so now.
    pub fn want(&mut self, wanted: Vec<Wanted>) {
        if self.wanted != wanted {
            self.wanted = wanted;
            self.differs_since = None;
        }
    }

    /// The node says so now.
    pub fn hear(&mut self, kept: &[KeptDeadline], now: Timestamp) {
        let closes_at = |kept: &KeptDeadline| now.plus(Duration::from_secs(kept.remaining_s));
        self.told = kept.iter().map(|kept| (kept.uid, closes_at(kept), kept.locked)).collect();
        self.differs_since = None;
    }

    /// Returns the first lease of which they differ, and in what, for people; `slack`: how much two deadlines may.
    fn difference(&self, slack: Duration) -> Option<(LeaseId, String)> {
        self.wanted.iter().find_map(|wanted| self.difference_of(wanted, slack))
    }

    fn difference_of(&self, wanted: &Wanted, slack: Duration) -> Option<(LeaseId, String)> {
        let (_, closes_at, locked) = self.told.iter().find(|(uid, _, _)| *uid == wanted.uid)?;
        if *locked {
            return Some((wanted.lease, "the node says that the login is closed there".into()));
        }
        let (early, late) = (wanted.closes_at.since(*closes_at), closes_at.since(wanted.closes_at));
        let (by, word) = if early > late { (early, "before") } else { (late, "after") };
        (by > slack).then(|| {
            (
                wanted.lease,
                format!("the node says that it closes the login {} s {word} its time", by.as_secs()),
            )
        })
    }

    /// The lease whose node is to be looked at now, and why: they differ for long enough.
    pub fn doubt(&mut self, slack: Duration, now: Instant) -> Option<(LeaseId, String)> {
        let Some(difference) = self.difference(slack) else {
            self.differs_since = None;
            return None;
        };
        let since = *self.differs_since.get_or_insert(now);
        let again = self.doubted.is_none_or(|at| now.saturating_duration_since(at) >= AGAIN_AFTER);
        if now.saturating_duration_since(since) < DIFFERS_FOR || !again {
            return None;
        }
        self.doubted = Some(now);
        Some(difference)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLACK: Duration = Duration::from_secs(10);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    fn kept(remaining_s: u64, locked: bool) -> Kept {
        let mut kept = Kept::default();
        kept.want(vec![Wanted { lease: LeaseId(1), uid: 7, closes_at: at(1000) }]);
        kept.hear(&[KeptDeadline { uid: 7, remaining_s, locked }], at(0));
        kept
    }

    /// Returns the doubt, if any, `seconds` after the first look.
    fn doubted(kept: &mut Kept, start: Instant, seconds: u64) -> Option<String> {
        kept.doubt(SLACK, start + Duration::from_secs(seconds)).map(|(_, why)| why)
    }

    #[test]
    fn a_closed_login_is_doubted_when_it_stays_so_and_again_after_a_minute() {
        let (mut kept, start) = (kept(1000, true), Instant::now());
        assert_eq!([doubted(&mut kept, start, 0), doubted(&mut kept, start, 4)], [None, None]);
        assert!(doubted(&mut kept, start, 5).unwrap().contains("closed"));
        assert_eq!(doubted(&mut kept, start, 64), None);
        assert!(doubted(&mut kept, start, 65).is_some());
    }

    #[test]
    fn a_deadline_may_differ_by_the_grace_and_no_more() {
        let start = Instant::now();
        for (remaining_s, word) in
            [(989, Some("11 s before")), (990, None), (1010, None), (1011, Some("11 s after"))]
        {
            let mut kept = kept(remaining_s, false);
            doubted(&mut kept, start, 0);
            let doubt = doubted(&mut kept, start, 5);
            assert_eq!(doubt.is_some(), word.is_some(), "{remaining_s}: {doubt:?}");
            assert!(word.is_none_or(|word| doubt.unwrap().contains(word)));
        }
    }

    #[test]
    fn nothing_is_doubted_of_a_node_that_is_worked_on_or_has_just_told_anew() {
        let (mut kept, start) = (kept(1000, true), Instant::now());
        doubted(&mut kept, start, 0);
        kept.hear(&[KeptDeadline { uid: 7, remaining_s: 1000, locked: true }], at(3));
        assert_eq!(doubted(&mut kept, start, 6), None, "counted anew");
        kept.want(Vec::new());
        assert_eq!(doubted(&mut kept, start, 99), None);
        kept.want(vec![Wanted { lease: LeaseId(2), uid: 8, closes_at: at(1) }]);
        assert_eq!(doubted(&mut kept, start, 200), None, "of another account");
    }
}
