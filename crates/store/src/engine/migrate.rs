//! Brings the schema up to date at start, also when several replicas start at once or one died half-way.
//!
//! Lives here: running the migrations, and telling whether they were run. Does not live here: the schema
//! (`migrations/{mariadb,sqlite}`).

use crate::{
    engine::db::Db,
    engine::error::{Fault, StoreError},
    engine::value::vals,
};
use sqlx::{
    Executor, MySqlPool, SqlitePool,
    migrate::{MigrateError, Migrator},
    mysql::{MySqlConnectOptions, MySqlPoolOptions},
};
use std::time::{Duration, Instant};

static MARIADB: Migrator = sqlx::migrate!("migrations/mariadb");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

/// Time for which an unfinished migration is attributed to another replica on a single server. There
/// sqlx's lock admits one replica after the other, however long each takes: a half-done migration has no
/// owner any more.
const OTHER_REPLICA_MAX: Duration = Duration::from_secs(10);
/// The same on a cluster, where that lock is each member's own.
const OTHER_REPLICA_OF_CLUSTER_MAX: Duration = Duration::from_secs(900);
/// Time for which transient failures are retried: locks that others hold, statements that the server cut
/// off.
const PASSING_MAX: Duration = Duration::from_secs(900);
/// Time for which a statement of a migration waits for locks, in seconds.
const LOCK_WAIT_S: u32 = 300;

pub(crate) async fn run(db: &Db) -> Result<(), StoreError> {
    match db {
        Db::Lite { writer, .. } => run_sqlite(writer).await.map_err(explain),
        Db::Maria(hosts) => {
            let mut problem = StoreError::Unavailable("no database host answers".into());
            for pool in hosts.pools() {
                let half_done_max = match hosts.pools().len() {
                    0 | 1 => OTHER_REPLICA_MAX,
                    _ => OTHER_REPLICA_OF_CLUSTER_MAX,
                };
                match run_maria(pool, half_done_max).await {
                    Ok(()) => return Ok(()),
                    Err(error) if error.is_unavailable() => problem = error,
                    Err(error) => return Err(error),
                }
            }
            Err(problem)
        }
    }
}

/// Whether the schema is this program's, asked without changing anything.
pub(crate) async fn must_be_current(db: &Db) -> Result<(), StoreError> {
    let sql = db.sql(
        "SELECT COUNT(*) FROM information_schema.tables \
         WHERE table_schema = DATABASE() AND table_name = '_sqlx_migrations'",
        "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = '_sqlx_migrations'",
    );
    let mut applied = Vec::new();
    if db.one::<(i64,)>(sql, vals![]).await?.is_some_and(|(count,)| count > 0) {
        let sql = "SELECT version, success, checksum FROM _sqlx_migrations ORDER BY version";
        applied = db.all::<(i64, bool, Vec<u8>)>(sql, vals![]).await?;
    }
    if applied.is_empty() {
        return Err(StoreError::Migration("there is no Orion in this database".into()));
    }
    let own = if db.is_maria() { &MARIADB } else { &SQLITE };
    for (version, success, checksum) in &applied {
        match own.iter().find(|migration| migration.version == *version) {
            None => return Err(explain(MigrateError::VersionMissing(*version))),
            Some(migration) if *success && migration.checksum.as_ref() != checksum.as_slice() => {
                return Err(explain(MigrateError::VersionMismatch(*version)));
            }
            Some(_) => {}
        }
    }
    let is_done = |version| applied.iter().any(|(done, success, _)| *done == version && *success);
    if own.iter().all(|migration| is_done(migration.version)) {
        return Ok(());
    }
    Err(StoreError::Migration(
        "it was made by an older version of Orion; start the new orion-control-plane or orion up first, which brings \
         it up to date"
            .into(),
    ))
}

pub(crate) async fn run_sqlite(pool: &SqlitePool) -> Result<(), MigrateError> {
    SQLITE.run(pool).await
}

/// MariaDB's DDL is not transactional and, on Galera, sqlx's lock is local to a node: replicas that start at
/// once collide (1213, or "partially applied"). Every statement stands alone and may be repeated, so: again.
async fn run_maria(pool: &MySqlPool, half_done_max: Duration) -> Result<(), StoreError> {
    let pool = &own_session(pool);
    let done = run_in_own_session(pool, half_done_max).await;
    pool.close().await;
    done
}

/// A session for migrations alone: a large table takes longer to change than any statement of the service may take.
fn own_session(pool: &MySqlPool) -> MySqlPool {
    let options = MySqlConnectOptions::clone(&pool.connect_options());
    MySqlPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(pool.options().get_acquire_timeout())
        .after_connect(|connection, _| {
            Box::pin(async move {
                for setting in [
                    format!("SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}"),
                    format!("SET SESSION lock_wait_timeout = {LOCK_WAIT_S}"),
                ] {
                    connection.execute(sqlx::AssertSqlSafe(setting)).await?;
                }
                // MariaDB's: without a limit; MySQL has none of this name.
                match connection.execute("SET SESSION max_statement_time = 0").await {
                    Ok(_) | Err(sqlx::Error::Database(_)) => Ok(()),
                    Err(error) => Err(error),
                }
            })
        })
        .connect_lazy_with(options)
}

async fn run_in_own_session(pool: &MySqlPool, half_done_max: Duration) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut cleared = false;
    loop {
        let error = match MARIADB.run(pool).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let waited_enough = started.elapsed() >= half_done_max;
        match (&error, explain_fault(&error)) {
            (MigrateError::Dirty(version), _) if waited_enough && !cleared => {
                tracing::warn!(version, "an earlier start died within this migration; it is run again");
                sqlx::query("DELETE FROM _sqlx_migrations WHERE success = FALSE")
                    .execute(pool)
                    .await
                    .map_err(|error| StoreError::Migration(error.to_string()))?;
                cleared = true;
            }
            (MigrateError::Dirty(_), _) if !waited_enough => {}
            (_, Some(Fault::Retry(text))) if started.elapsed() < PASSING_MAX => {
                tracing::debug!(text, "a migration is run again");
            }
            // It may pass: whoever started this process starts it again.
            (_, Some(Fault::Retry(text))) => return Err(StoreError::Unavailable(text)),
            (_, Some(Fault::Gone(text))) => return Err(StoreError::Unavailable(text)),
            _ => return Err(explain(error)),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "MigrateError is non-exhaustive")]
fn explain_fault(error: &MigrateError) -> Option<Fault> {
    let sql = match error {
        MigrateError::Execute(sql) | MigrateError::ExecuteMigration(sql, _) => sql,
        _ => return None,
    };
    match sql {
        sqlx::Error::Database(refusal) => {
            let number = refusal.try_downcast_ref::<sqlx::mysql::MySqlDatabaseError>().map(|e| e.number());
            match number {
                // 1969: cut off by the server's own limit; 3024: the same of MySQL.
                Some(1213 | 1205 | 1020 | 1969 | 3024) => Some(Fault::Retry(refusal.message().into())),
                Some(1062) => Some(Fault::Retry("another replica was faster".into())),
                Some(1047 | 1053 | 1927 | 1040 | 1290) => Some(Fault::Gone(refusal.message().into())),
                _ => None,
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut => Some(Fault::Gone(sql.to_string())),
        _ => None,
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "MigrateError is non-exhaustive")]
pub(crate) fn explain(error: MigrateError) -> StoreError {
    StoreError::Migration(match error {
        MigrateError::VersionMissing(version) => format!(
            "it was made by a newer version of Orion (it has migration {version}, which this one does not know); \
             use that version or a newer one"
        ),
        MigrateError::VersionMismatch(version) => format!(
            "its migration {version} is not the one of this version of Orion; restore a backup, or use the version that made it"
        ),
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(&other);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            text
        }
    })
}
