//! Programs that are started for a measurement: where they are, how they end with this one, and what they said last.

use crate::broken::{Broken, Context as _};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};
use tokio::process::Command;

/// A program that was built.
///
/// # Errors
/// When it was not.
pub fn program(bin_dir: &Path, name: &str) -> Result<PathBuf, Broken> {
    let path = bin_dir.join(name);
    path.canonicalize()
        .context(&path.display().to_string())
        .map_err(|error| error.hint("cargo xtask bench builds it; or: cargo build --release"))
}

/// A command whose process gets SIGKILL when this process ends, however it ends.
pub fn dies_with_us(program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).kill_on_drop(true);
    command
}

/// The last lines of a log.
pub fn log_tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
