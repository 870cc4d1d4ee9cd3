//! The agent as a process: against a control plane that speaks the real protocol, with a real sshd, and with
//! real accounts in namespaces of their own. Needs root.

#![expect(clippy::unwrap_used, reason = "tests and their helpers fail by panicking")]

mod agent;
mod booking;
mod boot;
mod container;
mod containers;
mod control_plane;
mod deadlines;
mod image;
mod link;
mod machine;
mod registration;
mod services;
mod way_in;
mod worker;
