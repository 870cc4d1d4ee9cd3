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
    retry::retry_after,
};
use orion_domain::{
    LeaseId, Timestamp,
    agent::seconds_to_deadline,
    lease::{Account, Phase},
    names::UnixName,
    node::{LinkState, QuarantineCause},
    reconcile::{Action, Desired, FIRST_UID, LAST_UID, Observed, Plan, delete_by_uid, plan},
};
use orion_ssh::{ExecRequest, SshError, Target};
use orion_store::{
    Cas, ClaimRenewed, FinishReconcile, Finished, HighWaterMarks, MoveReason, NodeClaim, StoreError,
    Unfinished,
};
use serde_json::{Value, json};
use std::time::Duration;
use tracing::Instrument;

/// Time that a run may take beyond its own limit, for the transfer in both directions and `timeout -k`.
const TRANSFER: Duration = Duration::from_secs(10);

/// Largest number of times that work continues after the node was ahead of the database: once for the
/// epoch, once for the uid, once for the name, and once more for a process that raised them meanwhile.
const RENEWALS_MAX: u32 = 4;

/// Change that the caller has just made to the node, if known: then the node need not be listed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Placement of this lease on the node while the node was clean.
    Placed(LeaseId),
    /// Release of this lease.
    Released(LeaseId),
    /// New end of this lease.
    Extended(LeaseId),
    /// A further container of a lease that is on the node.
    NewContainer,
    /// Any change.
    Unknown,
}

/// Outcome of the work on a node.
#[derive(Debug)]
pub enum Applied {
    /// The node holds what it should, and the database knows.
    Done(Finished, Option<Value>),
    /// The node is fine but cannot hold this lease.
    Unfit(Option<LeaseId>, String),
    /// A value of this lease that Orion's own check refuses: no node takes it, and none is to blame.
    Invalid(Option<LeaseId>, String),
    /// The node does not do what it is told: it belongs into quarantine, for this cause.
    Refused(String, QuarantineCause),
    /// The node was not reached, or it is not known how far it came.
    Unreached(String),
    /// Takeover of the node by another process; the result of the work here is dropped.
    Superseded,
}

impl Applied {
    /// Returns the reason why a lease that was on its way to the node must go to another one; none if it need
    /// not.
    pub fn retry_elsewhere_reason(&self) -> Option<MoveReason> {
        match self {
            Self::Unfit(_, reason) => Some(MoveReason::Unfit(reason.clone())),
            Self::Refused(reason, cause) => Some(MoveReason::Refused(reason.clone(), *cause)),
            Self::Unreached(reason) => Some(MoveReason::Lost(reason.clone())),
            Self::Done(..) | Self::Invalid(..) | Self::Superseded => None,
        }
    }
}

/// Reason why the work on a node stopped.
enum Stop {
    Unfit(Option<LeaseId>, String),
    Invalid(Option<LeaseId>, String),
    Refused(String, QuarantineCause),
    Unreached(String),
    Superseded,
    /// The node has seen this higher epoch.
    StaleEpoch(u64),
    /// The node has seen this uid, and the lease is new and has none above it.
    UidSeen(LeaseId, u32),
    /// The name of this lease's account is somebody else's on the node, or the node gives rights of its own to it.
    NameUnusable(LeaseId, String),
    Database(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Database(error)
    }
}

/// Results of the work on a node.
#[derive(Default)]
struct Outcome {
    /// Leases whose accounts are confirmed, each with the deadline that the node keeps.
    ready: Vec<(LeaseId, Option<Timestamp>)>,
    removed: Vec<Value>,
    /// Findings on the node that are not Orion's, in words.
    findings: Vec<String>,
    subordinate: Option<Vec<(u32, u32)>>,
    /// Reason why the containers could not be brought in order, where the accounts are.
    unfinished: Option<String>,
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
        self.look_again_after(claim, &applied).await?;
        self.metrics.reconciled(match &applied {
            Ok(Applied::Done(..)) => ReconcileResult::Done,
            Ok(Applied::Unfit(..)) => ReconcileResult::Unfit,
            Ok(Applied::Invalid(..)) => ReconcileResult::Invalid,
            Ok(Applied::Refused(..)) => ReconcileResult::Refused,
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
                    match self.store.nodes().extend_claim(claim, ttl, now).await {
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
            Err(Stop::Unfit(lease, reason)) => return Ok(Applied::Unfit(lease, reason)),
            Err(Stop::NameUnusable(lease, reason)) => return Ok(Applied::Unfit(Some(lease), reason)),
            Err(Stop::Invalid(lease, reason)) => return Ok(Applied::Invalid(lease, reason)),
            Err(Stop::Refused(reason, cause)) => return Ok(Applied::Refused(reason, cause)),
            Err(Stop::Unreached(reason)) => return Ok(Applied::Unreached(reason)),
            Err(Stop::Superseded | Stop::StaleEpoch(_) | Stop::UidSeen(..)) => {
                return Ok(Applied::Superseded);
            }
            Err(Stop::Database(error)) => return Err(error),
        };
        let report = (!outcome.removed.is_empty() || !outcome.findings.is_empty())
            .then(|| json!({ "removed": outcome.removed, "findings": outcome.findings }));
        let finish = FinishReconcile {
            applied_version: claim.version_when_done(),
            ready: outcome.ready,
            report: report.clone(),
            subordinate: outcome.subordinate,
            unfinished: outcome.unfinished.map(|reason| {
                let pause = retry_after(claim.node.reconcile_failures);
                tracing::warn!(node = %claim.node.id, reason, ?pause, "accounts are in order, containers are tried again");
                Unfinished { reason, retry_at: self.now().plus(pause) }
            }),
        };
        let finished = self.store.nodes().finish_reconcile(&claim, &finish, self.now()).await?;
        self.nudge.all();
        match finished {
            Cas::Done(finished) if finished.node_is_dead => {
                Ok(Applied::Unreached("the node was given up for dead while it was worked on".into()))
            }
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
            let stop = match Box::pin(self.work_on(&claim, change, &mut outcome)).await {
                Ok(()) => return Ok((claim, outcome)),
                Err(stop) => stop,
            };
            renewals += 1;
            let renewed = match stop {
                Stop::StaleEpoch(seen) if renewals <= RENEWALS_MAX => {
                    self.store.nodes().renew_epoch(&claim, seen, self.now()).await?
                }
                Stop::UidSeen(lease, highest) if renewals <= RENEWALS_MAX => {
                    self.store.nodes().renew_uid(&claim, lease, highest, self.uids(), self.now()).await?
                }
                Stop::NameUnusable(lease, ref reason)
                    if renewals <= RENEWALS_MAX && may_be_renamed(claim.desired_of(lease)) =>
                {
                    self.store.nodes().rename_account(&claim, lease, reason, self.now()).await?
                }
                Stop::Unfit(..)
                | Stop::NameUnusable(..)
                | Stop::Invalid(..)
                | Stop::Refused(..)
                | Stop::Unreached(_)
                | Stop::Superseded
                | Stop::StaleEpoch(_)
                | Stop::UidSeen(..)
                | Stop::Database(_) => return Err(stop),
            };
            claim = match renewed {
                ClaimRenewed::Renewed(renewed) => *renewed,
                ClaimRenewed::Superseded => return Err(Stop::Superseded),
                ClaimRenewed::Impossible(reason) => {
                    return Err(Stop::Refused(reason, QuarantineCause::Operator));
                }
                ClaimRenewed::UidsExhausted => {
                    return Err(Stop::Unreached("the range of account uids is used up".into()));
                }
            };
            tracing::warn!(node = %claim.node.id, epoch = claim.epoch, "the node knows what the database did not; going on with that");
            // What the database says of this node need not be so: it is listed first.
            change = Change::Unknown;
            outcome.ready.clear();
            outcome.unfinished = None;
        }
    }

    async fn work_on(&self, claim: &NodeClaim, change: Change, outcome: &mut Outcome) -> Result<(), Stop> {
        let target =
            target_of(&claim.node).map_err(|reason| Stop::Refused(reason, QuarantineCause::Operator))?;
        // One known change to a node that held exactly what it should needs no look at the node first.
        let is_known = !claim.has_containers || change == Change::NewContainer;
        let known = if claim.was_clean_before && is_known { change } else { Change::Unknown };
        let (lease, others) = match known {
            Change::Placed(lease)
                if let Some(desired) = claim.desired_of(lease)
                    && let Some(account) = &desired.account =>
            {
                (lease, self.create(&target, claim, (desired, account), outcome).await?)
            }
            Change::Released(lease) if let Some(account) = claim.retiring_of(lease) => {
                let by = Some(lease);
                (lease, self.remove(&target, claim, (account.user.as_str(), account.uid), by, outcome).await?)
            }
            Change::Extended(lease)
                if let Some(desired) =
                    claim.desired_of(lease).filter(|known| known.phase == Phase::Active)
                    && let Some(account) = &desired.account
                    && self.new_deadline_is_kept(&target, claim, (desired, account)).await? =>
            {
                outcome.ready.push((lease, Some(desired.until)));
                return Ok(());
            }
            Change::NewContainer => {
                return Box::pin(self.add_container(&target, claim, outcome)).await;
            }
            Change::Placed(_) | Change::Released(_) | Change::Extended(_) | Change::Unknown => {
                return Box::pin(self.look_and_work_on(&target, claim, outcome)).await;
            }
        };
        if usize::try_from(others).is_ok_and(|others| others <= claim.others_than(lease)) {
            return Ok(());
        }
        // A database that was restored from a backup may have caught up with the node's epochs.
        tracing::warn!(node = %claim.node.id, others, "the node holds leases that the database does not know; it is looked at");
        Box::pin(self.look_and_work_on(&target, claim, outcome)).await
    }

    /// Lists what is on the node, and does what is needed for it to hold what it should.
    async fn look_and_work_on(
        &self,
        target: &Target,
        claim: &NodeClaim,
        outcome: &mut Outcome,
    ) -> Result<(), Stop> {
        let inventory = self.list(target, claim).await?;
        let observed = observed(&inventory, FIRST_UID);
        let Plan { mut actions, findings } = plan(&claim.desired, &observed);
        outcome.findings = findings;
        outcome.findings.extend(deadline_findings(&inventory, agent(claim)));
        outcome.subordinate = Some(inventory.subordinate);
        // What a lease that ends may have left is removed, found or not. Its account is not there then;
        // its name may be somebody else's on this node, so it goes by its uid.
        for account in claim.retiring.iter().filter_map(|(_, account)| account.as_ref()) {
            let listed =
                actions.iter().any(|a| matches!(a, Action::Delete { uid, .. } if *uid == account.uid));
            if !listed {
                actions.insert(0, delete_by_uid(account.uid));
            }
        }
        for action in actions {
            match action {
                Action::Delete { user, uid } => {
                    let of = |(_, account): &&(LeaseId, Option<Account>)| {
                        account.as_ref().is_some_and(|account| account.uid == uid)
                    };
                    let lease = claim.retiring.iter().find(of).map(|(lease, _)| *lease);
                    self.remove(target, claim, (&user, uid), lease, outcome).await?;
                }
                Action::Create { lease } => {
                    if let Some(desired) = claim.desired_of(lease)
                        && let Some(account) = &desired.account
                    {
                        self.create(target, claim, (desired, account), outcome).await?;
                    }
                }
            }
        }
        let kept = &inventory.container_leases;
        let leases = match self.apply_containers(target, claim, kept, outcome).await {
            // A login does not wait for an engine that is down.
            Err(Stop::Unreached(reason)) if accounts_suffice(claim) => {
                outcome.unfinished = Some(reason);
                outcome.forget_deadlines_of(claim, kept);
                return Ok(());
            }
            other => other?,
        };
        outcome.containers_done(claim, &leases);
        Ok(())
    }

    /// Makes the account; returns how many lease files of others the node holds.
    async fn create(
        &self,
        target: &Target,
        claim: &NodeClaim,
        (desired, account): (&Desired, &Account),
        outcome: &mut Outcome,
    ) -> Result<u64, Stop> {
        let report = self.create_user(target, claim, (desired, account)).await?;
        outcome.ready.push((desired.lease, Some(desired.until)));
        Ok(report.count("others"))
    }

    /// Removes an account with what its uid left; returns how many lease files of others the node holds.
    async fn remove(
        &self,
        target: &Target,
        claim: &NodeClaim,
        (user, uid): (&str, u32),
        lease: Option<LeaseId>,
        outcome: &mut Outcome,
    ) -> Result<u64, Stop> {
        let report = self.delete_user(target, claim, (user, uid), lease).await?;
        outcome.removed.push(removal(user, uid, &report));
        Ok(report.count("others"))
    }

    async fn create_user(
        &self,
        target: &Target,
        claim: &NodeClaim,
        (desired, account): (&Desired, &Account),
    ) -> Result<Report, Stop> {
        let values = [
            ("user", account.user.as_str()),
            ("uid", &account.uid.to_string()),
            ("lease", &desired.lease.to_string()),
            ("lease_ulid", &desired.ulid),
            ("is_new", if desired.is_new() { "yes" } else { "no" }),
            ("password_hash", account.password_hash.expose()),
            ("public_key", account.public_key.as_deref().unwrap_or_default()),
            ("deadline_s", &self.seconds_left(desired.until).to_string()),
            ("agent", agent(claim)),
        ];
        self.run(target, self.playbooks.create_user(), (claim, Some(desired.lease)), &values).await
    }

    /// Tells the node a new deadline. False if it has no such account to keep it for: then the account has to
    /// be made.
    async fn new_deadline_is_kept(
        &self,
        target: &Target,
        claim: &NodeClaim,
        (desired, account): (&Desired, &Account),
    ) -> Result<bool, Stop> {
        match self.set_deadline(target, claim, (desired, account)).await {
            Ok(()) => Ok(true),
            Err(Stop::Refused(reason, _)) => {
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
        (desired, account): (&Desired, &Account),
    ) -> Result<(), Stop> {
        let values = [
            ("user", account.user.as_str()),
            ("uid", &account.uid.to_string()),
            ("password_hash", account.password_hash.expose()),
            ("deadline_s", &self.seconds_left(desired.until).to_string()),
            ("agent", agent(claim)),
        ];
        self.run(target, self.playbooks.set_deadline(), (claim, Some(desired.lease)), &values).await.map(drop)
    }

    async fn delete_user(
        &self,
        target: &Target,
        claim: &NodeClaim,
        (user, uid): (&str, u32),
        lease: Option<LeaseId>,
    ) -> Result<Report, Stop> {
        let values = [("user", user), ("uid", &uid.to_string())];
        self.run(target, self.playbooks.delete_user(), (claim, lease), &values).await
    }

    async fn list(&self, target: &Target, claim: &NodeClaim) -> Result<NodeInventory, Stop> {
        let values = [("uid_min", &*FIRST_UID.to_string()), ("uid_max", &*LAST_UID.to_string())];
        let report = self.run(target, self.playbooks.list_users(), (claim, None), &values).await?;
        let inventory = report.node_inventory().map_err(|error| passing(format!("list_users: {error}")))?;
        // A node is not offered before it is known that no uid will be given out that it has seen. What a lease file
        // names was seen, too, also where it was written by a version that remembered nothing else.
        let known = inventory.lease_files.iter().copied().filter(|uid| *uid <= LAST_UID);
        let highest_uid = known.fold(inventory.highest_uid, u32::max);
        self.compare_high_water(claim.node.id, HighWaterMarks { epoch: inventory.epoch, highest_uid })
            .await?;
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
        (claim, lease): (&NodeClaim, Option<LeaseId>),
        values: &[(&str, &str)],
    ) -> Result<Report, Stop> {
        let name = playbook.name();
        let stdin = playbook
            .stdin(claim.epoch, values)
            .map_err(|error| Stop::Invalid(lease, format!("{name} does not take these values: {error}")))?;
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
                let reason = format!("{name}, step '{step}', status {status}: {output}");
                Err(Stop::Refused(reason, cause_of(status)))
            }
            Reply::Unfit { reason } => Err(Stop::Unfit(lease, reason)),
            Reply::NameUnusable { reason } => Err(match lease {
                Some(lease) => Stop::NameUnusable(lease, reason),
                None => Stop::Unfit(None, reason),
            }),
            Reply::BadValue(what) => {
                Err(Stop::Invalid(lease, format!("{name} does not take these values: {what}")))
            }
            Reply::StaleEpoch { seen } => Err(Stop::StaleEpoch(seen)),
            Reply::UidSeen { highest } => Err(match lease {
                Some(lease) => Stop::UidSeen(lease, highest),
                None => passing(format!("{name} refused a uid and was given none")),
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

/// Returns the cause of the failure of a step that ended with `status`, as the playbooks define it
/// (`playbooks/README.md`). A failure of a tool itself passes when the same work succeeds.
const fn cause_of(status: u32) -> QuarantineCause {
    match status {
        70 => QuarantineCause::Cleaning,
        77 => QuarantineCause::Operator,
        _ => QuarantineCause::Passing,
    }
}

/// Returns whether the account may get another name on this node: its login never worked anywhere, and the name is not
/// the other one already.
fn may_be_renamed(desired: Option<&Desired>) -> bool {
    desired.is_some_and(|desired| {
        let is_other = |account: &Account| account.user != UnixName::of_uid(account.uid);
        desired.is_new() && desired.account.as_ref().is_some_and(is_other)
    })
}

const fn passing(reason: String) -> Stop {
    Stop::Refused(reason, QuarantineCause::Passing)
}

/// Whatever the error means: also whether a node goes into quarantine for another host key is decided where the
/// brake is asked.
fn stop_for(error: &SshError, playbook: &str) -> Stop {
    Stop::Unreached(format!("{playbook}: {error}"))
}

/// Tells the playbooks whether an agent starts the deadline process at boot: one that was linked, not one that a
/// registration by hand only names.
fn agent(claim: &NodeClaim) -> &'static str {
    // One whose link is lost may be gone for good: a hook beside an agent does no harm.
    let is_linked = claim.node.link == LinkState::Up;
    if claim.node.facts.agent_version.is_some() && is_linked { "yes" } else { "no" }
}

/// Returns what is found of the process that keeps the deadlines.
fn deadline_findings(inventory: &NodeInventory, agent: &str) -> Vec<String> {
    let mut findings = Vec::new();
    if inventory.deadline_process_cannot_start {
        findings.push(
            "the process that keeps the deadlines does not run and cannot be started: /run has no room"
                .to_owned(),
        );
    } else if inventory.deadline_process_was_missing {
        findings.push("the process that keeps the deadlines did not run; it was started again".to_owned());
    }
    let no_hook = inventory.boot_hook.as_deref() == Some("none");
    if no_hook && agent == "no" && !inventory.lease_files.is_empty() {
        findings.push(
            "nothing keeps the deadlines after a boot until the control plane has reached the node: there is no \
             agent, and no systemd, local script of OpenRC or cron that could start the process"
                .to_owned(),
        );
    }
    findings
}

fn observed(inventory: &NodeInventory, first_uid: u32) -> Observed {
    Observed {
        members: inventory.members.clone(),
        given_out: first_uid..=inventory.highest_uid,
        subordinate: inventory.subordinate.clone(),
        accounts: inventory.accounts.iter().map(|a| (a.user.clone(), a.uid)).collect(),
        lease_files: inventory.lease_files.clone(),
        process_uids: inventory.process_uids.clone(),
    }
}

fn removal(user: &str, uid: u32, report: &Report) -> Value {
    let mut removal = json!({ "user": user, "uid": uid });
    if let Value::Object(map) = &mut removal {
        for (key, value) in report.entries.iter().filter(|(key, _)| key != "others") {
            let value = value.parse::<u64>().map_or_else(|_| Value::from(value.as_str()), Value::from);
            map.insert(key.clone(), value);
        }
    }
    removal
}

mod containers;
pub use containers::STOP_GRACE;
use containers::deadlines::accounts_suffice;
pub(crate) use containers::{news_of, nothing_seen};
#[cfg(test)]
mod tests;
