//! What every process of the control plane has, whichever service it is: settings, logs, the opened database
//! and keys, a soft stop, and a small page for the scrape.
//!
//! Lives here: reading settings ([`settings`]), logging ([`logging`]) and traces ([`traces`]), the networks of containers
//! ([`container_networks`]), the master key and what is sealed under it ([`sealed`], [`keys`], [`webhook`]), putting the parts together ([`assemble`]), start and stop ([`process`]), the
//! listener of a process without an API ([`probe_page`]). Does not live here: what a service does with it, and
//! SQL.
//!
//! A process begins in [`settings::Sources::read`].

pub mod assemble;
pub mod container_networks;
pub mod keys;
pub mod logging;
pub mod probe_page;
pub mod process;
pub mod sealed;
pub mod settings;
pub mod traces;
pub mod webhook;
