//! The HTTP API of Orion, as a library that `orion up` and the service share.
//!
//! Lives here: routes, who may call them, the use cases behind them ([`app`]), keys and tokens
//! ([`crypto`]), the agents' links. Does not live here: SQL (orion-store), work on nodes (orion-fleet), and
//! every decision about when a node is dead or a lease moves (orion-scheduler).
//!
//! A rental begins in [`routes::leases::rent`].

pub mod app;
pub mod auth;
pub mod config;
pub mod crypto;
pub mod error;
pub mod known;
pub mod limit;
pub mod openapi;
mod route;
pub mod router;
pub mod routes;
pub mod serve;

pub use app::App;
pub use config::Config;
