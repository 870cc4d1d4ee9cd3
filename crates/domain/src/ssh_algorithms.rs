//! The algorithms that the control plane offers to a node's sshd, by their names in the protocol.
//!
//! `orion-ssh` offers these and no others (a test holds it to that); the agent compares them with what its sshd takes.

use crate::credentials::SshPublicKey;

/// Key exchanges.
pub const KEX: [&str; 6] = [
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
];
/// Names of the ciphers.
pub const CIPHERS: [&str; 5] = [
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
    "aes256-ctr",
    "aes128-ctr",
];
/// Message authentication codes, for the ciphers that need one.
pub const MACS: [&str; 4] =
    ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"];
/// Host key types.
pub const HOST_KEYS: [&str; 4] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"];
/// The type of the control plane's authority.
pub const CA: &str = "ssh-ed25519";
/// The type of the certificate that the control plane logs in with.
pub const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com";

/// Describes why a server with these settings and a client that offers `offered` cannot agree; `setting`
/// and `taken` are as `sshd -T` prints them. None if they can agree, or if the server does not report the
/// setting.
pub fn disagreement(setting: &str, taken: &str, offered: &[&str]) -> Option<String> {
    let agrees = taken.is_empty() || taken.split(',').any(|name| offered.contains(&name.trim()));
    (!agrees).then(|| {
        format!(
            "{setting} of sshd ({taken}) has none of what the control plane offers: add one of {}",
            offered.join(", ")
        )
    })
}

/// Describes why a server with no other host keys than `keys` cannot be dialled, and the remedy; none if one of them can be
/// verified, or there are none.
pub fn no_usable_host_key<'a>(keys: impl IntoIterator<Item = &'a SshPublicKey>) -> Option<String> {
    let mut kinds: Vec<&str> = keys.into_iter().map(SshPublicKey::kind).collect();
    if kinds.is_empty() || kinds.iter().any(|kind| HOST_KEYS.contains(kind)) {
        return None;
    }
    kinds.sort_unstable();
    kinds.dedup();
    Some(format!(
        "its sshd has host keys only of types that the control plane does not verify ({}): make one with `ssh-keygen -q -t \
         ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key`; where sshd_config has HostKey or HostKeyAlgorithms, add \
         `HostKey /etc/ssh/ssh_host_ed25519_key` and ssh-ed25519; and reload sshd",
        kinds.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_keys_of_rsa_alone_are_refused_with_the_remedy_and_beside_another_they_do_no_harm() {
        let key = |line: &str| line.parse::<SshPublicKey>().unwrap();
        let ed25519 = key("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ");
        let rsa = key(
            "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQCzBoBH4ySyXvC3n2yRqmRy3DyVR0FckGU03QDRWwhxR8TwdAFRQHgU+uItcZ\
             q2/R4pjTRwKscIYUeB4299bs32c47vj7/NrOfCFxd+I8X1UoPRbQxVDLgDhdC7d5Wz4qlpTG1NchL0KtUOwbjhK+PA\
             40hNiCv3m0bZqA96RjmKXQ==",
        );
        let why = no_usable_host_key([&rsa]).unwrap();
        assert!(why.contains("(ssh-rsa)") && why.contains("ssh-keygen -q -t ed25519"), "{why}");
        assert_eq!(no_usable_host_key([&rsa, &ed25519]), None);
        assert_eq!(no_usable_host_key([]), None, "an admin accepts what is seen");
    }

    #[test]
    fn one_common_algorithm_is_enough_and_none_names_both_sides() {
        assert_eq!(disagreement("Ciphers", "aes256-ctr,aes192-ctr", &CIPHERS), None);
        assert_eq!(disagreement("Ciphers", "", &CIPHERS), None);
        let both = disagreement("KexAlgorithms", "diffie-hellman-group16-sha512", &KEX).unwrap();
        assert!(
            both.contains("diffie-hellman-group16-sha512") && both.contains("ecdh-sha2-nistp256"),
            "{both}"
        );
    }
}
