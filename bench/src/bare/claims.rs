//! A claim of a free node by hand: `SELECT … FOR UPDATE SKIP LOCKED`; and the naive one, which is wrong.

use crate::ground::PUBLIC_KEY;
use sqlx::MySqlPool;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// Free nodes, as the store's placement means it.
const FREE: &str = "admission = 'admitted' AND health = 'alive' AND quarantine IS NULL AND cordon IS NULL \
                    AND whole_lease IS NULL AND applied_version = desired_version AND way_in = 'open' \
                    AND cpu_held = 0 AND memory_held_mb = 0 AND transport = 'ssh'";
/// Time for which the node is left to who provisions, in microseconds.
const FIRST_TURN_US: i64 = 30_000_000;
/// MariaDB's number for a transaction that was rolled back because of a deadlock.
const DEADLOCK: u16 = 1213;

/// Writes what the store's placement writes: the owner's count of placements, a lease with its uid, its node, the history,
/// the hold and the event.
/// The uid comes from `next_uid` in this process, which costs nothing; the store's come from the database, where
/// several processes share them.
///
/// # Errors
/// The database's; `RowNotFound` when no node is free.
pub async fn skip_locked(
    pool: &MySqlPool,
    user: i64,
    next_uid: &AtomicI64,
    now_us: i64,
) -> Result<i64, sqlx::Error> {
    loop {
        match try_skip_locked(pool, user, next_uid.fetch_add(1, Relaxed), now_us).await {
            Err(sqlx::Error::Database(error)) if number(error.as_ref()) == Some(DEADLOCK) => {}
            other => return other,
        }
    }
}

fn number(error: &dyn sqlx::error::DatabaseError) -> Option<u16> {
    error.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(sqlx::mysql::MySqlDatabaseError::number)
}

/// Columns needed to work on a node: id, address, SSH port, host keys and epoch.
type Claimed = (i64, String, i64, String, i64);

async fn try_skip_locked(pool: &MySqlPool, user: i64, uid: i64, now_us: i64) -> Result<i64, sqlx::Error> {
    let mut tx = pool.begin().await?;
    let sql = format!(
        "SELECT id, addr, ssh_port, host_keys, epoch FROM nodes WHERE {FREE} LIMIT 1 FOR UPDATE SKIP LOCKED"
    );
    sqlx::query("UPDATE users SET placements = placements + 1 WHERE id = ? AND disabled_at IS NULL")
        .bind(user)
        .execute(&mut *tx)
        .await?;
    let (node, ..): Claimed = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *tx).await?;
    let lease = sqlx::query(
        "INSERT INTO leases (uid, user_id, client_user, account_uid, password_hash, public_key, state, \
         state_since, node_id, occupies_node, leased_from, leased_until, on_node_loss, tags, request_key, \
         finish_after_crash) \
         VALUES (?, ?, 'benchmark', ?, ?, ?, 'provisioning', ?, ?, ?, ?, ?, 'migrate', '[]', ?, 0)",
    )
    .bind(word())
    .bind(user)
    .bind(uid)
    .bind(format!("$6${}${}", "s".repeat(16), "h".repeat(86)))
    .bind(PUBLIC_KEY)
    .bind(now_us)
    .bind(node)
    .bind(node)
    .bind(now_us)
    .bind(now_us + 3_600_000_000)
    .bind(word())
    .execute(&mut *tx)
    .await?
    .last_insert_id();
    sqlx::query(
        "UPDATE nodes SET whole_lease = ?, desired_version = desired_version + 1, first_turn_until = ?, \
         version = version + 1, changed_at = ? WHERE id = ?",
    )
    .bind(lease)
    .bind(now_us + FIRST_TURN_US)
    .bind(now_us)
    .bind(node)
    .execute(&mut *tx)
    .await?;
    sqlx::query("INSERT INTO lease_nodes (lease_id, node_id, at) VALUES (?, ?, ?)")
        .bind(lease)
        .bind(node)
        .bind(now_us)
        .execute(&mut *tx)
        .await?;
    sqlx::query(
        "INSERT INTO holds (lease_id, node_id, role, whole, cpu_milli, memory_mb, desired, applied) \
         VALUES (?, ?, 'current', 1, 0, 0, 1, 0)",
    )
    .bind(lease)
    .bind(node)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) \
         VALUES (?, ?, 'lease.placed', ?, ?, ?, '{}')",
    )
    .bind(word())
    .bind(now_us)
    .bind(lease)
    .bind(node)
    .bind(user)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(node)
}

/// 26 characters that nobody else has.
fn word() -> String {
    format!("{:026x}", rand::random::<u128>() >> 24)
}

/// The table of the naive claims: without the UNIQUE that would stop them.
///
/// # Errors
/// The database's.
pub async fn make_naive_table(pool: &MySqlPool) -> Result<(), sqlx::Error> {
    let sql = "CREATE TABLE naive (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, occupies_node BIGINT NOT NULL, \
               KEY naive_node (occupies_node)) ENGINE = InnoDB";
    sqlx::query(sql).execute(pool).await.map(drop)
}

/// Looks for a free node, and then takes it.
///
/// # Errors
/// The database's; `RowNotFound` when no node is free.
pub async fn check_then_write(pool: &MySqlPool) -> Result<i64, sqlx::Error> {
    let sql = "SELECT n.id FROM nodes n WHERE NOT EXISTS \
               (SELECT 1 FROM naive WHERE naive.occupies_node = n.id) LIMIT 1";
    let (node,): (i64,) = sqlx::query_as(sql).fetch_one(pool).await?;
    sqlx::query("INSERT INTO naive (occupies_node) VALUES (?)").bind(node).execute(pool).await?;
    Ok(node)
}
