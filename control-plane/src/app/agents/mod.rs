//! Agents: a worker's registration, its link, and what is said over it.

mod addresses;
mod kept;
mod link;
pub mod links;
mod pace;
mod push;
pub mod register;

use crate::App;

/// Registrations and links of agents.
#[derive(Clone, Copy)]
pub struct Agents<'a> {
    app: &'a App,
}

impl App {
    /// Gives the agents.
    pub const fn agents(&self) -> Agents<'_> {
        Agents { app: self }
    }
}
