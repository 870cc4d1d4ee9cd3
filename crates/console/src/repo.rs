//! The root of the repository, and the directory that holds the built programs.

use crate::failure::{Failure, Outcome, failed_to};
use std::{
    env,
    path::{Path, PathBuf},
};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or_else(|| Path::new("/"))
}

/// The directory of this profile's programs (`debug`, `release`), next to that of the running one.
///
/// # Errors
/// Without /proc.
pub fn program_directory(profile: &str) -> Outcome<PathBuf> {
    let own = env::current_exe().map_err(failed_to("find the file of this program"))?;
    let target = own.parent().and_then(Path::parent);
    let target =
        target.ok_or_else(|| Failure::new(format!("{} is in no target directory", own.display())))?;
    Ok(target.join(profile))
}
