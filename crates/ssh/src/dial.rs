//! One connection, stage by stage, each with its own limit: resolve and connect, banner, key exchange, login.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use russh::client::{self, AuthResult, Handle};
use russh::keys::Algorithm;
use russh::{Limits, Preferred, SshId, cipher, compression, kex, mac};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::config::PoolConfig;
use crate::control_ca::{ControlCa, LOGIN};
use crate::error::{Kind, SshError, Stage};
use crate::handler::{NodeHandler, Seen, Trust};
use crate::host_key::{HostKey, Target, negotiable_algorithms};
use crate::wire::Wire;

/// The names in [`orion_domain::ssh_algorithms`], with strict key exchange (Terrapin). Never the DH groups: 8 to 450 ms
/// of CPU each. The NIST curves are for servers that take nothing else.
const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_128_CTR,
];
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
const COMPRESSION: &[compression::Name] = &[compression::NONE];
/// A command's output is drained at once; a small window bounds what one channel can hold in memory.
const WINDOW_BYTES: u32 = 512 * 1024;
const CHANNEL_MESSAGES_MAX: usize = 32;
/// Largest number of bytes before the identification line, RFC 4253 §4.2; sshd's own texts are one line.
const BANNER_BYTES_MAX: usize = 4096;
/// The system resolver blocks a thread and cannot be interrupted: this many threads at most.
static RESOLVERS: Semaphore = Semaphore::const_new(64);

/// An open connection. Cancelling `kill` ends it at once; `closed` is cancelled when its task ended.
pub(crate) struct Link {
    pub(crate) handle: Handle<NodeHandler>,
    pub(crate) kill: CancellationToken,
    pub(crate) closed: CancellationToken,
    pub(crate) seen: Arc<Seen>,
}

/// A logged-in connection. Dropping the future at any point ends the connection.
pub(crate) async fn dial(target: &Target, config: &PoolConfig, ca: &ControlCa) -> Result<Link, SshError> {
    if target.host_keys.is_empty() {
        return Err(SshError::new(Stage::KeyExchange, Kind::NoPinnedKey));
    }
    let kill = CancellationToken::new();
    let guard = kill.clone().drop_guard();
    let trust = Trust::Pinned(target.host_keys.clone());
    let order = host_key_order(&target.host_keys);
    let mut link = shake_hands(&target.host, target.port, trust, order, config, kill).await?;
    log_in(&mut link, target.node_id, config, ca).await?;
    guard.disarm();
    Ok(link)
}

/// The host key that a server shows, with the signature over the key exchange verified. Nothing is sent after
/// that: no login. For showing a fingerprint to a person; a scan alone proves nothing about who answers.
///
/// # Errors
/// As for any dial, up to the key exchange.
pub async fn scan_host_key(host: &str, port: u16, config: &PoolConfig) -> Result<HostKey, SshError> {
    let kill = CancellationToken::new();
    let _guard = kill.clone().drop_guard();
    let order = negotiable_algorithms().to_vec();
    match shake_hands(host, port, Trust::LookOnly, order, config, kill).await {
        Ok(_) => Err(SshError::new(Stage::KeyExchange, Kind::Protocol("no host key was shown".into()))),
        Err(Shaken { refused_key: Some(key), .. }) => Ok(key),
        Err(Shaken { error, .. }) => Err(error),
    }
}

/// Reason why there is no connection, with the host key that was refused.
struct Shaken {
    error: SshError,
    refused_key: Option<HostKey>,
}

impl From<SshError> for Shaken {
    fn from(error: SshError) -> Self {
        Self { error, refused_key: None }
    }
}

impl From<Shaken> for SshError {
    fn from(shaken: Shaken) -> Self {
        match shaken.refused_key {
            Some(key) => Self::new(Stage::KeyExchange, Kind::HostKeyMismatch { seen: key.fingerprint() }),
            None => shaken.error,
        }
    }
}

/// The pinned types first, so that a node with several keys shows one that we can compare; then the others, so
/// that another type reads as a mismatch and not as "no common algorithm".
fn host_key_order(pins: &[HostKey]) -> Vec<Algorithm> {
    let (mut order, rest): (Vec<_>, Vec<_>) = negotiable_algorithms()
        .into_iter()
        .partition(|algorithm| pins.iter().any(|pin| pin.algorithm() == algorithm));
    order.extend(rest);
    order
}

async fn shake_hands(
    host: &str,
    port: u16,
    trust: Trust,
    host_key_order: Vec<Algorithm>,
    config: &PoolConfig,
    kill: CancellationToken,
) -> Result<Link, Shaken> {
    let tcp = connect(host, port, config.connect_timeout()).await?;
    let wire = read_banner(tcp, &kill, config.banner_timeout()).await?;
    let closed = CancellationToken::new();
    let seen = Arc::new(Seen::default());
    let handler = NodeHandler::new(trust, Arc::clone(&seen), closed.clone().drop_guard());
    let russh_config = Arc::new(russh_config(config, host_key_order));
    // On a timeout russh's task lives on, detached: the caller's guard on `kill` ends it.
    let shaken = timeout(config.kex_timeout(), client::connect_stream(russh_config, wire, handler)).await;
    let error = match shaken {
        Ok(Ok(handle)) => return Ok(Link { handle, kill, closed, seen }),
        Ok(Err(error)) => SshError::from_russh(Stage::KeyExchange, error),
        Err(_elapsed) => SshError::new(Stage::KeyExchange, Kind::TimedOut),
    };
    Err(Shaken { error, refused_key: seen.refused_key.get().cloned() })
}

fn russh_config(config: &PoolConfig, host_key_order: Vec<Algorithm>) -> client::Config {
    let rekey_s = config.rekey_interval_s.max(60);
    let jitter_s = rand::rng().random_range(0..=rekey_s / 8);
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed("SSH-2.0-Orion")),
        limits: Limits {
            rekey_time_limit: Duration::from_secs(rekey_s.saturating_add(jitter_s)),
            ..Limits::default()
        },
        window_size: WINDOW_BYTES,
        channel_buffer_size: CHANNEL_MESSAGES_MAX,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(host_key_order),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(COMPRESSION),
        },
        inactivity_timeout: Some(Duration::from_secs(config.inactivity_timeout_s)),
        keepalive_interval: Some(Duration::from_secs(config.keepalive_interval_s)),
        keepalive_max: config.keepalive_misses_max,
        nodelay: true,
        ..client::Config::default()
    }
}

async fn resolve(host: &str, port: u16, deadline: Instant) -> Result<Vec<SocketAddr>, SshError> {
    if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let timed_out = || SshError::new(Stage::Resolve, Kind::TimedOut);
    let Ok(permit) = timeout_at(deadline, RESOLVERS.acquire()).await.map_err(|_| timed_out())? else {
        return Err(SshError::new(Stage::Resolve, Kind::Local("the resolvers are shut down".into())));
    };
    let name = host.to_owned();
    // A task of its own: the place is taken until the thread is really free again, not until we stop waiting.
    let looking = tokio::spawn(async move {
        let found = lookup_host((name.as_str(), port)).await.map(Iterator::collect::<Vec<_>>);
        drop(permit);
        found
    });
    let not_resolved = SshError::new(Stage::Resolve, Kind::NotResolved);
    match timeout_at(deadline, looking).await.map_err(|_| timed_out())? {
        Ok(Ok(addresses)) if addresses.is_empty() => Err(not_resolved),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err(not_resolved.with_source(error)),
        Err(error) => Err(not_resolved.with_source(error)),
    }
}

async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, SshError> {
    let deadline = Instant::now() + limit;
    let addresses = resolve(host, port, deadline).await?;
    let mut last = SshError::new(Stage::Resolve, Kind::NotResolved);
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        // The rest of the limit is shared fairly: a dead IPv6 address leaves time for the IPv4 one.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(count - index).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                // Without it, requests wait up to 40 ms for the peer's acknowledgement; it still works.
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Ok(Err(error)) => last = SshError::from_io(Stage::Connect, error),
            Err(_elapsed) => last = SshError::new(Stage::Connect, Kind::TimedOut),
        }
    }
    Err(last)
}

/// Reads up to the identification line, before a byte is sent: a throttling sshd writes its text and closes, and
/// what we had sent by then would turn that text into a reset. russh reads it all again from the [`Wire`].
async fn read_banner(
    mut tcp: TcpStream,
    kill: &CancellationToken,
    limit: Duration,
) -> Result<Wire, SshError> {
    let error = |kind| SshError::new(Stage::Banner, kind);
    let mut ahead = Vec::with_capacity(256);
    let reading = async {
        loop {
            match judge_banner(&ahead) {
                Banner::Ssh => return Ok(()),
                Banner::Throttled => return Err(error(Kind::Throttled)),
                Banner::Incomplete if ahead.len() >= BANNER_BYTES_MAX => {
                    return Err(error(Kind::Protocol("no SSH identification line".into())));
                }
                Banner::Incomplete => {}
            }
            match tcp.read_buf(&mut ahead).await {
                Ok(0) if ahead.is_empty() => return Err(error(Kind::Closed)),
                Ok(0) => return Err(error(Kind::Protocol("closed before the identification line".into()))),
                Ok(_) => {}
                Err(failure) => return Err(SshError::from_io(Stage::Banner, failure)),
            }
        }
    };
    timeout(limit, reading).await.unwrap_or_else(|_elapsed| Err(error(Kind::TimedOut)))?;
    Ok(Wire::new(tcp, ahead, kill))
}

#[derive(Debug, PartialEq, Eq)]
enum Banner {
    Ssh,
    Throttled,
    Incomplete,
}

fn judge_banner(bytes: &[u8]) -> Banner {
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b"Not allowed at this time") || line.starts_with(b"Exceeded MaxStartups") {
            return Banner::Throttled;
        }
        if line.ends_with(b"\n") && (line.starts_with(b"SSH-2.0-") || line.starts_with(b"SSH-1.99-")) {
            return Banner::Ssh;
        }
    }
    Banner::Incomplete
}

async fn log_in(link: &mut Link, node_id: i64, config: &PoolConfig, ca: &ControlCa) -> Result<(), SshError> {
    let error = |kind| SshError::new(Stage::Auth, kind);
    let credential = ca
        .issue(&format!("orion node={node_id}"), (config.unix_clock)())
        .map_err(|failure| error(Kind::Local(failure.to_string())).with_source(failure))?;
    let login = link.handle.authenticate_openssh_cert(LOGIN, credential.key, credential.certificate);
    match timeout(config.auth_timeout(), login).await {
        Ok(Ok(AuthResult::Success)) => Ok(()),
        // russh reports a connection that was lost here as a failure without any remaining method.
        Ok(Ok(AuthResult::Failure { remaining_methods, .. })) if remaining_methods.is_empty() => {
            Err(error(Kind::Closed))
        }
        Ok(Ok(AuthResult::Failure { .. })) => Err(error(Kind::AuthRejected)),
        Ok(Err(failure)) => Err(SshError::from_russh(Stage::Auth, failure)),
        Err(_elapsed) => Err(error(Kind::TimedOut)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_lines_tell_a_busy_sshd_from_another_service() {
        assert_eq!(judge_banner(b"SSH-2.0-OpenSSH_9.2p1\r\n\0\0"), Banner::Ssh);
        assert_eq!(judge_banner(b"welcome\r\nSSH-2.0-dropbear\r\n"), Banner::Ssh);
        assert_eq!(judge_banner(b"SSH-2.0-Open"), Banner::Incomplete);
        assert_eq!(judge_banner(b"Not allowed at this time\r\n"), Banner::Throttled);
        assert_eq!(judge_banner(b"Exceeded MaxStartups"), Banner::Throttled);
        assert_eq!(judge_banner(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Banner::Incomplete);
        assert_eq!(judge_banner(b""), Banner::Incomplete);
    }

    #[test]
    fn a_pinned_type_is_asked_for_first_and_no_type_is_left_out() {
        let mut rng = rand::rng();
        let [ed25519, ecdsa, p384, p521] = negotiable_algorithms();
        let key = russh::keys::PrivateKey::random(&mut rng, ecdsa.clone()).unwrap();
        let pin = HostKey::from_public_key(key.public_key()).unwrap();
        assert_eq!(host_key_order(&[pin]), [ecdsa.clone(), ed25519.clone(), p384.clone(), p521.clone()]);
        assert_eq!(host_key_order(&[]), [ed25519, ecdsa, p384, p521]);
    }

    #[test]
    fn what_is_offered_is_what_the_domain_says() {
        use orion_domain::ssh_algorithms as told;
        let kex: Vec<&str> = KEX.iter().map(AsRef::as_ref).filter(|name| !is_extension(name)).collect();
        assert_eq!(kex, told::KEX);
        assert_eq!(CIPHERS.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), told::CIPHERS);
        assert_eq!(MACS.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), told::MACS);
        let keys: Vec<String> = negotiable_algorithms().iter().map(ToString::to_string).collect();
        assert_eq!(keys, told::HOST_KEYS);
        assert!(ControlCa::generate().public_line().starts_with(told::CA));
    }

    fn is_extension(name: &str) -> bool {
        name.starts_with("ext-info") || name.starts_with("kex-strict")
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_says_nothing_about_life() {
        let config = PoolConfig::default();
        let error = scan_host_key("no-such-node.invalid", 22, &config).await.unwrap_err();
        assert_eq!(error.stage, Stage::Resolve);
        assert_eq!(error.meaning(), crate::Meaning::Silent);
    }
}
