//! Accounts of the API: their rights and their quotas.

use serde::{Deserialize, Serialize};

/// Rights of an account of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Access to the account's own leases.
    User,
    /// Access to everything.
    Admin,
}

impl Role {
    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// Limits of one account. None: the limit in the settings applies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quotas {
    /// Nodes at once.
    pub nodes: Option<u32>,
    /// Length of a lease with its extensions, in hours.
    pub lease_hours: Option<u32>,
    /// Event streams at once, in one process.
    pub streams: Option<u32>,
    /// Idempotency keys that are kept at once.
    pub keys: Option<u32>,
}
