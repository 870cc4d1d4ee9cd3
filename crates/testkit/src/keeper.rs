//! A small process beside the test process that cleans up after it, however the test process ends (also by
//! SIGKILL or Ctrl-C, and for statics, which Rust never drops): it waits for the end of its standard input,
//! whose other end only the test process holds.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

/// Runs a command when the test process ends without having called [`Keeper::dismiss`].
pub(crate) struct DeadlineEnforcer {
    child: Child,
}

impl DeadlineEnforcer {
    /// `cleanup` is the command; `held` (an open, locked file) stays open, and so locked, until the command
    /// is done.
    pub(crate) fn start(cleanup: &Command, held: Option<&File>) -> Self {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"read -r dismissed || exec 3>&2 "$@" 2>/dev/null"#, "orion-testkit-keeper"])
            .arg(cleanup.get_program())
            .args(cleanup.get_args())
            .envs(cleanup.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0);
        if let Some(held) = held {
            command.stderr(held.try_clone().expect("one more file descriptor"));
        }
        Self { child: command.spawn().expect("/bin/sh runs") }
    }

    /// The caller has cleaned up itself.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut stdin) = self.child.stdin.take() {
            // a keeper that is gone already has nothing to be told
            drop(stdin.write_all(b"dismissed\n"));
        }
        drop(self.child.wait());
    }
}
