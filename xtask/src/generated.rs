//! What is generated from the code, and kept beside it: the OpenAPI document, the TypeScript client's types.
//!
//! Lives here: what is generated, and that it is what the code gives. Does not live here: node with its packages
//! ([`client`]).

mod client;

use crate::{install, test::cargo};
use orion_console::{
    Failure, Outcome, failed_to,
    process::{capture, run},
    repo::{program_directory, root},
    terminal,
};
use std::{fs, path::Path, process::Command};

const DOCUMENT: &str = "web/api/openapi.json";
const TYPES: &str = "web/api/schema.d.ts";

/// All of it: may be longer than what people write.
pub const FILES: [&str; 2] = [DOCUMENT, TYPES];

/// Writes all of it anew.
///
/// # Errors
/// When something cannot be installed, built or written.
pub fn generate() -> Outcome {
    install::install_missing(install::Use::Client)?;
    build()?;
    for (path, text) in generated()? {
        let file = root().join(path);
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            terminal::note(&format!("{path} stays as it is"));
            continue;
        }
        fs::write(file, text).map_err(failed_to(format!("write {path}")))?;
        terminal::good(&format!("{path} is written"));
    }
    Ok(())
}

/// [`check`] of an `orion` that is built now.
pub fn build_and_check() -> Outcome {
    build()?;
    check()
}

/// Whether the repository has what the code gives, by the `orion` that was built last; then the generated client
/// is compiled, and tried against a real `orion up`.
///
/// # Errors
/// Names what differs, or what the compiler or the client said.
pub fn check() -> Outcome {
    install::install_missing(install::Use::Client)?;
    let mut old = Vec::new();
    for (path, text) in generated()? {
        if !fs::read_to_string(root().join(path)).is_ok_and(|known| known == text) {
            old.push(path);
        }
    }
    if !old.is_empty() {
        let what = format!("the code gives another {}", old.join(", "));
        return Err(Failure::new(what).hint("cargo xtask gen, look at the difference, and commit it"));
    }
    client::compile()?;
    client::try_out(&orion()?)
}

fn build() -> Outcome {
    run(&mut cargo(&["build", "--package", "orion-cli"]))
}

/// Paths and contents.
fn generated() -> Outcome<[(&'static str, String); 2]> {
    let text = capture(Command::new(orion()?).arg("openapi"))?;
    let types = client::types(&text)?;
    Ok([(DOCUMENT, text), (TYPES, types)])
}

fn orion() -> Outcome<std::path::PathBuf> {
    Ok(program_directory("debug")?.join("orion"))
}

/// A directory of this task below cargo's own.
fn work_directory(name: &str) -> Outcome<std::path::PathBuf> {
    let debug = program_directory("debug")?;
    let path = debug.parent().unwrap_or(Path::new("target")).join("api").join(name);
    fs::create_dir_all(&path).map_err(failed_to(format!("make {}", path.display())))?;
    Ok(path)
}
