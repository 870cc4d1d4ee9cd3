//! A user's home directory, and `orion` as that user runs it.

use crate::{FakeApi, program, write_program};
use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A user's home directory, perhaps with a session in it.
pub struct Home {
    directory: tempfile::TempDir,
}

/// The end of a command: its status and its output.
#[derive(Debug)]
pub struct Ended {
    /// The exit status; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// A home without a session.
    ///
    /// # Panics
    /// Without a temporary directory.
    #[must_use]
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// A home whose user is logged in at `api` as alice, with the token `t0ken`.
    ///
    /// # Panics
    /// When the session cannot be written.
    #[must_use]
    pub fn logged_in(api: &FakeApi) -> Self {
        let home = Self::new();
        let config = home.config("");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config).expect("a directory");
        let session = serde_json::json!({"api": api.url(), "user": "alice", "token": "t0ken"});
        fs::write(home.config("session.json"), session.to_string()).expect("a session");
        home
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The path of a file of `orion` in this home.
    #[must_use]
    pub fn config(&self, name: &str) -> PathBuf {
        self.directory.path().join(".config/orion").join(name)
    }

    /// `orion ARGUMENTS…` of this user, with nothing of the test's own environment but PATH.
    ///
    /// # Panics
    /// When `orion` has not been built.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("orion"));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = self.directory.path().join("bin");
        let path =
            std::env::join_paths(std::iter::once(own).chain(std::env::split_paths(&path))).expect("a PATH");
        command.args(arguments).env_clear().env("HOME", self.directory.path()).env("PATH", path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `orion ARGUMENTS…` to its end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments))
    }

    /// The same, with this on its standard input.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("orion starts");
        // Whoever refuses before it reads leaves a broken pipe.
        let written = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        assert!(written.is_ok() || written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe));
        child.wait_with_output().expect("orion ends").into()
    }

    /// Puts a program of this user first in the PATH.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn program(&self, name: &str, script: &str) {
        let directory = self.directory.path().join("bin");
        fs::create_dir_all(&directory).expect("a directory");
        write_program(&directory.join(name), script);
    }
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn ended(mut command: Command) -> Ended {
    command.output().expect("a command starts").into()
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
