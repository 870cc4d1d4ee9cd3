//! The signing secrets of webhooks, as the Standard Webhooks specification has them
//! (<https://www.standardwebhooks.com>): made by the API, sealed in the database, used by the schedulers.
//!
//! Does not live here: sending, and what is sent.

use crate::sealed::{MasterKey, WrongKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use orion_domain::Secret;
use sha2::Sha256;
use zeroize::Zeroizing;

/// Start of every secret's text.
const PREFIX: &str = "whsec_";
/// Purpose for which the secrets are sealed.
const PURPOSE: &str = "webhook-secrets";
/// The specification's limits, in bytes.
const BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// The secret that a webhook's sender and its receiver share.
pub struct WebhookSecret(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookSecret(…)")
    }
}

impl WebhookSecret {
    /// A new random one.
    pub fn generate() -> Self {
        Self(Zeroizing::new(rand::random::<[u8; 32]>().to_vec()))
    }

    /// One that is the same for the same `salt`, and unknown without the master key.
    pub fn derive(master: &MasterKey, salt: &[u8]) -> Self {
        Self(Zeroizing::new(master.derive_bytes("webhook-secret-of-request", salt).to_vec()))
    }

    /// Reads `whsec_` and base64 of 24 to 64 bytes.
    ///
    /// # Errors
    /// What a secret looks like, and how to make one; never the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bytes = text.strip_prefix(PREFIX).and_then(|rest| STANDARD.decode(rest).ok()).map(Zeroizing::new);
        let bytes = bytes.filter(|bytes| BYTES.contains(&bytes.len())).ok_or_else(|| {
            format!(
                "must be `{PREFIX}` and base64 of {} to {} bytes; leave it out and one is made, or make one with \
                 `echo {PREFIX}$(openssl rand -base64 32)`",
                BYTES.start(),
                BYTES.end()
            )
        })?;
        Ok(Self(bytes))
    }

    /// The text for the receiver.
    pub fn text(&self) -> Secret {
        Secret::new(format!("{PREFIX}{}", STANDARD.encode(self.0.as_slice())))
    }

    /// The secret for the database; `uid` is the webhook's, and is bound to it.
    pub fn seal(&self, master: &MasterKey, uid: &str) -> Vec<u8> {
        master.derive(PURPOSE, b"").seal(uid, &self.0)
    }

    /// Opens what [`Self::seal`] gave.
    pub fn open(master: &MasterKey, uid: &str, sealed: &[u8]) -> Result<Self, WrongKey> {
        master.derive(PURPOSE, b"").open(uid, sealed).map(Self)
    }

    /// The header `webhook-signature` for a body that is sent under this id at this time (seconds since 1970).
    pub fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> String {
        let mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(self.0.as_slice());
        // HMAC takes a key of any length.
        let signature = mac.map(|mac| {
            let head = format!("{id}.{timestamp_s}.");
            mac.chain_update(head.as_bytes()).chain_update(body).finalize().into_bytes()
        });
        format!("v1,{}", signature.map(|bytes| STANDARD.encode(bytes)).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_the_one_of_the_specification() {
        // The example of the specification's own libraries.
        let secret = WebhookSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_of_another_form_is_refused_and_not_repeated() {
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        for wrong in
            ["", "hunter2", "whsec_", "whsec_hunter2!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", &long, &short]
        {
            let error = WebhookSecret::parse(wrong).unwrap_err();
            assert!(
                error.contains("openssl rand")
                    && (wrong.is_empty() || wrong == "whsec_" || !error.contains(wrong))
            );
        }
    }

    #[test]
    fn a_sealed_secret_opens_only_for_its_webhook_and_under_its_key() {
        let (master, secret) = (MasterKey::generate(), WebhookSecret::generate());
        let sealed = secret.seal(&master, "A");
        let opened = WebhookSecret::open(&master, "A", &sealed).unwrap();
        assert_eq!(opened.text().expose(), secret.text().expose());
        assert!(WebhookSecret::open(&master, "B", &sealed).is_err());
        assert!(WebhookSecret::open(&MasterKey::generate(), "A", &sealed).is_err());
        assert!(!sealed.windows(8).any(|part| secret.0.windows(8).any(|plain| plain == part)));
        let again = |salt: &[u8]| WebhookSecret::derive(&master, salt).text().expose().to_owned();
        assert!(again(b"x") == again(b"x") && again(b"x") != again(b"y"));
        assert_eq!(format!("{secret:?}"), "WebhookSecret(…)");
    }
}
