//! The control plane's certificate authority: the only thing with which it logs in to nodes.
//!
//! Each dial gets a new key and a certificate that is of use for ten minutes. Tenants' certificates come
//! from another authority, which does not live here.

use std::fmt;
use std::sync::Arc;

use rand::Rng;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::certificate::{Builder, CertType};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, Certificate, HashAlg, PrivateKey};
use zeroize::Zeroizing;

/// The account that the control plane logs in to; the certificates' only principal.
pub(crate) const LOGIN: &str = "root";
/// Largest lag of a node's clock behind the control plane's, in seconds.
const CLOCK_BEHIND_S: u64 = 600;
/// Largest lead of a node's clock over the control plane's, in seconds: a dial needs the certificate for
/// a few seconds only.
const CLOCK_AHEAD_S: u64 = 600;
const COMMENT: &str = "orion-control-ca";

/// The control plane's certificate authority, an ed25519 key. `Debug` shows its fingerprint only.
pub struct ControlCa {
    key: PrivateKey,
}

/// A text is not a usable authority, or a certificate could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Text that is not an unencrypted OpenSSH private key.
    #[error("not an OpenSSH private key")]
    Malformed(#[source] russh::keys::ssh_key::Error),
    /// Key of another type than ed25519, or encrypted with a passphrase.
    #[error("the control CA must be an unencrypted ed25519 key")]
    NotUsable,
    /// The certificate could not be encoded or signed.
    #[error("the certificate could not be made")]
    Issue(#[source] russh::keys::ssh_key::Error),
}

/// Key and certificate with which one dial logs in.
pub(crate) struct Credential {
    pub(crate) key: Arc<PrivateKey>,
    pub(crate) certificate: Certificate,
}

impl ControlCa {
    /// A new authority.
    pub fn generate() -> Self {
        let mut key = PrivateKey::from(Ed25519Keypair::random(&mut rand::rng()));
        key.set_comment(COMMENT);
        Self { key }
    }

    /// Reads what [`Self::to_openssh`] wrote.
    ///
    /// # Errors
    /// Not an OpenSSH private key, or not an unencrypted ed25519 one.
    pub fn from_openssh(text: &str) -> Result<Self, CaError> {
        let mut key = PrivateKey::from_openssh(text).map_err(CaError::Malformed)?;
        if key.is_encrypted() || key.algorithm() != Algorithm::Ed25519 {
            return Err(CaError::NotUsable);
        }
        key.set_comment(COMMENT);
        Ok(Self { key })
    }

    /// The private key as text. Seal it before it is stored.
    ///
    /// # Errors
    /// The key cannot be encoded; not expected of an ed25519 key.
    pub fn to_openssh(&self) -> Result<Zeroizing<String>, CaError> {
        self.key.to_openssh(LineEnding::LF).map_err(CaError::Issue)
    }

    /// The line for a node's `TrustedUserCAKeys` file: `ssh-ed25519 AAAA… orion-control-ca`.
    pub fn public_line(&self) -> String {
        let key = self.key.public_key();
        key.to_openssh().unwrap_or_default()
    }

    /// `SHA256:…` of the public key.
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    /// A new key with a user certificate for `root`, valid from ten minutes before `now_unix_s` to ten minutes after
    /// it.
    /// sshd logs `key_id` with each login.
    pub(crate) fn issue(&self, key_id: &str, now_unix_s: u64) -> Result<Credential, CaError> {
        let mut rng = rand::rng();
        let key = PrivateKey::from(Ed25519Keypair::random(&mut rng));
        let valid_after = now_unix_s.saturating_sub(CLOCK_BEHIND_S);
        let mut builder = Builder::new_with_random_nonce(
            &mut rng,
            key.public_key().key_data().clone(),
            valid_after,
            now_unix_s.saturating_add(CLOCK_AHEAD_S),
        )
        .map_err(CaError::Issue)?;
        builder
            .serial(rng.next_u64())
            .and_then(|b| b.key_id(key_id))
            .and_then(|b| b.cert_type(CertType::User))
            .and_then(|b| b.valid_principal(LOGIN))
            .and_then(|b| b.extension("permit-port-forwarding", ""))
            .map_err(CaError::Issue)?;
        let certificate = builder.sign(&self.key).map_err(CaError::Issue)?;
        Ok(Credential { key: Arc::new(key), certificate })
    }
}

impl fmt::Debug for ControlCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlCa").field("fingerprint", &self.fingerprint()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_survives_being_stored() {
        let ca = ControlCa::generate();
        let text = ca.to_openssh().unwrap();
        assert!(text.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
        let again = ControlCa::from_openssh(&text).unwrap();
        assert_eq!(again.public_line(), ca.public_line());
        let fields: Vec<_> = ca.public_line().split(' ').map(str::to_owned).collect();
        assert_eq!((fields[0].as_str(), fields[2].as_str(), fields.len()), ("ssh-ed25519", COMMENT, 3));
    }

    #[test]
    fn a_certificate_is_short_for_root_only_and_without_a_terminal() {
        let ca = ControlCa::generate();
        let credential = ca.issue("orion node=7", 1_700_000_000).unwrap();
        let certificate = credential.certificate;
        assert_eq!(certificate.valid_principals(), ["root"]);
        assert_eq!(certificate.valid_after(), 1_700_000_000 - 600, "a node's clock may be behind");
        assert_eq!(certificate.valid_before(), 1_700_000_000 + 600, "or ahead");
        assert_eq!(certificate.cert_type(), CertType::User);
        assert!(certificate.critical_options().is_empty());
        let extensions: Vec<_> = certificate.extensions().keys().map(String::as_str).collect();
        assert_eq!(extensions, ["permit-port-forwarding"]);
        assert_eq!(certificate.key_id(), "orion node=7");
    }

    #[test]
    fn two_dials_never_share_a_key() {
        let ca = ControlCa::generate();
        let first = ca.issue("a", 1_700_000_000).unwrap();
        let second = ca.issue("a", 1_700_000_000).unwrap();
        assert_ne!(first.key.public_key(), second.key.public_key());
        assert_ne!(first.certificate.serial(), second.certificate.serial());
    }

    #[test]
    fn nothing_but_an_ed25519_private_key_is_taken() {
        assert!(matches!(ControlCa::from_openssh("hello"), Err(CaError::Malformed(_))));
        let ecdsa = PrivateKey::random(
            &mut rand::rng(),
            Algorithm::Ecdsa { curve: russh::keys::EcdsaCurve::NistP256 },
        )
        .unwrap();
        let text = ecdsa.to_openssh(LineEnding::LF).unwrap();
        assert!(matches!(ControlCa::from_openssh(&text), Err(CaError::NotUsable)));
    }

    #[test]
    fn debug_shows_no_private_key() {
        let ca = ControlCa::generate();
        let shown = format!("{ca:?}");
        assert!(shown.contains("SHA256:"), "{shown}");
        assert!(!shown.contains("PRIVATE") && !shown.contains("Keypair"), "{shown}");
    }
}
