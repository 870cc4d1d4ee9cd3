//! What went wrong with a node, at which stage, and what that says about the node.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Stage that an operation reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The name of the node.
    Resolve,
    /// TCP connect.
    Connect,
    /// The server's identification line.
    Banner,
    /// Key exchange and host key.
    KeyExchange,
    /// Login.
    Auth,
    /// Opening a channel. Whatever failed here, the command was not sent.
    Open,
    /// A command was sent.
    Exec,
    /// A keep-alive on the pooled session.
    Keepalive,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Banner => "banner",
            Self::KeyExchange => "key exchange",
            Self::Auth => "login",
            Self::Open => "open channel",
            Self::Exec => "command",
            Self::Keepalive => "keep-alive",
        })
    }
}

/// Kind of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// Target without a pooled session.
    NoSession,
    /// The target has no pinned host key: nothing is dialled.
    NoPinnedKey,
    /// The name has no address, or the resolver failed.
    NotResolved,
    /// The kernel of the node answered that nothing listens there.
    Refused,
    /// The network says that there is no way to the node.
    Unreachable,
    /// Expiry of the stage's limit without an answer. At [`Stage::Exec`] the command may have run.
    TimedOut,
    /// sshd answered that it takes no more connections for now (MaxStartups, penalties): it is alive.
    Throttled,
    /// The node closed or reset the connection.
    Closed,
    /// The node showed a host key that is not pinned.
    HostKeyMismatch {
        /// Fingerprint of the key that it showed, `SHA256:…`.
        seen: String,
    },
    /// sshd refused the control plane's certificate.
    AuthRejected,
    /// sshd refused another channel; the text is its reason.
    ChannelRefused(String),
    /// The command was sent and the connection ended before its exit status: it may have run, or not.
    OutcomeUnknown,
    /// The other side speaks something else, or no common algorithm, or refused to start the command.
    Protocol(String),
    /// Intentional drop of the session by this side.
    Dropped,
    /// Lack of a free place within the limit: too many dials, or too many commands on this node.
    Busy,
    /// A fault of this process or machine (descriptors, memory, own network), not of the node.
    Local(String),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSession => f.write_str("no pooled session"),
            Self::NoPinnedKey => f.write_str("no host key is pinned for this node"),
            Self::NotResolved => f.write_str("the name does not resolve"),
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Throttled => f.write_str("sshd is throttling new connections"),
            Self::Closed => f.write_str("the connection was closed"),
            Self::HostKeyMismatch { seen } => write!(f, "the host key {seen} is not the pinned one"),
            Self::AuthRejected => f.write_str(
                "the node refused the control plane's certificate (its authority, PermitRootLogin, \
                 CASignatureAlgorithms, or a clock that is off: `orion-agent check` there says which)",
            ),
            Self::ChannelRefused(reason) => write!(f, "sshd refused a channel: {reason}"),
            Self::OutcomeUnknown => f.write_str("the connection ended before the exit status"),
            Self::Protocol(detail) => write!(f, "protocol error: {detail}"),
            Self::Dropped => f.write_str("the session was dropped"),
            Self::Busy => f.write_str("no free place within the limit"),
            Self::Local(detail) => write!(f, "local fault: {detail}"),
        }
    }
}

/// The meaning of an error for its node: [`SshError::meaning`] is the one table of it. The scheduler decides what
/// follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meaning {
    /// The machine's kernel answers, and no sshd does (refused, closed).
    Gone,
    /// Absence of any answer.
    Silent,
    /// sshd answers and takes no more connections or channels for now: alive. Wait 15 s or more before the next dial.
    Throttled,
    /// Server that answers but does not let the control plane in (login refused, protocol error, no key to
    /// trust).
    Sick,
    /// Host key that differs: the node was re-installed or is impersonated. A case for quarantine.
    WrongKey,
    /// Fault or limit of this side, which says nothing about the node.
    Nothing,
}

impl Meaning {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Silent => "silent",
            Self::Throttled => "throttled",
            Self::Sick => "sick",
            Self::WrongKey => "mismatch",
            Self::Nothing => "unknown",
        }
    }

    /// Returns whether the node itself answered; none where the error says nothing about it.
    pub const fn node_answers(self) -> Option<bool> {
        match self {
            Self::Throttled | Self::Sick => Some(true),
            Self::Gone | Self::Silent | Self::WrongKey => Some(false),
            Self::Nothing => None,
        }
    }
}

/// A failure of one operation on one node. `Display` does not repeat the source.
#[derive(Debug, Clone)]
pub struct SshError {
    /// Stage that the operation reached.
    pub stage: Stage,
    /// Kind of the failure.
    pub kind: Kind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl fmt::Display for SshError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ssh {}: {}", self.stage, self.kind)
    }
}

impl Error for SshError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl SshError {
    /// An error without a source; also for the fakes in other crates' tests.
    pub fn new(stage: Stage, kind: Kind) -> Self {
        Self { stage, kind, source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Returns what this says about the node.
    pub const fn meaning(&self) -> Meaning {
        match &self.kind {
            Kind::Refused | Kind::Closed => Meaning::Gone,
            Kind::Unreachable | Kind::TimedOut | Kind::NotResolved | Kind::OutcomeUnknown => Meaning::Silent,
            Kind::Throttled | Kind::ChannelRefused(_) => Meaning::Throttled,
            Kind::AuthRejected | Kind::Protocol(_) | Kind::NoPinnedKey => Meaning::Sick,
            Kind::HostKeyMismatch { .. } => Meaning::WrongKey,
            Kind::Busy | Kind::Dropped | Kind::NoSession | Kind::Local(_) => Meaning::Nothing,
        }
    }

    /// True when the command may have run on the node, wholly or in part: look before running it again.
    pub fn may_have_run(&self) -> bool {
        self.stage == Stage::Exec
            && matches!(self.kind, Kind::TimedOut | Kind::OutcomeUnknown | Kind::Dropped | Kind::Local(_))
    }

    /// True when sshd answered that it does not open this channel. To a socket: nobody listens there, or forwarding is
    /// shut by the site; sshd does not say which.
    pub fn is_channel_refused(&self) -> bool {
        matches!(self.kind, Kind::ChannelRefused(_))
    }

    /// True when sshd answered that it may not forward to that end.
    pub fn is_forwarding_shut(&self) -> bool {
        matches!(&self.kind, Kind::ChannelRefused(reason) if reason == "AdministrativelyProhibited")
    }

    /// An error of a socket at this stage.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the enum is non-exhaustive; what is not known to come from the network is a local fault"
    )]
    pub(crate) fn from_io(stage: Stage, error: std::io::Error) -> Self {
        use std::io::ErrorKind as E;
        let kind = match error.kind() {
            E::ConnectionRefused => Kind::Refused,
            E::HostUnreachable | E::NetworkUnreachable => Kind::Unreachable,
            E::TimedOut => Kind::TimedOut,
            E::ConnectionReset
            | E::ConnectionAborted
            | E::BrokenPipe
            | E::UnexpectedEof
            | E::NotConnected
            | E::WriteZero => Kind::Closed,
            other => Kind::Local(other.to_string()),
        };
        Self::new(stage, kind).with_source(error)
    }

    /// An error of russh at this stage.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "russh has 40 more errors and grows them; each of them is a protocol error here"
    )]
    pub(crate) fn from_russh(stage: Stage, error: russh::Error) -> Self {
        let kind = match error {
            russh::Error::IO(error) => return Self::from_io(stage, error),
            russh::Error::Disconnect
            | russh::Error::HUP
            | russh::Error::SendError
            | russh::Error::RecvError => Kind::Closed,
            russh::Error::ConnectionTimeout
            | russh::Error::KeepaliveTimeout
            | russh::Error::InactivityTimeout
            | russh::Error::Elapsed(_) => Kind::TimedOut,
            russh::Error::ChannelOpenFailure(reason) => {
                return Self::new(stage, Kind::ChannelRefused(format!("{reason:?}")));
            }
            russh::Error::Join(error) => {
                return Self::new(stage, Kind::Local("the session task failed".into())).with_source(error);
            }
            russh::Error::NoCommonAlgo { kind: russh::AlgorithmKind::Key, ref theirs, .. } => {
                Kind::Protocol(format!(
                    "the node has no host key of a type that the control plane verifies (it has {}); make one there: \
                 ssh-keygen -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
                    theirs.join(", ")
                ))
            }
            ref other => Kind::Protocol(other.to_string()),
        };
        Self::new(stage, kind).with_source(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_one_meaning_and_only_silence_and_refusal_say_that_the_node_is_gone() {
        let text = || "x".to_owned();
        for (kind, meaning, answers) in [
            (Kind::Refused, Meaning::Gone, Some(false)),
            (Kind::Closed, Meaning::Gone, Some(false)),
            (Kind::Unreachable, Meaning::Silent, Some(false)),
            (Kind::TimedOut, Meaning::Silent, Some(false)),
            (Kind::NotResolved, Meaning::Silent, Some(false)),
            (Kind::OutcomeUnknown, Meaning::Silent, Some(false)),
            (Kind::Throttled, Meaning::Throttled, Some(true)),
            (Kind::ChannelRefused(text()), Meaning::Throttled, Some(true)),
            (Kind::AuthRejected, Meaning::Sick, Some(true)),
            (Kind::Protocol(text()), Meaning::Sick, Some(true)),
            (Kind::NoPinnedKey, Meaning::Sick, Some(true)),
            (Kind::HostKeyMismatch { seen: text() }, Meaning::WrongKey, Some(false)),
            (Kind::Busy, Meaning::Nothing, None),
            (Kind::Dropped, Meaning::Nothing, None),
            (Kind::NoSession, Meaning::Nothing, None),
            (Kind::Local("too many open files".into()), Meaning::Nothing, None),
        ] {
            let of = SshError::new(Stage::Connect, kind.clone()).meaning();
            assert_eq!((of, of.node_answers()), (meaning, answers), "{kind:?}");
        }
    }

    #[test]
    fn running_out_of_descriptors_is_our_fault_and_not_the_nodes() {
        let error = SshError::from_io(Stage::Connect, std::io::Error::from_raw_os_error(24));
        assert!(matches!(error.kind, Kind::Local(_)), "{error:?}");
        assert_eq!(error.meaning(), Meaning::Nothing);
    }

    #[test]
    fn the_text_does_not_repeat_the_source() {
        let error = SshError::from_io(Stage::Banner, std::io::Error::from_raw_os_error(104));
        assert_eq!(error.to_string(), "ssh banner: the connection was closed");
        assert!(error.source().unwrap().to_string().contains("reset"));
    }

    #[test]
    fn a_failure_before_the_command_was_sent_is_safe_to_repeat() {
        assert!(!SshError::new(Stage::Open, Kind::TimedOut).may_have_run());
        assert!(SshError::new(Stage::Exec, Kind::TimedOut).may_have_run());
        assert!(!SshError::new(Stage::Exec, Kind::Protocol("refused".into())).may_have_run());
    }
}
