//! What goes into the store and what comes out of it, where the domain crate has no word for it.
//!
//! Lives here: argument structs, outcomes and read models. Does not live here: SQL and rules.

use orion_domain::{
    EventId, LeaseId, NodeId, Secret, Timestamp, TokenId, UserId,
    credentials::SshPublicKey,
    lease::{Account, Lease, OnNodeLoss, Phase},
    names::{HostAddr, Hostname, LeaseName, Port, Tag, UnixName},
    node::{Facts, Health, Node},
    reconcile::DesiredAccount,
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Where the database is.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// `sqlite:PATH`, or one to n `mysql://user:password@host:port/database` URLs of the same cluster, in
    /// the same order on every replica, so that normally one of them gets all writes.
    pub urls: Vec<String>,
    /// Connections to each MariaDB host (SQLite has one writer and four readers, whatever stands here).
    pub connections_max: u32,
}

/// What an account of the API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Their own leases.
    User,
    /// Everything.
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

/// An account of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub id: UserId,
    /// Its name, also on the nodes.
    pub username: UnixName,
    /// The argon2id hash (PHC string).
    pub password_hash: Secret,
    /// What it may do.
    pub role: Role,
    /// Tokens of an earlier generation are void.
    pub token_generation: i64,
    /// When it signed up.
    pub created_at: Timestamp,
}

/// What came of a sign-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateUser {
    /// The user exists now.
    Created(UserId),
    /// Somebody has that name.
    Taken,
    /// The idempotency key was used before; nothing was written.
    Replayed(IdemRow),
}

/// A token with which workers join; the token itself is known to its maker only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Its number.
    pub id: TokenId,
    /// What its maker wrote beside it.
    pub note: String,
    /// Who made it; none for one made on the command line.
    pub created_by: Option<UserId>,
    /// When.
    pub created_at: Timestamp,
    /// Until when it is good; none: for ever.
    pub expires_at: Option<Timestamp>,
    /// How many nodes it may still create; none: any number.
    pub uses_left: Option<i64>,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// A worker's registration, checked and hashed.
#[derive(Clone, Debug)]
pub struct RegisterNode {
    /// What it calls itself.
    pub hostname: Hostname,
    /// Where its sshd is dialled.
    pub addr: HostAddr,
    /// Its sshd's port.
    pub port: Port,
    /// Its host keys; empty for a registration by hand.
    pub host_keys: Vec<SshPublicKey>,
    /// Its inventory.
    pub facts: Facts,
    /// Its tags.
    pub tags: Vec<Tag>,
    /// SHA-256 (hex) of the request's body in a canonical form: tells a repetition from a change.
    pub body_sha256: String,
    /// SHA-256 (hex) of the join token that came with it.
    pub join_token_sha256: Option<String>,
    /// SHA-256 (hex) of the node token that came with it.
    pub node_token_sha256_presented: Option<String>,
    /// SHA-256 (hex) of the node token that a node created now will have.
    pub new_node_token_sha256: String,
    /// The time.
    pub now: Timestamp,
}

/// What came of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterOutcome {
    /// A new node: dirty, and `reported` if it gave host keys, else `pending`. Its token is the new one.
    Created(Node),
    /// A known node that proved itself by its node token; what it said was taken over. Keys beside the
    /// pinned main one may come and go.
    Updated(Node),
    /// A known node that proved itself by its node token but no longer reports its pinned main key: it is
    /// quarantined now, and nothing of what it said was taken over.
    KeyChanged(Node),
    /// The same body was registered before, and only the join token came with it: nothing was written.
    Same(NodeId),
    /// Another node has that host key, name or address, and no node token proved to be it.
    Conflict {
        /// `"host key"`, `"hostname"` or `"address"`.
        what: &'static str,
        /// The node that has it.
        node: NodeId,
    },
    /// The join token is unknown, revoked, expired or used up (or there is none).
    BadJoinToken,
    /// No node has that node token (nor is there a good join token).
    BadNodeToken,
}

/// A node's row under a short claim: what its holder has to do there, and how it proves later that it
/// still holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeClaim {
    /// The node as it is under the claim.
    pub node: Node,
    /// The proof: results are written `WHERE claim_token = token`.
    pub token: String,
    /// Higher than every epoch this node was worked on with before.
    pub epoch: u64,
    /// The desired version that was read with the claim: what becomes `applied_version` after success.
    pub desired_version: i64,
    /// Whether the node was clean before the one change that this claim is for (`applied + 1 == desired`).
    pub was_clean_before: bool,
    /// The account that the node should hold; none: it should hold none.
    pub desired: Option<DesiredAccount>,
    /// The phase of the lease that has the node.
    pub desired_state: Option<Phase>,
    /// The lease in `Releasing` that has the node, and the account to remove.
    pub retiring: Option<(LeaseId, Account)>,
}

impl NodeClaim {
    /// The lease that the work is for: whose account is to be there, or is to go.
    pub fn lease(&self) -> Option<LeaseId> {
        let desired = self.desired.as_ref().map(|desired| desired.lease);
        desired.or_else(|| self.retiring.as_ref().map(|(lease, _)| *lease))
    }
}

/// What a reconcile did.
#[derive(Clone, Debug, Default)]
pub struct FinishReconcile {
    /// [`NodeClaim::desired_version`], as read before it was applied.
    pub applied_version: i64,
    /// The lease whose account was confirmed.
    pub account_ready: Option<LeaseId>,
    /// Up to when the node itself now keeps that account open.
    pub deadline_applied: Option<Timestamp>,
    /// What was found and removed; none when nothing was.
    pub report: Option<serde_json::Value>,
    /// The subordinate uid ranges of the node, `(start, count)`, if they were read.
    pub subordinate: Option<Vec<(u32, u32)>>,
}

/// What a finished reconcile changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Leases that became `Active`.
    pub activated: Vec<LeaseId>,
    /// Those of them that lost a node and are on another one now, with when they lost it. One that leaves a node
    /// which is there, as for a drain, is not among them.
    pub recovered: Vec<(LeaseId, Timestamp)>,
    /// Leases that became `Ended`.
    pub ended: Vec<LeaseId>,
}

/// What a change of health did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthChanged {
    /// The node after it.
    pub node: Node,
    /// Leases that changed with it (`Migrating`, `Ended`).
    pub leases: Vec<LeaseId>,
}

/// What `forget_clean_nodes` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Nodes that are gone from the database; their agents may register again.
    pub forgotten: Vec<NodeId>,
    /// Nodes that stay: number, name and why.
    pub kept: Vec<(NodeId, String, String)>,
}

/// An admin's wish to forget one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForgetRequest {
    /// Also a node that may hold an account, or is being worked on; its node token is worth nothing afterwards.
    pub force: bool,
    /// Who wishes it.
    pub actor: Option<UserId>,
}

/// What came of [`crate::Store::forget_node`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForgetOutcome {
    /// It is gone; as it was.
    Forgotten(Node),
    /// This lease has it.
    Leased(LeaseId),
    /// This lease is on its way from it to another node.
    Leaving(LeaseId),
    /// Somebody works on it now.
    Busy,
    /// It may hold an account.
    Dirty(Node),
    /// There is no such node.
    Gone,
}

/// What came of [`crate::Store::end_request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestEnd {
    /// Its key is free again, and these leases were ended; the others of the request were ending or over.
    Ended(Vec<LeaseId>),
    /// Its reply is kept, so its client may have it: nothing was written, and the leases stay.
    Acknowledged,
}

/// A process of the control plane that beats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Its name; one process that is both beats under one name for each kind.
    pub name: String,
    /// What it is (`api`, `scheduler`).
    pub kind: String,
    /// Its last beat.
    pub beat_at: Timestamp,
}

/// One scheduler's question to another: does this node answer you?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondLook {
    /// The node to dial.
    pub node: NodeId,
    /// Who asks.
    pub asked_by: String,
    /// When; tells one question from the next.
    pub asked_at: Timestamp,
}

/// What came of a [`SecondLook`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecondLookAnswer {
    /// Whether the node answered; none if who was asked cannot say.
    pub answers: Option<bool>,
    /// What the dial said, for people.
    pub detail: String,
}

/// A node as the brake looks at it: whether it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeGlance {
    /// The node.
    pub id: NodeId,
    /// Its health.
    pub health: Health,
    /// Since when.
    pub health_since: Timestamp,
}

/// The login of one lease to be.
#[derive(Clone, Debug)]
pub struct NewAccount {
    /// The crypt(3) hash.
    pub password_hash: Secret,
    /// One line of `authorized_keys`.
    pub public_key: Option<String>,
}

/// A wish for `count` nodes, now.
#[derive(Clone, Debug)]
pub struct PlaceRequest {
    /// The owner.
    pub user: UserId,
    /// The account's name on the nodes.
    pub username: UnixName,
    /// How many; all or none.
    pub count: usize,
    /// When the leases begin.
    pub from: Timestamp,
    /// When they end.
    pub until: Timestamp,
    /// Their name; for `count > 1` they are called `name-1`, `name-2` …
    pub name: Option<LeaseName>,
    /// One for each lease, in the order of the reply.
    pub accounts: Vec<NewAccount>,
    /// Tags that every node must have.
    pub tags: Vec<Tag>,
    /// What happens when a node is lost.
    pub on_node_loss: OnNodeLoss,
    /// Groups the leases of one request; unique for it.
    pub request_key: String,
    /// The client's idempotency key, if it sent one: then the leases are finished after a crash.
    pub idem: Option<IdemNew>,
    /// Who provisions, and so holds the claims on the nodes.
    pub holder: String,
    /// How long the claims hold.
    pub claim_ttl: Duration,
    /// The first uid of Orion's range.
    pub first_uid: u32,
    /// The last uid of Orion's range.
    pub last_uid: u32,
    /// The time.
    pub now: Timestamp,
}

/// A lease on its node, and the claim under which it is provisioned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The lease.
    pub lease: Lease,
    /// The claim on its node.
    pub claim: NodeClaim,
}

/// What came of [`PlaceRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOutcome {
    /// All of them.
    Placed(Vec<Placement>),
    /// None of them: so many nodes are free, and the next running lease ends then.
    TooFew {
        /// How many would have fitted.
        found: usize,
        /// When the next lease ends.
        next_end: Option<Timestamp>,
    },
    /// The owner has a live lease of that name (or `name-N` is no lease name).
    NameTaken(String),
    /// The idempotency key was used before; nothing was written.
    Replayed(IdemRow),
    /// Orion's uid range is used up.
    UidsExhausted,
}

/// Why a lease leaves a node: before its account worked there, or because the node is drained.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MoveReason {
    /// The node refused to make an account: it is quarantined.
    Refused(String),
    /// The node is fine, but not for this lease (its name exists there): it is not tried again for it.
    Unfit(String),
    /// The node could not be reached.
    Lost(String),
    /// The node is dead.
    NodeDead,
    /// The node is being drained ([`orion_domain::drain::Drain::why`]); its login works.
    Draining(String),
}

impl MoveReason {
    /// For people.
    pub fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Unfit(text) | Self::Lost(text) | Self::Draining(text) => text,
            Self::NodeDead => "the node is dead",
        }
    }
}

/// A wish to bring a lease to another node.
#[derive(Clone, Debug)]
pub struct MoveRequest<'a> {
    /// The lease: `Provisioning` or `Migrating`; `Active` only for [`MoveReason::Draining`].
    pub lease: LeaseId,
    /// The node that it occupies now.
    pub away_from: NodeId,
    /// The claim on that node, if the caller has one; it ends when the lease leaves the node.
    pub claim_of_old: Option<&'a NodeClaim>,
    /// Why.
    pub why: MoveReason,
    /// Who provisions on the new node.
    pub holder: &'a str,
    /// How long the claim on it holds.
    pub claim_ttl: Duration,
    /// The time.
    pub now: Timestamp,
}

/// What came of [`MoveRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "one is made at a time, and used at once")]
pub enum MoveOutcome {
    /// It has a new node.
    Placed(Placement),
    /// No node is free. A `Migrating` lease waits and has left the old node (or keeps it, if it is its own);
    /// a `Provisioning` or `Active` one is as it was. Of a node that the lease keeps, the caller keeps the claim.
    NoneFree {
        /// When the next lease ends.
        next_end: Option<Timestamp>,
    },
    /// The lease is not (any more) on that node, or not on its way, or the claim was lost, or its own node is
    /// about to give it back, or it is another lease's turn to leave a drained node: do nothing.
    Stale,
}

/// A lease with the node that it has, or had last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// The lease.
    pub lease: Lease,
    /// Its node; none if that was forgotten.
    pub node: Option<Node>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
}

/// A node that a lease has been on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseNodeEntry {
    /// The node.
    pub node: NodeId,
    /// Since when.
    pub at: Timestamp,
    /// Until when; none: still.
    pub left_at: Option<Timestamp>,
    /// Why it left.
    pub why: Option<String>,
}

/// A request that carries an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdemNew {
    /// Caller and route.
    pub scope: String,
    /// SHA-256 (hex) of the key.
    pub key_sha256: String,
    /// SHA-256 (hex) of the body.
    pub body_sha256: String,
    /// The key of the leases it makes.
    pub request_key: Option<String>,
    /// What is needed to finish the request after a crash, sealed by the caller.
    pub secrets_sealed: Option<Vec<u8>>,
    /// When it may be forgotten.
    pub expires_at: Timestamp,
}

/// Whether a request with an idempotency key has its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdemState {
    /// Not yet.
    Running,
    /// The reply is kept.
    Done,
}

/// What is kept of a request that carried an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdemRow {
    /// SHA-256 (hex) of the body: another one under the same key is refused.
    pub body_sha256: String,
    /// How far it is.
    pub state: IdemState,
    /// The key of the leases it made.
    pub request_key: Option<String>,
    /// What is needed to finish it.
    pub secrets_sealed: Option<Vec<u8>>,
    /// The HTTP status of the reply.
    pub reply_status: Option<u16>,
    /// The reply, sealed by the caller.
    pub reply_sealed: Option<Vec<u8>>,
    /// When the first request came.
    pub created_at: Timestamp,
}

/// One row of the event log.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Its number; grows, but does not become visible in order: see [`crate::EventTail`].
    pub id: EventId,
    /// Its ULID.
    pub uid: String,
    /// When it happened.
    pub at: Timestamp,
    /// What happened (`lease.active`, `node.dead` …).
    pub kind: String,
    /// The lease it is about.
    pub lease: Option<LeaseId>,
    /// The node it is about.
    pub node: Option<NodeId>,
    /// The user it is about, who may see it.
    pub user: Option<UserId>,
    /// The details.
    pub data: serde_json::Value,
}

/// An event to append.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// `noun.verb`.
    pub kind: &'static str,
    /// The lease it is about.
    pub lease: Option<LeaseId>,
    /// The node it is about.
    pub node: Option<NodeId>,
    /// The user it is about, who may see it.
    pub user: Option<UserId>,
    /// The details.
    pub data: serde_json::Value,
}
