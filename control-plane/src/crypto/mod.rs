//! Everything secret: the master key and what is sealed under it, tokens, and password hashes.
//!
//! Does not live here: who may do what ([`crate::auth`]) and where sealed values are kept (the store).

pub mod jwt;
pub mod passwords;
pub mod sealed;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use orion_domain::Secret;
use sha2::{Digest, Sha256};

/// The SHA-256 of `text`, in hex: how tokens and idempotency keys are stored.
pub fn sha256_hex(text: &[u8]) -> String {
    to_hex(&Sha256::digest(text))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
        use std::fmt::Write;
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A new random token of 256 bits: `<prefix>_<base64url>`.
pub fn new_token(prefix: &str) -> Secret {
    let bytes: [u8; 32] = rand::random();
    Secret::new(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes)))
}
