//! The built `orion`. First against an API that follows a script: what it sends, what it shows, how it ends.
//! Then, in [`e2e`], through the real API, a real database and real nodes.

mod account;
mod brake;
mod completions;
mod e2e;
mod events;
mod fake_api;
mod leases;
mod nodes;
mod rent;
mod ssh;
mod up;
mod webhooks;

use fake_api::FakeApi;
use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
    process::{Command, Stdio},
};

/// A user's home directory, perhaps with a session in it.
struct Home {
    directory: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Home {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A home whose user is logged in at `api` as alice, with the token `t0ken`.
    fn logged_in(api: &FakeApi) -> Self {
        let home = Self::new();
        let config = home.config("");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config).expect("a directory");
        let session = serde_json::json!({"api": api.url(), "user": "alice", "token": "t0ken"});
        fs::write(home.config("session.json"), session.to_string()).expect("a session");
        home
    }

    fn config(&self, name: &str) -> PathBuf {
        self.directory.path().join(".config/orion").join(name)
    }

    /// `orion ARGUMENTS…` of this user, with nothing of the test's own environment but PATH.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orion"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.directory.path().join("bin");
        let path =
            std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).expect("a PATH");
        command.args(arguments).env_clear().env("HOME", self.directory.path()).env("PATH", path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments))
    }

    fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("orion starts");
        // Whoever refuses before it reads leaves a broken pipe.
        let written = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        assert!(written.is_ok() || written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe));
        finished(child.wait_with_output().expect("orion ends"))
    }

    /// Puts a program of this user first in the PATH.
    fn program(&self, name: &str, script: &str) {
        let directory = self.directory.path().join("bin");
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join(name);
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
}

fn ended(mut command: Command) -> Ended {
    finished(command.output().expect("orion starts"))
}

fn finished(output: std::process::Output) -> Ended {
    Ended {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
