//! The way in: a probe account really logs in at this node's sshd, and what is in the way is said within seconds.

use crate::{
    control_plane::{ControlPlane, JOIN_TOKEN, World},
    worker::{Worker, password_opens},
};
use orion_domain::{agent::FromAgent, way_in::WayInReport};
use std::fs;

/// Returns the report of the way in from the last beat.
fn said(world: &World) -> Option<WayInReport> {
    world.messages.iter().rev().find_map(|message| match message {
        FromAgent::Beat { way_in, .. } => way_in.clone(),
        FromAgent::Hello { .. } | FromAgent::Inventory { .. } | FromAgent::Deadlines { .. } => None,
    })
}

fn wait_open(control_plane: &ControlPlane) {
    control_plane.wait_until("the way in is open", |world| said(world).is_some_and(|found| found.open));
}

/// Waits until the way in is shut, and the reason names this.
fn wait_shut(control_plane: &ControlPlane, reason: &str) {
    control_plane.wait_until(reason, |world| {
        said(world).is_some_and(|found| !found.open && found.reason.contains(reason))
    });
}

fn reload(worker: &Worker) {
    worker.sh("sshd -t && kill -HUP $(cat /run/sshd.pid)");
}

/// Returns what of a probe is on the machine.
fn traces(worker: &Worker) -> String {
    worker.sh("grep -h orion-probe /etc/passwd /etc/shadow /etc/group /etc/gshadow || :; ls -d /home/orion-probe /run/orion/probe 2>/dev/null || :")
}

#[test]
fn a_setting_that_shuts_lease_accounts_out_is_named_and_the_way_opens_when_it_goes() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    let _agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    wait_open(&control_plane);
    let settings = [
        ("PasswordAuthentication no", "PasswordAuthentication"),
        ("AllowUsers root", "AllowUsers of sshd (root)"),
        ("AllowGroups root ssh-users", "AllowGroups of sshd (root ssh-users)"),
        ("DenyGroups orion-lease", "DenyGroups of sshd (orion-lease)"),
        ("AuthorizedKeysFile /etc/ssh/keys/%u", "AuthorizedKeysFile of sshd is /etc/ssh/keys/%u"),
        ("AuthenticationMethods publickey,password", "AuthenticationMethods"),
        ("PubkeyAcceptedAlgorithms rsa-sha2-512", "PubkeyAcceptedAlgorithms"),
        ("ForceCommand /bin/false", "ForceCommand"),
    ];
    for (line, reason) in settings {
        worker.write("/etc/ssh/sshd_config.d/50-site.conf", &format!("{line}\n"));
        reload(&worker);
        wait_shut(&control_plane, reason);
    }
    worker.sh("rm /etc/ssh/sshd_config.d/50-site.conf");
    reload(&worker);
    wait_open(&control_plane);
    for (shut, reason, open) in [
        ("echo maintenance until noon >/etc/nologin", "maintenance until noon", "rm /etc/nologin"),
        ("echo 'read x' >/root/.bashrc", "start-up files", "rm /root/.bashrc"),
        ("sed -i '1i account required pam_deny.so' /etc/pam.d/sshd", "login by", "sed -i 1d /etc/pam.d/sshd"),
        ("kill $(cat /run/sshd.pid)", "Connection refused", "/usr/sbin/sshd"),
        ("chmod 700 /home", "login by key", "chmod 755 /home"),
    ] {
        worker.sh(shut);
        wait_shut(&control_plane, reason);
        worker.sh(open);
        wait_open(&control_plane);
    }
    assert_eq!(traces(&worker), "", "nothing of a probe stays");
}

#[test]
fn what_no_watched_file_shows_is_found_by_the_next_login_and_a_busy_node_is_not_called_shut() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    let _agent = worker.start_agent_with(&control_plane.url(), JOIN_TOKEN, &[("ORION_WAY_IN_EVERY_S", "2")]);
    wait_open(&control_plane);
    worker.sh("mkdir -p /etc/skel; if [ -e /etc/skel/.bashrc ]; then mv /etc/skel/.bashrc /root/skel; fi; echo exit >/etc/skel/.bashrc");
    wait_shut(&control_plane, "login by");
    worker.sh("rm /etc/skel/.bashrc; if [ -e /root/skel ]; then mv /root/skel /etc/skel/.bashrc; fi");
    wait_open(&control_plane);
    // Longer than a probe waits for the lock.
    let before = control_plane.world().messages.len();
    worker.sh("setsid flock /run/orion/lock sleep 45 </dev/null >/dev/null 2>&1 &");
    control_plane.wait_until("the last login that was seen grows old", |world| {
        matches!(world.messages.last(), Some(FromAgent::Beat { way_in_age_s: Some(25..), .. }))
    });
    control_plane.wait_until("the login is seen again", |world| {
        matches!(world.messages.last(), Some(FromAgent::Beat { way_in_age_s: Some(..5), .. }))
    });
    let world = control_plane.world();
    let said = &world.messages[before..];
    let shut =
        |message: &FromAgent| matches!(message, FromAgent::Beat { way_in: Some(found), .. } if !found.open);
    assert!(!said.iter().any(shut), "{said:?}");
}

#[test]
fn what_the_site_sets_for_new_accounts_is_not_in_the_way() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    worker.sh("sed -i 's/^PASS_MAX_DAYS.*/PASS_MAX_DAYS 1/' /etc/login.defs; echo EXPIRE=2020-01-01 >>/etc/default/useradd");
    let _agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    wait_open(&control_plane);
    assert_eq!(traces(&worker), "");
}

#[test]
fn a_probe_that_is_killed_leaves_no_account_and_nobody_knows_its_password() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    // The login hangs: the account is there meanwhile.
    worker.sh("sed -i '1i session optional pam_exec.so /bin/sleep 5' /etc/pam.d/sshd");
    let agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    crate::agent::wait_for("the account is there", || {
        let passwd = fs::read_to_string(worker.path("/etc/passwd")).unwrap();
        passwd.contains("orion-probe").then_some(())
    });
    assert!(!password_opens(worker.sshd_port, "orion-probe"));
    drop(agent);
    worker.sh("for p in /proc/[0-9]*; do if grep -q 'prove_way_in [0-9]' $p/cmdline 2>/dev/null; then kill -9 ${p#/proc/}; fi; done; :");
    crate::agent::wait_for("the account is gone", || traces(&worker).is_empty().then_some(()));
}
