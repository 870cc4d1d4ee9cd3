//! Making a node hold what the database says it should: the one place where accounts are made and removed.
//!
//! Provision, migrate, expire, release and the cleaning of a node that came back are all this. It works
//! under a row claim that it renews, writes back only if the claim is still its own, and can be killed at
//! any instruction: the next run finishes the work.

use crate::{
    Fleet,
    fleet::target_of,
    metrics::ReconcileResult,
    playbook::{NodeInventory, Playbook, Reply, Report, read_reply},
};
use orion_domain::{
    LeaseId, Timestamp,
    agent::seconds_to_deadline,
    lease::{Account, Phase},
    reconcile::{Action, DesiredAccount, Observed, delete_by_uid, plan},
};
use orion_ssh::{ExecRequest, SshError, Target, Verdict};
use orion_store::{
    Cas, ClaimRenewed, FinishReconcile, Finished, MoveReason, NodeClaim, NodeMemory, StoreError,
};
use serde_json::{Value, json};
use std::time::Duration;
use tracing::Instrument;

/// What a run may take on top of its own limit: the way there and back, and `timeout -k`.
const TRANSFER: Duration = Duration::from_secs(10);

/// How often work goes on after the node knew more than the database: once for the epoch, once for the uid, and
/// once more for a process that raised them meanwhile.
const RENEWALS_MAX: u32 = 3;

/// What the caller has just changed about the node, if it knows: then the node need not be listed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A lease was placed on it while it was clean.
    Placed,
    /// Its lease was released.
    Released,
    /// Its lease has a new end.
    Extended,
    /// Anything.
    Unknown,
}

/// What came of it.
#[derive(Debug)]
pub enum Applied {
    /// The node holds what it should, and the database knows.
    Done(Finished, Option<Value>),
    /// The node is fine but cannot hold this lease.
    Unfit(String),
    /// The node does not do what it is told: it belongs into quarantine.
    Refused(String),
    /// The node was not reached, or it is not known how far it came.
    Unreached(String),
    /// Somebody else has taken the node over; what was done here is dropped.
    Superseded,
}

impl Applied {
    /// Why a lease that was on its way to the node has to go to another one; none if it need not.
    pub fn why_move_on(&self) -> Option<MoveReason> {
        match self {
            Self::Unfit(reason) => Some(MoveReason::Unfit(reason.clone())),
            Self::Refused(reason) => Some(MoveReason::Refused(reason.clone())),
            Self::Unreached(reason) => Some(MoveReason::Lost(reason.clone())),
            Self::Done(..) | Self::Superseded => None,
        }
    }
}

/// Why the work on a node stopped.
enum Stop {
    Unfit(String),
    Refused(String),
    Unreached(String),
    Superseded,
    /// The node has seen this higher epoch.
    StaleEpoch(u64),
    /// The node has seen this uid, and the lease is new and has none above it.
    UidSeen(LeaseId, u32),
    Database(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Database(error)
    }
}

/// What was done on a node.
#[derive(Default)]
struct Outcome {
    account_ready: Option<LeaseId>,
    deadline_applied: Option<Timestamp>,
    removed: Vec<Value>,
    subordinate: Option<Vec<(u32, u32)>>,
}

impl Fleet {
    /// Applies to the node what it should hold, as it was read with the claim.
    ///
    /// # Errors
    /// Only the database's; what the node does is in [`Applied`].
    pub async fn apply(&self, claim: &NodeClaim, change: Change) -> Result<Applied, StoreError> {
        let span = tracing::info_span!("apply", node = %claim.node.id, lease = tracing::field::Empty);
        if let Some(lease) = claim.lease() {
            span.record("lease", tracing::field::display(lease));
        }
        let applied = self.apply_under(claim, change).instrument(span).await;
        self.metrics.reconciled(match &applied {
            Ok(Applied::Done(..)) => ReconcileResult::Done,
            Ok(Applied::Unfit(_)) => ReconcileResult::Unfit,
            Ok(Applied::Refused(_)) => ReconcileResult::Refused,
            Ok(Applied::Unreached(_)) => ReconcileResult::Unreached,
            Ok(Applied::Superseded) => ReconcileResult::Superseded,
            Err(_) => ReconcileResult::DatabaseAway,
        });
        if let Ok(Applied::Done(finished, _)) = &applied {
            for (_, lost_at) in &finished.recovered {
                self.metrics.moved(self.now().since(*lost_at));
            }
        }
        applied
    }

    async fn apply_under(&self, claim: &NodeClaim, change: Change) -> Result<Applied, StoreError> {
        let work = self.work_through(claim, change);
        tokio::pin!(work);
        let ttl = self.config.claim_ttl;
        let mut ours_until = self.now().plus(ttl);
        let worked = loop {
            tokio::select! {
                worked = &mut work => break worked,
                () = tokio::time::sleep(ttl / 3) => {
                    let now = self.now();
                    match self.store.extend_claim(claim, ttl, now).await {
                        Ok(true) => ours_until = now.plus(ttl),
                        Ok(false) => return Ok(Applied::Superseded),
                        // A blip of the database does not stop the work as long as the claim holds.
                        Err(error) if now >= ours_until => return Err(error),
                        Err(error) => tracing::debug!(%error, "a claim could not be renewed yet"),
                    }
                }
            }
        };
        let (claim, outcome) = match worked {
            Ok(done) => done,
            Err(Stop::Unfit(reason)) => return Ok(Applied::Unfit(reason)),
            Err(Stop::Refused(reason)) => return Ok(Applied::Refused(reason)),
            Err(Stop::Unreached(reason)) => return Ok(Applied::Unreached(reason)),
            Err(Stop::Superseded | Stop::StaleEpoch(_) | Stop::UidSeen(..)) => {
                return Ok(Applied::Superseded);
            }
            Err(Stop::Database(error)) => return Err(error),
        };
        let report = (!outcome.removed.is_empty()).then(|| json!({ "removed": outcome.removed }));
        let finish = FinishReconcile {
            applied_version: claim.desired_version,
            account_ready: outcome.account_ready,
            deadline_applied: outcome.deadline_applied,
            report: report.clone(),
            subordinate: outcome.subordinate,
        };
        let finished = self.store.finish_reconcile(&claim, &finish, self.now()).await?;
        self.nudge.all();
        match finished {
            Cas::Done(finished) => Ok(Applied::Done(finished, report)),
            Cas::Stale | Cas::Gone => Ok(Applied::Superseded),
        }
    }

    /// Works on the node, and goes on where it knew more than a database that was restored from a backup. The
    /// claim that comes back is the one that the work was done for.
    async fn work_through(&self, claim: &NodeClaim, change: Change) -> Result<(NodeClaim, Outcome), Stop> {
        let (mut claim, mut change) = (claim.clone(), change);
        let mut outcome = Outcome::default();
        let mut renewals = 0;
        loop {
            let stop = match self.work_on(&claim, change, &mut outcome).await {
                Ok(()) => return Ok((claim, outcome)),
                Err(stop) => stop,
            };
            renewals += 1;
            let renewed = match stop {
                Stop::StaleEpoch(seen) if renewals <= RENEWALS_MAX => {
                    self.store.renew_epoch(&claim, seen, self.now()).await?
                }
                Stop::UidSeen(lease, highest) if renewals <= RENEWALS_MAX => {
                    self.store.renew_uid(&claim, lease, highest, self.uids(), self.now()).await?
                }
                Stop::Unfit(_)
                | Stop::Refused(_)
                | Stop::Unreached(_)
                | Stop::Superseded
                | Stop::StaleEpoch(_)
                | Stop::UidSeen(..)
                | Stop::Database(_) => return Err(stop),
            };
            claim = match renewed {
                ClaimRenewed::Renewed(renewed) => *renewed,
                ClaimRenewed::Superseded => return Err(Stop::Superseded),
                ClaimRenewed::Impossible(reason) => return Err(Stop::Refused(reason)),
                ClaimRenewed::UidsExhausted => {
                    return Err(Stop::Unreached("the range of account uids is used up".into()));
                }
            };
            tracing::warn!(node = %claim.node.id, epoch = claim.epoch, "the node has seen more than the database; going on above it");
            // What the database says of this node need not be so: it is listed first.
            change = Change::Unknown;
            (outcome.account_ready, outcome.deadline_applied) = (None, None);
        }
    }

    async fn work_on(&self, claim: &NodeClaim, change: Change, outcome: &mut Outcome) -> Result<(), Stop> {
        let target = target_of(&claim.node).map_err(Stop::Refused)?;
        // One known change to a node that held exactly what it should needs no look at the node first.
        let known = if claim.was_clean_before { change } else { Change::Unknown };
        let actions = match (known, &claim.desired, &claim.retiring) {
            (Change::Placed, Some(_), None) => vec![Action::Create],
            (Change::Released, None, Some((_, account))) => vec![delete(account)],
            (Change::Extended, Some(desired), None)
                if claim.desired_state == Some(Phase::Active)
                    && self.new_deadline_is_kept(&target, claim, desired).await? =>
            {
                outcome.deadline_applied = Some(desired.until);
                outcome.account_ready = Some(desired.lease);
                Vec::new()
            }
            (Change::Placed | Change::Released | Change::Extended | Change::Unknown, desired, retiring) => {
                let inventory = self.list(&target, claim).await?;
                let mut actions = plan(desired.as_ref(), &observed(&inventory));
                // What a lease that ends may have left is removed, found or not. Its account is not there then;
                // its name may be somebody else's on this node, so it goes by its uid.
                if let Some((_, account)) = retiring {
                    let listed = actions
                        .iter()
                        .any(|a| matches!(a, Action::Delete { uid, .. } if *uid == account.uid));
                    if !listed {
                        actions.insert(0, delete_by_uid(account.uid));
                    }
                }
                outcome.subordinate = Some(inventory.subordinate);
                actions
            }
        };
        for action in actions {
            match action {
                Action::Delete { user, uid } => {
                    let report = self.delete_user(&target, claim, &user, uid).await?;
                    outcome.removed.push(removal(&user, uid, &report));
                }
                Action::Create => {
                    if let Some(desired) = &claim.desired {
                        self.create_user(&target, claim, desired).await?;
                        outcome.account_ready = Some(desired.lease);
                        outcome.deadline_applied = Some(desired.until);
                    }
                }
            }
        }
        Ok(())
    }

    async fn create_user(
        &self,
        target: &Target,
        claim: &NodeClaim,
        desired: &DesiredAccount,
    ) -> Result<(), Stop> {
        let account = &desired.account;
        let values = [
            ("user", account.user.as_str()),
            ("uid", &account.uid.to_string()),
            ("lease", &desired.lease.to_string()),
            ("lease_ulid", &desired.ulid),
            ("is_new", if desired.is_new { "yes" } else { "no" }),
            ("password_hash", account.password_hash.expose()),
            ("public_key", account.public_key.as_deref().unwrap_or_default()),
            ("deadline_s", &self.seconds_left(desired.until).to_string()),
            ("agent", agent(claim)),
        ];
        self.run(target, self.playbooks.create_user(), claim, &values).await.map(drop)
    }

    /// Tells the node a new deadline. False if it has no such account to keep it for: then the account has to
    /// be made.
    async fn new_deadline_is_kept(
        &self,
        target: &Target,
        claim: &NodeClaim,
        desired: &DesiredAccount,
    ) -> Result<bool, Stop> {
        match self.set_deadline(target, claim, desired).await {
            Ok(()) => Ok(true),
            Err(Stop::Refused(reason)) => {
                tracing::warn!(node = %claim.node.id, reason, "a deadline was refused; the node is looked at");
                Ok(false)
            }
            Err(other) => Err(other),
        }
    }

    async fn set_deadline(
        &self,
        target: &Target,
        claim: &NodeClaim,
        desired: &DesiredAccount,
    ) -> Result<(), Stop> {
        let account = &desired.account;
        let values = [
            ("user", account.user.as_str()),
            ("uid", &account.uid.to_string()),
            ("password_hash", account.password_hash.expose()),
            ("deadline_s", &self.seconds_left(desired.until).to_string()),
            ("agent", agent(claim)),
        ];
        self.run(target, self.playbooks.set_deadline(), claim, &values).await.map(drop)
    }

    async fn delete_user(
        &self,
        target: &Target,
        claim: &NodeClaim,
        user: &str,
        uid: u32,
    ) -> Result<Report, Stop> {
        let values = [("user", user), ("uid", &uid.to_string())];
        self.run(target, self.playbooks.delete_user(), claim, &values).await
    }

    async fn list(&self, target: &Target, claim: &NodeClaim) -> Result<NodeInventory, Stop> {
        let values = [
            ("uid_min", &*self.config.first_uid.to_string()),
            ("uid_max", &*self.config.last_uid.to_string()),
        ];
        let report = self.run(target, self.playbooks.list_users(), claim, &values).await?;
        let inventory =
            report.node_inventory().map_err(|error| Stop::Refused(format!("list_users: {error}")))?;
        // A node is not offered before it is known that no uid will be given out that it has seen. What a lease file
        // names was seen, too, also where it was written by a version that remembered nothing else.
        let known = inventory.lease_files.iter().copied().filter(|uid| *uid <= self.config.last_uid);
        let highest_uid = known.fold(inventory.highest_uid, u32::max);
        self.compare_memory(claim.node.id, NodeMemory { epoch: inventory.epoch, highest_uid }).await?;
        Ok(inventory)
    }

    /// Seconds until the node itself has to close the login: never zero, which the playbooks refuse.
    fn seconds_left(&self, until: Timestamp) -> u64 {
        seconds_to_deadline(until, self.config.deadline_grace_s, self.now()).max(1)
    }

    async fn run(
        &self,
        target: &Target,
        playbook: &Playbook,
        claim: &NodeClaim,
        values: &[(&str, &str)],
    ) -> Result<Report, Stop> {
        let name = playbook.name();
        let stdin = playbook
            .stdin(claim.epoch, values)
            .map_err(|error| Stop::Unfit(format!("{name} does not take these values: {error}")))?;
        let request = ExecRequest {
            command: playbook.command().to_owned(),
            stdin,
            // The playbook ends itself first.
            timeout: Duration::from_secs(u64::from(playbook.timeout_s())) + TRANSFER,
            output_max_bytes: 256 * 1024,
        };
        let output = match self.pool.exec(target, request).await {
            Ok(output) => output,
            Err(error) => return Err(stop_for(&error, name)),
        };
        let secrets = playbook.secrets(values);
        match read_reply(playbook, Some(output.status), &output.stdout, &output.stderr, &secrets) {
            Reply::Done(report) => Ok(report),
            Reply::Refused { step, status, output } => {
                Err(Stop::Refused(format!("{name}, step '{step}', status {status}: {output}")))
            }
            Reply::Unfit { reason } => Err(Stop::Unfit(reason)),
            Reply::BadValue(what) => Err(Stop::Unfit(format!("{name} does not take these values: {what}"))),
            Reply::StaleEpoch { seen } => Err(Stop::StaleEpoch(seen)),
            Reply::UidSeen { highest } => Err(match claim.lease() {
                Some(lease) => Stop::UidSeen(lease, highest),
                None => Stop::Refused(format!("{name} refused a uid and was given none")),
            }),
            Reply::Busy => Err(Stop::Unreached(format!("{name}: another run holds the node's lock"))),
            Reply::InputIncomplete => Err(Stop::Unreached(format!("{name}: the input was cut off"))),
            Reply::TimedOut { step } => Err(Stop::Unreached(format!("{name}, step '{step}' took too long"))),
            Reply::Unknown { step } => {
                let step = step.unwrap_or_else(|| "none".into());
                Err(Stop::Unreached(format!("{name} broke off; last step: {step}")))
            }
        }
    }
}

fn stop_for(error: &SshError, playbook: &str) -> Stop {
    let text = format!("{playbook}: {error}");
    match error.verdict() {
        Verdict::Mismatch => Stop::Refused(text),
        Verdict::Gone | Verdict::Silent | Verdict::AliveThrottled | Verdict::Sick | Verdict::Unknown => {
            Stop::Unreached(text)
        }
    }
}

fn agent(claim: &NodeClaim) -> &'static str {
    if claim.node.facts.agent_version.is_some() { "yes" } else { "no" }
}

fn delete(account: &Account) -> Action {
    Action::Delete { user: account.user.as_str().to_owned(), uid: account.uid }
}

fn observed(inventory: &NodeInventory) -> Observed {
    Observed {
        accounts: inventory.accounts.iter().map(|a| (a.user.clone(), a.uid)).collect(),
        lease_files: inventory.lease_files.clone(),
        process_uids: inventory.process_uids.clone(),
    }
}

fn removal(user: &str, uid: u32, report: &Report) -> Value {
    let mut removal = json!({ "user": user, "uid": uid });
    if let Value::Object(map) = &mut removal {
        for (key, value) in &report.entries {
            let value = value.parse::<u64>().map_or_else(|_| Value::from(value.as_str()), Value::from);
            map.insert(key.clone(), value);
        }
    }
    removal
}
