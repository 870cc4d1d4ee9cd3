//! A login ends at its deadline, whatever else happens: with real accounts, processes and logins.

use crate::{
    agent::{Lease, boot_id, boot_now, number, wait_for},
    control_plane::{ControlPlane, JOIN_TOKEN},
    worker::{Worker, certificate_login},
};
use orion_domain::agent::{FromAgent, ToAgent};
use std::{fs, time::Instant};

const UID: u32 = 200_017;

#[test]
fn at_the_deadline_the_login_closes_and_its_sessions_end_without_any_control_plane() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.add_account("bob", UID + 1);
    assert!(worker.can_log_in("alice"));
    let bystanders = worker.processes(0);
    worker.write_lease(&Lease::ending("alice", UID, 4));
    worker.write_lease(&Lease::ending("bob", UID + 1, 1000));
    let ends = number(&worker.read_lease(UID), "deadline_boot_s");
    let agent = worker.start_lonely_agent();
    wait_for("alice is locked", || worker.is_locked("alice").then_some(()));
    let late_s = boot_now() - ends;
    assert!((0..=2).contains(&late_s), "{late_s} s late");
    worker.wait_locked(UID);
    assert_eq!(worker.processes(UID), 0);
    assert!(!worker.can_log_in("alice"));
    assert!(worker.can_log_in("bob") && worker.processes(UID + 1) > 0);
    assert!(worker.processes(0) >= bystanders);
    agent.logs("lease 42 is over: alice (uid 200017) is locked, 1 processes ended", 1);
    assert!(!worker.read_lease(UID + 1).contains("locked"));
}

#[test]
fn after_a_reboot_the_seconds_that_remained_and_the_wall_clock_decide() {
    let worker = Worker::start();
    let earlier = |lease: Lease| Lease { boot_id: "00000000-0000-0000-0000-000000000000".into(), ..lease };
    for (user, uid) in [("alice", UID), ("bob", UID + 1), ("carl", UID + 2)] {
        worker.add_account(user, uid);
    }
    // The clock was set back, or the machine was off for long, or it is a plain reboot.
    worker.write_lease(&earlier(Lease {
        remaining_s: 3,
        unix_in_s: 9000,
        boot_in_s: 90_000,
        ..Lease::ending("alice", UID, 0)
    }));
    worker.write_lease(&earlier(Lease {
        remaining_s: 9000,
        unix_in_s: -60,
        boot_in_s: 90_000,
        ..Lease::ending("bob", UID + 1, 0)
    }));
    worker.write_lease(&earlier(Lease {
        remaining_s: 800,
        unix_in_s: 700,
        boot_in_s: -60,
        ..Lease::ending("carl", UID + 2, 0)
    }));
    let start = boot_now();
    let _agent = worker.start_lonely_agent();
    worker.wait_locked(UID + 1);
    worker.wait_locked(UID);
    assert!((2..=8).contains(&(boot_now() - start)), "{}", boot_now() - start);
    assert!(worker.is_locked("alice") && worker.is_locked("bob") && !worker.is_locked("carl"));
    assert_eq!((worker.processes(UID), worker.processes(UID + 1)), (0, 0));
    let carl = worker.read_lease(UID + 2);
    assert!(carl.contains(&boot_id()), "{carl}");
    assert!((695..=702).contains(&(number(&carl, "deadline_boot_s") - start)), "{carl}");
    assert!((690..=700).contains(&number(&carl, "remaining_s")), "{carl}");
}

#[test]
fn a_wall_clock_that_is_set_moves_no_deadline() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.add_account("bob", UID + 1);
    worker.write_lease(&Lease {
        unix_in_s: 1_000_000,
        remaining_s: 1_000_000,
        ..Lease::ending("alice", UID, 1)
    });
    worker.write_lease(&Lease {
        unix_in_s: -1_000_000,
        remaining_s: 0,
        ..Lease::ending("bob", UID + 1, 1000)
    });
    let _agent = worker.start_lonely_agent();
    worker.wait_locked(UID);
    assert!(worker.is_locked("alice") && !worker.is_locked("bob"));
    wait_for("the seconds that remain are saved anew", || {
        (980..=1000).contains(&number(&worker.read_lease(UID + 1), "remaining_s")).then_some(())
    });
}

#[test]
fn a_file_that_a_playbook_removed_never_comes_back() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.add_account("bob", UID + 1);
    worker.write_lease(&Lease::ending("alice", UID, 1));
    worker.write_lease(&Lease::ending("bob", UID + 1, 1));
    let lock = worker.hold_playbook_lock();
    let _agent = worker.start_lonely_agent();
    // Locking does not wait for the playbook; marking does.
    wait_for("both are locked", || (worker.is_locked("alice") && worker.is_locked("bob")).then_some(()));
    wait_for("alice's processes ended", || (worker.processes(UID) == 0).then_some(()));
    fs::remove_file(worker.lease_path(UID)).unwrap();
    assert!(!worker.read_lease(UID + 1).contains("locked"));
    drop(lock);
    worker.wait_locked(UID + 1);
    assert!(!worker.lease_path(UID).exists());
    let left: Vec<_> = fs::read_dir(worker.path("/var/lib/orion/leases")).unwrap().flatten().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn an_extension_that_crosses_the_locking_wins() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    let before = worker.shadow("alice");
    worker.write_lease(&Lease::ending("alice", UID, 1));
    let lock = worker.hold_playbook_lock();
    let agent = worker.start_lonely_agent();
    wait_for("alice is locked", || worker.is_locked("alice").then_some(()));
    agent.logs("lease 42 is over", 1);
    worker.write_lease(&Lease::ending("alice", UID, 1000));
    drop(lock);
    wait_for("alice is open again", || (!worker.is_locked("alice")).then_some(()));
    assert!(worker.can_log_in("alice"));
    assert_eq!(worker.shadow("alice"), before);
    assert!(!worker.read_lease(UID).contains("locked"));
}

#[test]
fn a_tenant_that_multiplies_and_hides_behind_another_uid_is_ended() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.write(
        "/tmp/breed",
        "trap '' HUP TERM INT\nn=$1\n[ \"$n\" -gt 6 ] && n=6\nwhile :; do [ \"$n\" -gt 0 ] && sh /tmp/breed $((n-1)) & sleep 0.05; \
         [ $(ls /proc | grep -c '^[0-9]') -gt 300 ] && sleep 1; done\n",
    );
    worker.start_process("alice", "sh /tmp/breed 6");
    // Only its real uid is alice's.
    worker
        .sh(&format!("setsid setpriv --ruid {UID} --euid 65534 --clear-groups sleep 3000 >/dev/null 2>&1 &"));
    wait_for("it multiplies", || (worker.processes(UID) > 40).then_some(()));
    worker.write_lease(&Lease::ending("alice", UID, 1));
    let _agent = worker.start_lonely_agent();
    worker.wait_locked(UID);
    assert_eq!(worker.processes(UID), 0);
}

#[test]
fn what_starts_or_opens_after_the_end_is_closed_again() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.write_lease(&Lease::ending("alice", UID, 0));
    let agent = worker.start_lonely_agent();
    worker.wait_locked(UID);
    worker.start_process("alice", "sleep 2000");
    agent.logs("ended after its lease's end", 1);
    wait_for("the late process ended", || (worker.processes(UID) == 0).then_some(()));
    worker.sh("usermod -U -e '' alice");
    agent.logs("had been opened after its lease's end", 1);
    wait_for("alice is locked again", || worker.is_locked("alice").then_some(()));
}

#[test]
fn an_account_that_appears_after_its_deadline_is_locked_at_once() {
    let worker = Worker::start();
    worker.write_lease(&Lease::ending("alice", UID, 0));
    worker.add_account("bob", UID + 1);
    worker.write_lease(&Lease::ending("bob", UID + 1, 0));
    let _agent = worker.start_lonely_agent();
    worker.wait_locked(UID + 1);
    assert!(!worker.read_lease(UID).contains("locked"));
    worker.sh(&format!("useradd -m -u {UID} alice; echo alice:sesame-2468 | chpasswd"));
    worker.wait_locked(UID);
    assert!(worker.is_locked("alice"));
}

#[test]
fn a_broken_lease_file_is_said_and_left_and_root_is_never_locked() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.add_account("bob", UID + 1);
    let broken = "user=alice\nuid=200017\n";
    fs::write(worker.lease_path(UID), broken).unwrap();
    let root = Lease::ending("root", 0, 0).text();
    fs::write(worker.lease_path(0), &root).unwrap();
    fs::write(worker.path("/var/lib/orion/leases/.tmp"), "half a li").unwrap();
    worker.write_lease(&Lease::ending("bob", UID + 1, 3));
    let root_before = worker.shadow("root");
    let agent = worker.start_lonely_agent();
    agent.logs("leases/200017 is not obeyed: lease is missing", 1);
    agent.logs("leases/0 is not obeyed: uid 0 is no tenant's", 1);
    worker.wait_locked(UID + 1);
    assert_eq!((worker.read_lease(UID), worker.read_lease(0)), (broken.to_owned(), root));
    assert_eq!(worker.shadow("root"), root_before);
    assert!(!worker.is_locked("alice"));
    assert_eq!(agent.log().matches("is not obeyed").count(), 2, "{}", agent.log());
}

#[test]
fn on_a_busybox_machine_the_login_closes_too() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.sh("cd /usr/sbin; rm -f usermod chpasswd useradd; cd /usr/bin; rm -f passwd chsh; ln -s /usr/bin/busybox passwd");
    let before = worker.shadow("alice");
    worker.write_lease(&Lease::ending("alice", UID, 1));
    let lock = worker.hold_playbook_lock();
    let agent = worker.start_lonely_agent();
    agent.logs("lease 42 is over", 1);
    // While a playbook holds the lock, a byte of each file is what shuts the door.
    wait_for("alice is locked", || worker.is_locked("alice").then_some(()));
    wait_for("her processes ended", || (worker.processes(UID) == 0).then_some(()));
    assert!(!worker.can_log_in("alice"));
    worker.write_lease(&Lease::ending("alice", UID, 1000));
    drop(lock);
    agent.logs("alice is open again", 1);
    assert_eq!(worker.shell("alice"), "/bin/bash");
    assert_eq!(worker.shadow("alice"), before);
    assert!(worker.can_log_in("alice"));
    worker.write_lease(&Lease::ending("alice", UID, 0));
    worker.wait_locked(UID);
    assert_eq!(worker.shell("alice"), "/bin/false");
    assert!(worker.shadow("alice").starts_with("alice:!$") && !worker.can_log_in("alice"));
}

/// The fork bomb that the playbooks are tried with: each starts its successor and ends, without a pause.
#[test]
fn processes_that_hop_from_pid_to_pid_without_a_pause_are_ended() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.write("/tmp/hop", "/bin/sh \"$0\" &\n");
    for _ in 0..12 {
        worker.start_process("alice", "/bin/sh /tmp/hop");
    }
    worker.write_lease(&Lease::ending("alice", UID, 1));
    let _agent = worker.start_lonely_agent();
    worker.wait_locked(UID);
    assert_eq!(worker.processes(UID), 0);
}

#[test]
fn on_a_full_disk_the_login_closes_all_the_same() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.write_lease(&Lease::ending("alice", UID, 8));
    worker.start_process("alice", "sh -c \"while :; do cat /dev/zero >>/home/alice/x; sleep 0.02; done\"");
    wait_for("the disk is full", || {
        (!worker.test("dd if=/dev/zero of=/etc/probe bs=64k count=1")).then_some(())
    });
    let _agent = worker.start_lonely_agent();
    wait_for("alice is locked", || worker.is_locked("alice").then_some(()));
    wait_for("her processes ended", || (worker.processes(UID) == 0).then_some(()));
    assert!(!worker.can_log_in("alice"));
}

#[test]
fn a_deadline_process_that_is_killed_is_started_again_and_outlives_the_agent() {
    let worker = Worker::start();
    worker.add_account("alice", UID);
    worker.write_lease(&Lease::ending("alice", UID, 1000));
    let agent = worker.start_lonely_agent();
    let pid = || fs::read_to_string(worker.path("/run/orion/deadline.pid")).ok();
    let first = wait_for("it runs", || {
        fs::exists(worker.path("/run/orion/kept")).unwrap_or(false).then(pid).flatten()
    });
    worker.sh(&format!("kill -KILL {first}"));
    wait_for("another runs", || pid().filter(|now| *now != first));
    drop(agent);
    worker.write_lease(&Lease::ending("alice", UID, 0));
    worker.wait_locked(UID);
}

#[test]
fn a_node_that_is_given_up_locks_every_lease_account() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    worker.add_account("alice", UID);
    worker.add_account("bob", UID + 1);
    worker.sh("useradd -m -u 1234 carl");
    worker.write_lease(&Lease::ending("alice", UID, 1000));
    let _agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| world.messages.len() >= 2);
    let carl = worker.shadow("carl");
    let start = Instant::now();
    control_plane.say(&ToAgent::LockAccounts { rests_on_beat: None });
    // Bob has no lease file, but he is of the group.
    wait_for("both are locked", || (worker.is_locked("alice") && worker.is_locked("bob")).then_some(()));
    assert!(start.elapsed().as_secs() < 3, "{:?}", start.elapsed());
    worker.wait_locked(UID);
    assert_eq!((worker.processes(UID), worker.processes(UID + 1)), (0, 0));
    assert_eq!(worker.shadow("carl"), carl);
    assert!(!worker.lease_path(UID + 1).exists());
}

#[test]
fn an_order_to_lock_that_rests_on_an_sshd_that_was_down_is_void_when_it_answers() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    worker.add_account("alice", UID);
    worker.write_lease(&Lease::ending("alice", UID, 1000));
    let agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    let sees_sshd = |message: &FromAgent| matches!(message, FromAgent::Beat { sshd: true, .. });
    control_plane.wait_until("a beat", |world| world.messages.iter().any(sees_sshd));
    control_plane.say(&ToAgent::LockAccounts { rests_on_beat: Some(0) });
    agent.logs("an order to lock the accounts is not obeyed", 1);
    assert!(!worker.is_locked("alice"));
    control_plane.say(&ToAgent::LockAccounts { rests_on_beat: None });
    wait_for("an admin's word is obeyed", || worker.is_locked("alice").then_some(()));
}

#[test]
fn the_control_plane_logs_in_with_a_certificate_once_the_worker_has_registered() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    let (authority, log_in) = certificate_login(&worker, "root");
    assert!(!log_in());
    control_plane.world().ssh_ca = serde_json::json!(authority);
    let agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    agent.logs("sshd trusts the control plane's authority", 1);
    wait_for("the certificate opens a login", || log_in().then_some(()));
    control_plane.wait_until("a beat with sshd up", |world| world.sshd_is_up());
    let (_, stranger) = certificate_login(&worker, "root");
    assert!(!stranger());
    let (other_authority, as_alice) = certificate_login(&worker, "alice");
    control_plane.world().ssh_ca = serde_json::json!(format!("{authority}{other_authority}"));
    control_plane.forget();
    wait_for("both authorities are installed", || {
        let text = fs::read_to_string(worker.path("/etc/ssh/orion/user_ca.pub")).ok()?;
        (text.lines().count() == 2).then_some(())
    });
    assert!(log_in(), "sshd reads authorities with each login and needs no reload for another");
    assert!(!as_alice(), "a certificate for alice opened root's login");
}
