//! A worker container: `deploy/container/agent-entrypoint.sh` as process 1.

use crate::{
    agent::{Lease, run, wait_for},
    control_plane::{ControlPlane, JOIN_TOKEN},
    machine::Machine,
};
use std::{path::PathBuf, process::Command};

const ENTRYPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/container/agent-entrypoint.sh");

/// Starts a machine with the agent where an image has it, and no host keys.
fn start(shell: &str, control_plane: &ControlPlane, port: u16) -> Machine {
    let prepare = format!(
        "cp {ENTRYPOINT} opt/agent-entrypoint.sh; cp opt/orion-agent usr/local/sbin/; rm etc/ssh/ssh_host_*\n\
         printf 'Port {port}\\nListenAddress 127.0.0.1\\n' >etc/ssh/sshd_config.d/10-test.conf"
    );
    let init = format!(
        "export API_ENDPOINT={} ORION_JOIN_TOKEN={JOIN_TOKEN} MY_HOST_PORT={port}; exec {shell} /opt/agent-entrypoint.sh",
        control_plane.url()
    );
    let mut machine = Machine::start([&prepare, &init]);
    machine.sshd_port = port;
    machine
}

fn sshd_pid(machine: &Machine) -> Option<String> {
    let done = machine.try_sh("pid=$(cat /run/sshd.pid) && kill -0 $pid && echo $pid");
    done.status.success().then(|| String::from_utf8(done.stdout).unwrap().trim().to_owned())
}

fn a_container_works(shell: &str) {
    let control_plane = ControlPlane::start();
    let machine = start(shell, &control_plane, crate::agent::free_port());
    control_plane.wait_until("a link and an sshd", |world| world.links_taken == 1 && world.sshd_is_up());
    assert!(control_plane.world().registrations[0].body["host_keys"].as_array().unwrap().len() >= 2);

    // A login can interrupt its programs and sees nothing of the container's secrets.
    let sshd = wait_for("sshd", || sshd_pid(&machine));
    let ignored = machine.sh(&format!("sed -n 's/^SigIgn:[[:space:]]*//p' /proc/{sshd}/status"));
    assert_eq!(u64::from_str_radix(ignored.trim(), 16).unwrap() & 0b10, 0, "sshd ignores SIGINT");
    assert!(!machine.sh(&format!("tr '\\0' '\\n' </proc/{sshd}/environ")).contains(JOIN_TOKEN));

    // The deadline is kept, and what it ends does not stay behind as a zombie.
    machine.add_account("alice", 200_017);
    assert!(machine.can_log_in("alice"));
    machine.sh(
        "for i in 1 2 3; do setsid setpriv --reuid alice --regid alice --clear-groups sleep 1000 >/dev/null 2>&1 & done",
    );
    wait_for("alice's processes", || (machine.try_sh("pgrep -c -u alice").stdout == b"3\n").then_some(()));
    machine.write_lease(&Lease::ending("alice", 200_017, 1));
    wait_for("alice is locked", || machine.is_locked("alice").then_some(()));
    assert!(!machine.can_log_in("alice"));
    wait_for("nothing of alice is left, not even zombies", || {
        (!machine.try_sh("pgrep -u alice").status.success()).then_some(())
    });
    let zombies = || machine.try_sh("grep -l '^State:.Z' /proc/[0-9]*/status").status.success();
    machine.sh("(sh -c 'sleep 0.1 & sleep 0.1 & exit' >/dev/null 2>&1)");
    wait_for("there are no zombies", || (!zombies()).then_some(()));

    // Whatever is killed comes back.
    machine.sh("kill -KILL $(pgrep -xf 'orion-agent run')");
    control_plane.wait_until("a link after the agent was killed", |world| world.links_taken == 2);
    machine.sh(&format!("kill -KILL {sshd}"));
    wait_for("another sshd", || sshd_pid(&machine).filter(|pid| *pid != sshd));

    // The engine's stop lets the agent say goodbye.
    let goodbyes = control_plane.world().goodbyes;
    let init = machine.path("").display().to_string();
    run("kill", &["-TERM", init.split('/').nth(2).unwrap()]);
    control_plane.wait_until("a goodbye", |world| world.goodbyes > goodbyes);
    wait_for("the container has ended", || machine.has_ended().then_some(()));
}

#[test]
fn a_container_keeps_sshd_and_the_agent_running_and_leaves_no_zombies() {
    a_container_works("sh");
}

#[test]
fn a_container_works_with_the_shell_of_alpine() {
    a_container_works("busybox sh");
}

#[test]
fn a_container_without_settings_says_what_is_missing() {
    assert!(PathBuf::from(ENTRYPOINT).exists());
    for (settings, expected) in [
        (&[][..], "no control plane is named\nhint: set API_ENDPOINT"),
        (
            &[("API_ENDPOINT", "https://orion.example")][..],
            "there is no join token\nhint: set ORION_JOIN_TOKEN_FILE",
        ),
    ] {
        let mut command = Command::new("sh");
        command.arg(ENTRYPOINT).env_clear().env("PATH", "/usr/bin:/bin").envs(settings.iter().copied());
        let done = command.output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert!(done.status.code() == Some(64) && said.contains(expected), "{said}");
    }
}
