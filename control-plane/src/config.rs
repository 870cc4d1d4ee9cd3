//! What an operator can set, with the limits that the API keeps.

use ipnet::IpNet;
use orion_domain::{container::AllowedRegistries, node::Reserved};
use orion_service::{
    sealed::MasterKey,
    settings::{SettingsError, Sources, network},
};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

/// Default address on which the API listens.
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

/// Policy for sign-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignUp {
    /// Anyone, within limits.
    Open,
    /// Whoever has an invitation of an admin's.
    Invite,
    /// Refusal of all sign-ups; admins make accounts with `orion admin create`.
    Closed,
}

fn sign_up(text: &str) -> Result<SignUp, String> {
    match text {
        "open" => Ok(SignUp::Open),
        "invite" => Ok(SignUp::Invite),
        "closed" => Ok(SignUp::Closed),
        other => Err(format!("'{other}' is none of open, invite, closed")),
    }
}

/// Settings of the control plane. [`Config::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address on which the API listens.
    pub listen: SocketAddr,
    /// Seals what is secret in the database.
    pub master_key: MasterKey,
    /// Lifetime of an access token.
    pub token_lifetime: Duration,
    /// Longest lease and longest single extension, in hours.
    pub lease_hours_max: f64,
    /// Part of each node that is kept for the node itself.
    pub node_reserved: Reserved,
    /// Most nodes in one rental.
    pub rent_count_max: u32,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Networks in which a registration may name any address, besides private ones and where it comes from.
    pub worker_networks: Vec<IpNet>,
    /// Origins that browsers may call from; none means that CORS stays off.
    pub cors_origins: Vec<String>,
    /// Largest request body, in bytes.
    pub body_bytes_max: usize,
    /// Longest a request may take (but for event streams and links), in milliseconds.
    pub request_timeout_ms: u64,
    /// Longest time that a client may take to send the head of a request, also the next one on an open
    /// connection. A connection that idles longer is closed: otherwise clients that never send a request
    /// would use up the connections.
    pub head_timeout: Duration,
    /// Longest time that a client may leave unread what was sent to it; then its connection is closed, and
    /// what waits for it is dropped.
    pub unread_timeout: Duration,
    /// Longest wait of a rental for its turn in the database.
    pub placing_wait: Duration,
    /// Most agents' links and event streams at once, each.
    pub streams_max: usize,
    /// Most event streams of one user at once.
    pub streams_of_user_max: usize,
    /// Policy for sign-ups.
    pub signup: SignUp,
    /// Most sign-ups from one site (an IPv4 /24, an IPv6 /48) in an hour; 0: any number.
    pub signups_per_hour: u32,
    /// Most sign-ups in all in a minute; 0: any number.
    pub signups_per_minute: u32,
    /// Most requests of one account in a minute; 0: any number.
    pub requests_of_user: u32,
    /// Most requests of one worker with its node token in a minute; 0: any number.
    pub requests_of_worker: u32,
    /// Most requests without a good token from one address (an IPv6 /64) in a minute, of each purpose, and a quarter of
    /// what its site may send; 0: any number.
    pub requests_of_address: u32,
    /// Most nodes of one user at once.
    pub user_nodes_max: u32,
    /// Longest lease of a user with its extensions, in hours.
    pub user_lease_hours_max: u32,
    /// Registries that images may come from.
    pub image_registries: AllowedRegistries,
    /// Most idempotency keys of one user that are kept at once.
    pub user_keys_max: u32,
}

impl Config {
    /// The defaults, with an address and a master key.
    pub const fn new(listen: SocketAddr, master_key: MasterKey) -> Self {
        Self {
            listen,
            master_key,
            token_lifetime: Duration::from_secs(24 * 3600),
            lease_hours_max: 720.0,
            node_reserved: Reserved { cpu_milli: 0, memory_mb: 0 },
            rent_count_max: 100,
            trusted_proxies: Vec::new(),
            worker_networks: Vec::new(),
            cors_origins: Vec::new(),
            body_bytes_max: 64 * 1024,
            request_timeout_ms: 90_000,
            head_timeout: Duration::from_secs(75),
            unread_timeout: Duration::from_secs(30),
            placing_wait: Duration::from_secs(20),
            streams_max: 20_000,
            streams_of_user_max: 100,
            signup: SignUp::Open,
            signups_per_hour: 5,
            signups_per_minute: 30,
            requests_of_user: 1_200,
            requests_of_worker: 120,
            requests_of_address: 600,
            user_nodes_max: 100,
            user_lease_hours_max: 2_160,
            image_registries: AllowedRegistries::none_named(),
            user_keys_max: 10_000,
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
        config.node_reserved =
            sources.get("node_reserved", str::parse::<Reserved>)?.unwrap_or(config.node_reserved);
        config.trusted_proxies = sources.list("trusted_proxies", network)?;
        config.worker_networks = sources.list("worker_networks", network)?;
        config.cors_origins = sources.list("cors_origins", origin)?;
        config.body_bytes_max = sources.number("body_bytes_max", 1024)?.unwrap_or(config.body_bytes_max);
        if let Some(limit) = sources.seconds("request_timeout_s")? {
            config.request_timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        }
        config.image_registries =
            sources.get("image_registries", str::parse::<AllowedRegistries>)?.unwrap_or_default();
        config.streams_max = sources.number("streams_max", 1)?.unwrap_or(config.streams_max);
        config.streams_of_user_max =
            sources.number("streams_of_user_max", 1)?.unwrap_or(config.streams_of_user_max);
        config.signup = sources.get("signup", sign_up)?.unwrap_or(config.signup);
        for (key, least, value) in [
            ("signups_per_hour", 0, &mut config.signups_per_hour),
            ("signups_per_minute", 0, &mut config.signups_per_minute),
            ("requests_of_user_per_minute", 0, &mut config.requests_of_user),
            ("requests_of_worker_per_minute", 0, &mut config.requests_of_worker),
            ("requests_of_address_per_minute", 0, &mut config.requests_of_address),
            ("user_nodes_max", 1, &mut config.user_nodes_max),
            ("user_lease_hours_max", 1, &mut config.user_lease_hours_max),
            ("user_keys_max", 1, &mut config.user_keys_max),
        ] {
            *value = sources.number(key, least)?.unwrap_or(*value);
        }
        Ok(config)
    }
}
