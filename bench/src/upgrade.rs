//! How long a database of an older version with a long history takes to come up: from its opening until the schema is
//! this version's.

use crate::{
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    plan::{Plan, UPGRADE},
    progress::Progress,
    years::{
        data::{batches, numbers, padded},
        side::{Engine, Sql},
    },
};
use orion_store::{Store, StoreConfig};
use orion_testkit::MariaDb;
use sqlx::{AssertSqlSafe, MySqlPool, SqlitePool};
use std::time::Instant;

/// The dumps that the store's tests bring up, too.
const OF_MARIADB: &str = include_str!("../../crates/store/tests/fixtures/schema-21/mariadb.sql");
const OF_SQLITE: &str = include_str!("../../crates/store/tests/fixtures/schema-21/sqlite.sql");
/// Longest time to come up, in seconds.
const MAX_S: f64 = 120.0;
/// When the first event was, in microseconds.
const BEGIN: i64 = 1_700_000_000_000_000;
/// Above every uid in the dumps.
const FIRST_UID: usize = 1_000_000;

/// `upgrade_mariadb_s` and `upgrade_sqlite_s`.
///
/// # Errors
/// When a database cannot be made or does not come up, or an event is gone afterwards.
pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Broken> {
    let mut figures = Vec::new();
    for (name, engine) in UPGRADE.into_iter().zip([Engine::MariaDb, Engine::Sqlite]) {
        if plan.any(&[name]) {
            figures.push(measure_on(name, engine, plan.upgrade_events).await?);
        }
    }
    Ok(figures)
}

async fn measure_on(name: &'static str, engine: Engine, events: usize) -> Result<Figure, Broken> {
    let data = tempfile::tempdir().context("a temporary directory")?;
    let server = matches!(engine, Engine::MariaDb).then(MariaDb::start);
    let (url, dump) = match &server {
        Some(server) => (server.create_database().url, OF_MARIADB),
        None => (format!("sqlite:{}", data.path().join("orion.db").display()), OF_SQLITE),
    };
    let sql = match engine {
        Engine::MariaDb => Sql::MariaDb(MySqlPool::connect(&url).await.context("the database")?),
        Engine::Sqlite => {
            Sql::Sqlite(SqlitePool::connect(&format!("{url}?mode=rwc")).await.context("the database")?)
        }
    };
    let progress = Progress::start(&format!("{engine}: an older database with {events} events"), 0);
    sql.run(dump).await?;
    fill(&sql, events).await?;
    let before = count(&sql, "events").await?;
    drop(progress);
    let mut samples = Samples::default();
    let began = Instant::now();
    let config = StoreConfig { urls: vec![url], connections_max: 4 };
    drop(Store::open(&config).await.context("the older database comes up")?);
    samples.push(began.elapsed().as_secs_f64());
    let after = count(&sql, "events").await?;
    if after != before || count(&sql, "holds").await? == 0 {
        return Err(Broken::new(format!("{before} events became {after}, or no lease holds its node")));
    }
    Ok(Figure {
        name,
        unit: "s",
        samples,
        floor: None,
        goal: Goal::Below(MAX_S),
        note: format!(
            "{engine}: a database of schema 21 with {before} events and a tenth as many leases comes up"
        ),
    })
}

/// Appends events, and leases that are over, as the old schema has them.
async fn fill(sql: &Sql, events: usize) -> Result<(), Broken> {
    for (from, to) in batches(events / 10) {
        let (numbers, pad) = (numbers(sql, from, to), padded(sql, "n"));
        let at = format!("{BEGIN} + n");
        sql.run(&format!(
            "INSERT INTO leases (uid, user_id, client_user, account_uid, password_hash, state, state_since, \
             state_reason, node_id, leased_from, leased_until, on_node_loss, tags, request_key, finish_after_crash, \
             ended_at) SELECT {pad}, 2, 'alice', {FIRST_UID} + n, '', 'ended', {at}, '{{\"why\":\"released\"}}', 1, {at}, \
             {at}, 'migrate', '[]', {pad}, 0, {at} FROM {numbers}"
        ))
        .await?;
    }
    for (from, to) in batches(events) {
        let (numbers, pad) = (numbers(sql, from, to), padded(sql, "n"));
        sql.run(&format!(
            "INSERT INTO events (uid, at, kind, lease_id, node_id, user_id, data) \
             SELECT {pad}, {BEGIN} + n, 'lease.extended', 5, 1, 2, '{{}}' FROM {numbers}"
        ))
        .await?;
    }
    Ok(())
}

async fn count(sql: &Sql, table: &str) -> Result<i64, Broken> {
    let query = AssertSqlSafe(format!("SELECT COUNT(*) FROM {table}"));
    match sql {
        Sql::MariaDb(pool) => sqlx::query_scalar(query).fetch_one(pool).await,
        Sql::Sqlite(pool) => sqlx::query_scalar(query).fetch_one(pool).await,
    }
    .context("a count")
}
