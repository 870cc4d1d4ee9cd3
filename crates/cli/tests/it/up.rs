//! `orion up` by itself: what it refuses to start on, and what it leaves on disk.

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
