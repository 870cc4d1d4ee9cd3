//! Authenticated encryption of what has to be kept but not read: CA keys, the JWT key, stored replies.
//!
//! XChaCha20-Poly1305 under keys that HKDF-SHA-256 derives from the master key, one per purpose.

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use orion_domain::Secret;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Bytes in lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        use std::fmt::Write;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

const NONCE_LEN: usize = 24;

/// Thirty-two bytes from which every other key is derived; `ORION_MASTER_KEY`, base64.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// A value that the key at hand does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sealed value does not open with this ORION_MASTER_KEY: it was sealed with another one, or damaged"
)]
pub struct WrongKey;

impl MasterKey {
    /// A new random key.
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random()))
    }

    /// The key as base64 text, for the key file.
    pub fn to_base64(&self) -> Secret {
        Secret::new(STANDARD.encode(self.0.as_slice()))
    }

    /// Reads base64 of exactly 32 bytes.
    ///
    /// # Errors
    /// What is wrong with the text, and how to make a right one; never the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let hint = "make one with `openssl rand -base64 32`";
        let bytes = Zeroizing::new(
            STANDARD.decode(text.trim()).map_err(|_| format!("ORION_MASTER_KEY is not base64; {hint}"))?,
        );
        let key = <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| format!("ORION_MASTER_KEY has {} bytes, not 32; {hint}", bytes.len()))?;
        Ok(Self(Zeroizing::new(key)))
    }

    /// A token of 256 bits that is the same for the same `purpose` and `salt`, and unknown without this key.
    pub fn derive_token(&self, prefix: &str, purpose: &str, salt: &[u8]) -> Secret {
        let key = self.derive(purpose, salt);
        Secret::new(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(key.0.as_slice())))
    }

    /// Thirty-two bytes that are the same for the same `purpose` and `salt`, and unknown without this key.
    pub fn derive_bytes(&self, purpose: &str, salt: &[u8]) -> Zeroizing<[u8; 32]> {
        self.derive(purpose, salt).0
    }

    /// The sealing key for `purpose`; `salt` is a further secret (a raw idempotency key) or empty.
    pub fn derive(&self, purpose: &str, salt: &[u8]) -> SealingKey {
        let mut key = Zeroizing::new([0u8; 32]);
        let fits =
            Hkdf::<Sha256>::new(Some(salt), self.0.as_slice()).expand(purpose.as_bytes(), key.as_mut());
        debug_assert!(fits.is_ok(), "HKDF-SHA-256 gives up to 8160 bytes");
        SealingKey(key)
    }
}

/// Seals and opens the values of one purpose.
pub struct SealingKey(Zeroizing<[u8; 32]>);

impl SealingKey {
    /// Encrypts `plain`; `context` is bound to it and must be the same when it is opened.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = rand::random();
        let payload = Payload { msg: plain, aad: context.as_bytes() };
        let mut sealed = nonce.to_vec();
        if let Ok(body) = self.cipher().encrypt(&XNonce::from(nonce), payload) {
            sealed.extend(body);
        }
        sealed
    }

    /// Decrypts what [`Self::seal`] gave.
    ///
    /// # Errors
    /// [`WrongKey`] if the key or the context differ, or the value was changed.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, WrongKey> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(WrongKey)?;
        let nonce = <[u8; NONCE_LEN]>::try_from(nonce).map_err(|_| WrongKey)?;
        let payload = Payload { msg: body, aad: context.as_bytes() };
        self.cipher().decrypt(&XNonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| WrongKey)
    }

    /// A MAC (HMAC-SHA-256, hex) of `data`: the same for the same data, and no help in guessing it without the
    /// key.
    pub fn mac_hex(&self, data: &[u8]) -> String {
        let mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.0.as_slice());
        mac.map(|mac| to_hex(&mac.chain_update(data).finalize().into_bytes())).unwrap_or_default()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&(*self.0).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_with_its_key_its_context_and_unchanged() {
        let master = MasterKey::generate();
        let key = master.derive("reply", b"raw-key");
        let sealed = key.seal("rent", b"secret");
        assert_eq!(key.open("rent", &sealed).map(|p| p.to_vec()), Ok(b"secret".to_vec()));
        assert!(key.open("other", &sealed).is_err());
        assert!(master.derive("reply", b"other-key").open("rent", &sealed).is_err());
        assert!(MasterKey::generate().derive("reply", b"raw-key").open("rent", &sealed).is_err());
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(key.open("rent", &changed).is_err());
        assert!(key.open("rent", b"short").is_err());
        assert_eq!(key.mac_hex(b"body").len(), 64);
        assert_ne!(key.mac_hex(b"body"), master.derive("reply", b"other-key").mac_hex(b"body"));
    }

    #[test]
    fn a_master_key_of_the_wrong_length_is_refused_with_the_way_out() {
        let error = MasterKey::parse("c2hvcnQ=").unwrap_err();
        assert_eq!(error, "ORION_MASTER_KEY has 5 bytes, not 32; make one with `openssl rand -base64 32`");
        assert!(MasterKey::parse("%%%").is_err());
        let key = MasterKey::generate();
        assert!(MasterKey::parse(key.to_base64().expose()).is_ok());
    }
}
