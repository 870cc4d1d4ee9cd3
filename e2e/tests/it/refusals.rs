//! What the services refuse to start with, and how they say so.

use super::services::{MASTER_KEY, OTHER_MASTER_KEY, Services};
use orion_testkit::{MariaDb, program};
use std::{
    fs,
    process::{Command, Output},
};

/// `EX_CONFIG` of sysexits.h: a person has to change something.
const WRONG_SETTINGS: i32 = 78;

fn service(name: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(program(name))
        .args(arguments)
        .env_remove("ORION_CONFIG")
        .envs(environment.to_vec());
    command.output().expect("timeout (Debian: coreutils) starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const BOTH: [&str; 2] = ["orion-control-plane", "orion-scheduler"];

#[test]
fn a_service_says_which_setting_is_wrong_and_ends_with_ex_config() {
    let database = MariaDb::shared().create_database();
    let good = [("ORION_DATABASE_URL", database.url.as_str()), ("ORION_MASTER_KEY", MASTER_KEY)];
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[], "ORION_DATABASE_URL: is not set"),
        (&[good[0]], "ORION_MASTER_KEY: is not set; make one with `openssl rand -base64 32`"),
        (&[good[0], ("ORION_MASTER_KEY", "c2hvcnQ=")], "ORION_MASTER_KEY has 5 bytes, not 32"),
        (&[good[1], ("ORION_DATABASE_URL", "sqlite:x.db")], "SQLite is for one process"),
        (&[good[1], ("ORION_DATABASE_URL", "postgres://x/y")], "a database URL starts with"),
        (&[good[0], good[1], ("ORION_LOG_FORMAT", "xml")], "ORION_LOG_FORMAT: 'xml' is neither"),
    ];
    for name in BOTH {
        for (environment, expected) in cases {
            let output = service(name, environment, &[]);
            assert!(said(&output).contains(expected), "{name} {environment:?}: {}", said(&output));
            assert_eq!(output.status.code(), Some(WRONG_SETTINGS), "{name} {environment:?}");
        }
    }
}

#[test]
fn an_unknown_key_in_the_file_of_settings_is_refused_with_the_one_that_is_meant() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("orion.toml");
    fs::write(&file, "databse_url = 'mysql://x'\n").expect("own directory");
    for name in BOTH {
        let output = service(name, &[], &["--config", file.to_str().expect("UTF-8")]);
        assert!(said(&output).contains("is `database_url` (ORION_DATABASE_URL) meant?"), "{}", said(&output));
        assert_eq!(output.status.code(), Some(WRONG_SETTINGS));
        let output = service(name, &[("ORION_CONFIG", "/does/not/exist.toml")], &[]);
        assert!(said(&output).contains("/does/not/exist.toml: cannot be read"), "{}", said(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_belongs_to_another_master_key_is_refused() {
    let services = Services::new();
    let first = services.control_plane();
    first.answers().await;
    let other =
        [("ORION_DATABASE_URL", services.database().url.as_str()), ("ORION_MASTER_KEY", OTHER_MASTER_KEY)];
    for name in BOTH {
        let output = service(name, &other, &["--check"]);
        assert!(said(&output).contains("does not open with this ORION_MASTER_KEY"), "{}", said(&output));
        assert_eq!(output.status.code(), Some(WRONG_SETTINGS));
    }
    let same = [other[0], ("ORION_MASTER_KEY", MASTER_KEY)];
    let output = service("orion-control-plane", &same, &["--check"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "settings, database and keys are in order\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_a_newer_version_is_refused_and_left_as_it_is() {
    let services = Services::new();
    let first = services.control_plane();
    first.answers().await;
    let database = services.database();
    let in_database = |sql: &str| MariaDb::shared().execute(&format!("USE {}; {sql}", database.name));
    in_database(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
         VALUES (9999, 'future', TRUE, 'x', 1)",
    );
    let before = in_database("SELECT COUNT(*), MAX(version) FROM _sqlx_migrations");
    let environment = [("ORION_DATABASE_URL", database.url.as_str()), ("ORION_MASTER_KEY", MASTER_KEY)];
    for name in BOTH {
        let output = service(name, &environment, &[]);
        assert!(said(&output).contains("it was made by a newer version of Orion"), "{}", said(&output));
        assert_eq!(output.status.code(), Some(WRONG_SETTINGS));
    }
    assert_eq!(in_database("SELECT COUNT(*), MAX(version) FROM _sqlx_migrations"), before);
}
