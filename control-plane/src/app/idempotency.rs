//! `Idempotency-Key`: the same key gives the same reply, also after a crash, also when both requests arrive
//! at once.
//!
//! The key's row is written in the transaction that creates what the request asks for, so there is never
//! one without the other. Its secrets are sealed under a key that needs both the master key and the raw
//! idempotency key, of which only the SHA-256 is stored.

use crate::{crypto::sha256_hex, error::ApiError};
use axum::http::HeaderMap;
use orion_domain::{Timestamp, UserId};
use orion_service::sealed::{MasterKey, SealingKey};
use orion_store::{IdemNew, IdemRow, Store};
use serde_json::Value;
use std::time::Duration;
use zeroize::Zeroizing;

/// Time for which a key is kept where no lease sets another, and after a lease's end.
pub const KEPT_FOR: Duration = orion_store::REPLY_KEPT;

/// The raw key of a request.
///
/// # Errors
/// 400 for a key that is empty, longer than 255 characters, or not printable ASCII.
pub fn raw_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let raw = value.to_str().map(str::trim).unwrap_or_default();
    if raw.is_empty() || raw.len() > 255 {
        return Err(ApiError::bad_request("Idempotency-Key: has 1 to 255 printable ASCII characters"));
    }
    Ok(Some(raw))
}

/// A request that carries an idempotency key.
pub struct Idempotent {
    scope: String,
    key_sha256: String,
    body_sha256: String,
    /// MAC of the body as an older version computed it: with the fields that are `null`.
    body_sha256_with_nulls: String,
    sealing: SealingKey,
}

impl Idempotent {
    /// Reads the header; `scope` names caller and route, `body` is what must not change.
    ///
    /// # Errors
    /// 400 for a key that is empty, longer than 255 characters, or not printable ASCII.
    pub fn read(
        headers: &HeaderMap,
        route: &str,
        caller: Option<UserId>,
        body: &Value,
        master: &MasterKey,
    ) -> Result<Option<Self>, ApiError> {
        let Some(raw) = raw_key(headers)? else { return Ok(None) };
        let caller = caller.map_or_else(|| "anyone".to_owned(), |user| format!("user {user}"));
        // Bodies hold passwords: what is kept of them must not help to guess those.
        let key = master.derive("idempotent-body", raw.as_bytes());
        let mac = |body: &Value| key.mac_hex(body.to_string().as_bytes());
        Ok(Some(Self {
            scope: format!("{route} {caller}"),
            key_sha256: sha256_hex(raw.as_bytes()),
            body_sha256: mac(&without_nulls(body)),
            body_sha256_with_nulls: mac(body),
            sealing: master.derive("idempotent-reply", raw.as_bytes()),
        }))
    }

    /// Caller and route.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The stored form of the key.
    pub fn sha256(&self) -> &str {
        &self.key_sha256
    }

    /// The row to be written with what the request creates.
    pub fn row(&self, request_key: Option<String>, secrets: Option<&[u8]>, expires_at: Timestamp) -> IdemNew {
        IdemNew {
            scope: self.scope.clone(),
            key_sha256: self.key_sha256.clone(),
            body_sha256: self.body_sha256.clone(),
            request_key,
            secrets_sealed: secrets.map(|plain| self.sealing.seal(&self.scope, plain)),
            expires_at: expires_at.plus(KEPT_FOR),
        }
    }

    /// Returns the salt to derive the secrets of a request with: the same request makes the same thing, also after a
    /// crash.
    pub fn salt(&self) -> String {
        format!("{} {}", self.scope, self.key_sha256)
    }

    /// Writes the key of a request whose secrets follow from its [`Idempotent::salt`].
    ///
    /// # Errors
    /// 422 if an earlier request with this key had another body.
    pub async fn begin(&self, store: &Store, now: Timestamp) -> Result<(), ApiError> {
        match store.idempotency().begin(&self.row(None, None, now), now).await? {
            Some(earlier) => self.check_body(&earlier),
            None => Ok(()),
        }
    }

    /// Whether an earlier request with this key had the same body.
    ///
    /// # Errors
    /// 422 if it had another.
    pub fn check_body(&self, earlier: &IdemRow) -> Result<(), ApiError> {
        let same = [&self.body_sha256, &self.body_sha256_with_nulls].contains(&&earlier.body_sha256);
        if same { Ok(()) } else { Err(ApiError::key_reused()) }
    }

    /// Seals a reply.
    pub fn seal(&self, plain: &[u8]) -> Vec<u8> {
        self.sealing.seal(&self.scope, plain)
    }

    /// Opens a sealed reply, or the secrets kept for one.
    ///
    /// # Errors
    /// 500 if it does not open: the master key was changed meanwhile.
    pub fn open(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, ApiError> {
        self.sealing.open(&self.scope, sealed).map_err(ApiError::internal)
    }
}

/// The same content: `null` is what is left out.
fn without_nulls(body: &Value) -> Value {
    let mut body = body.clone();
    if let Value::Object(fields) = &mut body {
        fields.retain(|_, value| !value.is_null());
    }
    body
}
