//! Whether the tables, columns, indexes and checks of this version are all there.
//!
//! On SQLite the whole text is compared with a database that the migrations make in memory; on MariaDB, where no
//! second database can be had, the names that init.sql gives (a test holds it equal to the migrations).

use crate::engine::{Db, Fault, Result, vals};
use orion_domain::doctor::{Check, Finding};
use sqlx::sqlite::SqlitePoolOptions;
use std::collections::BTreeSet;

const INIT_SQL: &str = include_str!("../../../../init.sql");

/// Returns findings of the parts of the schema that are missing or were changed.
pub(super) async fn missing(db: &Db) -> Result<Vec<Finding>> {
    let (wanted, found) = match db {
        Db::Maria(_) => (named_in(INIT_SQL), of_maria(db).await?),
        Db::Lite { .. } => (of_migrations().await?, of_sqlite(db).await?),
    };
    let finding =
        |what: &String| Finding::new(Check::Schema, format!("missing, or not as it should be: {what}"));
    Ok(wanted.difference(&found).map(finding).collect())
}

const OF_SQLITE: &str = "SELECT type || ' ' || name, COALESCE(sql, '') FROM sqlite_master \
                         WHERE name NOT LIKE '%sqlx%' ORDER BY 1";

async fn of_sqlite(db: &Db) -> Result<BTreeSet<String>> {
    Ok(lines(db.all::<(String, String)>(OF_SQLITE, vals![]).await?))
}

async fn of_migrations() -> Result<BTreeSet<String>> {
    let memory = SqlitePoolOptions::new()
        .max_connections(1)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect("sqlite::memory:")
        .await?;
    crate::engine::run_sqlite(&memory).await?;
    let rows = sqlx::query_as::<_, (String, String)>(OF_SQLITE).fetch_all(&memory).await?;
    Ok(lines(rows))
}

/// `table nodes: CREATE TABLE …`, on one line each.
fn lines(rows: Vec<(String, String)>) -> BTreeSet<String> {
    let line = |(what, sql): (String, String)| {
        let sql: Vec<&str> = sql.split_whitespace().collect();
        format!("{what}: {}", sql.join(" "))
    };
    rows.into_iter().map(line).collect()
}

async fn of_maria(db: &Db) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for sql in [
        "SELECT CONCAT('column ', table_name, '.', column_name) FROM information_schema.columns \
         WHERE table_schema = DATABASE()",
        "SELECT DISTINCT CONCAT(CASE non_unique WHEN 0 THEN 'unique ' ELSE '' END, 'index ', table_name, '.', \
         index_name) FROM information_schema.statistics WHERE table_schema = DATABASE()",
        "SELECT CONCAT('check ', table_name, '.', constraint_name) FROM information_schema.table_constraints \
         WHERE table_schema = DATABASE() AND constraint_type = 'CHECK'",
    ] {
        found.extend(db.all::<(String,)>(sql, vals![]).await?.into_iter().map(|(what,)| what));
    }
    Ok(found)
}

/// The columns, indexes and checks that the statements of init.sql make. One definition a line, as that file has it.
fn named_in(script: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut table = String::new();
    for line in script.lines().map(str::trim) {
        let line = line.replace("IF NOT EXISTS ", "").replace("ADD ", "");
        let words: Vec<&str> = line.split([' ', ',', '(', ';']).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            ["CREATE" | "ALTER", "TABLE", name, ..] => table = (*name).to_owned(),
            ["PRIMARY", "KEY", ..] => {
                names.insert(format!("unique index {table}.PRIMARY"));
            }
            ["DROP", "INDEX", "IF", "EXISTS", name, ..] => {
                names.remove(&format!("unique index {table}.{name}"));
                names.remove(&format!("index {table}.{name}"));
            }
            ["RENAME", "COLUMN", "IF", "EXISTS", name, "TO", new, ..] => {
                names.remove(&format!("column {table}.{name}"));
                names.insert(format!("column {table}.{new}"));
            }
            ["UNIQUE", "KEY", name, ..] => {
                names.insert(format!("unique index {table}.{name}"));
            }
            ["KEY", name, ..] => {
                names.insert(format!("index {table}.{name}"));
            }
            ["CONSTRAINT", name, ..] => {
                names.insert(format!("check {table}.{name}"));
            }
            ["COLUMN", name, ..] => {
                names.insert(format!("column {table}.{name}"));
            }
            [name, _, ..]
                if !name.starts_with(|first: char| first.is_ascii_digit())
                    && name
                        .bytes()
                        .all(|byte| byte.is_ascii_lowercase() || b"_0123456789".contains(&byte)) =>
            {
                names.insert(format!("column {table}.{name}"));
            }
            _ => {}
        }
    }
    names
}

impl From<sqlx::migrate::MigrateError> for Fault {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        Self::Store(crate::engine::explain(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn init_sql_is_read_line_by_line() {
        let names = named_in(INIT_SQL);
        for name in [
            "column leases.password_hash",
            "column nodes.drain_since",
            "unique index leases.leases_whole_node",
            "unique index settings.PRIMARY",
            "index nodes.nodes_drain",
            "check leases.leases_wiped",
            "check nodes.nodes_drain_times",
            "column nodes.whole_lease",
        ] {
            assert!(names.contains(name), "no {name}");
        }
        assert!(!names.contains("column nodes.lease_id"), "it was renamed");
        assert!(names.len() > 150, "{}", names.len());
    }
}
