//! The API in one process over a real database and without nodes: who may call what, what it refuses, and how.
//!
//! Lives here: everything that needs no machine. Does not live here: leases on real nodes, which are tested
//! in `e2e/`.

mod accounts;
mod accounts_registries;
mod accounts_rights;
mod agents_register;
mod api;
mod authorization;
mod bad_input;
mod clock;
mod connections;
mod contract;
mod database_away;
mod events;
mod events_readers;
mod images;
mod leases;
mod leases_way_in;
mod limits;
mod logs;
mod nodes;
mod nodes_drain;
mod nodes_forget;
mod openapi;
mod operations_brake;
mod operations_metrics;
mod operations_tasks;
mod process;
mod secrets;
mod surface;
mod traces;
mod unknown_fields;
mod upgrade;
mod webhooks;

/// Runs each of these tests on SQLite and on MariaDB.
macro_rules! on_both_databases {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            use crate::api::{Api, Database};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(Api::start(Database::Sqlite).await).await;
            })+
        }
        mod mariadb {
            use crate::api::{Api, Database};
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(Api::start(Database::MariaDb).await).await;
            })+
        }
    };
}
use on_both_databases;
