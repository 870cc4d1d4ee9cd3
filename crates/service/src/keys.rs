//! The keys that every replica shares: sealed in the database, made by whoever comes first.

use crate::sealed::{MasterKey, WrongKey};
use orion_domain::Secret;
use orion_ssh::ControlCa;
use orion_store::{Store, StoreError};
use std::sync::Arc;

/// The sealed value that signs access tokens.
pub const TOKEN_KEY: &str = "jwt-key";
/// The name of the key of the certificate authority that the control plane logs in with.
pub const CA_KEY: &str = "control-ca";

/// The shared keys, opened.
pub struct Keys {
    /// Signs access tokens.
    pub jwt: Vec<u8>,
    /// Signs the control plane's own short SSH certificates.
    pub control_ca: Arc<ControlCa>,
}

/// Reason why the keys could not be obtained.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database belongs to another master key.
    #[error("{0} (sealed value '{1}')")]
    WrongKey(WrongKey, &'static str),
    /// A key that opened is none.
    #[error("the stored {0} is damaged: {1}")]
    Damaged(&'static str, String),
}

impl Keys {
    /// Opens the keys, or makes them if there are none yet.
    pub async fn open(store: &Store, master: &MasterKey) -> Result<Self, KeysError> {
        let jwt = sealed(store, master, TOKEN_KEY, || rand::random::<[u8; 32]>().to_vec()).await?;
        let ca_text = sealed(store, master, CA_KEY, || {
            ControlCa::generate().to_openssh().map(|text| text.as_bytes().to_vec()).unwrap_or_default()
        })
        .await?;
        let ca_text = String::from_utf8(ca_text)
            .map(Secret::new)
            .map_err(|error| KeysError::Damaged("control CA", error.to_string()))?;
        let control_ca = ControlCa::from_openssh(ca_text.expose())
            .map_err(|error| KeysError::Damaged("control CA", error.to_string()))?;
        Ok(Self { jwt, control_ca: Arc::new(control_ca) })
    }
}

async fn sealed(
    store: &Store,
    master: &MasterKey,
    name: &'static str,
    make: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, KeysError> {
    let key = master.derive("sealed-values", b"");
    let stored = match store.cluster().get_sealed(name).await? {
        Some(stored) => stored,
        // Two replicas may start at once: the one whose value is stored first wins, and both read it.
        None => store.cluster().put_sealed_if_absent(name, &key.seal(name, &make())).await?,
    };
    key.open(name, &stored).map(|plain| plain.to_vec()).map_err(|error| KeysError::WrongKey(error, name))
}
