//! Brings the schema up to date at start, also when several replicas start at once or one died half-way.
//!
//! Lives here: running the migrations, and telling whether they were run. Does not live here: the schema
//! (`migrations/{mariadb,sqlite}`).

use crate::{
    db::{Db, vals},
    error::{Fault, StoreError},
};
use sqlx::{
    MySqlPool, SqlitePool,
    migrate::{MigrateError, Migrator},
};
use std::time::{Duration, Instant};

static MARIADB: Migrator = sqlx::migrate!("migrations/mariadb");
static SQLITE: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long another replica is given to finish its migration before it is taken for dead.
const OTHER_REPLICA_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn run(db: &Db) -> Result<(), StoreError> {
    match db {
        Db::Lite { writer, .. } => run_sqlite(writer).await.map_err(explain),
        Db::Maria(hosts) => {
            let mut problem = StoreError::Unavailable("no database host answers".into());
            for pool in hosts.pools() {
                match run_maria(pool).await {
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
async fn run_maria(pool: &MySqlPool) -> Result<(), StoreError> {
    let started = Instant::now();
    let mut cleared = false;
    loop {
        let error = match MARIADB.run(pool).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let waited_enough = started.elapsed() >= OTHER_REPLICA_MAX;
        match (&error, explain_fault(&error)) {
            (MigrateError::Dirty(version), _) if waited_enough && !cleared => {
                tracing::warn!(version, "an earlier start died within this migration; it is run again");
                sqlx::query("DELETE FROM _sqlx_migrations WHERE success = FALSE")
                    .execute(pool)
                    .await
                    .map_err(|error| StoreError::Migration(error.to_string()))?;
                cleared = true;
            }
            (MigrateError::Dirty(_), _) | (_, Some(Fault::Retry(_))) if !waited_enough => {}
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
                Some(1213 | 1205 | 1020) => Some(Fault::Retry(refusal.message().into())),
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
