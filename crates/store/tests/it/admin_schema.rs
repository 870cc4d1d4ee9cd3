//! Migrations: repeated, at once, half done, of a newer version; and init.sql, which equals them.

use crate::{
    mariadb,
    world::{World, config, on_both},
};
use orion_store::{Store, StoreConfig, StoreError};
use sqlx::{Connection, Row, mysql::MySqlConnection};
use std::os::unix::fs::PermissionsExt;

on_both!(
    migrations_run_twice_without_harm,
    a_newer_schema_is_refused,
    a_schema_of_another_version_is_refused_and_left_alone_by_those_who_must_not_change_it,
);

async fn migrations_run_twice_without_harm(world: World) {
    world.user("alice").await;
    let again = Store::open(&config(&world.url)).await.unwrap();
    assert!(again.accounts().by_name("alice").await.unwrap().is_some());
}

const NEWER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                     VALUES (9999, 'future', TRUE, x'00', 1)";

async fn a_newer_schema_is_refused(world: World) {
    world.sql(NEWER).await.unwrap();
    let error = Store::open(&config(&world.url)).await.unwrap_err();
    assert!(matches!(error, StoreError::Migration(_)), "{error:?}");
    assert!(error.to_string().contains("newer version of Orion"), "{error}");
}

async fn a_schema_of_another_version_is_refused_and_left_alone_by_those_who_must_not_change_it(world: World) {
    let refusal = async || match Store::open_existing(&config(&world.url)).await {
        Err(error @ StoreError::Migration(_)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let migrations = async || world.count("SELECT COUNT(*) FROM _sqlx_migrations WHERE success = TRUE").await;
    world.user("alice").await;
    let store = Store::open_existing(&config(&world.url)).await.unwrap();
    assert!(store.accounts().by_name("alice").await.unwrap().is_some());
    let all = migrations().await;

    world.sql(NEWER).await.unwrap();
    assert!(refusal().await.contains("newer version of Orion"));
    world.sql("DELETE FROM _sqlx_migrations WHERE version = 9999").await.unwrap();
    world.sql("UPDATE _sqlx_migrations SET success = FALSE WHERE version = 21").await.unwrap();
    assert!(refusal().await.contains("older version of Orion"), "half done");
    world.sql("DELETE FROM _sqlx_migrations WHERE version = 21").await.unwrap();
    let undo = if world.is_maria() {
        "ALTER TABLE leases DROP INDEX leases_ended"
    } else {
        "DROP INDEX leases_ended"
    };
    world.sql(undo).await.unwrap();
    let older = refusal().await;
    assert!(older.contains("older version of Orion") && older.contains("start the new"), "{older}");
    assert_eq!(migrations().await, all - 1, "it was left alone");
    Store::open(&config(&world.url)).await.unwrap();
    assert_eq!(migrations().await, all);
    Store::open_existing(&config(&world.url)).await.unwrap();
    world.sql("UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1").await.unwrap();
    assert!(refusal().await.contains("its migration 1 is not the one of this version"));
    world.sql("DELETE FROM _sqlx_migrations").await.unwrap();
    assert!(refusal().await.contains("there is no Orion in this database"));
    world.sql("DROP TABLE _sqlx_migrations").await.unwrap();
    assert!(refusal().await.contains("there is no Orion in this database"));
}

#[tokio::test]
async fn a_sqlite_file_is_neither_made_nor_changed_by_those_who_must_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orion.db");
    let config = config(&format!("sqlite:{}", path.display()));
    let missing = Store::open_existing(&config).await.unwrap_err();
    assert!(matches!(missing, StoreError::Config(_)), "{missing:?}");
    assert!(!path.exists());
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let empty = Store::open_existing(&config).await.unwrap_err();
    assert!(empty.to_string().contains("there is no Orion in this database"), "{empty}");
    let after = std::fs::metadata(&path).unwrap();
    assert_eq!((after.len(), after.permissions().mode() & 0o777), (0, 0o640));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_migrate_once() {
    let server = tokio::task::spawn_blocking(mariadb::shared).await.unwrap();
    let url = server.create_database("at_once").await;
    let mut replicas = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let config = config(&url);
        replicas.spawn(async move { Store::open(&config).await.unwrap().is_healthy().await });
    }
    assert_eq!(replicas.join_all().await, [true; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_died_half_way_is_run_again() {
    let server = tokio::task::spawn_blocking(mariadb::shared).await.unwrap();
    let world = World::on(server).await;
    world.sql("UPDATE _sqlx_migrations SET success = FALSE WHERE version = 14").await.unwrap();
    world.sql("DELETE FROM _sqlx_migrations WHERE version > 14").await.unwrap();
    assert!(Store::open(&config(&world.url)).await.unwrap().is_healthy().await);
    assert_eq!(world.count("SELECT COUNT(*) FROM _sqlx_migrations WHERE success = FALSE").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_sql_equals_the_migrations() {
    let server = tokio::task::spawn_blocking(mariadb::shared).await.unwrap();
    let migrated = World::on(server).await;
    let by_hand = server.create_database("by_hand").await;
    let init = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../init.sql")).unwrap();
    let mut connection = MySqlConnection::connect(&by_hand).await.unwrap();
    for _ in 0..2 {
        let script = sqlx::AssertSqlSafe(init.clone());
        sqlx::raw_sql(script).execute(&mut connection).await.expect("init.sql runs, also twice");
    }
    let of_migrations = migrated.url.rsplit('/').next().unwrap().to_string();
    let (expected, found) =
        (schema(&mut connection, &of_migrations).await, schema(&mut connection, "by_hand").await);
    assert!(expected.len() > 150, "only {} facts about the schema", expected.len());
    assert_eq!(expected, found);
    assert!(Store::open(&config(&by_hand)).await.unwrap().is_healthy().await, "and the store starts on it");
}

/// Columns, indexes and checks, one line each.
async fn schema(connection: &mut MySqlConnection, database: &str) -> Vec<String> {
    let queries = [
        "SELECT CONCAT_WS(' ', table_name, column_name, ordinal_position, column_type, is_nullable, \
         column_default, collation_name, extra) FROM information_schema.columns \
         WHERE table_schema = ? AND table_name <> '_sqlx_migrations' ORDER BY 1",
        "SELECT CONCAT_WS(' ', table_name, index_name, non_unique, seq_in_index, column_name) \
         FROM information_schema.statistics WHERE table_schema = ? AND table_name <> '_sqlx_migrations' ORDER BY 1",
        "SELECT CONCAT_WS(' ', table_name, constraint_name, check_clause) \
         FROM information_schema.check_constraints WHERE constraint_schema = ? ORDER BY 1",
        "SELECT CONCAT_WS(' ', table_name, engine, table_collation) FROM information_schema.tables \
         WHERE table_schema = ? AND table_name <> '_sqlx_migrations' ORDER BY 1",
    ];
    let mut facts = Vec::new();
    for query in queries {
        let rows = sqlx::query(query).bind(database).fetch_all(&mut *connection).await.unwrap();
        facts.extend(
            rows.iter().map(|row| String::from_utf8_lossy(&row.get_unchecked::<Vec<u8>, _>(0)).into_owned()),
        );
    }
    facts
}

#[tokio::test]
async fn the_sqlite_file_is_private_also_when_it_was_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orion.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let store = Store::open(&config(&format!("sqlite:{}", path.display()))).await.unwrap();
    store.cluster().put_setting("x", "y").await.unwrap();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.file_name());
    }
}

#[tokio::test]
async fn a_wrong_configuration_is_told_at_once() {
    let two = vec!["sqlite:/tmp/a".to_string(), "sqlite:/tmp/b".to_string()];
    let wrong = [vec![], vec!["postgres://x".to_string()], two, vec!["sqlite:/nowhere/orion.db".to_string()]];
    for urls in wrong {
        let error = Store::open(&StoreConfig { urls: urls.clone(), connections_max: 5 }).await.unwrap_err();
        assert!(matches!(error, StoreError::Config(_)), "{urls:?}: {error:?}");
    }
    let server = tokio::task::spawn_blocking(mariadb::shared).await.unwrap();
    let stranger = server.url("mysql").replace("orion:orion", "orion:wrong");
    let error = Store::open(&config(&stranger)).await.unwrap_err();
    assert!(!error.is_unavailable(), "a wrong password does not heal by itself: {error:?}");
}

/// The service's own sessions cut a statement off after 4 s; a large table takes longer, and so does a lock.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_takes_longer_than_any_statement_may_is_waited_for() {
    let world = World::mariadb().await;
    world.sql("DELETE FROM _sqlx_migrations WHERE version = 30").await.unwrap();
    // Now the migration has something to change.
    world.sql("ALTER TABLE users DROP COLUMN placements").await.unwrap();
    let mut reader = MySqlConnection::connect(&world.url).await.unwrap();
    sqlx::raw_sql("BEGIN").execute(&mut reader).await.unwrap();
    sqlx::raw_sql("SELECT * FROM users").execute(&mut reader).await.unwrap();
    let (first, second) = (config(&world.url), config(&world.url));
    let opening = tokio::spawn(async move { tokio::join!(Store::open(&first), Store::open(&second)) });
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    assert!(!opening.is_finished(), "nothing is in its way");
    sqlx::raw_sql("COMMIT").execute(&mut reader).await.unwrap();
    let (first, second) = opening.await.unwrap();
    assert!(first.unwrap().is_healthy().await && second.unwrap().is_healthy().await);
}
