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
/// Longest SSH public key without its comment, in characters: an RSA key of 16384 bits, the largest that OpenSSH takes
/// (`OPENSSH_RSA_MAX_MODULUS_SIZE`), has 2772. The playbooks have the same limit.
pub const SSH_PUBLIC_KEY_MAX: usize = 4_096;

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

    /// Its type: `ssh-ed25519`, say.
    pub fn kind(&self) -> &str {
        self.0.split(' ').next().unwrap_or_default()
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
        let mut fields = line.split_ascii_whitespace();
        let (Some(kind), Some(blob)) = (fields.next(), fields.next()) else {
            return Err(
                "not an OpenSSH public key (`ssh-ed25519 AAAA… comment`): it has a type and a value".into()
            );
        };
        let text = format!("{kind} {blob}");
        if text.len() > SSH_PUBLIC_KEY_MAX {
            return Err(format!(
                "an SSH public key has at most {SSH_PUBLIC_KEY_MAX} characters, not {}; an RSA key of 16384 bits fits",
                text.len()
            ));
        }
        let key = PublicKey::from_openssh(line).map_err(|error| {
            format!("not an OpenSSH public key (`ssh-ed25519 AAAA… comment`, without options): {error}")
        })?;
        if key.algorithm() == ssh_key::Algorithm::Dsa {
            return Err("DSA keys are no longer accepted by OpenSSH; use ed25519".into());
        }
        Ok(Self(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    #[test]
    fn a_password_of_the_shortest_and_of_the_longest_length_is_taken() {
        let check = |length: usize| check_password(&Secret::new("x".repeat(length)), LOGIN_PASSWORD_MIN);
        assert!(check(LOGIN_PASSWORD_MIN - 1).is_err());
        assert!(check(LOGIN_PASSWORD_MIN).is_ok());
        assert!(check(PASSWORD_MAX).is_ok());
        assert!(check(PASSWORD_MAX + 1).is_err());
    }

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

    /// An RSA key whose modulus has so many bytes, with a comment.
    fn rsa(bytes: usize) -> String {
        let modulus = [&[0, 0xc1][..], &vec![0x5a; bytes - 2], &[0xff]].concat();
        let parts = [&b"ssh-rsa"[..], &[1, 0, 1], &modulus];
        let blob = parts.iter().flat_map(|part| {
            u32::try_from(part.len()).unwrap().to_be_bytes().into_iter().chain(part.iter().copied())
        });
        use ssh_key::encoding::base64::{Base64, Encoding};
        format!("ssh-rsa {} alice", Base64::encode_string(&blob.collect::<Vec<u8>>()))
    }

    #[test]
    fn the_largest_rsa_key_of_openssh_is_taken_and_a_longer_one_is_refused_with_the_limit() {
        let largest: SshPublicKey = rsa(16_384 / 8).parse().unwrap();
        assert!(largest.as_str().len() > 2_048, "{}", largest.as_str().len());
        let refused = rsa(32_768 / 8).parse::<SshPublicKey>().unwrap_err();
        assert!(refused.contains("4096 characters"), "{refused}");
    }

    #[test]
    fn a_key_is_kept_without_its_comment() {
        let key: SshPublicKey = format!(" {KEY} alice@home\n").parse().unwrap();
        assert_eq!(key.as_str(), KEY);
        assert!(key.fingerprint().starts_with("SHA256:"));
    }
}
