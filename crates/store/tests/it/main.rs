//! One suite, run on SQLite and on a real MariaDB server. A query exists when both pass.
#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, but does not know their helpers")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test panics on whatever it does not expect")]

mod brake;
mod doctor;
mod drain;
mod events;
mod forgetting;
mod idempotency;
mod leases;
mod mariadb;
mod moves;
mod nodes;
mod outage;
mod placing;
mod reconciling;
mod registering;
mod restoring;
mod schema;
mod second_looks;
mod users;
mod webhooks;
mod world;
