//! The table of states: of each combination of a lease's phase and its node's state, either that it cannot be, or who
//! ends it. docs/ARCHITECTURE.md has it for people.
//!
//! Pure and not asked at run time: the test that enumerates it shows that no combination was forgotten.

use crate::{
    lease::Phase,
    node::{Health, LinkState, QuarantineCause},
};

/// Every health of a node.
pub const HEALTHS: [Health; 5] =
    [Health::Unknown, Health::Alive, Health::Suspect, Health::Unreachable, Health::Dead];
/// Every state of the link to an agent.
pub const LINKS: [LinkState; 3] = [LinkState::None, LinkState::Up, LinkState::Lost];
/// No quarantine, and one of every cause.
pub const QUARANTINES: [Option<QuarantineCause>; 4] =
    [None, Some(QuarantineCause::Passing), Some(QuarantineCause::Cleaning), Some(QuarantineCause::Operator)];

/// A lease and the node that it occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The lease's.
    pub phase: Phase,
    /// The node's.
    pub health: Health,
    /// The node's agent.
    pub link: LinkState,
    /// The node's quarantine.
    pub quarantine: Option<QuarantineCause>,
}

/// Way in which a state ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WayOut {
    /// Intended state: lasts until the lease's end, which the `expire` task and the node itself enforce.
    Lasts,
    /// State that no transaction leads to, or that the transaction leading to it ends.
    Impossible,
    /// The `reconcile` task, or the process that holds the node's claim, within a claim's life and the pause between
    /// two tries (at most a minute).
    Reconcile,
    /// The node's watcher settles its health within the policy's limits (seconds; with the brake on, when that is
    /// lifted).
    Watch,
    /// The watcher gives the node up when neither path has been of use for `sick_for` (10 min), or an admin declares
    /// it dead before.
    GivenUp,
    /// The `sweep` task moves the lease on or ends it as soon as the claim has run out.
    Sweep,
    /// The `expire` task ends it at its time. (What takes it further before does not stand yet: no route makes one.)
    Expire,
    /// The `migrate` task finds it a node as soon as one is free; else the lease ends at its time.
    Migrate,
    /// The agent closes the login at the lease's end. The account is removed when SSH answers again; an admin may
    /// declare the node dead before.
    AgentThenWatch,
}

impl WayOut {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Lasts,
        Self::Impossible,
        Self::Reconcile,
        Self::Watch,
        Self::GivenUp,
        Self::Sweep,
        Self::Expire,
        Self::Migrate,
        Self::AgentThenWatch,
    ];

    /// The scheduler's task that ends it, by its name there; `inventory` has a watcher for each node. What the node, its
    /// agent or an admin may do before needs none.
    pub const fn task(self) -> Option<&'static str> {
        match self {
            Self::Lasts | Self::Expire => Some("expire"),
            Self::Reconcile => Some("reconcile"),
            Self::Watch | Self::GivenUp | Self::AgentThenWatch => Some("inventory"),
            Self::Sweep => Some("sweep"),
            Self::Migrate => Some("migrate"),
            Self::Impossible => None,
        }
    }
}

/// Returns what ends the pair, or that the pair is impossible.
pub const fn way_out(pair: Pair) -> WayOut {
    match (pair.phase, pair.health) {
        // These occupy no node: [`way_out_without_node`].
        (Phase::Requested | Phase::Scheduled | Phase::Queued | Phase::Ended, _) => WayOut::Impossible,
        // The transaction that writes `Dead` takes them off the node, and a dead node confirms nothing; what an older
        // version left there the sweep takes off.
        (Phase::Active | Phase::Yielding | Phase::Releasing, Health::Dead) => WayOut::Impossible,
        (Phase::Provisioning, Health::Dead | Health::Unreachable) => WayOut::Sweep,
        (Phase::Migrating, Health::Dead | Health::Unreachable) => WayOut::Migrate,
        // An operator's quarantine keeps new leases away; what is there is worked on all the same.
        (Phase::Active, Health::Alive) => WayOut::Lasts,
        (Phase::Provisioning | Phase::Migrating | Phase::Yielding | Phase::Releasing, Health::Alive) => {
            WayOut::Reconcile
        }
        (
            Phase::Provisioning | Phase::Active | Phase::Migrating | Phase::Yielding | Phase::Releasing,
            Health::Unknown | Health::Suspect,
        ) => WayOut::Watch,
        (Phase::Active | Phase::Yielding | Phase::Releasing, Health::Unreachable) => match pair.link {
            LinkState::None | LinkState::Lost => WayOut::GivenUp,
            LinkState::Up => WayOut::AgentThenWatch,
        },
    }
}

/// Who ends a lease that has no node, or that there is none; none if it is over.
pub const fn way_out_without_node(phase: Phase) -> Option<WayOut> {
    match phase {
        Phase::Requested | Phase::Scheduled | Phase::Queued => Some(WayOut::Expire),
        Phase::Provisioning | Phase::Active | Phase::Migrating | Phase::Yielding | Phase::Releasing => {
            Some(WayOut::Impossible)
        }
        Phase::Ended => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = Pair> {
        Phase::ALL.into_iter().flat_map(|phase| {
            HEALTHS.into_iter().flat_map(move |health| {
                LINKS.into_iter().flat_map(move |link| {
                    QUARANTINES.into_iter().map(move |quarantine| Pair { phase, health, link, quarantine })
                })
            })
        })
    }

    #[test]
    fn only_an_active_lease_on_a_node_that_answers_lasts() {
        assert_eq!(all().count(), 540);
        for pair in all() {
            let is_as_it_should = pair.phase == Phase::Active && pair.health == Health::Alive;
            assert_eq!(way_out(pair) == WayOut::Lasts, is_as_it_should, "{pair:?}");
        }
    }

    #[test]
    fn nothing_is_active_or_ends_on_a_dead_node() {
        for pair in all().filter(|pair| pair.health == Health::Dead) {
            let stays = matches!(pair.phase, Phase::Provisioning | Phase::Migrating);
            assert_eq!(way_out(pair) == WayOut::Impossible, !stays, "{pair:?}");
        }
    }

    #[test]
    fn a_lease_has_a_way_out_with_a_node_or_without_one_unless_it_is_over() {
        for phase in Phase::ALL {
            let of_phase = || all().filter(|pair| pair.phase == phase);
            let with_node = of_phase().any(|pair| way_out(pair) != WayOut::Impossible);
            assert_eq!(with_node, phase.holds_node(), "{phase:?}");
            let without = way_out_without_node(phase);
            assert_eq!(without == Some(WayOut::Expire), phase.is_live() && !phase.holds_node(), "{phase:?}");
            assert_eq!(without.is_none(), !phase.is_live());
        }
    }

    #[test]
    fn no_quarantine_keeps_a_lease_from_its_end() {
        for pair in all() {
            assert_eq!(way_out(pair), way_out(Pair { quarantine: None, ..pair }), "{pair:?}");
        }
    }

    /// The cells of the table for people, by the first word or words of their row.
    fn rows() -> Vec<(String, Vec<String>)> {
        // Not `include_str!`: the page is not among what programs are built from.
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/ARCHITECTURE.md");
        let text = std::fs::read_to_string(page).expect("the page");
        let lines = text.lines().skip_while(|line| !line.starts_with("| lease · node |")).skip(2);
        let mut rows: Vec<(String, Vec<String>)> = Vec::new();
        for line in lines.take_while(|line| line.starts_with('|')) {
            let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
            let name = cells.next().unwrap();
            let mut row: Vec<String> = Vec::new();
            for cell in cells {
                row.push(if cell == "as before" { row.last().unwrap().clone() } else { cell });
            }
            rows.push((name, row));
        }
        let releasing = rows.iter().find(|(name, _)| name == "releasing").unwrap().1.clone();
        for (_, row) in &mut rows {
            for (cell, of_releasing) in row.iter_mut().zip(&releasing) {
                if cell == "as releasing" {
                    cell.clone_from(of_releasing);
                }
            }
        }
        rows
    }

    /// Words that the table for people has where there is this way out.
    const fn word(way_out: WayOut) -> &'static str {
        match way_out {
            WayOut::Lasts => "as it should be, until its end",
            WayOut::Impossible => "impossible: ",
            WayOut::Reconcile => "`reconcile`",
            WayOut::Watch => "the watcher: seconds",
            WayOut::GivenUp => "given up after 10 min",
            WayOut::Sweep => "`sweep`",
            WayOut::Expire => "`expire`",
            WayOut::Migrate => "`migrate`",
            WayOut::AgentThenWatch => "`declare-dead`",
        }
    }

    #[test]
    fn the_table_for_people_says_the_same() {
        let rows = rows();
        let row = |phase: Phase| {
            let found = rows.iter().find(|(name, _)| name.split(", ").any(|word| word == phase.as_str()));
            &found.unwrap_or_else(|| panic!("no row for {phase:?}")).1
        };
        for phase in Phase::ALL.into_iter().filter(|phase| phase.is_live()) {
            if let Some(way_out) =
                way_out_without_node(phase).filter(|way_out| *way_out != WayOut::Impossible)
            {
                assert!(row(phase)[0].contains(word(way_out)), "{phase:?}: {:?}", row(phase));
                continue;
            }
            for pair in all().filter(|pair| pair.phase == phase) {
                let column = match (pair.health, pair.link) {
                    (Health::Alive, _) => 0,
                    (Health::Suspect | Health::Unknown, _) => 1,
                    (Health::Unreachable, LinkState::None | LinkState::Lost) => 2,
                    (Health::Unreachable, LinkState::Up) => 3,
                    (Health::Dead, _) => 4,
                };
                let cell = &row(phase)[column];
                let way_out = way_out(pair);
                assert!(cell.contains(word(way_out)), "{pair:?}: {way_out:?}, and the table: {cell}");
                let impossible = cell.starts_with(word(WayOut::Impossible));
                assert_eq!(impossible, way_out == WayOut::Impossible, "{pair:?}: {cell}");
            }
        }
    }

    #[test]
    fn what_waits_for_a_node_to_be_given_up_has_no_agent_that_is_heard() {
        for pair in all().filter(|pair| way_out(*pair) == WayOut::GivenUp) {
            assert!(pair.link != LinkState::Up && pair.health == Health::Unreachable, "{pair:?}");
        }
    }
}
