//! A rental, from request to reply: all of its nodes or none.

use super::{
    Leases,
    reply::{self, RentalReply},
    request::RentRequest,
};
use crate::{
    app::{
        accounts::{Hasher, quotas::EffectiveQuotas},
        containers::WAIT_MAX,
        idempotency::Idempotent,
    },
    auth::Caller,
    crypto::passwords::{self, Origin},
    error::ApiError,
};
use orion_domain::{
    LeaseId, Secret, Timestamp,
    lease::{EndReason, Holding},
    names::UnixName,
    reconcile::{FIRST_UID, LAST_UID},
    way_in::without_details,
};
use orion_fleet::{NotProvisioned, Provisioned};
use orion_store::{Largest, NewAccount, PlaceOutcome, PlaceRequest, Placement, RequestEnd, Room};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::sync::SemaphorePermit;

/// Nodes that a refusal names because lease accounts cannot log in there.
const SHUT_NODES_NAMED: u32 = 3;

/// Interval of the looks at leases whose containers were begun, where no nudge comes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Reason for which this process did not complete a rental.
enum NotRented {
    /// Error for the client.
    Refused(ApiError),
    /// Request that another process is handling, or has answered.
    ByAnother,
}

impl From<ApiError> for NotRented {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// A rental that was checked, with all that placing it needs.
struct UidRequest<'a> {
    who: &'a Caller,
    username: UnixName,
    request: RentRequest,
    quotas: EffectiveQuotas,
    /// Plain and as a crypt hash, one pair for each node; none for slices.
    passwords: Vec<(Secret, Secret)>,
    key: Option<Idempotent>,
    /// Time at which the reply is given, whether or not the containers run.
    reply_by: Timestamp,
}

/// Leases that have their nodes, and not yet their accounts.
struct InHand {
    placements: Vec<Placement>,
    request_key: String,
    until: Timestamp,
}

/// The refusal of slices that found no room.
fn no_room(error: ApiError, asked: Largest, room: Room) -> ApiError {
    let told = |size: Largest| {
        let cores = size.cpu_milli as f64 / 1000.0;
        format!("{cores} cores, {} MiB and {} GPUs", size.memory_mb, size.gpus)
    };
    if room.nodes == 0 {
        return error.hint("no node with a container engine is registered");
    }
    if !room.ever_fits {
        let field = if asked.cpu_milli > room.total.cpu_milli {
            "cpus"
        } else if asked.memory_mb > room.total.memory_mb {
            "memory_mb"
        } else if asked.gpus > room.total.gpus {
            "gpus"
        } else {
            "cpus"
        };
        let (asked, most) = (told(asked), told(room.total));
        return ApiError::field(field, format!("no node has {asked}; the most that any has are {most}"));
    }
    let free = json!({
        "cpus": room.free.cpu_milli as f64 / 1000.0, "memory_mb": room.free.memory_mb, "gpus": room.free.gpus,
    });
    let hint = format!("the most that is free on any node are {}", told(room.free));
    error.with("largest_free", free).hint(hint)
}

impl<'a> Leases<'a> {
    /// Rents `request.count` nodes, or slices of nodes: replies when each has confirmed its account, and has made its
    /// container, or a minute has passed.
    ///
    /// # Errors
    /// 503 with `found` when too few are free, 400 where no node is as large, 409 when the name is in use, 422 for a
    /// re-used key.
    pub async fn rent(
        self,
        who: &Caller,
        username: UnixName,
        request: RentRequest,
        key: Option<Idempotent>,
    ) -> Result<RentalReply, ApiError> {
        self.app.check_clock()?;
        let (app, who) = (self.app.clone(), who.clone());
        self.app
            .run_detached(async move { app.leases().rent_detached(&who, username, request, key).await })
            .await
    }

    async fn rent_detached(
        self,
        who: &Caller,
        username: UnixName,
        request: RentRequest,
        key: Option<Idempotent>,
    ) -> Result<RentalReply, ApiError> {
        if let Some(key) = &key
            && let Some(reply) = self.replay(who, key).await?
        {
            return Ok(reply);
        }
        let quotas = self.app.accounts().quotas_of(who);
        quotas.check_length(request.length)?;
        if key.is_some() {
            self.app.accounts().check_keys(who, quotas).await?;
        }
        let (arrived, reply_by) = (Instant::now(), self.app.now().plus(WAIT_MAX));
        let passwords =
            if request.holding.is_whole() { self.passwords_for(&request).await? } else { Vec::new() };
        let wish = UidRequest { who, username, request, quotas, passwords, key, reply_by };
        loop {
            let answered = match self.place(&wish).await? {
                Some(placed) => self.provide(&wish, placed, arrived).await?,
                None => None,
            };
            if let Some(reply) = answered {
                return Ok(reply);
            }
            let Some(key) = &wish.key else {
                return Err(ApiError::internal("a rental without a key was taken over"));
            };
            if let Some(reply) = self.reply_of_first(who.user, key).await? {
                return Ok(reply);
            }
        }
    }

    /// Gives the reply of an earlier request with this key, if there was one.
    async fn replay(self, who: &Caller, key: &Idempotent) -> Result<Option<RentalReply>, ApiError> {
        match self.app.store.idempotency().get(key.scope(), key.sha256()).await? {
            Some(earlier) => {
                key.check_body(&earlier)?;
                self.reply_of_first(who.user, key).await
            }
            None => Ok(None),
        }
    }

    /// Gives the leases their nodes; `None` when the same key came at the same time, and the other was first.
    async fn place(self, wish: &UidRequest<'_>) -> Result<Option<InHand>, ApiError> {
        let permit = self.placing_permit().await?;
        // Only now: who waited would get a claim that is over, and a shorter lease.
        let now = self.app.now();
        let place = self.place_request(wish, now)?;
        let placed = self.app.store.leases().place(&place).await?;
        drop(permit);
        match placed {
            PlaceOutcome::Placed(placements) => {
                self.app.fleet.nudge.all();
                let PlaceRequest { request_key, until, .. } = place;
                Ok(Some(InHand { placements, request_key, until }))
            }
            PlaceOutcome::Replayed(earlier) => match &wish.key {
                Some(key) => key.check_body(&earlier).map(|()| None),
                None => Err(ApiError::internal("a rental without a key was replayed")),
            },
            PlaceOutcome::TooFew { found, next_end } => Err(self.too_few(wish, found, next_end).await?),
            PlaceOutcome::NameTaken(name) => Err(ApiError::conflict(
                "name_taken",
                format!("you have a lease called '{name}' already; choose another name"),
            )),
            PlaceOutcome::QuotaOfNodes { have } => Err(ApiError::quota(
                "nodes",
                wish.quotas.nodes.unwrap_or(u32::MAX),
                format!(
                    "you have {have} nodes and ask for {} more; release a lease, or ask for fewer",
                    wish.request.count
                ),
            )),
            PlaceOutcome::Disabled => Err(ApiError::disabled(&wish.who.username)),
            PlaceOutcome::UidsExhausted => {
                Err(ApiError::internal("the range of account uids is used up; configure a larger one"))
            }
        }
    }

    fn place_request(self, wish: &UidRequest<'_>, now: Timestamp) -> Result<PlaceRequest, ApiError> {
        let UidRequest { request, passwords, .. } = wish;
        let until = now.plus(request.length);
        let request_key = ulid::Ulid::generate().to_string();
        let idem = match &wish.key {
            None => None,
            Some(key) => Some(key.row(Some(request_key.clone()), Some(&reply::to_seal(passwords)?), until)),
        };
        Ok(PlaceRequest {
            user: wish.who.user,
            username: wish.username.clone(),
            count: request.count as usize,
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
            holding: request.holding,
            containers: self.app.containers().first_of(request.container.as_ref(), request.count, now)?,
            on_node_loss: request.on_node_loss,
            nodes_max: wish.quotas.nodes,
            request_key,
            idem,
            first_turn: self.app.fleet.config.claim_ttl,
            first_uid: FIRST_UID,
            last_uid: LAST_UID,
            now,
        })
    }

    /// Makes the accounts and answers; `None` when another process has the rental in hand, or has answered it.
    async fn provide(
        self,
        wish: &UidRequest<'_>,
        placed: InHand,
        arrived: Instant,
    ) -> Result<Option<RentalReply>, ApiError> {
        let InHand { placements, request_key, until } = placed;
        let keyed = wish.key.is_some();
        let leases = match self.provision_all(wish, placements, &request_key).await {
            Ok(leases) => leases,
            Err(NotRented::Refused(error)) => return Err(error),
            Err(NotRented::ByAnother) => return Ok(None),
        };
        self.app.fleet.metrics.rented(arrived.elapsed());
        let replied = match self.make_containers(wish, &leases).await {
            Ok(()) => self.reply(&leases, &wish.passwords, wish.key.as_ref(), until).await,
            Err(error) => Err(error),
        };
        if replied.is_err() && !keyed {
            self.end_when_database_is_back(request_key);
        }
        replied
    }

    /// Makes the containers of the leases, and waits for them until the reply is due.
    async fn make_containers(self, wish: &UidRequest<'_>, leases: &[LeaseId]) -> Result<(), ApiError> {
        if wish.request.container.is_none() {
            return Ok(());
        }
        let of_lease = |lease: &LeaseId| {
            let lease = *lease;
            async move {
                for row in self.app.store.containers().of_lease(lease).await? {
                    self.app.containers().provide((row.id, None), wish.reply_by).await?;
                }
                Ok::<(), ApiError>(())
            }
        };
        futures_util::future::try_join_all(leases.iter().map(of_lease)).await?;
        // A slice is active a moment after its container was begun.
        let mut nudged = self.app.fleet.nudge.listen();
        // A process that is about to stop answers: nobody else knows the password.
        let may_wait = || !self.app.shutdown.is_cancelled() && self.app.now() < wish.reply_by;
        while may_wait() && !self.is_settled(leases).await? {
            nudged.within(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Says why so few were found: what no node could ever have is wrong, what none has free now may come.
    async fn too_few(
        self,
        wish: &UidRequest<'_>,
        found: usize,
        next_end: Option<Timestamp>,
    ) -> Result<ApiError, ApiError> {
        let error = ApiError::too_few_free(wish.request.count, found, next_end, self.app.now());
        if let Holding::Slice { cpu_milli, memory_mb, gpus } = wish.request.holding {
            let asked =
                Largest { cpu_milli: cpu_milli.into(), memory_mb: memory_mb.into(), gpus: gpus.into() };
            let room = self.app.store.leases().room(asked).await?;
            return Ok(no_room(error, asked, room));
        }
        let mut hint = "ask for fewer nodes, or try again when the next lease ends".to_owned();
        if wish.request.container.is_some() {
            hint = format!("{hint}; only nodes with a container engine that answers are counted");
        }
        if let Some(shut) = self.shut_nodes().await {
            hint = format!("{hint}; {shut}");
        }
        Ok(error.hint(hint))
    }

    /// Takes a place among the placements that are in the database at once.
    async fn placing_permit(self) -> Result<SemaphorePermit<'a>, ApiError> {
        tokio::time::timeout(self.app.config.placing_wait, self.app.placing.acquire())
            .await
            .map_err(|_| {
                ApiError::unavailable("too many rentals wait for the database; nothing was rented, try again")
            })?
            .map_err(ApiError::internal)
    }

    /// One password and its crypt hash for each node, or the user's own for all.
    async fn passwords_for(self, request: &RentRequest) -> Result<Vec<(Secret, Secret)>, ApiError> {
        let (count, chosen) = (request.count, request.password.clone());
        // A chosen password's hash is as dear as a login's.
        let _permit = match &chosen {
            Some(_) => Some(self.app.hashing.permit(Hasher::Known).await?),
            None => None,
        };
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

    /// Provisions one lease. One that gives no login is not waited for any longer than the reply: its node may have many others
    /// to begin.
    async fn provision(
        self,
        placement: Placement,
        reply_by: Timestamp,
    ) -> Result<Provisioned, NotProvisioned> {
        let (lease, node, fleet) = (placement.lease.id, placement.node(), self.app.fleet.clone());
        if placement.lease.holding.is_whole() {
            return fleet.provision(placement).await;
        }
        let provisioned = self.app.tasks.spawn(async move { fleet.provision(placement).await });
        let left = reply_by.since(self.app.now());
        match tokio::time::timeout(left, provisioned).await {
            Ok(Ok(provisioned)) => provisioned,
            // It goes on, and where it does not the scheduler does.
            Ok(Err(_)) | Err(_) => Ok(Provisioned { lease, node }),
        }
    }

    /// Makes the accounts side by side. If one cannot be made anywhere, all end.
    async fn provision_all(
        self,
        wish: &UidRequest<'_>,
        placements: Vec<Placement>,
        request_key: &str,
    ) -> Result<Vec<LeaseId>, NotRented> {
        let (keyed, for_admin) = (wish.key.is_some(), wish.who.is_admin());
        let count = u32::try_from(placements.len()).unwrap_or(u32::MAX);
        let leases: Vec<LeaseId> = placements.iter().map(|placement| placement.lease.id).collect();
        let work = placements.into_iter().map(|placement| self.provision(placement, wish.reply_by));
        let results = futures_util::future::join_all(work).await;
        let ready = results.iter().filter(|result| result.is_ok()).count();
        let Some(failure) = results.into_iter().find_map(Result::err) else { return Ok(leases) };
        let (detail, next_end) = match failure {
            NotProvisioned::NoneFree { next_end, last } => (last, next_end),
            NotProvisioned::Invalid(what) => {
                let reason = EndReason::Failed { detail: what.clone() };
                self.app
                    .store
                    .leases()
                    .end_request(request_key, &reason, self.app.now())
                    .await
                    .map_err(ApiError::from)?;
                self.app.fleet.nudge.all();
                return Err(NotRented::Refused(ApiError::internal(what)));
            }
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
        let ended = self
            .app
            .store
            .leases()
            .end_request(request_key, &reason, self.app.now())
            .await
            .map_err(ApiError::from)?;
        self.app.fleet.nudge.all();
        match ended {
            RequestEnd::Acknowledged => Err(NotRented::ByAnother),
            RequestEnd::Ended(_) => Err(NotRented::Refused(
                ApiError::too_few_free(count, ready, next_end, self.app.now()).hint(if for_admin {
                    format!("a node was found but could not provide the login: {detail}")
                } else {
                    "a node was found but could not provide the login; an admin sees why".to_owned()
                }),
            )),
        }
    }

    /// Returns a sentence that names the nodes not offered only because lease accounts cannot log in there.
    async fn shut_nodes(self) -> Option<String> {
        let shut = self
            .app
            .store
            .agents()
            .ways_in_shut(SHUT_NODES_NAMED)
            .await
            .ok()
            .filter(|shut| !shut.is_empty())?;
        let named = shut.iter().map(|(name, why)| format!("{name} ({})", without_details(why)));
        Some(format!("lease accounts cannot log in at {}", named.collect::<Vec<_>>().join(", ")))
    }

    /// Ends the leases of a request that carried no key and got no reply, as nobody knows their passwords.
    fn end_when_database_is_back(self, request_key: String) {
        let app = self.app.clone();
        self.app.tasks.spawn(async move {
            let reason =
                EndReason::Failed { detail: "the database was away before it could be answered".into() };
            while !app.shutdown.is_cancelled() {
                if app.store.leases().end_request(&request_key, &reason, app.now()).await.is_ok() {
                    app.fleet.nudge.all();
                    return;
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
}
