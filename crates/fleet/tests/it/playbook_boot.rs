//! The boot hook of a node without an agent: after a reboot the deadlines are kept with the control plane away. A node of
//! these tests has no init: the hook's file is looked at, and its command is run as the machine would.

use crate::node::{Account, BOTH, Node, Userland, playbooks};
use orion_fleet::playbook::Report;

const UNIT: &str = "/etc/systemd/system/orion-deadline.service";
const LINK: &str = "/etc/systemd/system/multi-user.target.wants/orion-deadline.service";
const LOCAL: &str = "/etc/local.d/orion-deadline.start";
const CRON: &str = "/etc/cron.d/orion-deadline";
const TEXT: &str = "/var/lib/orion/deadline.sh";
/// Paths of all hooks, as shell words.
const ALL: &str = "/etc/systemd/system/orion-deadline.service /etc/local.d/orion-deadline.start /etc/cron.d/orion-deadline \
                   /etc/systemd/system/multi-user.target.wants/orion-deadline.service /var/lib/orion/deadline.sh";
const AS_SYSTEMD: &str = "mkdir -p /run/systemd/system /etc/systemd/system";
const AS_OPENRC: &str =
    "mkdir -p /run/openrc /etc/local.d /etc/runlevels/default; : >/etc/runlevels/default/local";

fn lease(agent: &str) -> Account {
    let mut alice = Account::new("alice", 200_017);
    (alice.agent, alice.deadline_s) = (agent.to_owned(), "3600".to_owned());
    alice
}

fn list(node: &Node) -> Report {
    node.done(playbooks().list_users(), &[("uid_min", "200000"), ("uid_max", "60000000")])
}

/// Ends what ran and empties /run, as a reboot does; the lease has a second left.
fn reboot(node: &Node) {
    node.sh("kill -9 $(cat /run/orion/deadline.pid)");
    node.wait_until("it is gone", "! test -e /proc/$(cat /run/orion/deadline.pid)/exe");
    node.sh("rm -rf /run/orion; sed -i 's/^boot_id=.*/boot_id=before/; s/^remaining_s=.*/remaining_s=1/' \
         /var/lib/orion/leases/200017");
}

fn is_locked_by_itself(node: &Node) {
    node.wait_until("the file says locked", "grep -q '^locked=1$' /var/lib/orion/leases/200017");
    assert!(node.sh("grep ^alice: /etc/shadow").starts_with("alice:!"), "{:?}", node.userland);
}

/// Runs the command of a hook after a reboot, and removes the lease.
fn keeps_the_deadline(node: &Node, alice: &Account, hook: &str, command: &str) {
    assert_eq!(list(node).get("boot_hook"), Some(hook));
    reboot(node);
    node.sh(command);
    is_locked_by_itself(node);
    // Nobody else starts a second one.
    assert_eq!(list(node).get("deadline_process"), None);
    node.done(playbooks().delete_user(), &alice.name_and_uid());
    node.assert_absent(ALL);
    assert_eq!(list(node).get("boot_hook"), Some("none"));
}

#[test]
fn a_unit_of_systemd_keeps_the_deadline_after_a_reboot_and_goes_with_the_last_lease() {
    let node = Node::start(Userland::Debian);
    let alice = lease("no");
    node.sh(AS_SYSTEMD);
    node.done(playbooks().create_user(), &alice.create());
    assert_eq!(node.sh(&format!("readlink {LINK}")), UNIT);
    let unit = node.sh(&format!("cat {UNIT}"));
    for line in [
        "ConditionPathExists=/var/lib/orion/deadline.sh",
        "ExecStart=/bin/sh /var/lib/orion/deadline.sh boot",
        "KillSignal=SIGKILL",
        "WantedBy=multi-user.target",
    ] {
        assert!(unit.lines().any(|is| is == line), "{line}: {unit}");
    }
    assert_eq!(node.sh(&format!("stat -c '%u %a' {UNIT} {TEXT}")), "0 644\n0 600");
    assert_eq!(node.sh(&format!("cat {TEXT}")), node.sh("cat /run/orion/deadline.sh"));
    // The process that systemd started is the one that keeps them: it is its main process.
    let command = "setsid /bin/sh /var/lib/orion/deadline.sh boot </dev/null >/dev/null 2>&1 & \
                   main=$!; sleep 1; [ \"$(cat /run/orion/deadline.pid)\" = $main ]";
    keeps_the_deadline(&node, &alice, "systemd", command);
}

#[test]
fn a_script_of_openrc_keeps_the_deadline_after_a_reboot_and_goes_with_the_last_lease() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = lease("no");
        node.sh(AS_OPENRC);
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(node.sh(&format!("head -n 1 {LOCAL}")), "#!/bin/sh");
        keeps_the_deadline(&node, &alice, "openrc", LOCAL);
    }
}

#[test]
fn a_line_of_cron_keeps_the_deadline_after_a_reboot_and_goes_with_the_last_lease() {
    let node = Node::start(Userland::Debian);
    let alice = lease("no");
    node.sh("mkdir -p /etc/cron.d; setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/run/crond.pid");
    node.done(playbooks().create_user(), &alice.create());
    let line = node.sh(&format!("cat {CRON}"));
    let command = line.strip_prefix("@reboot root ").expect("at each boot, as root");
    keeps_the_deadline(&node, &alice, "cron", command);
}

#[test]
fn a_machine_that_has_nothing_for_it_gets_no_hook_and_the_list_says_so_and_starts_the_process() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = lease("no");
        // BusyBox's cron knows neither /etc/cron.d nor @reboot.
        node.sh("mkdir -p /etc/cron.d; rm -f /run/crond.pid");
        if userland == Userland::BusyBox {
            node.sh("setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo $! >/run/crond.pid");
        }
        node.done(playbooks().create_user(), &alice.create());
        node.assert_absent(ALL);
        let report = list(&node);
        assert_eq!((report.get("boot_hook"), report.get("deadline_process")), (Some("none"), None));
        reboot(&node);
        let report = list(&node);
        assert_eq!(report.get("deadline_process"), Some("started"), "{userland:?}");
        is_locked_by_itself(&node);
        assert_eq!(list(&node).get("deadline_process"), None, "once is enough");
    }
}

#[test]
fn a_node_with_an_agent_gets_no_hook_and_a_hook_of_an_earlier_text_is_written_anew() {
    let node = Node::start(Userland::Debian);
    node.sh(AS_SYSTEMD);
    let (mut alice, before) = (lease("yes"), lease("yes"));
    node.done(playbooks().create_user(), &before.create());
    node.assert_absent(ALL);
    alice.agent = "no".to_owned();
    node.done(playbooks().set_deadline(), &alice.deadline());
    node.sh(&format!("echo '# of an earlier version' >{TEXT}"));
    node.done(playbooks().set_deadline(), &alice.deadline());
    assert_eq!(node.sh(&format!("cat {TEXT}")), node.sh("cat /run/orion/deadline.sh"));
    // It removes its hook by itself, too: with the last lease file, however that went.
    node.sh("rm -r /var/lib/orion/leases");
    node.wait_until("it has ended", "! test -e /run/orion/deadline.pid");
    node.assert_absent(ALL);
}
