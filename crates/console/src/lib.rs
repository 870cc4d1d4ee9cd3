//! The parts that the tools of this repository share (`xtask`, `demo`): a failure with a hint, other programs run to
//! their end, the output that a reader sees, and the places of the repository and of the built programs.
//!
//! Nothing of Orion is in it, and no product code depends on it.

pub mod failure;
pub mod process;
pub mod repo;
pub mod terminal;

pub use failure::{Failure, Outcome, failed_to};
