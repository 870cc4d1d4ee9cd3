//! Tokens and password hashes.
//!
//! Does not live here: who may do what ([`crate::auth`]), the master key and what is sealed under it
//! ([`orion_service::sealed`]).

pub mod jwt;
pub mod passwords;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use orion_domain::Secret;
use orion_service::sealed::to_hex;
use sha2::{Digest, Sha256};

/// Prefix of a worker's own token.
pub(crate) const NODE_TOKEN: &str = "orion-node_";

/// The SHA-256 of `text`, in hex: how tokens and idempotency keys are stored.
pub fn sha256_hex(text: &[u8]) -> String {
    to_hex(&Sha256::digest(text))
}

/// A new random token of 256 bits: `<prefix>_<base64url>`.
pub fn new_token(prefix: &str) -> Secret {
    let bytes: [u8; 32] = rand::random();
    Secret::new(format!("{prefix}_{}", URL_SAFE_NO_PAD.encode(bytes)))
}
