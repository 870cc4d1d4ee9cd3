//! The limits of a pool, with their defaults and where those come from.

use std::time::Duration;

/// Limits of a [`crate::Pool`]; each says its unit in its name.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Name resolution and TCP connect together; default 1500.
    pub connect_timeout_ms: u64,
    /// Limit from the TCP connection to the server's identification line; default 2000. A frozen node stops
    /// here.
    pub banner_timeout_ms: u64,
    /// Key exchange and host key check; default 3000.
    pub kex_timeout_ms: u64,
    /// Login with the control plane's certificate; default 3000.
    pub auth_timeout_ms: u64,
    /// Longest wait of a dial for one of the `dials_max` places; default 10000.
    pub dial_queue_timeout_ms: u64,
    /// `true` in [`crate::Pool::fresh_handshake`], from opening the channel to the exit status; default 3000.
    pub fresh_exec_timeout_ms: u64,
    /// Time after the exit status for which the output may stay silent and open before it is cut off (a
    /// process left in the background holds it open); default 500.
    pub output_grace_ms: u64,
    /// A backstop only, the scheduler's own keep-alives are faster: silence after which russh asks; default 15.
    pub keepalive_interval_s: u64,
    /// Unanswered backstop keep-alives before the session is closed; default 3: 60 s of silence in all.
    pub keepalive_misses_max: usize,
    /// Bound on a session that neither reads nor writes, also before login; default 120. Keep it above
    /// `keepalive_interval_s`.
    pub inactivity_timeout_s: u64,
    /// Key re-exchange; up to an eighth is added at random, so that a fleet that was dialled together does not
    /// re-key together; default 86400.
    pub rekey_interval_s: u64,
    /// Dials under way in the whole pool, without those of [`Self::doubtful_dials_max`]; default 64.
    pub dials_max: usize,
    /// Dials under way to nodes that let their last dial, command or keep-alive time out; default 256. Such a dial
    /// mostly does nothing but wait, and would keep those to nodes that answer waiting, too.
    pub doubtful_dials_max: usize,
    /// Commands at once on one node; default 8. sshd's `MaxSessions` is 10.
    pub channels_per_node_max: usize,
    /// Byte streams at once on one node, on sessions of their own; default 288. Each is a process of sshd there.
    pub own_streams_per_node_max: usize,
    /// Dials at once to one node for such streams; default 4. sshd takes 10 that are not logged in yet (`MaxStartups`), and
    /// refuses others at random.
    pub own_dials_per_node_max: usize,
    /// Bytes that a byte stream on the pooled session may hold unread before it is ended; default 8 MiB. More than a
    /// reply of an engine is long.
    pub unread_max_bytes: usize,
    /// Seconds since 1970, for the certificates' validity; default [`wall_clock_unix_s`].
    pub unix_clock: fn() -> u64,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 1500,
            banner_timeout_ms: 2000,
            kex_timeout_ms: 3000,
            auth_timeout_ms: 3000,
            dial_queue_timeout_ms: 10_000,
            fresh_exec_timeout_ms: 3000,
            output_grace_ms: 500,
            keepalive_interval_s: 15,
            keepalive_misses_max: 3,
            inactivity_timeout_s: 120,
            rekey_interval_s: 86_400,
            dials_max: 64,
            doubtful_dials_max: 256,
            channels_per_node_max: 8,
            own_streams_per_node_max: 288,
            own_dials_per_node_max: 4,
            unread_max_bytes: 8 * 1024 * 1024,
            unix_clock: wall_clock_unix_s,
        }
    }
}

impl PoolConfig {
    pub(crate) fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }
    pub(crate) fn banner_timeout(&self) -> Duration {
        Duration::from_millis(self.banner_timeout_ms)
    }
    pub(crate) fn kex_timeout(&self) -> Duration {
        Duration::from_millis(self.kex_timeout_ms)
    }
    pub(crate) fn auth_timeout(&self) -> Duration {
        Duration::from_millis(self.auth_timeout_ms)
    }
    pub(crate) fn dial_queue_timeout(&self) -> Duration {
        Duration::from_millis(self.dial_queue_timeout_ms)
    }
    pub(crate) fn fresh_exec_timeout(&self) -> Duration {
        Duration::from_millis(self.fresh_exec_timeout_ms)
    }
    pub(crate) fn output_grace(&self) -> Duration {
        Duration::from_millis(self.output_grace_ms)
    }
}

/// The system's wall clock in seconds since 1970; 0 before that.
#[expect(
    clippy::disallowed_methods,
    reason = "certificates are compared with the node's own wall clock; this is the one place that reads it, \
              and PoolConfig::unix_clock replaces it in tests"
)]
pub fn wall_clock_unix_s() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}
