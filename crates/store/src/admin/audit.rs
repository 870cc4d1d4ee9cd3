//! What must hold at any time, asked of the tables: the database's part of `orion doctor`.
//!
//! Lives here: one query a promise, each a single statement, so that what is in motion is seen before or after a
//! change and never in the middle. Reads only. What each minute asks costs what is alive: SQLite keeps no statistics and
//! walks a table by its number rather than sorting a few rows, unless a `+` or `> 0` leaves it only the right index. Does not live here: what a finding means
//! ([`orion_domain::doctor`]), the schema's completeness (`schema`), and what is on the nodes (fleet).

use super::Admin;
use crate::{
    Replica,
    engine::{Result, StoreError, Val, vals},
    leases::{EXPIRING, LIVE},
    nodes::machine::shared_text,
    nodes::row::{NodeRecord, node_record_sql},
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    agent::DEADLINE_GRACE_S,
    clock::CLOCK_SKEW_MAX,
    doctor::{Check, Finding},
    lease::Lease,
    node::Node,
};
use std::time::Duration;

/// Findings of one query that are shown.
const SHOWN_MAX: i64 = 100;
/// Leases that one statement looks at.
const LEASES_AT_ONCE: i64 = 10_000;
/// Nodes that one statement looks at: of each it may have to walk far back through the events.
const NODES_AT_ONCE: i64 = 500;
/// Time that the control plane may take to end a lease after the node itself has closed the login.
const OVERDUE_AFTER: Duration = Duration::from_secs(60);
/// Longest time in a state that ends by itself: eight nodes may be tried one after another.
const TRANSIT_MAX: Duration = Duration::from_secs(600);
/// A node that could be worked on is, within this time.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// A node that is there, but whose work failed so often in a row, needs a person.
const FAILURES_MAX: i64 = 10;
/// A process beats every two seconds.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// Time that [`Scope::Recent`] looks back at ended leases.
const RECENT: Duration = Duration::from_secs(3600);
/// Accounts that [`Scope::Recent`] looks at, the youngest.
const USERS_RECENT: i64 = 1_000;
/// Stored replies that are looked at, the youngest first.
const REPLIES_MAX: i64 = 200;
/// A nonce of 24 bytes and a tag of 16.
const SEALED_MIN: usize = 40;

/// Extent of the audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Leases that are not over, and those that ended within the last hour; nodes whose health changed within it,
    /// and the
    /// youngest accounts: it costs what is alive, not what has gathered.
    Recent,
    /// All leases.
    All,
}

/// A node with what decides what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeAudit {
    /// Row of the node.
    pub node: Node,
    /// The epoch of the last claim on it: a reader's, who takes none.
    pub epoch: u64,
    /// The leases on it, by number.
    pub leases: Vec<Lease>,
}

/// The state that a lease has after its last event; `k` is the event's kind, `s` the state.
const FITS: &str = "CASE s WHEN 'requested' THEN k = 'lease.requested' \
    WHEN 'scheduled' THEN k IN ('lease.scheduled', 'lease.waiting') \
    WHEN 'queued' THEN k IN ('lease.queued', 'lease.waiting') WHEN 'yielding' THEN k = 'lease.yielding' \
    WHEN 'provisioning' THEN k IN ('lease.placed', 'lease.replaced') \
    WHEN 'active' THEN k IN ('lease.active', 'lease.moved', 'lease.returned') \
    WHEN 'migrating' THEN k IN ('lease.node_lost', 'lease.moving', 'lease.waiting') \
    WHEN 'releasing' THEN k = 'lease.releasing' ELSE k = 'lease.ended' END";

/// Events that say which state a lease has now.
const STATE_EVENTS: &str = "'lease.requested', 'lease.scheduled', 'lease.queued', 'lease.yielding', 'lease.placed', 'lease.replaced', 'lease.active', 'lease.moved', 'lease.returned', \
    'lease.node_lost', 'lease.moving', 'lease.waiting', 'lease.releasing', 'lease.ended'";

/// A lease or a node, its state, and its last event that tells of it.
type Told = (i64, String, Option<String>);

impl Admin<'_> {
    /// Looks whether what must hold does, as far as the database can tell. Findings of one kind are cut at 100.
    ///
    /// # Errors
    /// [`StoreError`]: then nothing is known.
    pub async fn audit(self, how_far: Scope, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = self.occupation().await?;
        findings.extend(self.stays().await?);
        findings.extend(self.overdue(now).await?);
        findings.extend(self.events_of_states(how_far, now).await?);
        findings.extend(self.secrets(how_far, now).await?);
        findings.extend(self.offered().await?);
        findings.extend(self.versions().await?);
        findings.extend(self.uids(how_far).await?);
        findings.extend(self.stuck(now).await?);
        findings.extend(super::schema::missing(&self.store.db).await?);
        findings.extend(self.check_environment().await?);
        findings.extend(self.machines().await?);
        findings.extend(self.containers(now).await?);
        Ok(findings)
    }

    /// The node, and then its leases, read without a transaction, which would take SQLite's one writer; none if there is no
    /// such node. They are of one moment where a second call returns the same versions.
    pub async fn audit_node(self, id: NodeId) -> Result<Option<NodeAudit>, StoreError> {
        let record = self.store.db.one::<NodeRecord>(node_record_sql("WHERE n.id = ?"), vals![id]).await?;
        let Some(record) = record else { return Ok(None) };
        let epoch = u64::try_from(record.epoch).unwrap_or(0);
        let leases = self.store.leases().on_nodes(&[id]).await?.remove(&id).unwrap_or_default();
        Ok(Some(NodeAudit { node: Node::try_from(record)?, epoch, leases }))
    }

    pub(super) async fn pairs(
        self,
        sql: String,
        mut values: Vec<Val>,
    ) -> Result<Vec<(i64, i64)>, StoreError> {
        values.push(SHOWN_MAX.into());
        Ok(self.store.db.all::<(i64, i64)>(sqlx::AssertSqlSafe(format!("{sql} LIMIT ?")), values).await?)
    }

    /// I1.
    async fn occupation(self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let doubled = "SELECT occupies_node, COUNT(*) FROM leases WHERE occupies_node IS NOT NULL AND holding = 'whole' \
                       GROUP BY occupies_node HAVING COUNT(*) > 1 ORDER BY 1";
        for (node, count) in self.pairs(doubled.into(), vals![]).await? {
            findings.push(Finding::new(Check::I1, format!("{count} leases have it")).on(NodeId(node)));
        }
        let unknown = "SELECT l.id, l.occupies_node FROM leases l LEFT JOIN nodes n ON n.id = l.occupies_node \
                       WHERE l.occupies_node > 0 AND l.holding = 'whole' AND (n.whole_lease IS NULL OR n.whole_lease <> l.id) ORDER BY +l.id";
        for (lease, node) in self.pairs(unknown.into(), vals![]).await? {
            let what = "the lease has the node, but the node does not say so";
            findings.push(Finding::new(Check::I1, what).on(NodeId(node)).of(LeaseId(lease)));
        }
        let unknown = "SELECT n.whole_lease, n.id FROM nodes n LEFT JOIN leases l ON l.id = n.whole_lease \
                       WHERE n.whole_lease IS NOT NULL AND (l.occupies_node IS NULL OR l.occupies_node <> n.id) \
                       ORDER BY 2";
        for (lease, node) in self.pairs(unknown.into(), vals![]).await? {
            let what = "the node says that the lease has it, but the lease does not";
            findings.push(Finding::new(Check::I1, what).on(NodeId(node)).of(LeaseId(lease)));
        }
        findings.extend(self.holds().await?);
        Ok(findings)
    }

    /// I1, for what leases hold: each lease its node, each hold its lease, and the sums.
    async fn holds(self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let missing = "SELECT l.id, l.occupies_node FROM leases l WHERE l.occupies_node > 0 AND NOT EXISTS \
                       (SELECT 1 FROM holds h WHERE h.lease_id = l.id AND h.node_id = l.occupies_node \
                       AND h.role <> 'leaving') ORDER BY +l.id";
        let stray = "SELECT h.lease_id, h.node_id FROM holds h LEFT JOIN leases l ON l.id = h.lease_id \
                     WHERE h.role <> 'leaving' AND (l.occupies_node IS NULL OR l.occupies_node <> h.node_id) ORDER BY 1";
        let nowhere = "SELECT h.lease_id, h.node_id FROM holds h JOIN leases l ON l.id = h.lease_id \
                       WHERE l.state IN ('requested', 'scheduled', 'queued') ORDER BY 1";
        for (sql, what) in [
            (nowhere, "something of the node is held for a lease that waits for a node"),
            (missing, "the lease is on the node, but holds nothing of it"),
            (stray, "something of the node is held for a lease that is not on it"),
        ] {
            for (lease, node) in self.pairs(sql.into(), vals![]).await? {
                findings.push(Finding::new(Check::I1, what).on(NodeId(node)).of(LeaseId(lease)));
            }
        }
        let sums = "SELECT n.id, n.cpu_held FROM nodes n \
                    WHERE n.cpu_held <> (SELECT COALESCE(SUM(h.cpu_milli), 0) FROM holds h WHERE h.node_id = n.id) \
                    OR n.memory_held_mb <> (SELECT COALESCE(SUM(h.memory_mb), 0) FROM holds h WHERE h.node_id = n.id) \
                    OR (SELECT COUNT(*) FROM gpus g WHERE g.node_id = n.id AND g.lease_id IS NOT NULL) \
                    <> (SELECT COALESCE(SUM(h.gpus), 0) FROM holds h WHERE h.node_id = n.id) \
                    ORDER BY 1";
        for (node, _) in self.pairs(sums.into(), vals![]).await? {
            let what = "what is counted as held of it is not the sum of what leases hold";
            findings.push(Finding::new(Check::I1, what).on(NodeId(node)));
        }
        Ok(findings)
    }

    /// I2, as far as the database knows: a lease is where its history says, and not active on a dead node.
    async fn stays(self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let torn = "SELECT l.id, l.occupies_node FROM leases l WHERE l.occupies_node > 0 AND \
                    (SELECT COUNT(*) FROM lease_nodes h WHERE h.lease_id = l.id AND h.left_at IS NULL \
                    AND h.node_id = l.occupies_node) <> 1 ORDER BY +l.id";
        for (lease, node) in self.pairs(torn.into(), vals![]).await? {
            let what = "its history of nodes does not say that it is there now";
            findings.push(Finding::new(Check::I2, what).on(NodeId(node)).of(LeaseId(lease)));
        }
        let dead = "SELECT l.id, n.id FROM leases l JOIN nodes n ON n.id = l.occupies_node \
                    WHERE l.state = 'active' AND n.health = 'dead' ORDER BY 1";
        for (lease, node) in self.pairs(dead.into(), vals![]).await? {
            let what = "the lease is active on a node that is dead";
            findings.push(Finding::new(Check::I2, what).on(NodeId(node)).of(LeaseId(lease)));
        }
        Ok(findings)
    }

    /// I3: leases that should be ending.
    async fn overdue(self, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let due = now.minus(Duration::from_secs(DEADLINE_GRACE_S) + OVERDUE_AFTER);
        let sql = format!(
            "SELECT id, leased_until FROM leases WHERE state IN {EXPIRING} AND leased_until < ? ORDER BY 2"
        );
        let rows = self.pairs(sql, vals![due]).await?;
        let finding = |(lease, until)| {
            let late = now.since(Timestamp::from_micros(until)).as_secs();
            Finding::new(Check::I3, format!("its time was up {late} s ago, and it is not ending"))
                .of(LeaseId(lease))
        };
        Ok(rows.into_iter().map(finding).collect())
    }

    /// I4.
    async fn events_of_states(self, how_far: Scope, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let (at_once, number) = match how_far {
            // `+`: SQLite would otherwise walk through all leases by number.
            Scope::Recent => (None, "+l.id"),
            Scope::All => (Some(LEASES_AT_ONCE), "l.id"),
        };
        let sql = format!(
            "SELECT id, s, k FROM (SELECT l.id AS id, l.state AS s, (SELECT e.kind FROM events e \
             WHERE e.lease_id = l.id AND e.kind IN ({STATE_EVENTS}) ORDER BY e.id DESC LIMIT 1) AS k \
             FROM leases l WHERE {number} > ? AND {number} <= ? AND (l.ended_at IS NULL OR l.ended_at >= ?)) states \
             WHERE k IS NULL OR NOT ({FITS}) ORDER BY +id LIMIT ?"
        );
        let rows = self.page_by_page(("leases", at_once), &sql, &[since(how_far, now).into()]).await?;
        let of_lease =
            |(lease, state, kind): Told| Finding::new(Check::I4, told(&state, kind)).of(LeaseId(lease));
        let mut findings: Vec<Finding> = rows.into_iter().map(of_lease).collect();
        let sql = "SELECT id, s, k FROM (SELECT n.id AS id, n.health AS s, (SELECT e.kind FROM events e \
                   WHERE e.node_id = n.id AND e.kind IN ('node.unknown', 'node.alive', 'node.suspect', \
                   'node.unreachable', 'node.dead') ORDER BY e.id DESC LIMIT 1) AS k FROM nodes n \
                   WHERE n.id > ? AND n.id <= ? AND n.health_since >= ?) healths \
                   WHERE (k IS NULL AND s <> 'unknown') OR (k IS NOT NULL AND k <> CONCAT('node.', s)) \
                   ORDER BY id LIMIT ?";
        let values = [since(how_far, now).into()];
        let rows = self.page_by_page(("nodes", Some(NODES_AT_ONCE)), sql, &values).await?;
        let of_node =
            |(node, health, kind): Told| Finding::new(Check::I4, told(&health, kind)).on(NodeId(node));
        findings.extend(rows.into_iter().map(of_node));
        Ok(findings)
    }

    /// Asks about `at_once` rows of a table after the other, by number (none: about all at once): about many, one
    /// statement would take longer than it may. `sql` binds what a page begins after and ends with, `values`, and how
    /// much is shown.
    async fn page_by_page(
        self,
        (table, at_once): (&str, Option<i64>),
        sql: &str,
        values: &[Val],
    ) -> Result<Vec<Told>, StoreError> {
        let end =
            format!("SELECT MAX(id) FROM (SELECT id FROM {table} WHERE id > ? ORDER BY id LIMIT ?) page");
        let mut found = Vec::new();
        let mut after = 0;
        while found.len() < SHOWN_MAX as usize && after < i64::MAX {
            let last = match at_once {
                Some(rows) => {
                    let end = sqlx::AssertSqlSafe(end.clone());
                    self.store.db.one::<(Option<i64>,)>(end, vals![after, rows]).await?.and_then(|(id,)| id)
                }
                None => Some(i64::MAX),
            };
            let Some(last) = last else { break };
            let mut bound = vals![after, last];
            bound.extend_from_slice(values);
            bound.push(SHOWN_MAX.into());
            found.extend(self.store.db.all::<Told>(sqlx::AssertSqlSafe(sql.to_owned()), bound).await?);
            after = last;
        }
        found.truncate(SHOWN_MAX as usize);
        Ok(found)
    }

    /// I5.
    async fn secrets(self, how_far: Scope, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        // `+`: by the time of the end, not by the state of nearly all.
        let kept = "SELECT id, user_id FROM leases WHERE +state = 'ended' AND password_hash <> '' \
                    AND ended_at >= ? ORDER BY +id";
        for (lease, _) in self.pairs(kept.into(), vals![since(how_far, now)]).await? {
            let what = "it is over, but its password hash is still there";
            findings.push(Finding::new(Check::I5, what).of(LeaseId(lease)));
        }
        let plain = format!(
            "SELECT id, user_id FROM leases WHERE state IN {LIVE} AND password_hash <> '*' \
             AND password_hash NOT LIKE '$%$%' ORDER BY +id"
        );
        for (lease, _) in self.pairs(plain, vals![]).await? {
            let what = "what stands in the place of its password hash is none";
            findings.push(Finding::new(Check::I5, what).of(LeaseId(lease)));
        }
        let plain = "SELECT id, token_generation FROM users WHERE password_hash NOT LIKE '$argon2id$%' AND id > ? ORDER BY 1";
        let newest = self.store.db.one::<(Option<i64>,)>("SELECT MAX(id) FROM users", vals![]).await?;
        let after = match how_far {
            Scope::Recent => newest.and_then(|(id,)| id).unwrap_or(0) - USERS_RECENT,
            Scope::All => 0,
        };
        for (user, _) in self.pairs(plain.into(), vals![after]).await? {
            let what =
                format!("what stands in the place of the password hash of user {user} is no argon2id hash");
            findings.push(Finding::new(Check::I5, what));
        }
        for (table, sql) in [
            ("sealed_values", "SELECT name, SUBSTR(sealed, 1, 64) FROM sealed_values ORDER BY 1 LIMIT ?"),
            ("webhooks", "SELECT uid, SUBSTR(secret_sealed, 1, 64) FROM webhooks ORDER BY id DESC LIMIT ?"),
            ("containers", "SELECT uid, SUBSTR(spec_sealed, 1, 64) FROM containers ORDER BY id DESC LIMIT ?"),
            (
                "registry_logins",
                "SELECT registry, SUBSTR(password_sealed, 1, 64) FROM registry_logins ORDER BY changed_at DESC LIMIT ?",
            ),
            (
                "idempotency",
                "SELECT key_sha256, SUBSTR(reply_sealed, 1, 64) FROM idempotency \
                 WHERE reply_sealed IS NOT NULL ORDER BY expires_at DESC LIMIT ?",
            ),
            (
                "idempotency",
                "SELECT key_sha256, SUBSTR(secrets_sealed, 1, 64) FROM idempotency \
                 WHERE secrets_sealed IS NOT NULL ORDER BY expires_at DESC LIMIT ?",
            ),
        ] {
            for (name, head) in self.store.db.all::<(String, Vec<u8>)>(sql, vals![REPLIES_MAX]).await? {
                if !looks_sealed(&head) {
                    let what = format!("the value '{name}' of table {table} is not sealed");
                    findings.push(Finding::new(Check::I5, what));
                }
            }
        }
        Ok(findings)
    }

    /// I7: nodes that placement would give away, and what must be so on each of them.
    async fn offered(self) -> Result<Vec<Finding>, StoreError> {
        let offered =
            format!("SELECT n.id, n.version FROM nodes n WHERE {}", crate::nodes::conditions::OFFERABLE);
        let mut findings = Vec::new();
        for (what, but) in [
            (
                "it is offered, but a lease has it",
                "EXISTS (SELECT 1 FROM leases l WHERE l.occupies_node = n.id)",
            ),
            ("it is offered, but has no pinned host key", "(n.host_keys = '[]' OR n.host_key_fp IS NULL)"),
            (
                "it is offered, but its pinned host key is not recorded as its own",
                "NOT EXISTS (SELECT 1 FROM node_host_keys k \
                 WHERE k.fingerprint = n.host_key_fp AND k.node_id = n.id)",
            ),
            ("it is offered, but has never been reconciled", "n.applied_version < 1"),
        ] {
            for (node, _) in self.pairs(format!("{offered} AND {but} ORDER BY 1"), vals![]).await? {
                findings.push(Finding::new(Check::I7, what).on(NodeId(node)));
            }
        }
        Ok(findings)
    }

    async fn versions(self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let sql = "SELECT id, applied_version - desired_version FROM nodes \
                   WHERE applied_version > desired_version OR version < 1 OR epoch < 0 ORDER BY 1";
        for (node, _) in self.pairs(sql.into(), vals![]).await? {
            let what =
                "what was applied to it is newer than what was ever wanted, or a counter went backwards";
            findings.push(Finding::new(Check::Versions, what).on(NodeId(node)));
        }
        Ok(findings)
    }

    async fn uids(self, how_far: Scope) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let highest =
            self.store.db.one::<(Option<i64>,)>("SELECT MAX(account_uid) FROM leases", vals![]).await?;
        let highest = highest.and_then(|(uid,)| uid).unwrap_or(-1);
        // The counter is read after the highest uid: it only grows.
        match self.store.cluster().get_setting("next_uid").await?.map(|text| (text.parse::<i64>(), text)) {
            Some((Ok(next), _)) if next > highest => {}
            Some((Ok(next), _)) => {
                let what = format!("the next uid is {next}, but {highest} was given away already");
                findings.push(Finding::new(Check::Uids, what));
            }
            Some((Err(_), text)) => {
                findings
                    .push(Finding::new(Check::Uids, format!("the setting next_uid is no number: '{text}'")));
            }
            None => findings.push(Finding::new(Check::Uids, "the setting next_uid is gone")),
        }
        // Every lease there ever was: not each minute; the schema has a UNIQUE, too.
        if how_far == Scope::Recent {
            return Ok(findings);
        }
        let twice = "SELECT account_uid, COUNT(*) FROM leases WHERE account_uid IS NOT NULL GROUP BY account_uid HAVING COUNT(*) > 1 ORDER BY 1";
        for (uid, count) in self.pairs(twice.into(), vals![]).await? {
            findings.push(Finding::new(Check::Uids, format!("{count} leases have the uid {uid}")));
        }
        Ok(findings)
    }

    /// Work that does not go on, and claims that nobody renews or takes over.
    async fn stuck(self, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let sql = "SELECT id, state, state_since, node_id FROM leases \
                   WHERE state IN ('provisioning', 'yielding', 'releasing', 'migrating') AND state_since < ? \
                   AND (state <> 'migrating' OR occupies_node <> from_node) ORDER BY +id LIMIT ?";
        let values = vals![now.minus(TRANSIT_MAX), SHOWN_MAX];
        for (lease, state, from, node) in self.store.db.all::<(i64, String, i64, i64)>(sql, values).await? {
            let length = now.since(Timestamp::from_micros(from)).as_secs() / 60;
            let what = format!("it is {state} for {length} min");
            findings.push(Finding::new(Check::Stuck, what).of(LeaseId(lease)).on(NodeId(node)));
        }
        let idle = now.minus(IDLE_MAX);
        let workable = "FROM nodes WHERE admission = 'admitted' AND health = 'alive'";
        let sql = format!(
            "SELECT id, reconcile_failures {workable} AND applied_version < desired_version AND drain_since IS NULL \
             AND retry_at < ? AND changed_at < ? AND (claimed_until IS NULL OR claimed_until < ?) ORDER BY 1"
        );
        for (node, _) in self.pairs(sql, vals![idle, idle, idle]).await? {
            let what = format!(
                "it is there and not clean, and nobody has worked on it for {} s",
                IDLE_MAX.as_secs()
            );
            findings.push(Finding::new(Check::Stuck, what).on(NodeId(node)));
        }
        let sql = format!("SELECT id, reconcile_failures {workable} AND reconcile_failures >= ? ORDER BY 1");
        for (node, failures) in self.pairs(sql, vals![FAILURES_MAX]).await? {
            let what = format!("bringing it in order failed {failures} times in a row");
            findings.push(Finding::new(Check::Stuck, what).on(NodeId(node)));
        }
        let sql = format!("SELECT id, claimed_until {workable} AND claimed_until < ? ORDER BY 1");
        for (node, until) in self.pairs(sql, vals![idle]).await? {
            let ago = now.since(Timestamp::from_micros(until)).as_secs();
            let what = format!("its claim ran out {ago} s ago, and nobody has taken it over");
            findings.push(Finding::new(Check::Claims, what).on(NodeId(node)));
        }
        Ok(findings)
    }

    /// Machine ids that several nodes have.
    async fn machines(self) -> Result<Vec<Finding>, StoreError> {
        let groups = self.store.nodes().machine_id_groups(SHOWN_MAX).await?;
        let finding = |(lowest, highest, many)| {
            Finding::new(Check::Machines, shared_text(NodeId(highest), many)).on(NodeId(lowest))
        };
        Ok(groups.into_iter().map(finding).collect())
    }

    /// Checks what the tables do not guarantee: the brake, the running processes, and the clock.
    async fn check_environment(self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        if let Some(engaged) = self.store.cluster().brake().await?.engaged {
            let what = format!("it is on since {}: {}", engaged.since, engaged.reason);
            findings.push(Finding::new(Check::Brake, what));
        }
        let (replicas, theirs) = (self.store.cluster().replicas().await?, self.store.now().await?);
        for (kind, name) in [(Replica::SCHEDULER, "scheduler"), (Replica::API, "control plane")] {
            let last =
                replicas.iter().filter(|replica| replica.kind == kind).map(|replica| replica.beat_at).max();
            let what = match last {
                Some(at) if theirs.since(at) < SILENT_AFTER => continue,
                Some(at) => format!("no {name} runs; the last one was heard of at {at}"),
                None => format!("no {name} runs"),
            };
            findings.push(Finding::new(Check::Processes, what));
        }
        Ok(findings)
    }

    /// Returns a finding if the clock that `now` reads differs too much from the database's.
    pub async fn clock_finding(self, now: impl Fn() -> Timestamp) -> Result<Option<Finding>, StoreError> {
        let before = now();
        let theirs = self.store.now().await?;
        // The database's word lies between the two; how long it took is no difference.
        let skew = before.since(theirs).max(theirs.since(now()));
        let what = || format!("this machine's clock is {:.1} s off the database's", skew.as_secs_f64());
        Ok((skew > CLOCK_SKEW_MAX).then(|| Finding::new(Check::Clock, what())))
    }
}

fn since(how_far: Scope, now: Timestamp) -> Timestamp {
    match how_far {
        Scope::Recent => now.minus(RECENT),
        Scope::All => Timestamp::from_micros(i64::MIN),
    }
}

fn told(state: &str, kind: Option<String>) -> String {
    match kind {
        Some(kind) => format!("it is {state}, but its last event of that kind is {kind}"),
        None => format!("it is {state}, and no event tells how it came to be"),
    }
}

/// Random bytes of this length are not all printable: such a text was never sealed.
fn looks_sealed(head: &[u8]) -> bool {
    head.len() >= SEALED_MIN && !head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}
