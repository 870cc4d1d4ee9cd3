//! SSH from the control plane to its nodes.
//!
//! Lives here: one pooled session per node (russh), host keys pinned by node, the control
//! plane's certificate authority, running a command with its input and a limit on everything,
//! and an error type that says which stage failed and what that says about the node.
//!
//! Does not live here: SQL, leases, playbooks, retry and back-off policy, and the decision that
//! a node is dead. This crate reports evidence ([`Meaning`]); the scheduler decides.
//!
//! Rules that the whole crate keeps:
//! - Each stage of a dial (resolve and connect, banner, key exchange, authentication) has its own limit.
//! - Each connection hangs on a kill switch: what times out or is dropped leaves no task and no descriptor.
//! - A host key that is not pinned is refused, never learnt. An empty list of pins refuses everything.
//! - A command is sent at most once. After it was sent, a lost connection is [`Kind::OutcomeUnknown`].
//! - No lock is held across an `await`; a slow node delays only its own callers.

mod config;
mod control_ca;
mod dial;
mod endpoint;
mod error;
mod exec;
mod handler;
mod host_key;
mod pool;
mod session;
mod stream;
mod wire;

pub use config::{PoolConfig, wall_clock_unix_s};
pub use control_ca::{CaError, ControlCa};
pub use dial::scan_host_key;
pub use endpoint::Endpoint;
pub use error::{Kind, Meaning, SshError, Stage};
pub use exec::{ExecOutput, ExecRequest};
pub use host_key::{HostKey, HostKeyError, Target};
pub use pool::Pool;
pub use stream::NodeStream;
