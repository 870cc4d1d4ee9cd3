//! Years of data, made by the database itself: events, and leases that are over with their histories.

use super::side::{NODES, OVER, Side, Sql};
use crate::broken::Broken;

/// Events of one lease.
const EVENTS_OF_LEASE: usize = 10;
/// Rows of one statement.
const AT_ONCE: usize = 200_000;
/// The last events are so old, and the first ones [`SPAN_DAYS`] older: retention takes none of them.
const AGE_DAYS: i64 = 2;
const SPAN_DAYS: i64 = 300;
const DAY: i64 = 24 * 3600 * 1_000_000;
/// Start of the generated leases' uids, below every uid that a lease gets during the measurement.
const FIRST_UID: usize = 1_000_000;

/// Fills both tables; half of the leases are the tenant's.
///
/// # Errors
/// The database's.
pub async fn fill(side: &Side, events: usize) -> Result<(), Broken> {
    let leases = events / EVENTS_OF_LEASE;
    let end = side.now().as_micros() - AGE_DAYS * DAY;
    let begin = end - SPAN_DAYS * DAY;
    let step = SPAN_DAYS * DAY / i64::try_from(events.max(1)).unwrap_or(i64::MAX);
    let lease_step = step * EVENTS_OF_LEASE as i64;
    let (tenant, other) = (side.tenant, side.spare);
    if let Sql::MariaDb(_) = side.sql {
        // Nothing here has to outlive a power cut.
        side.sql.run("SET GLOBAL innodb_flush_log_at_trx_commit = 0").await?;
    }
    // What made the accounts and the nodes was the first thing that happened.
    side.sql.run(&format!("UPDATE events SET at = {begin}")).await?;
    for (from, to) in batches(leases) {
        let (numbers, pad) = (numbers(&side.sql, from, to), padded(&side.sql, "n"));
        let at = format!("({begin} + n * {lease_step})");
        let user = format!("CASE WHEN n % 2 = 0 THEN {tenant} ELSE {other} END");
        side.sql
            .run(&format!(
                "INSERT INTO leases (id, uid, user_id, client_user, account_uid, password_hash, state, state_since, \
                 state_reason, node_id, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, ended_at) \
                 SELECT n, {pad}, {user}, 'tenant', {FIRST_UID} + n, '', 'ended', {at}, '{OVER}', 1 + n % {NODES}, {at}, \
                 {at} + 3600000000, 'migrate', '[]', {pad}, 0, {at} + 3600000000 FROM {numbers}"
            ))
            .await?;
        side.sql
            .run(&format!(
                "INSERT INTO lease_nodes (lease_id, node_id, at, left_at, why) \
                 SELECT n, 1 + n % {NODES}, {at}, {at} + 3600000000, 'it is over' FROM {numbers}"
            ))
            .await?;
    }
    for (from, to) in batches(events) {
        let (numbers, pad) = (numbers(&side.sql, from, to), padded(&side.sql, "n"));
        let divide = if matches!(side.sql, Sql::MariaDb(_)) { "DIV" } else { "/" };
        let lease = format!("(1 + (n - 1) {divide} {EVENTS_OF_LEASE})");
        let kind = format!(
            "CASE n % {EVENTS_OF_LEASE} WHEN 1 THEN 'lease.placed' WHEN 2 THEN 'lease.active' WHEN 0 THEN 'lease.ended' \
             ELSE 'lease.extended' END"
        );
        side.sql
            .run(&format!(
                "INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) \
                 SELECT {pad}, {begin} + n * {step}, {kind}, {lease}, 1 + {lease} % {NODES}, \
                 CASE WHEN {lease} % 2 = 0 THEN {tenant} ELSE {other} END, \
                 '{{\"reason\": \"as it was asked for\"}}' FROM {numbers}"
            ))
            .await?;
    }
    // A counter that stood lower would give uids that are taken.
    let next = FIRST_UID + leases + 1;
    side.sql.run(&format!("UPDATE settings SET value = '{next}' WHERE name = 'next_uid'")).await
}

/// The numbers from 1 to `count`, as many at once as one statement takes.
pub fn batches(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (1..=count).step_by(AT_ONCE).map(move |from| (from, (from + AT_ONCE - 1).min(count)))
}

/// A table with one column, `n`.
pub fn numbers(sql: &Sql, from: usize, to: usize) -> String {
    match sql {
        Sql::MariaDb(_) => format!("(SELECT seq AS n FROM seq_{from}_to_{to}) numbers"),
        Sql::Sqlite(_) => format!(
            "(WITH RECURSIVE counted(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM counted WHERE n < {to}) \
             SELECT n FROM counted) numbers"
        ),
    }
}

/// 26 characters.
pub fn padded(sql: &Sql, number: &str) -> String {
    match sql {
        Sql::MariaDb(_) => format!("LPAD({number}, 26, '0')"),
        Sql::Sqlite(_) => format!("printf('%026d', {number})"),
    }
}
