//! The reply to a rental: its tickets, kept under the request's idempotency key, and given again.

use super::{Leases, views::RentalTicket};
use crate::{
    app::{
        containers::views::ContainerView,
        idempotency::{Idempotent, KEPT_FOR},
    },
    error::ApiError,
};
use orion_domain::{
    LeaseId, Secret, Timestamp, UserId,
    lease::{Lease, Phase},
};
use orion_store::{Cas, ContainerRow, IdemRow};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use zeroize::Zeroizing;

/// Longest wait of a second request with the same key for the first one.
const WAIT_FOR_FIRST: Duration = Duration::from_secs(60);

/// Interval of the looks at the first request, where no nudge comes.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Time before the end of the wait from which on a reply is given without containers that are not made yet.
const LAST_LOOK: Duration = Duration::from_secs(2);

/// The passwords of a rental, kept sealed beside its idempotency key until the reply is.
#[derive(Serialize, Deserialize)]
struct Passwords(Vec<String>);

/// Returns the passwords as they are sealed beside a key.
pub(super) fn to_seal(passwords: &[(Secret, Secret)]) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let kept = Passwords(passwords.iter().map(|(plain, _)| plain.expose().to_owned()).collect());
    serde_json::to_vec(&kept).map(Zeroizing::new).map_err(ApiError::internal)
}

/// The reply to a rental.
pub struct RentalReply {
    /// Whether all that was asked for is there; else the containers of some leases are not made yet.
    pub is_complete: bool,
    /// One ticket for each lease.
    pub tickets: Vec<RentalTicket>,
}

/// Status of a reply that came before the containers.
const ACCEPTED: u16 = 202;

/// Whether a lease has all that it was to begin with: each of its containers runs, has ended, or could not be started.
fn is_complete(lease: &Lease, containers: &[ContainerRow]) -> bool {
    let is_on_its_way = lease.containers > 0 && lease.state.phase() == Phase::Provisioning;
    !is_on_its_way && containers.iter().all(ContainerView::is_settled)
}

impl Leases<'_> {
    /// Whether the leases have their containers.
    pub(super) async fn is_settled(self, leases: &[LeaseId]) -> Result<bool, ApiError> {
        for lease in leases {
            let containers = self.app.store.containers().of_lease(*lease).await?;
            let lease = self.app.store.leases().get(*lease).await?;
            if !lease.is_none_or(|lease| is_complete(&lease, &containers)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Makes the reply from the leases as they are now.
    async fn made_of(
        self,
        leases: &[LeaseId],
        passwords: &[(Secret, Secret)],
    ) -> Result<RentalReply, ApiError> {
        let mut reply = RentalReply { is_complete: true, tickets: Vec::with_capacity(leases.len()) };
        for (number, lease) in leases.iter().enumerate() {
            let row = self
                .app
                .store
                .leases()
                .with_node(*lease)
                .await?
                .ok_or_else(|| ApiError::internal(format!("lease {lease} vanished")))?;
            let containers = match row.lease.containers {
                0 => Vec::new(),
                _ => self.app.store.containers().of_lease(*lease).await?,
            };
            reply.is_complete &= is_complete(&row.lease, &containers);
            let password = passwords.get(number).map(|(password, _)| password.expose());
            reply.tickets.push(RentalTicket::new(&row, password, &containers).ok_or_else(|| {
                ApiError::conflict(
                    "ended_meanwhile",
                    format!("lease {lease} ended while it was being provided"),
                )
            })?);
        }
        Ok(reply)
    }

    /// Gives the reply, kept under the key if there is one; `None` if another has replied or ended the request.
    pub(super) async fn reply(
        self,
        leases: &[LeaseId],
        passwords: &[(Secret, Secret)],
        key: Option<&Idempotent>,
        until: Timestamp,
    ) -> Result<Option<RentalReply>, ApiError> {
        let reply = self.made_of(leases, passwords).await?;
        let Some(key) = key else { return Ok(Some(reply)) };
        let plain = Zeroizing::new(serde_json::to_vec(&reply.tickets).map_err(ApiError::internal)?);
        let expires_at = until.plus(KEPT_FOR);
        let sealed = key.seal(&plain);
        let status = if reply.is_complete { 200 } else { ACCEPTED };
        let kept = self
            .app
            .store
            .idempotency()
            .finish(key.scope(), key.sha256(), status, &sealed, expires_at)
            .await?;
        Ok(matches!(kept, Cas::Done(())).then_some(reply))
    }

    /// Gives the reply that the first request with this key got, or would have got; `None` if that request came
    /// to nothing: then this one is the first.
    pub(super) async fn reply_of_first(
        self,
        user: UserId,
        key: &Idempotent,
    ) -> Result<Option<RentalReply>, ApiError> {
        let give_up = self.app.now().plus(WAIT_FOR_FIRST);
        let mut nudged = self.app.fleet.nudge.listen();
        while self.app.now() < give_up {
            let Some(earlier) = self.app.store.idempotency().get(key.scope(), key.sha256()).await? else {
                return Ok(None);
            };
            key.check_body(&earlier)?;
            if let Some(sealed) = &earlier.reply_sealed {
                let tickets = serde_json::from_slice(&key.open(sealed)?).map_err(ApiError::internal)?;
                let is_complete = earlier.reply_status != Some(ACCEPTED);
                return Ok(Some(RentalReply { is_complete, tickets }));
            }
            let is_last = self.app.now().plus(LAST_LOOK) >= give_up;
            if let Some(reply) = self.finished_by_scheduler(user, key, &earlier, is_last).await? {
                return Ok(Some(reply));
            }
            nudged.within(LOOK_EVERY).await;
        }
        Err(ApiError::conflict(
            "still_in_progress",
            "the first request with this Idempotency-Key is still in progress; try again",
        ))
    }

    /// Makes the reply to a keyed request from its leases, which the scheduler finished after a crash, and
    /// from the sealed passwords. Containers are waited for until the last look.
    async fn finished_by_scheduler(
        self,
        user: UserId,
        key: &Idempotent,
        earlier: &IdemRow,
        is_last: bool,
    ) -> Result<Option<RentalReply>, ApiError> {
        let (Some(request_key), Some(sealed)) = (&earlier.request_key, &earlier.secrets_sealed) else {
            return Ok(None);
        };
        let leases = self.app.store.leases().of_request(request_key).await?;
        let in_phase = |phase: Phase| leases.iter().any(|lease| lease.state.phase() == phase);
        // What has no login is shown while its container is being made.
        let is_shown = |lease: &Lease| lease.state.phase() != Phase::Provisioning || lease.account.is_none();
        if leases.is_empty() || !leases.iter().all(|lease| lease.user == user && is_shown(lease)) {
            return Ok(None);
        }
        if in_phase(Phase::Releasing) || in_phase(Phase::Ended) {
            return Err(ApiError::conflict(
                "ended_meanwhile",
                "the leases of this request have ended since; use a new Idempotency-Key for a new rental",
            ));
        }
        let passwords: Passwords = serde_json::from_slice(&key.open(sealed)?).map_err(ApiError::internal)?;
        let passwords: Vec<(Secret, Secret)> =
            passwords.0.into_iter().map(|plain| (Secret::new(plain), Secret::new(""))).collect();
        let ids: Vec<LeaseId> = leases.iter().map(|lease| lease.id).collect();
        let has_containers = leases.iter().any(|lease| lease.containers > 0);
        if has_containers && !is_last && !self.is_settled(&ids).await? {
            return Ok(None);
        }
        let until = leases.iter().map(|lease| lease.until).max().unwrap_or_else(|| self.app.now());
        self.reply(&ids, &passwords, Some(key), until).await
    }
}
