//! One suite, run on SQLite and on a real MariaDB server. A query exists when both pass.
#![expect(clippy::unwrap_used, reason = "clippy.toml allows it in tests, but does not know their helpers")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a test panics on whatever it does not expect")]

mod accounts;
mod admin_audit;
mod admin_restore;
mod admin_retention;
mod admin_schema;
mod agents_report;
mod agents_way_in;
mod cluster_brake;
mod cluster_peer_probes;
mod containers;
mod engine_outage;
mod engine_upgrade;
mod events;
mod idempotency;
mod images;
mod leases;
mod leases_move;
mod leases_place;
mod leases_slices;
mod leases_waiting;
mod mariadb;
mod nodes;
mod nodes_dead;
mod nodes_drain;
mod nodes_forget;
mod nodes_host_keys;
mod nodes_identity;
mod nodes_lock;
mod nodes_machine;
mod nodes_quarantine;
mod nodes_reconcile;
mod nodes_register;
mod states;
mod webhooks;
mod world;
