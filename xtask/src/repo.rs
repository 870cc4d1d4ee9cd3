//! Where things are: the repository, its files, the directory that holds the built programs.

use crate::{
    failure::{Failure, Outcome, failed_to},
    process::capture,
};
use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or_else(|| Path::new("/"))
}

/// Where cargo puts this profile's programs (`debug`, `release`), next to xtask's own.
///
/// # Errors
/// Without /proc.
pub fn program_directory(profile: &str) -> Outcome<PathBuf> {
    let own = env::current_exe().map_err(failed_to("find xtask's own file"))?;
    let target = own.parent().and_then(Path::parent);
    let target =
        target.ok_or_else(|| Failure::new(format!("{} is in no target directory", own.display())))?;
    Ok(target.join(profile))
}

/// Every file of the repository that is not ignored, also what is not committed yet; relative to the root.
///
/// # Errors
/// When this is no git repository.
pub fn files() -> Outcome<Vec<PathBuf>> {
    let list = capture(
        Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root()),
    )?;
    let paths = list.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from);
    Ok(paths.filter(|path| root().join(path).is_file()).collect())
}
