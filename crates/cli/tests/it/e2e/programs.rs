//! The built programs beside `orion`.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, PoisonError},
};

/// A program of the workspace, whose package has its name: in `ORION_BIN_DIR`, or beside `orion`, where it is
/// built if it is missing.
pub fn program(name: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let orion = Path::new(env!("CARGO_BIN_EXE_orion"));
    let beside = orion.parent().expect("a directory").to_owned();
    let path = std::env::var_os("ORION_BIN_DIR").map_or(beside, PathBuf::from).join(name);
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo).args(["build", "--package", name, "--bin", name]).status();
        assert!(built.expect("cargo starts").success(), "{name} does not build");
    }
    path
}
