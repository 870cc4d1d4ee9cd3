//! Phases of a lease as clients know them.

use orion_domain::lease::Phase;

/// The state that the API names for a phase: it does not tell apart why a lease has no node yet; the reason does.
pub const fn shown(phase: Phase) -> Phase {
    match phase {
        Phase::Requested | Phase::Scheduled | Phase::Queued => Phase::Provisioning,
        Phase::Yielding => Phase::Migrating,
        Phase::Provisioning | Phase::Active | Phase::Migrating | Phase::Releasing | Phase::Ended => phase,
    }
}
