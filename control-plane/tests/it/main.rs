//! The API in one process over a real database and without nodes: who may call what, what it refuses, and how.
//!
//! Lives here: everything that needs no machine. Does not live here: leases on real nodes, which are tested
//! end to end beside the `orion` binary.

mod accounts;
mod api;
mod authorization;
mod bad_input;
mod brake;
mod clock;
mod connections;
mod contract;
mod database_away;
mod drain;
mod events;
mod forget;
mod leases;
mod logs;
mod metrics;
mod openapi;
mod process;
mod readers;
mod registration;
mod secrets;
mod surface;
mod traces;
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
