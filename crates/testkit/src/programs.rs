//! The programs of this workspace, as cargo has built them.

use std::path::PathBuf;

/// A built program (`orion`, `orion-agent`, `orion-control-plane`, `orion-scheduler`): in `ORION_BIN_DIR`, or in
/// the directory of cargo's profile that the running test belongs to. It is as old as its last build: cargo
/// builds the programs of a package before that package's own tests only.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("ORION_BIN_DIR").map_or_else(profile_directory, PathBuf::from).join(name);
    assert!(
        path.is_file(),
        "{} has not been built\nhint: cargo build, then run the test again",
        path.display()
    );
    path
}

/// `target/debug`, of a test program `target/debug/deps/it-0123456789abcdef`.
fn profile_directory() -> PathBuf {
    let own = std::env::current_exe().expect("/proc is mounted");
    let directory = own.ancestors().nth(2).expect("a test program is in the directory deps of its profile");
    directory.to_owned()
}
