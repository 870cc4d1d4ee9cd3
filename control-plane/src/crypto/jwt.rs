//! The API's access tokens: JWT, HS256, with an expiry.
//!
//! `jsonwebtoken` brings every algorithm or none; this installs the one that is used, on the same HMAC and
//! SHA-2 as the rest (docs/adr/0003-one-jwt-algorithm.md).

use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
};
use orion_domain::{Secret, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use signature::{Signer, Verifier};
use std::time::Duration;

/// Content of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The account's number.
    pub sub: String,
    /// The account's name, for people who look into a token.
    pub name: String,
    /// The account's token generation: an older one is no longer accepted.
    #[serde(rename = "gen")]
    pub generation: i64,
    /// Issued at, Unix seconds.
    pub iat: i64,
    /// Expires at, Unix seconds.
    pub exp: i64,
}

/// Issues and reads tokens.
pub struct Tokens {
    encoding: EncodingKey,
    decoding: DecodingKey,
    lifetime: Duration,
}

/// Content of a valid token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadToken {
    /// Account of the token.
    pub user: UserId,
    /// The account's token generation when it was issued.
    pub generation: i64,
    /// Time at which the token was issued (whole seconds).
    pub issued_at: Timestamp,
    /// End of the token (whole seconds).
    pub expires_at: Timestamp,
}

/// Reason for which a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Token whose lifetime is over.
    #[error("the token has expired; log in again")]
    Expired,
    /// Token that was not issued here.
    #[error("the token is not valid; log in again")]
    Invalid,
}

impl Tokens {
    /// Tokens signed with `key` (at least 32 bytes) that live for `lifetime`.
    pub fn new(key: &[u8], lifetime: Duration) -> Self {
        // A second installation in one process (tests) finds the same provider there.
        let _ = PROVIDER.install_default();
        Self { encoding: EncodingKey::from_secret(key), decoding: DecodingKey::from_secret(key), lifetime }
    }

    /// A token for an account.
    ///
    /// # Errors
    /// If the token cannot be encoded; does not happen with HMAC.
    pub fn issue(&self, user: UserId, name: &str, generation: i64, now: Timestamp) -> Result<Secret, String> {
        let claims = Claims {
            sub: user.to_string(),
            name: name.into(),
            generation,
            iat: now.as_secs(),
            exp: now.plus(self.lifetime).as_secs(),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
            .map(Secret::new)
            .map_err(|error| error.to_string())
    }

    /// Returns the name in a token that was issued here at some time, even in one that has ended.
    pub fn name_in(&self, token: &str) -> Option<String> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let read = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation).ok()?;
        Some(read.claims.name)
    }

    /// Reads a token.
    pub fn read(&self, token: &str, now: Timestamp) -> Result<ReadToken, TokenError> {
        let mut validation = Validation::new(Algorithm::HS256);
        // Expiry is checked below against the given time; the library would ask the system's clock.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map_err(|_| TokenError::Invalid)?
            .claims;
        if claims.exp <= now.as_secs() {
            return Err(TokenError::Expired);
        }
        let user = claims.sub.parse().map_err(|_| TokenError::Invalid)?;
        let at = |seconds: i64| Timestamp::from_micros(seconds.saturating_mul(1_000_000));
        Ok(ReadToken {
            user,
            generation: claims.generation,
            issued_at: at(claims.iat),
            expires_at: at(claims.exp),
        })
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| {
        check(algorithm)?;
        Ok(Box::new(Hs256(mac(key.as_bytes())?)))
    },
    verifier_factory: |algorithm, key| {
        check(algorithm)?;
        Ok(Box::new(Hs256(mac(key.try_get_as_bytes()?)?)))
    },
    key_utils: KeyUtils::new_unimplemented(),
};

fn check(algorithm: &Algorithm) -> Result<(), Error> {
    if *algorithm == Algorithm::HS256 { Ok(()) } else { Err(ErrorKind::InvalidAlgorithm.into()) }
}

fn mac(key: &[u8]) -> Result<Hmac<Sha256>, Error> {
    Hmac::new_from_slice(key).map_err(|_| ErrorKind::InvalidKeyFormat.into())
}

struct Hs256(Hmac<Sha256>);

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.0.clone().chain_update(message).verify_slice(signature).map_err(signature::Error::from_source)
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_763_690_000_000_000);

    fn tokens(key: u8) -> Tokens {
        Tokens::new(&[key; 32], Duration::from_secs(3600))
    }

    #[test]
    fn a_token_reads_back_until_it_expires() {
        let token = tokens(1).issue(UserId(7), "alice", 3, NOW).unwrap();
        let read = tokens(1).read(token.expose(), NOW).unwrap();
        assert_eq!((read.user, read.generation, read.issued_at), (UserId(7), 3, NOW));
        let later = NOW.plus(Duration::from_secs(3600));
        assert_eq!(tokens(1).read(token.expose(), later), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_of_another_key_or_without_a_signature_is_refused() {
        let token = tokens(1).issue(UserId(7), "alice", 0, NOW).unwrap();
        assert_eq!(tokens(2).read(token.expose(), NOW), Err(TokenError::Invalid));
        // {"alg":"none"} with the same claims
        let claims = token.expose().split('.').nth(1).unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.");
        assert_eq!(tokens(1).read(&unsigned, NOW), Err(TokenError::Invalid));
        assert_eq!(tokens(1).read("nonsense", NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn the_signature_is_the_one_that_rfc_7515_gives_for_its_example() {
        // RFC 7515, appendix A.1: key, signing input, and signature.
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let input = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = Hs256(mac(&key).unwrap()).try_sign(input.as_bytes()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(signature), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }
}
