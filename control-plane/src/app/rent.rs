//! A rental, from request to reply: all of its nodes or none.

use crate::{
    App,
    app::{idempotency::Idempotent, views::RentalTicket},
    crypto::passwords::{self, Origin},
    error::ApiError,
};
use orion_domain::{
    LeaseId, Secret, Timestamp, UserId,
    credentials::{SSH_PASSWORD_MIN, SshPublicKey, check_password},
    lease::{EndReason, OnNodeLoss, Phase},
    names::{LeaseName, Tag, UnixName},
    time::Hours,
};
use orion_fleet::NotProvisioned;
use orion_store::{Cas, IdemRow, NewAccount, PlaceOutcome, PlaceRequest, Placement, RequestEnd};
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};
use utoipa::ToSchema;
use zeroize::Zeroizing;

/// How long a second request with the same key waits for the first one.
const WAIT_FOR_FIRST: Duration = Duration::from_secs(60);

/// What is wanted.
#[derive(Debug, Deserialize, ToSchema)]
pub struct RentBody {
    /// More than 0, a fraction is fine; at most what the operator allows (`ORION_LEASE_HOURS_MAX`, 720).
    #[schema(exclusive_minimum = 0)]
    duration_hours: f64,
    /// How many nodes; at most what the operator allows (`ORION_RENT_COUNT_MAX`, 100).
    #[schema(minimum = 1, default = 1)]
    count: Option<i64>,
    /// The login's password on every node, 8 characters to 128 bytes; made for each node if left out.
    #[schema(value_type = Option<String>, format = Password)]
    ssh_password: Option<Secret>,
    /// One line of an OpenSSH public key, without options; it may log in, too.
    ssh_public_key: Option<String>,
    /// Only nodes that have all of these.
    tags: Option<Vec<String>>,
    /// There are no clusters yet: any number is refused.
    cluster_id: Option<i64>,
    /// What happens when the node is lost; `migrate` if left out.
    #[schema(value_type = Option<crate::openapi::schemas::NodeLossPolicy>)]
    on_node_loss: Option<OnNodeLoss>,
    /// A name of your own for the lease, unique among your leases: a letter, then `a-z`, `0-9` and `-`.
    name: Option<String>,
}

/// The same, checked.
pub struct RentRequest {
    length: Duration,
    count: u32,
    password: Option<Secret>,
    public_key: Option<SshPublicKey>,
    tags: Vec<Tag>,
    on_node_loss: OnNodeLoss,
    name: Option<LeaseName>,
}

impl RentBody {
    /// Checks the body against the limits.
    ///
    /// # Errors
    /// 400 that names the first field that is wrong, and why.
    pub fn check(self, hours_max: f64, count_max: u32) -> Result<RentRequest, ApiError> {
        let length = Hours::new(self.duration_hours, hours_max)
            .map_err(|rule| ApiError::field("duration_hours", rule))?
            .duration();
        let count = match self.count.unwrap_or(1) {
            count if count < 1 => {
                return Err(ApiError::field("count", format!("must be at least 1, not {count}")));
            }
            count => u32::try_from(count).ok().filter(|&count| count <= count_max).ok_or_else(|| {
                ApiError::field("count", format!("must be at most {count_max}, not {count}"))
            })?,
        };
        if let Some(password) = &self.ssh_password {
            check_password(password, SSH_PASSWORD_MIN)
                .map_err(|rule| ApiError::field("ssh_password", rule))?;
        }
        let public_key = self
            .ssh_public_key
            .map(|text| text.parse::<SshPublicKey>().map_err(|rule| ApiError::field("ssh_public_key", rule)))
            .transpose()?;
        let tags = self
            .tags
            .unwrap_or_default()
            .iter()
            .map(|tag| tag.parse::<Tag>().map_err(|rule| ApiError::field("tags", rule)))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(cluster) = self.cluster_id {
            return Err(ApiError::field(
                "cluster_id",
                format!("there is no cluster {cluster}; leave it out"),
            ));
        }
        let name = self
            .name
            .map(|name| name.parse::<LeaseName>().map_err(|rule| ApiError::field("name", rule)))
            .transpose()?;
        Ok(RentRequest {
            length,
            count,
            password: self.ssh_password,
            public_key,
            tags,
            on_node_loss: self.on_node_loss.unwrap_or_default(),
            name,
        })
    }
}

/// Why a rental came to nothing here.
enum NotRented {
    /// For the client.
    Refused(ApiError),
    /// Another process has it in hand, or has answered it.
    ByAnother,
}

impl From<ApiError> for NotRented {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// The passwords of a rental, kept sealed beside its idempotency key until the reply is.
#[derive(Serialize, Deserialize)]
struct Passwords(Vec<String>);

impl App {
    /// Rents `request.count` nodes: replies when each has confirmed its account.
    ///
    /// # Errors
    /// 503 with `found` when too few are free, 409 when the name is in use, 422 for a re-used key.
    pub async fn rent(
        &self,
        user: UserId,
        username: UnixName,
        request: RentRequest,
        key: Option<Idempotent>,
    ) -> Result<Vec<RentalTicket>, ApiError> {
        self.check_clock()?;
        let app = self.clone();
        self.to_its_end(async move { app.rent_to_the_end(user, username, request, key).await }).await
    }

    async fn rent_to_the_end(
        &self,
        user: UserId,
        username: UnixName,
        request: RentRequest,
        key: Option<Idempotent>,
    ) -> Result<Vec<RentalTicket>, ApiError> {
        if let Some(key) = &key
            && let Some(earlier) = self.store.idem_get(key.scope(), key.sha256()).await?
        {
            key.check_body(&earlier)?;
            if let Some(reply) = self.reply_of_first(user, key).await? {
                return Ok(reply);
            }
        }
        let arrived = Instant::now();
        let passwords = self.passwords_for(&request).await?;
        loop {
            let now = self.now();
            let until = now.plus(request.length);
            let request_key = ulid::Ulid::generate().to_string();
            let row = match &key {
                None => None,
                Some(key) => {
                    let kept =
                        Passwords(passwords.iter().map(|(plain, _)| plain.expose().to_owned()).collect());
                    let secrets = serde_json::to_vec(&kept).map_err(ApiError::internal)?;
                    Some(key.row(Some(request_key.clone()), Some(&secrets), until))
                }
            };
            let place = PlaceRequest {
                user,
                username: username.clone(),
                count: passwords.len(),
                name: request.name.clone(),
                from: now,
                until,
                accounts: passwords
                    .iter()
                    .map(|(_, hash)| NewAccount {
                        password_hash: hash.clone(),
                        public_key: request.public_key.as_ref().map(|key| key.as_str().to_owned()),
                    })
                    .collect(),
                tags: request.tags.clone(),
                on_node_loss: request.on_node_loss,
                request_key: request_key.clone(),
                idem: row,
                holder: self.fleet.config.holder.clone(),
                claim_ttl: self.fleet.config.claim_ttl,
                first_uid: self.fleet.config.first_uid,
                last_uid: self.fleet.config.last_uid,
                now,
            };
            let placed = {
                let _permit = self.placing.acquire().await.map_err(ApiError::internal)?;
                self.store.place(&place).await?
            };
            match placed {
                PlaceOutcome::Placed(placements) => {
                    self.fleet.nudge.all();
                    let rented = match self.provision_all(placements, &request_key, key.is_some()).await {
                        Ok(leases) => {
                            self.fleet.metrics.rented(arrived.elapsed());
                            match self.reply(&leases, &passwords, key.as_ref(), until).await {
                                Ok(reply) => reply,
                                Err(error) => {
                                    if key.is_none() {
                                        self.end_when_database_is_back(request_key);
                                    }
                                    return Err(error);
                                }
                            }
                        }
                        Err(NotRented::Refused(error)) => return Err(error),
                        Err(NotRented::ByAnother) => None,
                    };
                    if let Some(tickets) = rented {
                        return Ok(tickets);
                    }
                    let Some(key) = &key else {
                        return Err(ApiError::internal("a rental without a key was taken over"));
                    };
                    if let Some(reply) = self.reply_of_first(user, key).await? {
                        return Ok(reply);
                    }
                }
                PlaceOutcome::TooFew { found, next_end } => {
                    return Err(ApiError::too_few_free(request.count, found, next_end, self.now())
                        .hint("ask for fewer nodes, or try again when the next lease ends"));
                }
                PlaceOutcome::NameTaken(name) => {
                    return Err(ApiError::conflict(
                        "name_taken",
                        format!("you have a lease called '{name}' already; choose another name"),
                    ));
                }
                PlaceOutcome::UidsExhausted => {
                    return Err(ApiError::internal(
                        "the range of account uids is used up; configure a larger one",
                    ));
                }
                PlaceOutcome::Replayed(earlier) => {
                    // The same key came at the same time, and the other was first.
                    let Some(key) = &key else {
                        return Err(ApiError::internal("a rental without a key was replayed"));
                    };
                    key.check_body(&earlier)?;
                    if let Some(reply) = self.reply_of_first(user, key).await? {
                        return Ok(reply);
                    }
                }
            }
        }
    }

    /// One password and its crypt hash for each node, or the user's own for all.
    async fn passwords_for(&self, request: &RentRequest) -> Result<Vec<(Secret, Secret)>, ApiError> {
        let (count, chosen) = (request.count, request.password.clone());
        tokio::task::spawn_blocking(move || match chosen {
            Some(password) => {
                // The user's one password gets one salt: its hashes show nothing that they do not share.
                let hash = passwords::crypt_for_node(&password, Origin::Chosen)?;
                Ok((0..count).map(|_| (password.clone(), hash.clone())).collect())
            }
            None => (0..count)
                .map(|_| {
                    let password = passwords::generate_ssh_password();
                    passwords::crypt_for_node(&password, Origin::Generated).map(|hash| (password, hash))
                })
                .collect(),
        })
        .await
        .map_err(ApiError::internal)?
        .map_err(|error: String| ApiError::internal(error))
    }

    /// Makes the accounts side by side. If one cannot be made anywhere, all end.
    async fn provision_all(
        &self,
        placements: Vec<Placement>,
        request_key: &str,
        keyed: bool,
    ) -> Result<Vec<LeaseId>, NotRented> {
        let count = u32::try_from(placements.len()).unwrap_or(u32::MAX);
        let leases: Vec<LeaseId> = placements.iter().map(|placement| placement.lease.id).collect();
        let work = placements.into_iter().map(|placement| self.fleet.provision(placement));
        let results = futures_util::future::join_all(work).await;
        let ready = results.iter().filter(|result| result.is_ok()).count();
        let Some(failure) = results.into_iter().find_map(Result::err) else { return Ok(leases) };
        let (detail, next_end) = match failure {
            NotProvisioned::NoneFree { next_end, last } => (last, next_end),
            // Somebody else has taken over; with a key it is they who bring it to its end.
            NotProvisioned::Superseded if keyed => return Err(NotRented::ByAnother),
            NotProvisioned::Superseded => ("it was ended while it was being provided".to_owned(), None),
            NotProvisioned::Store(error) if keyed => return Err(NotRented::Refused(error.into())),
            NotProvisioned::Store(error) => {
                self.end_when_database_is_back(request_key.to_owned());
                return Err(NotRented::Refused(error.into()));
            }
        };
        let reason = EndReason::Failed { detail: detail.clone() };
        let ended = self.store.end_request(request_key, &reason, self.now()).await.map_err(ApiError::from)?;
        self.fleet.nudge.all();
        match ended {
            RequestEnd::Acknowledged => Err(NotRented::ByAnother),
            RequestEnd::Ended(_) => Err(NotRented::Refused(
                ApiError::too_few_free(count, ready, next_end, self.now())
                    .hint(format!("a node was found but could not provide the login: {detail}")),
            )),
        }
    }

    /// Nobody knows the passwords of a request that carried no key and got no reply: its leases end.
    fn end_when_database_is_back(&self, request_key: String) {
        let app = self.clone();
        self.tasks.spawn(async move {
            let reason =
                EndReason::Failed { detail: "the database was away before it could be answered".into() };
            while !app.shutdown.is_cancelled() {
                if app.store.end_request(&request_key, &reason, app.now()).await.is_ok() {
                    app.fleet.nudge.all();
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    async fn tickets(
        &self,
        leases: &[LeaseId],
        passwords: &[(Secret, Secret)],
    ) -> Result<Vec<RentalTicket>, ApiError> {
        let mut tickets = Vec::with_capacity(leases.len());
        for (lease, (password, _)) in leases.iter().zip(passwords) {
            let row = self
                .store
                .lease_row(*lease)
                .await?
                .ok_or_else(|| ApiError::internal(format!("lease {lease} vanished")))?;
            tickets.push(RentalTicket::new(&row, password.expose()).ok_or_else(|| {
                ApiError::conflict(
                    "ended_meanwhile",
                    format!("lease {lease} ended while it was being provided"),
                )
            })?);
        }
        Ok(tickets)
    }

    /// The reply, kept under the key if there is one. `None` if another has replied or ended the request.
    async fn reply(
        &self,
        leases: &[LeaseId],
        passwords: &[(Secret, Secret)],
        key: Option<&Idempotent>,
        until: Timestamp,
    ) -> Result<Option<Vec<RentalTicket>>, ApiError> {
        let tickets = self.tickets(leases, passwords).await?;
        let Some(key) = key else { return Ok(Some(tickets)) };
        let plain = Zeroizing::new(serde_json::to_vec(&tickets).map_err(ApiError::internal)?);
        let expires_at = until.plus(crate::app::idempotency::KEPT_FOR);
        let sealed = key.seal(&plain);
        let kept = self.store.idem_finish(key.scope(), key.sha256(), 200, &sealed, expires_at).await?;
        Ok(matches!(kept, Cas::Done(())).then_some(tickets))
    }

    /// The reply that the first request with this key got, or would have got. `None` if that request came
    /// to nothing: then this one is the first.
    async fn reply_of_first(
        &self,
        user: UserId,
        key: &Idempotent,
    ) -> Result<Option<Vec<RentalTicket>>, ApiError> {
        let give_up = self.now().plus(WAIT_FOR_FIRST);
        let mut nudged = self.fleet.nudge.listen();
        while self.now() < give_up {
            let Some(earlier) = self.store.idem_get(key.scope(), key.sha256()).await? else {
                return Ok(None);
            };
            key.check_body(&earlier)?;
            if let Some(sealed) = &earlier.reply_sealed {
                let plain = key.open(sealed)?;
                return serde_json::from_slice(&plain).map(Some).map_err(ApiError::internal);
            }
            if let Some(tickets) = self.finished_by_scheduler(user, key, &earlier).await? {
                return Ok(Some(tickets));
            }
            nudged.within(Duration::from_millis(200)).await;
        }
        Err(ApiError::conflict(
            "still_in_progress",
            "the first request with this Idempotency-Key is still in progress; try again",
        ))
    }

    /// After a crash the scheduler brings the leases of a keyed request to their end; then the reply is made
    /// from them and the sealed passwords.
    async fn finished_by_scheduler(
        &self,
        user: UserId,
        key: &Idempotent,
        earlier: &IdemRow,
    ) -> Result<Option<Vec<RentalTicket>>, ApiError> {
        let (Some(request_key), Some(sealed)) = (&earlier.request_key, &earlier.secrets_sealed) else {
            return Ok(None);
        };
        let leases = self.store.leases_of_request(request_key).await?;
        let in_phase = |phase: Phase| leases.iter().any(|lease| lease.state.phase() == phase);
        if leases.is_empty() || leases.iter().any(|lease| lease.user != user) || in_phase(Phase::Provisioning)
        {
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
        let until = leases.iter().map(|lease| lease.until).max().unwrap_or_else(|| self.now());
        self.reply(&ids, &passwords, Some(key), until).await
    }
}
