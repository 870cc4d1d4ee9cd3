//! The `ssh` command line of a lease, and the host keys it is held to.
//!
//! Lives here: pure text. What the API says is checked before it becomes an argument, so that neither a
//! node nor whoever answers in the API's place can slip in an option. Does not live here: running it.

use crate::error::CliError;
use std::{ffi::OsString, path::Path};

/// Additions of the user to the command line of ssh.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Ask for a terminal even with a command (`-t`).
    pub terminal: bool,
    /// Forwarded ports (`-L`).
    pub forwards: Vec<String>,
    /// The command to run; empty for a shell.
    pub command: Vec<String>,
}

/// Address and parameters of a login.
#[derive(Clone, Debug)]
pub struct Login<'a> {
    /// The lease's number.
    pub lease_id: i64,
    /// The account.
    pub user: &'a str,
    /// An IP address or a DNS name.
    pub host: &'a str,
    /// The sshd's port.
    pub port: u16,
    /// The private key.
    pub key: &'a Path,
    /// The file that [`known_hosts`] went into.
    pub known_hosts: &'a Path,
}

/// The name under which a lease's host keys are known, wherever the lease is.
pub fn alias(lease_id: i64) -> String {
    format!("orion-lease-{lease_id}")
}

/// The API's host key lines (`[ip]:port type key`), each under the lease's alias.
///
/// # Errors
/// When there is none, or one is no such line: a login without a known key is never tried.
pub fn known_hosts(lease_id: i64, lines: &[String]) -> Result<String, CliError> {
    let mut text = String::new();
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let safe =
            |field: &str, also: &str| field.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c));
        match fields.as_slice() {
            [pattern, kind, key, ..]
                if !pattern.starts_with(['@', '#']) && safe(kind, "-@.") && safe(key, "+/=") =>
            {
                text.push_str(&format!("{} {kind} {key}\n", alias(lease_id)));
            }
            _ => {
                return Err(CliError::failed(format!("the API sent a host key line that is none: '{line}'")));
            }
        }
    }
    if text.is_empty() {
        return Err(CliError::failed(format!(
            "the API sent no host key for lease {lease_id}; not connecting unverified"
        ))
        .hint("an admin can see and accept the node's key"));
    }
    Ok(text)
}

fn plain(text: &str, also: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c))
}

/// An account's name, as it may stand in a command line or a configuration.
///
/// # Errors
/// When it cannot be one.
pub fn checked_user(user: &str) -> Result<&str, CliError> {
    if plain(user, "_-.") {
        return Ok(user);
    }
    Err(CliError::failed(format!("the API sent an account name that is none: '{user}'")))
}

/// The arguments after `ssh`.
///
/// # Errors
/// When the user or the host cannot be what they claim to be.
pub fn arguments(login: &Login<'_>, extras: &Extras) -> Result<Vec<OsString>, CliError> {
    checked_user(login.user)?;
    if !plain(login.host, ".:-_") {
        return Err(CliError::failed(format!("the API sent an address that is none: '{}'", login.host)));
    }
    let mut arguments: Vec<OsString> = Vec::new();
    let mut option = |value: String| arguments.extend(["-o".into(), value.into()]);
    option("StrictHostKeyChecking=yes".into());
    option(format!("UserKnownHostsFile={}", quoted(login.known_hosts)));
    option("GlobalKnownHostsFile=/dev/null".into());
    option(format!("HostKeyAlias={}", alias(login.lease_id)));
    option("IdentitiesOnly=yes".into());
    // Nothing else may vouch for a host key, and no shared connection of an earlier lease on the same
    // address may be taken for this one's.
    for fixed in ["KnownHostsCommand=none", "VerifyHostKeyDNS=no", "UpdateHostKeys=no", "ControlPath=none"] {
        option(fixed.into());
    }
    // A node that dies ends the session within half a minute, rather than never.
    for fixed in ["ConnectTimeout=10", "ServerAliveInterval=10", "ServerAliveCountMax=3"] {
        option(fixed.into());
    }
    arguments.extend(["-i".into(), login.key.as_os_str().to_owned()]);
    arguments.extend(["-p".into(), login.port.to_string().into()]);
    if extras.terminal {
        arguments.push("-t".into());
    }
    for forward in &extras.forwards {
        arguments.extend(["-L".into(), forward.into()]);
    }
    // Behind `--` nothing is an option any more, in the command neither.
    arguments.extend(["--".into(), format!("{}@{}", login.user, login.host).into()]);
    arguments.extend(extras.command.iter().map(OsString::from));
    Ok(arguments)
}

/// A path as a value of ssh_config(5): quoted, `%` doubled.
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('%', "%%");
    if text.contains([' ', '\t']) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login<'a>(user: &'a str, host: &'a str, known_hosts: &'a str) -> Login<'a> {
        Login {
            lease_id: 7,
            user,
            host,
            port: 2201,
            key: Path::new("/k"),
            known_hosts: Path::new(known_hosts),
        }
    }

    fn text(login: &Login<'_>, extras: &Extras) -> String {
        let arguments = arguments(login, extras).unwrap();
        arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn host_keys_are_kept_under_the_leases_own_name() {
        let lines =
            ["[10.0.0.3]:2201 ssh-ed25519 AAAA+/=".to_owned(), "10.0.0.3 ssh-rsa BBBB comment".to_owned()];
        assert_eq!(
            known_hosts(7, &lines).unwrap(),
            "orion-lease-7 ssh-ed25519 AAAA+/=\norion-lease-7 ssh-rsa BBBB\n"
        );
    }

    #[test]
    fn lines_that_are_no_host_keys_are_refused() {
        for wrong in [
            "@cert-authority * ssh-ed25519 AAAA",
            "@revoked * ssh-ed25519 AAAA",
            "# x y z",
            "h ssh-ed25519",
            "h ssh;rsa AAAA",
            "",
        ] {
            assert!(known_hosts(7, &[wrong.to_owned()]).is_err(), "{wrong:?} was accepted");
        }
        assert!(known_hosts(7, &[]).is_err());
    }

    #[test]
    fn the_options_come_before_the_destination_and_the_command_after_it() {
        let extras = Extras {
            terminal: true,
            forwards: vec!["8888:localhost:8888".into()],
            command: vec!["ls".into(), "-l".into()],
        };
        let text = text(&login("alice", "10.0.0.3", "/c/known hosts%"), &extras);
        assert!(
            text.starts_with("-o StrictHostKeyChecking=yes -o UserKnownHostsFile=\"/c/known hosts%%\" "),
            "{text}"
        );
        assert!(text.contains(" -o HostKeyAlias=orion-lease-7 -o IdentitiesOnly=yes "), "{text}");
        assert!(text.ends_with(" -i /k -p 2201 -t -L 8888:localhost:8888 -- alice@10.0.0.3 ls -l"), "{text}");
    }

    #[test]
    fn an_address_or_account_that_would_be_an_option_is_refused() {
        for (user, host) in [
            ("-oProxyCommand=x", "10.0.0.3"),
            ("alice", "-oProxyCommand=x"),
            ("alice", "a b"),
            ("a@b", "10.0.0.3"),
            ("alice", ""),
            ("", "10.0.0.3"),
            ("alice", "10.0.0.3\n"),
        ] {
            assert!(arguments(&login(user, host, "/c"), &Extras::default()).is_err(), "{user:?} {host:?}");
        }
        assert!(arguments(&login("alice", "fd00::1", "/c"), &Extras::default()).is_ok());
    }
}
