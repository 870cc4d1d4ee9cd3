//! From `install` to a machine that boots with the agent, and back to one that never had it.

use crate::{
    agent::{Lease, wait_for},
    control_plane::{CA, ControlPlane, JOIN_TOKEN},
    machine::{Boots, Machine},
};
use std::{fs, path::Path};

fn install(machine: &Machine, control_plane: &ControlPlane) -> String {
    machine.sh(&format!(
        "echo {JOIN_TOKEN} | /opt/orion-agent install --api {} --ssh-port {} --tags gpu",
        control_plane.url(),
        machine.sshd_port
    ))
}

/// The whole story under one init: it joins, is there again after a kill and after a reboot, keeps deadlines
/// with what its service allows it, and leaves nothing.
fn from_install_to_uninstall(with: Boots) {
    let (machine, control_plane) = (Machine::boot(with), ControlPlane::start());
    let bare = machine.tree();
    let said = install(&machine, &control_plane);
    assert!(said.contains("registered as node 1; sshd trusts the control plane"), "{said}");
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    let seen = control_plane.world().registrations[0].clone();
    assert_eq!((seen.bearer.as_str(), seen.status), (JOIN_TOKEN, 201));
    assert_eq!((&seen.body["hostname"], &seen.body["tags"][0]), (&"worker-1".into(), &"gpu".into()));
    let effective = machine.sh("sshd -T -C user=root,host=x,addr=192.0.2.1 | grep -i ^trustedusercakeys");
    assert_eq!(effective.trim(), "trustedusercakeys /etc/ssh/orion/user_ca.pub");
    assert_eq!(
        machine.sh("stat -c '%a' /etc/orion/agent.env /etc/orion/join-token /var/lib/orion-agent"),
        "600\n600\n700\n"
    );

    // Killed, it is back; and what it keeps is enforced by the service as it is confined.
    machine.sh("kill -KILL $(pgrep -xf '/usr/local/sbin/orion-agent run')");
    control_plane.wait_until("a link after a kill", |world| world.links_taken >= 2);
    machine.add_account("alice", 200_017);
    machine.sh("setsid setpriv --reuid alice --regid alice --clear-groups sleep 1000 >/dev/null 2>&1 &");
    wait_for("alice's process", || machine.try_sh("pgrep -u alice sleep").status.success().then_some(()));
    assert!(machine.can_log_in("alice"));
    machine.write_lease(&Lease::ending("alice", 200_017, 2));
    wait_for("alice is locked", || machine.is_locked("alice").then_some(()));
    wait_for("alice's process is gone", || {
        (!machine.try_sh("pgrep -u alice").status.success()).then_some(())
    });
    assert!(!machine.can_log_in("alice"));

    // A lease that ends while the machine is off is over when it is back.
    machine.add_account("bob", 200_018);
    machine.write_lease(&Lease { unix_in_s: 1, ..Lease::ending("bob", 200_018, 3600) });
    let links = control_plane.world().links_taken;
    machine.reboot(with);
    control_plane.wait_until("a link after the reboot", |world| world.links_taken > links);
    wait_for("bob is locked", || machine.is_locked("bob").then_some(()));
    assert!(!machine.can_log_in("bob"));
    assert_eq!(control_plane.world().registrations.last().unwrap().bearer, "node-token-1");

    // Leases are not left alone by mistake.
    let refused = machine.refused("/usr/local/sbin/orion-agent uninstall");
    assert!(
        refused.contains("alice (uid 200017), bob (uid 200018)") && refused.contains("--force"),
        "{refused}"
    );
    assert!(machine.try_sh("pgrep -xf '/usr/local/sbin/orion-agent run'").status.success());

    machine.sh("for user in alice bob; do userdel -r $user; done; rm /var/lib/orion/leases/*");
    let said = machine.sh("/usr/local/sbin/orion-agent uninstall --purge");
    assert!(said.contains("removed  /usr/local/sbin/orion-agent\n") && !said.contains("left "), "{said}");
    assert!(!machine.try_sh("pgrep -xf '/usr/local/sbin/orion-agent run'").status.success());
    let effective = machine.sh("sshd -T -C user=root,host=x,addr=192.0.2.1 | grep -i ^trustedusercakeys");
    assert_eq!(effective.trim(), "trustedusercakeys none");
    let backups =
        ["/etc/passwd-", "/etc/shadow-", "/etc/group-", "/etc/gshadow-", "/etc/subuid-", "/etc/subgid-"];
    let without_backups = |tree: Vec<String>| -> Vec<String> {
        tree.into_iter().filter(|line| !backups.contains(&line.split(' ').next().unwrap())).collect()
    };
    let (bare, left) = (without_backups(bare), without_backups(machine.tree()));
    let differs: Vec<_> = left
        .iter()
        .filter(|line| !bare.contains(line))
        .chain(bare.iter().filter(|line| !left.contains(line)))
        .collect();
    assert!(differs.is_empty(), "{differs:#?}");
    let said = machine.sh("/opt/orion-agent uninstall --purge");
    assert!(!said.contains("removed"), "{said}");
}

#[test]
fn under_systemd_an_installed_agent_survives_kill_and_reboot_and_leaves_nothing_when_uninstalled() {
    from_install_to_uninstall(Boots::Systemd);
}

#[test]
fn under_openrc_an_installed_agent_survives_kill_and_reboot_and_leaves_nothing_when_uninstalled() {
    from_install_to_uninstall(Boots::Openrc);
}

#[test]
fn where_bash_is_sh_systemd_stops_the_deadline_process_of_a_node_without_an_agent_at_once() {
    let machine = Machine::boot(Boots::Systemd);
    machine.sh("ln -sf bash /bin/sh");
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../playbooks/lib");
    let text = |name: &str| fs::read_to_string(library.join(name).with_extension("sh")).unwrap();
    let process =
        ["accounts", "door", "processes", "leases", "places", "boot", "containers", "deadline"].map(text);
    fs::write(machine.path("/opt/deadline.text"), format!("first_uid=200000\n{}", process.concat())).unwrap();
    fs::write(machine.path("/opt/boot.sh"), text("boot")).unwrap();
    machine.add_account("alice", 200_017);
    machine.sh("mkdir -p /var/lib/orion/leases");
    machine.write_lease(&Lease::ending("alice", 200_017, 3600));
    // As a playbook installs it.
    machine.sh(". /opt/boot.sh; detached_script=$(cat /opt/deadline.text); keep_boot_hook; \
         systemctl daemon-reload; systemctl start orion-deadline");
    wait_for("it keeps the lease", || {
        machine.try_sh("[ -s /run/orion/kept ]").status.success().then_some(())
    });
    machine.sh("timeout 20 systemctl stop orion-deadline");
    machine.sh("! kill -0 $(cat /run/orion/deadline.pid)");
}

#[test]
fn an_installation_again_changes_nothing_and_one_with_other_settings_only_these() {
    let (machine, control_plane) = (Machine::boot(Boots::Systemd), ControlPlane::start());
    install(&machine, &control_plane);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    let pid = machine.sh("systemctl show -P MainPID orion-agent");
    let (tree, said) = (machine.tree(), machine.sh("/opt/orion-agent install"));
    assert!(!said.contains("wrote"), "{said}");
    assert_eq!(machine.tree(), tree);
    assert_eq!(machine.sh("systemctl show -P MainPID orion-agent"), pid);

    machine.sh("echo RUST_LOG=debug >>/etc/orion/agent.env");
    let said = machine.sh("/usr/local/sbin/orion-agent install --tags a,b");
    assert!(said.contains("wrote    /etc/orion/agent.env") && said.matches("wrote").count() == 1, "{said}");
    control_plane.wait_until("another link", |world| world.links_taken == 2);
    assert_eq!(
        control_plane.world().registrations.last().unwrap().body["tags"],
        serde_json::json!(["a", "b"])
    );
    assert_ne!(machine.sh("systemctl show -P MainPID orion-agent"), pid);
    let env = machine.sh("cat /etc/orion/agent.env");
    assert!(
        env.contains("RUST_LOG=debug\n") && env.contains(&format!("API_ENDPOINT={}\n", control_plane.url())),
        "{env}"
    );

    // Uninstalling without --purge and with a lease that stays names both.
    machine.add_account("alice", 200_017);
    machine.sh("echo 7 >/var/lib/orion/epoch");
    machine.write_lease(&Lease::ending("alice", 200_017, 3600));
    let said = machine.sh("/usr/local/sbin/orion-agent uninstall --force");
    assert!(
        said.contains("left     leases, which nobody locks at their end now: alice (uid 200017)"),
        "{said}"
    );
    assert!(said.contains("left     /var/lib/orion ("), "{said}");
    machine.sh("[ -e /var/lib/orion/leases/200017 ] && [ ! -e /etc/orion ] && [ ! -e /etc/ssh/orion ]");
}

#[test]
fn an_authority_that_sshd_refuses_or_that_is_none_is_not_left_behind() {
    let (machine, control_plane) = (Machine::boot(Boots::Systemd), ControlPlane::start());
    let bare = machine.tree();
    let install =
        format!("echo {JOIN_TOKEN} | /opt/orion-agent install --no-start --api {}", control_plane.url());
    machine.sh(&format!("echo '{CA} control' >/run/ca.pub; echo nonsense >/run/none.pub"));
    let said = machine.refused(&format!("{install} --ssh-ca /run/none.pub"));
    assert!(said.contains("no public key") && said.contains("hint:"), "{said}");
    machine.sh("echo NoSuchKeyword yes >/etc/ssh/sshd_config.d/50-broken.conf");
    let said = machine.refused(&format!("{install} --ssh-ca /run/ca.pub"));
    assert!(said.contains("must be repaired first") && said.contains("NoSuchKeyword"), "{said}");
    machine.sh("rm /etc/ssh/sshd_config.d/50-broken.conf");
    assert_eq!(machine.tree(), bare);

    // The authority is fine, but not together with what stands behind it in the order of the names.
    machine.sh("printf 'Match all\\nInclude /etc/ssh/orion/*.pub\\n' >/etc/ssh/sshd_config.d/50-trap.conf");
    let said = machine.refused(&format!("{install} --ssh-ca /run/ca.pub"));
    assert!(said.contains("the control plane's authority was not installed"), "{said}");
    machine.sh("rm /etc/ssh/sshd_config.d/50-trap.conf; [ ! -e /etc/ssh/orion/user_ca.pub ]");
    machine.sh("[ ! -e /etc/ssh/sshd_config.d/00-orion.conf ]; sshd -t");

    let said = machine.sh(&format!("{install} --ssh-ca /run/ca.pub"));
    assert!(
        said.contains("wrote    /etc/ssh/orion/user_ca.pub")
            && said.contains("not started: it starts at boot"),
        "{said}"
    );
    assert!(said.contains("the control plane will dial port 22, sshd listens on"), "{said}");
    assert_eq!(machine.sh("systemctl show -P ActiveState,UnitFileState orion-agent || true; systemctl is-enabled orion-agent").lines().last(), Some("enabled"));
    machine.sh("/opt/orion-agent uninstall --purge");
    assert_eq!(machine.tree(), bare);
}

#[test]
fn half_an_installation_is_removed_too() {
    let machine = Machine::boot(Boots::Systemd);
    let bare = machine.tree();
    let install = format!(
        "echo {JOIN_TOKEN} | /opt/orion-agent install --no-start --api http://127.0.0.1:1 --ssh-port {}",
        machine.sshd_port
    );
    // What a run leaves that is cut off at one place or another.
    for cut in [
        "rm -rf /etc/orion",
        "rm /usr/local/sbin/orion-agent /etc/orion/agent.env",
        "rm /etc/systemd/system/orion-agent.service",
        "rm -r /var/lib/orion-agent; rm /etc/systemd/system/multi-user.target.wants/orion-agent.service",
        "mv /usr/local/sbin/orion-agent /usr/local/sbin/orion-agent.orion-new; mkdir -p /etc/ssh/orion; \
         touch /etc/ssh/orion/user_ca.new /etc/ssh/sshd_config.d/00-orion.new",
    ] {
        machine.sh(&install);
        machine.sh(cut);
        machine.sh("/opt/orion-agent uninstall");
        assert_eq!(machine.tree(), bare, "after {cut}");
    }
}
