//! The real parts that Orion's tests run against: workers as Linux namespaces with a real sshd
//! ([`Workers`]), a private MariaDB server ([`MariaDb`]), a private Docker engine ([`Docker`]), logins by the
//! OpenSSH client ([`SshClient`], [`KeyPair`]), the built programs ([`program`], and `orion` as a user runs it:
//! [`Home`]), and waiting for a state instead of sleeping ([`wait_until`]). The one part that is not real is
//! [`FakeApi`], for tests of what a client sends.
//!
//! A dev-dependency only. No product code, no mocks of what a test claims to test, and nothing that knows
//! leases, the store or the routes of the API: those are tested by their own crates *with* these parts.
//!
//! Everything is removed when its owner is dropped, when the test panics, and also when the test process is
//! killed (see `keeper.rs`). What the machine lacks is a panic that names the Debian package. Starting and
//! steering workers and servers blocks the calling thread for the time given at each function.

mod docker;
mod engine;
mod fake_api;
mod home;
mod host;
mod keeper;
mod keys;
mod mariadb;
mod programs;
mod range;
mod registry;
mod script;
mod ssh;
mod wait;
mod worker;
mod workers;

pub use docker::Docker;
pub use fake_api::{Answer, FakeApi, Request};
pub use home::{Ended, Home, ended};
pub use host::{free_port, random_word, write_program};
pub use keys::KeyPair;
pub use mariadb::{Database, MariaDb};
pub use programs::program;
pub use registry::Registry;
pub use script::{Agent, Kind};
pub use ssh::{LoginError, SshAddress, SshClient};
pub use wait::{Attempt, wait_until, wait_until_blocking};
pub use worker::{FrozenProcesses, Worker};
pub use workers::Workers;
