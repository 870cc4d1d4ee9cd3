//! What an operator can set, with the limits that the API keeps.

use crate::crypto::sealed::MasterKey;
use ipnet::IpNet;
use std::{net::SocketAddr, time::Duration};

/// Settings of the control plane. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Seals what is secret in the database.
    pub master_key: MasterKey,
    /// How long an access token lives.
    pub token_lifetime: Duration,
    /// Longest lease and longest single extension, in hours.
    pub lease_hours_max: f64,
    /// Most nodes in one rental.
    pub rent_count_max: u32,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins that browsers may call from; none means that CORS stays off.
    pub cors_origins: Vec<String>,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Longest a request may take (but for event streams and links), in milliseconds.
    pub request_timeout_ms: u64,
    /// Most agents' links and event streams at once, each.
    pub streams_max: usize,
}

impl Config {
    /// The defaults, with an address and a master key.
    pub const fn new(listen: SocketAddr, master_key: MasterKey) -> Self {
        Self {
            listen,
            master_key,
            token_lifetime: Duration::from_secs(24 * 3600),
            lease_hours_max: 720.0,
            rent_count_max: 100,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            body_bytes_max: 64 * 1024,
            request_timeout_ms: 90_000,
            streams_max: 20_000,
        }
    }
}
