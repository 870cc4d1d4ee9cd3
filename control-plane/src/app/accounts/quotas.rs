//! How much one account may have: as the settings say, or as an admin set it for the account. An admin's account has no
//! quotas but its own.

use super::Accounts;
use crate::{auth::Caller, error::ApiError};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// Quotas as they hold for a caller; none: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EffectiveQuotas {
    /// Nodes at once.
    pub nodes: Option<u32>,
    /// Length of a lease with its extensions, in hours.
    pub lease_hours: Option<u32>,
    /// Idempotency keys that are kept at once.
    pub keys: Option<u32>,
}

impl EffectiveQuotas {
    /// Refuses a lease that is longer in all.
    ///
    /// # Errors
    /// 403
    pub fn check_length(&self, length: Duration) -> Result<(), ApiError> {
        match self.lease_hours {
            Some(hours) if length > Duration::from_secs(u64::from(hours) * 3600) => Err(ApiError::quota(
                "lease_hours",
                hours,
                "the lease would be longer in all, with its extensions; ask for less, or rent anew when it is over",
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// A quota, and how much of it is used.
#[derive(Serialize, ToSchema)]
pub struct Used {
    /// `null`: any number.
    #[schema(required)]
    limit: Option<u32>,
    used: u32,
}

/// A quota of each single thing.
#[derive(Serialize, ToSchema)]
pub struct Bound {
    /// `null`: as long as the operator allows.
    #[schema(required)]
    limit: Option<u32>,
}

/// Limits of an account, and their use.
#[derive(Serialize, ToSchema)]
#[schema(as = Quotas)]
pub struct QuotasView {
    /// Nodes at once.
    #[schema(inline)]
    nodes: Used,
    /// Length of a lease with its extensions, in hours.
    #[schema(inline)]
    lease_hours: Bound,
    /// Event streams at once, in this process.
    #[schema(inline)]
    streams: Used,
    /// Idempotency keys that are kept.
    #[schema(inline)]
    keys: Used,
}

impl Accounts<'_> {
    /// The caller's quotas.
    pub fn quotas_of(self, who: &Caller) -> EffectiveQuotas {
        let or = |own: Option<u32>, setting: u32| own.or((!who.is_admin()).then_some(setting));
        EffectiveQuotas {
            nodes: or(who.quotas.nodes, self.app.config.user_nodes_max),
            lease_hours: or(who.quotas.lease_hours, self.app.config.user_lease_hours_max),
            keys: or(who.quotas.keys, self.app.config.user_keys_max),
        }
    }

    /// Returns the number of event streams that the caller may have open on this replica.
    pub fn streams_of(self, who: &Caller) -> usize {
        who.quotas
            .streams
            .and_then(|own| usize::try_from(own).ok())
            .unwrap_or(self.app.config.streams_of_user_max)
    }

    async fn keys_of(self, who: &Caller, most: u32) -> Result<u32, ApiError> {
        let scopes = ["rent", "join-token", "webhook"].map(|route| format!("{route} user {}", who.user));
        Ok(self.app.store.accounts().keys_kept(&scopes, most).await?)
    }

    /// Refuses one more idempotency key.
    ///
    /// # Errors
    /// 403
    pub async fn check_keys(self, who: &Caller, quotas: EffectiveQuotas) -> Result<(), ApiError> {
        let Some(most) = quotas.keys else { return Ok(()) };
        if self.keys_of(who, most).await? < most {
            return Ok(());
        }
        let detail =
            "you have as many Idempotency-Keys as are kept; they end a day after their leases, or send none";
        Err(ApiError::quota("keys", most, detail))
    }

    /// Returns the caller's quotas and their use.
    ///
    /// # Errors
    /// The database's.
    pub async fn quotas_view(self, who: &Caller) -> Result<QuotasView, ApiError> {
        let quotas = self.quotas_of(who);
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let most_keys = quotas.keys.unwrap_or(self.app.config.user_keys_max);
        Ok(QuotasView {
            nodes: Used { limit: quotas.nodes, used: self.app.store.accounts().live_leases(who.user).await? },
            lease_hours: Bound { limit: quotas.lease_hours },
            streams: Used {
                limit: Some(number(self.streams_of(who))),
                used: number(self.app.streams.count_of(who.user)),
            },
            keys: Used { limit: quotas.keys, used: self.keys_of(who, most_keys).await? },
        })
    }
}
