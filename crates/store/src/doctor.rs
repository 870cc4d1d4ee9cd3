//! What must hold at any time, asked of the tables: the database's part of `orion doctor`.
//!
//! Lives here: one query a promise, each a single statement, so that what is in motion is seen before or after a
//! change and never in the middle. Reads only. Does not live here: what a finding means
//! ([`orion_domain::doctor`]), the schema's completeness (`schema`), and what is on the nodes (fleet).

mod schema;

use crate::{
    Store,
    attempts::transaction,
    db::vals,
    error::{Result, StoreError},
    values::Val,
};
use orion_domain::{
    LeaseId, NodeId, Timestamp,
    agent::DEADLINE_GRACE_S,
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
/// How long the control plane may take to end a lease, after the node itself has closed the login.
const OVERDUE_AFTER: Duration = Duration::from_secs(60);
/// Longest time in a state that ends by itself: eight nodes may be tried one after another.
const TRANSIT_MAX: Duration = Duration::from_secs(600);
/// A node that could be worked on is, within this time.
const IDLE_MAX: Duration = Duration::from_secs(120);
/// A node that is there, but whose work failed so often in a row, needs a person.
const FAILURES_MAX: i64 = 10;
/// A process beats every two seconds.
const SILENT_AFTER: Duration = Duration::from_secs(30);
/// The difference of clocks at which claims are no longer taken.
const SKEW_MAX: Duration = Duration::from_secs(2);
/// How far back leases that are over are looked at by [`HowFar::Recent`].
const RECENT: Duration = Duration::from_secs(3600);
/// Stored replies that are looked at, the youngest first.
const REPLIES_MAX: i64 = 200;
/// A nonce of 24 bytes and a tag of 16.
const SEALED_MIN: usize = 40;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowFar {
    /// Leases that are not over, and those that ended within the last hour: cheap enough for every minute.
    Recent,
    /// All leases.
    All,
}

/// A node with what decides what it must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examined {
    /// The node.
    pub node: Node,
    /// The epoch of the last claim on it: a reader's, who takes none.
    pub epoch: u64,
    /// The lease that has it.
    pub lease: Option<Lease>,
}

/// The state that a lease has after its last event; `k` is the event's kind, `s` the state.
const FITS: &str = "CASE s WHEN 'provisioning' THEN k IN ('lease.placed', 'lease.replaced') \
    WHEN 'active' THEN k IN ('lease.active', 'lease.moved', 'lease.returned') \
    WHEN 'migrating' THEN k IN ('lease.node_lost', 'lease.moving', 'lease.waiting') \
    WHEN 'releasing' THEN k = 'lease.releasing' ELSE k = 'lease.ended' END";

/// Events that say which state a lease has now.
const STATE_EVENTS: &str = "'lease.placed', 'lease.replaced', 'lease.active', 'lease.moved', 'lease.returned', \
    'lease.node_lost', 'lease.moving', 'lease.waiting', 'lease.releasing', 'lease.ended'";

/// A lease or a node, its state, and its last event that tells of it.
type Told = (i64, String, Option<String>);

impl Store {
    /// Looks whether what must hold does, as far as the database can tell. Findings of one kind are cut at 100.
    ///
    /// # Errors
    /// [`StoreError`]: then nothing is known.
    pub async fn examine(&self, how_far: HowFar, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = self.occupation().await?;
        findings.extend(self.stays().await?);
        findings.extend(self.overdue(now).await?);
        findings.extend(self.events_of_states(how_far, now).await?);
        findings.extend(self.secrets(how_far, now).await?);
        findings.extend(self.offered().await?);
        findings.extend(self.versions().await?);
        findings.extend(self.uids().await?);
        findings.extend(self.stuck(now).await?);
        findings.extend(schema::missing(&self.db).await?);
        findings.extend(self.surroundings().await?);
        Ok(findings)
    }

    /// The node and its lease, read together; none if there is no such node.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn examined(&self, id: NodeId) -> Result<Option<Examined>, StoreError> {
        let read = transaction!(&self.db, |tx| {
            tx.abandon();
            let Some(record) = tx.node_record(id).await? else { return Ok(None) };
            let epoch = u64::try_from(record.epoch).unwrap_or(0);
            Ok(Some(Examined { node: Node::try_from(record)?, epoch, lease: tx.lease_on(id).await? }))
        });
        Ok(read?)
    }

    async fn pairs(&self, sql: String, mut values: Vec<Val>) -> Result<Vec<(i64, i64)>, StoreError> {
        values.push(SHOWN_MAX.into());
        Ok(self.db.all::<(i64, i64)>(sqlx::AssertSqlSafe(format!("{sql} LIMIT ?")), values).await?)
    }

    /// I1.
    async fn occupation(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let doubled = "SELECT occupies_node, COUNT(*) FROM leases WHERE occupies_node IS NOT NULL \
                       GROUP BY occupies_node HAVING COUNT(*) > 1 ORDER BY 1";
        for (node, count) in self.pairs(doubled.into(), vals![]).await? {
            findings.push(Finding::new(Check::I1, format!("{count} leases have it")).on(NodeId(node)));
        }
        let unknown = "SELECT l.id, l.occupies_node FROM leases l LEFT JOIN nodes n ON n.id = l.occupies_node \
                       WHERE l.occupies_node IS NOT NULL AND (n.lease_id IS NULL OR n.lease_id <> l.id) ORDER BY 1";
        for (lease, node) in self.pairs(unknown.into(), vals![]).await? {
            let what = "the lease has the node, but the node does not say so";
            findings.push(Finding::new(Check::I1, what).on(NodeId(node)).of(LeaseId(lease)));
        }
        let unknown = "SELECT n.lease_id, n.id FROM nodes n LEFT JOIN leases l ON l.id = n.lease_id \
                       WHERE n.lease_id IS NOT NULL AND (l.occupies_node IS NULL OR l.occupies_node <> n.id) \
                       ORDER BY 2";
        for (lease, node) in self.pairs(unknown.into(), vals![]).await? {
            let what = "the node says that the lease has it, but the lease does not";
            findings.push(Finding::new(Check::I1, what).on(NodeId(node)).of(LeaseId(lease)));
        }
        Ok(findings)
    }

    /// I2, as far as the database knows: a lease is where its history says, and not active on a dead node.
    async fn stays(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let torn = "SELECT l.id, l.occupies_node FROM leases l WHERE l.occupies_node IS NOT NULL AND \
                    (SELECT COUNT(*) FROM lease_nodes h WHERE h.lease_id = l.id AND h.left_at IS NULL \
                    AND h.node_id = l.occupies_node) <> 1 ORDER BY 1";
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
    async fn overdue(&self, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let due = now.minus(Duration::from_secs(DEADLINE_GRACE_S) + OVERDUE_AFTER);
        let sql = "SELECT id, leased_until FROM leases WHERE state IN ('provisioning', 'active', 'migrating') \
                   AND leased_until < ? ORDER BY 2";
        let rows = self.pairs(sql.into(), vals![due]).await?;
        let finding = |(lease, until)| {
            let late = now.since(Timestamp::from_micros(until)).as_secs();
            Finding::new(Check::I3, format!("its time was up {late} s ago, and it is not ending"))
                .of(LeaseId(lease))
        };
        Ok(rows.into_iter().map(finding).collect())
    }

    /// I4.
    async fn events_of_states(&self, how_far: HowFar, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let sql = format!(
            "SELECT id, s, k FROM (SELECT l.id AS id, l.state AS s, (SELECT e.kind FROM events e \
             WHERE e.lease_id = l.id AND e.kind IN ({STATE_EVENTS}) ORDER BY e.id DESC LIMIT 1) AS k \
             FROM leases l WHERE l.id > ? AND l.id <= ? AND (l.ended_at IS NULL OR l.ended_at >= ?)) states \
             WHERE k IS NULL OR NOT ({FITS}) ORDER BY id LIMIT ?"
        );
        let at_once = match how_far {
            HowFar::Recent => None,
            HowFar::All => Some(LEASES_AT_ONCE),
        };
        let rows = self.page_by_page(("leases", at_once), &sql, &[since(how_far, now).into()]).await?;
        let of_lease =
            |(lease, state, kind): Told| Finding::new(Check::I4, told(&state, kind)).of(LeaseId(lease));
        let mut findings: Vec<Finding> = rows.into_iter().map(of_lease).collect();
        let sql = "SELECT id, s, k FROM (SELECT n.id AS id, n.health AS s, (SELECT e.kind FROM events e \
                   WHERE e.node_id = n.id AND e.kind IN ('node.unknown', 'node.alive', 'node.suspect', \
                   'node.unreachable', 'node.dead') ORDER BY e.id DESC LIMIT 1) AS k FROM nodes n \
                   WHERE n.id > ? AND n.id <= ?) healths \
                   WHERE (k IS NULL AND s <> 'unknown') OR (k IS NOT NULL AND k <> CONCAT('node.', s)) \
                   ORDER BY id LIMIT ?";
        let rows = self.page_by_page(("nodes", Some(NODES_AT_ONCE)), sql, &[]).await?;
        let of_node =
            |(node, health, kind): Told| Finding::new(Check::I4, told(&health, kind)).on(NodeId(node));
        findings.extend(rows.into_iter().map(of_node));
        Ok(findings)
    }

    /// Asks about `at_once` rows of a table after the other, by number (none: about all at once): about many, one
    /// statement would take longer than it may. `sql` binds what a page begins after and ends with, `values`, and how
    /// much is shown.
    async fn page_by_page(
        &self,
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
                    self.db.one::<(Option<i64>,)>(end, vals![after, rows]).await?.and_then(|(id,)| id)
                }
                None => Some(i64::MAX),
            };
            let Some(last) = last else { break };
            let mut bound = vals![after, last];
            bound.extend_from_slice(values);
            bound.push(SHOWN_MAX.into());
            found.extend(self.db.all::<Told>(sqlx::AssertSqlSafe(sql.to_owned()), bound).await?);
            after = last;
        }
        found.truncate(SHOWN_MAX as usize);
        Ok(found)
    }

    /// I5.
    async fn secrets(&self, how_far: HowFar, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let kept = "SELECT id, node_id FROM leases WHERE state = 'ended' AND password_hash <> '' \
                    AND ended_at >= ? ORDER BY 1";
        for (lease, _) in self.pairs(kept.into(), vals![since(how_far, now)]).await? {
            let what = "it is over, but its password hash is still there";
            findings.push(Finding::new(Check::I5, what).of(LeaseId(lease)));
        }
        let plain = "SELECT id, node_id FROM leases WHERE state <> 'ended' AND password_hash <> '*' \
                     AND password_hash NOT LIKE '$%$%' ORDER BY 1";
        for (lease, _) in self.pairs(plain.into(), vals![]).await? {
            let what = "what stands in the place of its password hash is none";
            findings.push(Finding::new(Check::I5, what).of(LeaseId(lease)));
        }
        let plain =
            "SELECT id, token_generation FROM users WHERE password_hash NOT LIKE '$argon2id$%' ORDER BY 1";
        for (user, _) in self.pairs(plain.into(), vals![]).await? {
            let what =
                format!("what stands in the place of the password hash of user {user} is no argon2id hash");
            findings.push(Finding::new(Check::I5, what));
        }
        for (table, sql) in [
            ("sealed_values", "SELECT name, SUBSTR(sealed, 1, 64) FROM sealed_values ORDER BY 1 LIMIT ?"),
            ("webhooks", "SELECT uid, SUBSTR(secret_sealed, 1, 64) FROM webhooks ORDER BY id DESC LIMIT ?"),
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
            for (name, head) in self.db.all::<(String, Vec<u8>)>(sql, vals![REPLIES_MAX]).await? {
                if !looks_sealed(&head) {
                    let what = format!("the value '{name}' of table {table} is not sealed");
                    findings.push(Finding::new(Check::I5, what));
                }
            }
        }
        Ok(findings)
    }

    /// I7: nodes that placement would give away, and what must be so on each of them.
    async fn offered(&self) -> Result<Vec<Finding>, StoreError> {
        let offered = format!("SELECT n.id, n.version FROM nodes n WHERE {}", crate::place::OFFERABLE);
        let mut findings = Vec::new();
        for (what, but) in [
            (
                "it is offered, but a lease has it",
                "EXISTS (SELECT 1 FROM leases l WHERE l.occupies_node = n.id)",
            ),
            ("it is offered, but has no pinned host key", "(n.host_keys = '[]' OR n.host_key_fp IS NULL)"),
            ("it is offered, but has never been reconciled", "n.applied_version < 1"),
        ] {
            for (node, _) in self.pairs(format!("{offered} AND {but} ORDER BY 1"), vals![]).await? {
                findings.push(Finding::new(Check::I7, what).on(NodeId(node)));
            }
        }
        Ok(findings)
    }

    async fn versions(&self) -> Result<Vec<Finding>, StoreError> {
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

    async fn uids(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let highest = self.db.one::<(Option<i64>,)>("SELECT MAX(account_uid) FROM leases", vals![]).await?;
        let highest = highest.and_then(|(uid,)| uid).unwrap_or(-1);
        // The counter is read after the highest uid: it only grows.
        match self.get_setting("next_uid").await?.map(|text| (text.parse::<i64>(), text)) {
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
        let twice =
            "SELECT account_uid, COUNT(*) FROM leases GROUP BY account_uid HAVING COUNT(*) > 1 ORDER BY 1";
        for (uid, count) in self.pairs(twice.into(), vals![]).await? {
            findings.push(Finding::new(Check::Uids, format!("{count} leases have the uid {uid}")));
        }
        Ok(findings)
    }

    /// Work that does not go on, and claims that nobody renews or takes over.
    async fn stuck(&self, now: Timestamp) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        let sql = "SELECT id, state, state_since, node_id FROM leases WHERE state_since < ? AND (state IN \
                   ('provisioning', 'releasing') OR (state = 'migrating' AND occupies_node <> from_node)) \
                   ORDER BY id LIMIT ?";
        let values = vals![now.minus(TRANSIT_MAX), SHOWN_MAX];
        for (lease, state, from, node) in self.db.all::<(i64, String, i64, i64)>(sql, values).await? {
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

    /// What is no promise of the tables: the brake, who runs, and the clock.
    async fn surroundings(&self) -> Result<Vec<Finding>, StoreError> {
        let mut findings = Vec::new();
        if let Some(engaged) = self.brake().await?.engaged {
            let what = format!("it is on since {}: {}", engaged.since, engaged.reason);
            findings.push(Finding::new(Check::Brake, what));
        }
        let (replicas, theirs) = (self.replicas().await?, self.now().await?);
        for (kind, name) in [("scheduler", "scheduler"), ("api", "control plane")] {
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

    /// How far the clock that `now` reads is off the database's, if that is too far.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clock_finding(&self, now: impl Fn() -> Timestamp) -> Result<Option<Finding>, StoreError> {
        let before = now();
        let theirs = self.now().await?;
        // The database's word lies between the two; how long it took is no difference.
        let skew = before.since(theirs).max(theirs.since(now()));
        let what = || format!("this machine's clock is {:.1} s off the database's", skew.as_secs_f64());
        Ok((skew > SKEW_MAX).then(|| Finding::new(Check::Clock, what())))
    }
}

fn since(how_far: HowFar, now: Timestamp) -> Timestamp {
    match how_far {
        HowFar::Recent => now.minus(RECENT),
        HowFar::All => Timestamp::from_micros(i64::MIN),
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
