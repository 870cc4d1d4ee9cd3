//! What an operator can set, with the limits that the API keeps.

use ipnet::IpNet;
use orion_service::{
    sealed::MasterKey,
    settings::{SettingsError, Sources, network},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Where the API listens unless told otherwise.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// An origin as browsers send it: scheme, host, port, and nothing behind.
fn origin(text: &str) -> Result<String, String> {
    let uri = text.parse::<axum::http::Uri>().ok();
    let is_origin = uri.is_some_and(|uri| uri.scheme().is_some() && uri.host().is_some())
        && text.matches('/').count() == 2;
    if is_origin {
        return Ok(text.to_owned());
    }
    Err(format!("'{text}' is not an origin, such as https://orion.example or http://localhost:5173"))
}

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
    /// How long a client may take to send the head of a request, also the next one on an open connection. What
    /// idles longer is closed: otherwise clients that never ask would use up the connections.
    pub head_timeout: Duration,
    /// How long a client may leave unread what was sent to it; then its connection is closed, and what waits for
    /// it is dropped.
    pub unread_timeout: Duration,
    /// Most agents' links and event streams at once, each.
    pub streams_max: usize,
    /// Most event streams of one user at once.
    pub streams_of_user_max: usize,
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
            head_timeout: Duration::from_secs(75),
            unread_timeout: Duration::from_secs(30),
            streams_max: 20_000,
            streams_of_user_max: 100,
        }
    }

    /// The defaults, with what an operator has set.
    ///
    /// # Errors
    /// The first setting that makes no sense, by the name of its variable.
    pub fn from_sources(sources: &Sources, master_key: MasterKey) -> Result<Self, SettingsError> {
        let listen = sources.address("listen")?.unwrap_or(DEFAULT_LISTEN);
        let mut config = Self::new(listen, master_key);
        let hours = sources.get("lease_hours_max", |text| {
            let hours = text.parse::<f64>().ok().filter(|hours| *hours > 0.0 && hours.is_finite());
            hours.ok_or_else(|| format!("'{text}' is not a number of hours above 0"))
        })?;
        config.lease_hours_max = hours.unwrap_or(config.lease_hours_max);
        config.rent_count_max = sources.number("rent_count_max", 1)?.unwrap_or(config.rent_count_max);
        if let Some(hours) = sources.number::<u32>("token_hours", 1)? {
            config.token_lifetime = Duration::from_secs(u64::from(hours) * 3600);
        }
        config.trusted_proxies = sources.list("trusted_proxies", network)?;
        config.cors_origins = sources.list("cors_origins", origin)?;
        config.body_bytes_max = sources.number("body_bytes_max", 1024)?.unwrap_or(config.body_bytes_max);
        if let Some(limit) = sources.seconds("request_timeout_s")? {
            config.request_timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        }
        config.streams_max = sources.number("streams_max", 1)?.unwrap_or(config.streams_max);
        config.streams_of_user_max =
            sources.number("streams_of_user_max", 1)?.unwrap_or(config.streams_of_user_max);
        Ok(config)
    }
}
