//! Tests on a real engine in a worker, and on engines that answer nonsense.

mod faults;
mod lives;
mod networks;
mod node;
mod node_alone;
mod registry;
mod streams;
