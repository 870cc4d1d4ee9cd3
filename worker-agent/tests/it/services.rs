//! The services' files in `deploy/`: what systemd's own tools and a shell make of them. That the agent works
//! as confined as its unit says is tested by `boot.rs`.

use crate::agent::{binary, run};
use std::{fs, path::PathBuf, process::Command};

const UNITS: [(&str, u32); 3] = [
    // Exposure at most, in tenths: root with /etc to write, and processes to kill.
    ("orion-agent", 30),
    ("orion-control-plane", 15),
    ("orion-scheduler", 15),
];

fn deploy(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    for (name, _) in UNITS {
        let dir = tempfile::tempdir().unwrap();
        let text = fs::read_to_string(deploy(&format!("systemd/{name}.service"))).unwrap();
        let program = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let program = program.split(' ').next().unwrap();
        assert!(program.ends_with(name), "{program}");
        // It asks whether the program is there.
        let unit = dir.path().join(format!("{name}.service"));
        fs::write(&unit, text.replace(program, &binary())).unwrap();
        let done = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&unit).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        let about_it: Vec<_> = said.lines().filter(|line| line.contains(name)).collect();
        assert!(done.status.success() && about_it.is_empty(), "{said}");
    }
}

#[test]
fn the_units_expose_little() {
    for (name, most) in UNITS {
        let unit = deploy(&format!("systemd/{name}.service"));
        let threshold = format!("--threshold={most}");
        let args = ["security", "--offline=yes", "--no-pager", &threshold, unit.to_str().unwrap()];
        let done = Command::new("systemd-analyze").args(args).output().unwrap();
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stdout));
    }
    // The check itself can fail.
    let open = tempfile::tempdir().unwrap();
    let unit = open.path().join("open.service");
    fs::write(&unit, "[Service]\nExecStart=/bin/true\n").unwrap();
    let args = ["security", "--offline=yes", "--no-pager", "--threshold=30", unit.to_str().unwrap()];
    assert!(!Command::new("systemd-analyze").args(args).output().unwrap().status.success());
}

#[test]
fn the_scripts_are_understood_by_a_plain_shell() {
    for script in ["openrc/orion-agent", "container/agent-entrypoint.sh"] {
        let script = deploy(script);
        run("sh", &["-n", script.to_str().unwrap()]);
        run("busybox", &["sh", "-n", script.to_str().unwrap()]);
    }
}
