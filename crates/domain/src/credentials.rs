//! What users bring to prove who they are: passwords and SSH public keys, checked when they are given.

use crate::Secret;
use ssh_key::PublicKey;
use std::str::FromStr;

/// Shortest password of an API account, in characters.
pub const LOGIN_PASSWORD_MIN: usize = 8;
/// Shortest password of a node login, in characters.
pub const SSH_PASSWORD_MIN: usize = 8;
/// Longest password of either kind, in bytes.
pub const PASSWORD_MAX: usize = 128;

/// Checks a new password of an API account or of a node login.
///
/// # Errors
/// A sentence that says which rule it breaks; never the password.
pub fn check_password(password: &Secret, min: usize) -> Result<(), String> {
    let text = password.expose();
    if text.chars().count() < min {
        return Err(format!("must have at least {min} characters"));
    }
    if text.len() > PASSWORD_MAX {
        return Err(format!("must have at most {PASSWORD_MAX} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("must not contain line breaks or other control characters".into());
    }
    Ok(())
}

/// One SSH public key: a tenant's, or a node's host key. Kept as `type base64`, the comment dropped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct SshPublicKey(String);

impl SshPublicKey {
    /// `type base64`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    pub fn fingerprint(&self) -> String {
        PublicKey::from_openssh(&self.0)
            .map(|key| key.fingerprint(ssh_key::HashAlg::Sha256).to_string())
            .unwrap_or_default()
    }
}

impl FromStr for SshPublicKey {
    type Err = String;
    /// A single line `type base64 [comment]`; no options, no private keys, no certificates.
    fn from_str(text: &str) -> Result<Self, String> {
        let line = text.trim();
        if line.contains("PRIVATE KEY") {
            return Err("this is a private key; send the public one (the file that ends in .pub)".into());
        }
        if line.chars().any(char::is_control) {
            return Err("an SSH public key is a single line".into());
        }
        if line.len() > 8_192 {
            return Err("the SSH public key is longer than 8192 characters".into());
        }
        let key = PublicKey::from_openssh(line).map_err(|error| {
            format!("not an OpenSSH public key (`ssh-ed25519 AAAA… comment`, without options): {error}")
        })?;
        if key.algorithm() == ssh_key::Algorithm::Dsa {
            return Err("DSA keys are no longer accepted by OpenSSH; use ed25519".into());
        }
        let mut fields = line.split_ascii_whitespace();
        match (fields.next(), fields.next()) {
            (Some(kind), Some(blob)) => Ok(Self(format!("{kind} {blob}"))),
            _ => Err("an SSH public key has a type and a value".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_password_with_a_line_break_is_refused() {
        assert!(check_password(&Secret::new("long enough\nroot:x"), 8).is_err());
        assert!(check_password(&Secret::new("short"), 8).is_err());
        assert!(check_password(&Secret::new("x".repeat(129)), 8).is_err());
        assert!(check_password(&Secret::new("long enough"), 8).is_ok());
    }

    #[test]
    fn a_broken_public_key_is_refused_with_its_reason() {
        for wrong in [
            "",
            "hello",
            "ssh-ed25519",
            "ssh-ed25519 AAAA",
            "-----BEGIN OPENSSH PRIVATE KEY-----",
            &format!("command=\"/bin/sh\" {KEY}"),
            &format!("{KEY}\n{KEY}"),
            &KEY.replace("JdD7", "JdD"),
        ] {
            assert!(wrong.parse::<SshPublicKey>().is_err(), "{wrong:?} was accepted");
        }
    }

    #[test]
    fn a_key_is_kept_without_its_comment() {
        let key: SshPublicKey = format!(" {KEY} alice@home\n").parse().unwrap();
        assert_eq!(key.as_str(), KEY);
        assert!(key.fingerprint().starts_with("SHA256:"));
    }
}
