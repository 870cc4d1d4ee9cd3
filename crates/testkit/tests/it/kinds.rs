//! Workers of the other kinds: each is what its name says, and can be killed, frozen, started and removed like any.

use std::path::Path;

use orion_testkit::{KeyPair, Kind, SshClient, Worker, Workers};

/// One worker of this kind, without an agent.
fn one(kind: Kind) -> Workers {
    let mut set = Workers::start(0);
    set.set_kind(kind);
    set.grow_to(1);
    set
}

/// Kill, start, freeze and thaw leave the worker what it was; sshd stops and starts.
async fn lives_as_any_other(set: &mut Workers) {
    let (worker, key) = (set[0].clone(), KeyPair::generate());
    let host_key = worker.host_key();
    worker.write_root_key(key.public_line());
    let login = SshClient::with_private_key(worker.ssh_address(), "root", &key.private_path());
    assert_eq!(login.run("echo in").await.as_deref(), Ok("in\n"));
    worker.freeze();
    assert!(set.status().contains("frozen"));
    worker.thaw();
    worker.stop_sshd();
    login.run("echo in").await.expect_err("sshd is down");
    worker.start_sshd();
    assert_eq!(login.run("echo in").await.as_deref(), Ok("in\n"));
    worker.kill();
    worker.start();
    assert_eq!(worker.host_key(), host_key);
    worker.write_root_key(key.public_line());
    assert_eq!(login.run("echo in").await.as_deref(), Ok("in\n"), "after a boot");
    let (name, directory) = (worker.name().to_owned(), set.directory().to_owned());
    set.stop_all();
    let cgroups =
        ["freezer", "systemd", "unified"].map(|tree| format!("/sys/fs/cgroup/{tree}/orion-worker-{name}"));
    for path in cgroups.iter().map(Path::new).chain([directory.as_path()]) {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

fn says(worker: &Worker, script: &str, wanted: &str) {
    let said = worker.sh(script);
    assert!(said.contains(wanted), "{script}: {said}");
}

#[tokio::test]
async fn a_hardened_worker_has_a_guides_sshd_and_mounts_and_a_btrfs_home_with_a_limit() {
    let mut set = one(Kind::Hardened);
    let worker = &set[0];
    for wanted in
        ["allowtcpforwarding no", "maxauthtries 3", "allowgroups orion-lease", "banner /etc/issue.net"]
    {
        says(worker, "sshd -T", wanted);
    }
    says(worker, "grep '^PASS_MAX_DAYS' /etc/login.defs; grep '^UMASK' /etc/login.defs", "90\nUMASK 077\n");
    says(worker, "stat -f -c %T /home", "btrfs");
    says(worker, "findmnt -n -o OPTIONS /tmp", "noexec");
    let filled = worker.try_sh("head -c 200M /dev/zero >/home/x");
    assert!(!filled.status.success(), "the limit holds");
    worker.sh("rm /home/x");
    lives_as_any_other(&mut set).await;
}

#[tokio::test]
async fn a_busybox_worker_has_no_other_tools_and_no_pam() {
    let mut set = one(Kind::BusyBox);
    let worker = &set[0];
    says(worker, "readlink -f $(which adduser)", "/bin/busybox");
    assert!(
        !worker.try_sh("which useradd").status.success() && !worker.try_sh("ls /etc/pam.d").status.success()
    );
    says(worker, "readlink /proc/1/exe", "/bin/busybox");
    lives_as_any_other(&mut set).await;
}

#[tokio::test]
async fn a_systemd_worker_has_units_a_login_manager_and_a_journal() {
    let mut set = one(Kind::Systemd);
    let worker = &set[0];
    says(worker, "readlink /proc/1/exe", "systemd");
    says(worker, "systemctl is-active ssh systemd-logind systemd-journald", "active\nactive\nactive");
    worker.sh("useradd -m ada && echo ada:secret | chpasswd && loginctl enable-linger ada");
    let login = SshClient::with_password(worker.ssh_address(), "ada", "secret");
    let session = login.run("loginctl --no-legend | wc -l; systemctl --user is-system-running").await;
    assert_eq!(session.as_deref(), Ok("1\nrunning\n"));
    says(worker, "journalctl -u ssh", "Accepted password for ada");
    lives_as_any_other(&mut set).await;
}

#[tokio::test]
async fn a_foreign_worker_knows_users_ids_processes_and_files_that_are_not_orions() {
    let mut set = one(Kind::Foreign);
    let worker = &set[0];
    says(worker, "getent passwd lena; id -Gn lena", "300017");
    assert!(!worker.try_sh("grep lena /etc/passwd").status.success(), "from a directory of its own");
    says(worker, "cat /etc/subuid", "root:1000000:1000000000");
    for uid in [300_017, 1_000_017, 250_001] {
        says(worker, "ps -eo uid=,args=", &format!("{uid} sleep"));
        assert_ne!(worker.sh(&format!("find / -xdev -uid {uid} | wc -l")).trim(), "0");
    }
    lives_as_any_other(&mut set).await;
}
