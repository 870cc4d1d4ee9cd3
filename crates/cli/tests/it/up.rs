//! `orion up` by itself: what it refuses to start on, and what it leaves on disk.

use orion_testkit::Home;
use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

/// A running `orion up` that goes with the test.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn up(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orion"));
    command.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(data_dir);
    command
        .env_remove("ORION_MASTER_KEY")
        .env_remove("ORION_DATABASE_URL")
        .env_remove("ORION_ADMIN_PASSWORD");
    command
}

fn started(data_dir: &Path) -> Up {
    let mut child = up(data_dir).stderr(Stdio::piped()).spawn().expect("orion starts");
    let stderr = BufReader::new(child.stderr.take().expect("piped"));
    let running = Up(child);
    let mut seen = String::new();
    for line in stderr.lines().map_while(Result::ok) {
        if line.starts_with("orion is up at http://127.0.0.1:") {
            return running;
        }
        seen += &line;
        seen.push('\n');
    }
    panic!("orion up ended: {seen}");
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_data_directory_is_for_one_process_and_is_free_again_after_a_kill() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = started(dir.path());
    let said = refused(&up(dir.path()).output().expect("it runs"));
    assert!(said.contains("another orion is running on") && said.contains("hint:"), "{said}");
    drop(first);
    started(dir.path());
}

#[test]
fn database_and_master_key_are_for_their_owner_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    started(&data);
    let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for file in ["master.key", "orion.db", "orion.lock"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
}

#[test]
fn another_master_key_is_refused_and_says_so() {
    let dir = tempfile::tempdir().expect("a directory");
    started(dir.path());
    let other = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let said = refused(&up(dir.path()).env("ORION_MASTER_KEY", other).output().expect("it runs"));
    assert!(said.contains("does not open with this ORION_MASTER_KEY"), "{said}");
    let said = refused(&up(dir.path()).env("ORION_MASTER_KEY", "c2hvcnQ=").output().expect("it runs"));
    assert!(said.contains("ORION_MASTER_KEY has 5 bytes, not 32"), "{said}");
}

#[test]
fn a_port_that_is_taken_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("it has one").to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_orion"));
    command.args(["up", "--listen", &address, "--data-dir"]).arg(dir.path());
    let said = refused(&command.output().expect("it runs"));
    assert!(said.contains(&format!("cannot listen on {address}")) && said.contains("--listen"), "{said}");
}

/// An operator whose shell has not the services' settings must not be told that all is done.
#[test]
fn admin_commands_make_no_database_and_name_the_one_that_they_work_on() {
    let home = Home::new();
    let admin = |data: Option<&str>, words: &[&str]| {
        let words: Vec<&str> = ["admin"].iter().chain(words).copied().collect();
        let data: Vec<&str> = data.iter().flat_map(|data| ["--data-dir", *data]).collect();
        home.run_with_input(&[words, data].concat(), "chief of all nodes\n")
    };
    let data = home.config("server").display().to_string();
    let create = ["create", "chief", "--password-stdin"];
    for data in [None, Some(data.as_str())] {
        for words in [&create[..], &["after-restore"]] {
            let refused = admin(data, words);
            assert_eq!(refused.code, Some(1), "{words:?}: {refused:?}");
            assert!(refused.err.starts_with("error: there is no database /"), "{words:?}: {refused:?}");
            assert!(refused.err.contains("hint: ") && refused.err.contains("--data-dir"), "{refused:?}");
        }
    }
    let made = std::fs::read_dir(home.path()).expect("a home").count();
    assert_eq!(made, 0, "nothing is made");
    drop(started(Path::new(&data)));
    let done = admin(Some(&data), &create);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains(&format!("the database is {data}/orion.db\n")), "{done:?}");
}
