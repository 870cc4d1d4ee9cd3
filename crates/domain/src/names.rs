//! Names and addresses as they come from users and workers, checked once, at the edge.

use serde::Serialize;
use std::str::FromStr;

/// Reading and showing of a checked text: a struct of one `String` with `FromStr`.
macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <String as serde::Deserialize>::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text;

/// Account names that a node's own software uses or that would be mistaken for Orion's.
const RESERVED: &[&str] = &[
    "root",
    "daemon",
    "bin",
    "sys",
    "sync",
    "games",
    "man",
    "lp",
    "mail",
    "news",
    "uucp",
    "proxy",
    "www-data",
    "backup",
    "list",
    "irc",
    "gnats",
    "nobody",
    "sshd",
    "messagebus",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesync",
    "systemd-coredump",
    "_apt",
    "adm",
    "sudo",
    "wheel",
    "operator",
    "docker",
    "mysql",
    "postgres",
    "redis",
    "ubuntu",
    "debian",
    "centos",
    "ec2-user",
    "halt",
    "shutdown",
    "ftp",
    "nogroup",
    "users",
    "staff",
    "shadow",
    "disk",
    "kmem",
    "tty",
    "dialout",
    "cdrom",
    "tape",
    "audio",
    "video",
    "plugdev",
    "netdev",
    "input",
    "render",
    "kvm",
    "crontab",
    "ssh",
    "utmp",
    "src",
    "polkitd",
    "rpc",
    "ntp",
    "statd",
    "postfix",
    "caddy",
    "munge",
    "slurm",
    "guest",
    "squid",
    "at",
    "cron",
    "smmsp",
    "vpopmail",
];

/// The name of a user, of the API and on the nodes: a safe Unix name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct UnixName(String);
text!(UnixName);

impl UnixName {
    /// The name of an account where its user's own name cannot be used: `u` and the uid.
    pub fn of_uid(uid: u32) -> Self {
        Self(format!("u{uid}"))
    }
}

impl FromStr for UnixName {
    type Err = String;
    /// 1 to 31 characters of `a-z 0-9 _ -`, the first a letter or `_`, and none of the reserved names
    /// (useradd(8): `[a-z_][a-z0-9_-]*[$]?`, at most 32).
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > 31 {
            return Err("a user name has 1 to 31 characters".into());
        }
        let first_is_safe = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let rest_is_safe =
            text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
        if !first_is_safe || !rest_is_safe {
            return Err("a user name consists of a-z, 0-9, _ and -, and starts with a letter or _".into());
        }
        if RESERVED.contains(&text) || text.starts_with("orion") || text.starts_with("systemd-") {
            return Err(format!("the user name '{text}' is reserved; choose another"));
        }
        Ok(Self(text.into()))
    }
}

/// Name that a user gives a lease, in place of its number. Starts with a letter, so it is never a number.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct LeaseName(String);
text!(LeaseName);

impl FromStr for LeaseName {
    type Err = String;
    /// 1 to 40 characters of `a-z 0-9 -`, the first a letter.
    fn from_str(text: &str) -> Result<Self, String> {
        let safe = text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if text.is_empty() || text.len() > 40 || !safe || !text.starts_with(|c: char| c.is_ascii_lowercase())
        {
            return Err(
                "a lease name has 1 to 40 characters of a-z, 0-9 and -, and starts with a letter".into()
            );
        }
        Ok(Self(text.into()))
    }
}

/// Host name that a worker reports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Hostname(String);
text!(Hostname);

impl FromStr for Hostname {
    type Err = String;
    /// RFC 1123: labels of letters, digits and inner hyphens, at most 253 characters. Stored in lower case.
    fn from_str(text: &str) -> Result<Self, String> {
        if is_dns_name(text) {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err("a hostname has labels of letters, digits and inner hyphens, at most 253 characters".into())
        }
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}

/// Address at which a node's sshd is dialled: an IP address or a DNS name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct HostAddr(String);
text!(HostAddr);

impl FromStr for HostAddr {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse::<std::net::IpAddr>() {
            if ip.is_unspecified() || ip.is_multicast() {
                return Err(format!("'{text}' is no address of a machine"));
            }
            return Ok(Self(ip.to_string()));
        }
        let looks_like_ip =
            text.split('.').next_back().is_some_and(|l| l.chars().all(|c| c.is_ascii_digit()));
        if is_dns_name(text) && !looks_like_ip {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(format!("'{text}' is neither an IP address nor a DNS name"))
        }
    }
}

/// A TCP port, 1 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Port(u16);

impl Port {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<i64> for Port {
    type Error = String;
    fn try_from(number: i64) -> Result<Self, String> {
        match u16::try_from(number) {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(format!("a port lies between 1 and 65535, not {number}")),
        }
    }
}

/// A label of a node (`gpu`, `rack-3`) that a rental can ask for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Tag(String);
text!(Tag);

impl FromStr for Tag {
    type Err = String;
    /// 1 to 63 characters of letters, digits and `. _ - = :`.
    fn from_str(text: &str) -> Result<Self, String> {
        let safe = text.chars().all(|c| c.is_ascii_alphanumeric() || "._-=:".contains(c));
        if text.is_empty() || text.len() > 63 || !safe {
            return Err("a tag has 1 to 63 characters of letters, digits and . _ - = :".into());
        }
        Ok(Self(text.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_or_reserved_user_names_are_refused() {
        for wrong in [
            "",
            "root",
            "Alice",
            "1alice",
            "-alice",
            "al ice",
            "al:ice",
            "al\nice",
            "al.ice",
            "../x",
            "$(id)",
            "été",
            "orion-x",
            "systemd-foo",
            "12345",
            "a234567890123456789012345678901x",
        ] {
            assert!(wrong.parse::<UnixName>().is_err(), "{wrong:?} was accepted");
        }
        for right in ["alice", "_x", "a-b_c9", "a"] {
            assert!(right.parse::<UnixName>().is_ok(), "{right:?} was refused");
        }
    }

    #[test]
    fn the_name_of_a_uid_is_a_name() {
        for uid in [0, 200_017, u32::MAX] {
            assert_eq!(UnixName::of_uid(uid).as_str().parse(), Ok(UnixName::of_uid(uid)));
        }
    }

    #[test]
    fn addresses_are_ips_or_dns_names() {
        for wrong in ["", "0.0.0.0", "10.0.0.256", "a b", "-x", "x..y", "::", "224.0.0.1", "a;b", "1.2.3"] {
            assert!(wrong.parse::<HostAddr>().is_err(), "{wrong:?} was accepted");
        }
        for right in ["10.0.0.5", "fd00::1", "node-1.lab.example", "node1"] {
            assert!(right.parse::<HostAddr>().is_ok(), "{right:?} was refused");
        }
    }

    #[test]
    fn ports_lie_between_1_and_65535() {
        assert!([0, -1, 65536, 70000, i64::MAX].iter().all(|&p| Port::try_from(p).is_err()));
        assert_eq!(Port::try_from(65535).map(Port::get), Ok(65535));
    }

    #[test]
    fn a_lease_name_is_never_a_number() {
        assert!("12".parse::<LeaseName>().is_err());
        assert!("train".parse::<LeaseName>().is_ok());
    }

    #[test]
    fn names_of_the_longest_length_are_taken_and_longer_ones_are_not() {
        fn takes<T: FromStr>(text: &str) -> bool {
            text.parse::<T>().is_ok()
        }
        let long = |length: usize| "a".repeat(length);
        assert!(takes::<UnixName>(&long(31)) && !takes::<UnixName>(&long(32)));
        assert!(takes::<LeaseName>(&long(40)) && !takes::<LeaseName>(&long(41)));
        assert!(takes::<Tag>(&long(63)) && !takes::<Tag>(&long(64)));
        for wrong in ["", "a_b", "A", "-a", "a b"] {
            assert!(!takes::<LeaseName>(wrong), "{wrong:?}");
        }
        assert!(takes::<LeaseName>("a-9") && takes::<Tag>("rack:3_x.y-z=1"));
        for wrong in ["", "a b", "a/b", "é"] {
            assert!(!takes::<Tag>(wrong), "{wrong:?}");
        }
    }
}
