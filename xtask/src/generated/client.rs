//! The TypeScript client: node's packages, the types, the compiler, and a program that uses them.

use super::work_directory;
use orion_console::{
    Failure, Outcome, failed_to,
    process::{capture, run},
    repo::root,
};
use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Text that `orion up` prints before its address when it listens.
const IS_UP: &str = "orion is up at ";

fn home() -> PathBuf {
    root().join("web/api")
}

/// A program of node's packages, in their directory; they are installed first, as the lock file has them.
fn tool(name: &str) -> Outcome<Command> {
    let modules = home().join("node_modules");
    let changed = |path: &Path| fs::metadata(path).and_then(|about| about.modified());
    // npm writes this file last.
    let installed = changed(&modules.join(".package-lock.json"));
    let wanted = changed(&home().join("package-lock.json")).map_err(failed_to("find package-lock.json"))?;
    if !installed.is_ok_and(|installed| installed >= wanted) {
        run(Command::new("npm").args(["ci", "--no-progress", "--ignore-scripts"]).current_dir(home()))?;
    }
    let mut command = Command::new(modules.join(".bin").join(name));
    command.current_dir(home());
    Ok(command)
}

/// The client's types for this OpenAPI document.
///
/// # Errors
/// When the packages cannot be installed, or the document is none.
pub fn types(document: &str) -> Outcome<String> {
    let directory = work_directory("types")?;
    let (from, to) = (directory.join("openapi.json"), directory.join("schema.d.ts"));
    fs::write(&from, document).map_err(failed_to(format!("write {}", from.display())))?;
    let mut generator = tool("openapi-typescript")?;
    generator.arg(&from).arg("--empty-objects-unknown").arg("--output").arg(&to);
    capture(&mut generator)?;
    fs::read_to_string(&to).map_err(failed_to(format!("read {}", to.display())))
}

/// Compiles the program that uses the types.
pub fn compile() -> Outcome {
    let built = work_directory("smoke")?;
    run(tool("tsc")?.arg("--project").arg(".").arg("--outDir").arg(&built))?;
    // node looks for packages from the program's place upwards, and for the kind of its modules.
    fs::copy(home().join("package.json"), built.join("package.json"))
        .map_err(failed_to("copy package.json"))?;
    let modules = built.join("node_modules");
    if fs::symlink_metadata(&modules).is_err() {
        std::os::unix::fs::symlink(home().join("node_modules"), &modules)
            .map_err(failed_to("link node_modules"))?;
    }
    Ok(())
}

/// Runs the compiled program against a control plane of its own.
///
/// # Errors
/// When the control plane does not start, or the program ends badly.
pub fn try_out(orion: &Path) -> Outcome {
    let data = work_directory("data")?;
    fs::remove_dir_all(&data).map_err(failed_to(format!("empty {}", data.display())))?;
    let mut up = Command::new(orion);
    up.args(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(&data).stderr(Stdio::piped());
    for name in ["ORION_MASTER_KEY", "ORION_DATABASE_URL", "ORION_ADMIN_PASSWORD", "ORION_CONFIG"] {
        up.env_remove(name);
    }
    let mut running = Running(up.spawn().map_err(failed_to("start orion up"))?);
    let stderr = running.0.stderr.take().ok_or_else(|| Failure::new("orion up has no standard error"))?;
    let mut lines = BufReader::new(stderr).lines();
    let mut said = String::new();
    let address = loop {
        let Some(Ok(line)) = lines.next() else {
            return Err(Failure::new(format!("orion up ended before it was up:{said}")));
        };
        if let Some((_, rest)) = line.split_once(IS_UP) {
            break rest.split_whitespace().next().unwrap_or_default().to_owned();
        }
        said += &format!("\n{line}");
    };
    // What it says from now on is nobody's; a pipe that nobody empties would stop it.
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    let program = work_directory("smoke")?.join("smoke.js");
    run(Command::new("node").arg(program).arg(address))
}

/// A program that is ended with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
