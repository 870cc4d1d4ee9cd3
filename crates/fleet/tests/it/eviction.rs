//! Nobody can refuse to leave: whatever a tenant, or the machine, did, the door is shut, processes end, and what could
//! not be removed is named.

use std::process::Command;

use orion_fleet::playbook::Reply;

use crate::node::{Account, BOTH, Node, Userland, playbooks, with_text_before_step};

fn created(node: &Node, user: &str, uid: u32) -> Account {
    let account = Account::new(user, uid);
    node.done(playbooks().create_user(), &account.create());
    account
}

/// Succeeds when neither a password nor a key opens the account.
const IS_SHUT: &str = "grep -q '^alice:!' /etc/shadow && { grep -q '^alice:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:[^:]*:1:' /etc/shadow \
     || grep -Eq '^alice:.*:(/bin/false|![^:]*)$' /etc/passwd; }";

fn assert_is_shut(node: &Node, what: &str) {
    assert!(
        node.test(IS_SHUT),
        "{:?}: {what}: {}",
        node.userland,
        node.sh("grep alice /etc/passwd /etc/shadow")
    );
    assert_eq!(node.processes_of("200017"), "", "{:?}: {what}", node.userland);
}

fn assert_gone(node: &Node, what: &str) {
    assert_eq!(node.processes_of("200017"), "", "{what}");
    assert_eq!(node.sh("cat /etc/passwd /etc/shadow /etc/group").matches("alice").count(), 0, "{what}");
    node.assert_absent("/home/alice /var/lib/orion/leases/200017");
    assert_eq!(node.files_of("200017"), "", "{:?}: {what}", node.userland);
}

fn refused(reply: Reply, status: u32) -> String {
    let Reply::Refused { status: found, output, .. } = &reply else { panic!("{reply:?}") };
    assert_eq!(*found, status, "{reply:?}");
    output.clone()
}

/// /etc, /home and /var/lib/orion on one file system with these options.
fn on_one_small_disk(node: &Node, options: &str) {
    node.sh(&format!(
        "mkdir -p /small /var/lib/orion; mount -t tmpfs -o mode=755,{options} small /small; cp -a /etc /small/etc; cp -a /home /small/home; \
         mkdir /small/orion; mount --bind /small/orion /var/lib/orion; mount --bind /small/home /home; mount --bind /small/etc /etc"
    ));
}

const FILL_BYTES: &str = "cat /dev/zero >x; while echo 1234567890 >>y; do :; done";
const FILL_INODES: &str = "i=0; while [ $i -lt 100000 ] && : >f$i; do i=$((i+1)); done";

#[test]
fn a_tenant_who_fills_the_disk_or_its_inodes_is_evicted_all_the_same() {
    for userland in BOTH {
        for fill in [FILL_BYTES, FILL_INODES] {
            let node = Node::start(userland);
            on_one_small_disk(&node, "size=48m,nr_inodes=9000");
            let alice = created(&node, "alice", 200_017);
            node.as_user(&alice, &format!("setsid sleep 999 >/dev/null 2>&1 & {fill} 2>/dev/null"));
            assert!(
                !node.test("dd if=/dev/zero of=/etc/probe bs=64k count=1"),
                "{userland:?}: the disk is full"
            );
            node.sh("rm -f /etc/probe");
            node.done(playbooks().delete_user(), &alice.name_and_uid());
            assert_gone(&node, fill);
        }
    }
}

#[test]
fn on_a_full_disk_the_deadline_is_kept_by_the_node_alone() {
    for userland in BOTH {
        let node = Node::start(userland);
        on_one_small_disk(&node, "size=48m");
        let mut alice = Account::new("alice", 200_017);
        (alice.agent, alice.deadline_s) = ("no".to_owned(), "6".to_owned());
        node.done(playbooks().create_user(), &alice.create());
        node.sh("rm -rf /var/lib/orion/reserve");
        // It fills what becomes free, too.
        node.as_user(&alice, "(while :; do cat /dev/zero >>x; sleep 0.01; done) >/dev/null 2>&1 &");
        node.wait_until("the door is shut", IS_SHUT);
        node.wait_until("nothing runs", "! grep -qs '^Uid:.200017' /proc/[0-9]*/status");
        assert_is_shut(&node, "full");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, "full");
    }
}

#[test]
fn a_deadline_is_moved_on_a_full_disk_by_the_room_that_is_kept_for_it() {
    for userland in BOTH {
        let node = Node::start(userland);
        on_one_small_disk(&node, "size=48m");
        let mut alice = created(&node, "alice", 200_017);
        node.as_user(&alice, &format!("{FILL_BYTES} 2>/dev/null"));
        alice.deadline_s = "7200".to_owned();
        node.done(playbooks().set_deadline(), &alice.deadline());
        assert!(node.sh("cat /var/lib/orion/leases/200017").contains("remaining_s=7200"));
        node.as_user(&alice, &format!("{FILL_BYTES} 2>/dev/null"));
        alice.deadline_s = "9000".to_owned();
        let why = refused(node.play(playbooks().set_deadline(), 1, &alice.deadline()), 71);
        assert!(why.contains("no room"), "{why}");
        assert!(
            node.sh("cat /var/lib/orion/leases/200017").contains("remaining_s=7200"),
            "the old one stays"
        );
        node.as_user(&alice, "rm -f x y");
        node.done(playbooks().set_deadline(), &alice.deadline());
    }
}

#[test]
fn an_account_that_is_there_stays_on_a_full_disk_by_the_room_that_is_kept_for_it() {
    for userland in BOTH {
        let node = Node::start(userland);
        on_one_small_disk(&node, "size=48m");
        let mut alice = created(&node, "alice", 200_017);
        let fill = format!("{FILL_BYTES} 2>/dev/null");
        let no_room_for = |account: &Account| {
            let why = refused(node.play(playbooks().create_user(), 1, &account.create()), 71);
            assert!(why.contains("no room"), "{userland:?}: {why}");
        };
        node.as_user(&alice, &fill);
        no_room_for(&Account::new("bob", 200_018));
        assert!(node.test("test -s /var/lib/orion/reserve/4"), "{userland:?}: none for a new account");
        alice.deadline_s = "7200".to_owned();
        // What remembers the uid finds no room either where it has to be written again.
        node.sh("rm -f /var/lib/orion/highest_uid");
        node.as_user(&alice, &fill);
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(&alice, &fill);
        alice.deadline_s = "9000".to_owned();
        no_room_for(&alice);
        let lease = node.sh("cat /var/lib/orion/leases/200017 /var/lib/orion/highest_uid");
        assert!(lease.contains("remaining_s=7200") && lease.contains("200017 "), "{userland:?}: {lease}");
        node.as_user(&alice, "rm -f x y");
        node.done(playbooks().create_user(), &alice.create());
        assert!(node.test("test -s /var/lib/orion/reserve/4"), "{userland:?}: it is kept again");
        assert!(node.sh("cat /var/lib/orion/leases/200017").contains("remaining_s=9000"));
    }
}

#[test]
fn on_a_read_only_machine_the_login_is_shut_and_the_rest_is_named() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        node.as_user(&alice, "setsid sleep 999 >/dev/null 2>&1 &");
        node.sh("mount -o remount,ro /");
        let why = refused(node.play(playbooks().delete_user(), 2, &alice.name_and_uid()), 70);
        assert!(why.contains("/home/alice"), "{userland:?}: {why}");
        assert_is_shut(&node, "read-only");
        node.sh("mount -o remount,rw /");
        let reply = node.play(playbooks().delete_user(), 2, &alice.name_and_uid());
        assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
        assert_gone(&node, "read-only");
        assert!(!node.test("grep -E ' /etc/(passwd|shadow) ' /proc/self/mountinfo"));
        let reply = node.play(playbooks().create_user(), 1, &Account::new("bob", 200_018).create());
        assert_eq!(reply, Reply::StaleEpoch { seen: 2 }, "{userland:?}: the epoch was kept");
        let reply = node.play(playbooks().create_user(), 2, &Account::new("bob", 200_018).create());
        assert!(matches!(reply, Reply::Done(_)), "{reply:?}");
    }
}

/// Holds the lock that shadow's tools take.
const HOLD_PWD_LOCK: &str = "perl -e 'use Fcntl; open F, q(>>/etc/.pwd.lock); my $l = pack(q(s s x4 q q i x4), F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLKW, $l) or die; \
     open G, q(>/run/held); print G $$; close G; sleep 600' >/dev/null 2>&1 &";

#[test]
fn account_files_that_another_program_locks_shut_nobody_in_and_are_a_passing_cause() {
    let node = Node::start(Userland::Debian);
    let alice = created(&node, "alice", 200_017);
    node.as_user(&alice, "setsid sleep 999 >/dev/null 2>&1 &");
    node.sh(HOLD_PWD_LOCK);
    node.wait_until("it is held", "test -s /run/held");
    let holder = node.sh("cat /run/held");
    let bob = Account::new("bob", 200_018);
    let why = refused(node.play(playbooks().create_user(), 1, &bob.create()), 71);
    assert!(why.contains(&format!("locked by PID {holder}")), "{why}");
    let why = refused(node.play(playbooks().delete_user(), 1, &alice.name_and_uid()), 71);
    assert!(why.contains(&format!("locked by PID {holder}")), "{why}");
    assert_is_shut(&node, "locked by another");
    node.assert_absent("/home/alice");
    node.sh(&format!("kill -9 {holder}"));
    node.done(playbooks().delete_user(), &alice.name_and_uid());
    assert_gone(&node, "locked by another");
    node.done(playbooks().create_user(), &bob.create());
    // A lock file of a tool that lives, and of one that died.
    node.sh("sleep 600 >/dev/null 2>&1 & printf %s $! >/etc/passwd.lock; printf %s $! >/run/held");
    let holder = node.sh("cat /run/held");
    let why = refused(node.play(playbooks().delete_user(), 1, &bob.name_and_uid()), 71);
    assert!(why.contains(&format!("locked by PID {holder} (/etc/passwd.lock)")), "{why}");
    node.sh(&format!("kill -9 {holder}"));
    // Until init has reaped the process, shadow's tools take its lock for held.
    node.wait_until("it is gone", &format!("! test -d /proc/{holder}"));
    node.done(playbooks().delete_user(), &bob.name_and_uid());
}

#[test]
fn mounts_under_any_name_are_no_refuge() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        node.sh("[ -e /dev/fuse ] || mknod /dev/fuse c 10 229");
        node.sh(
            "cd /home/alice; n='line
'; for d in \"a$n\" 'a b' 'a\\040b'; do mkdir \"$d\"; mount -t tmpfs -o mode=777 x \"$d\"; : >\"$d/f\"; chown -R 200017 \"$d\"; done
             mkdir 'a b/n'; mount -t tmpfs x 'a b/n'
             mkdir \"/tmp/t$n\" /var/tmp/u; chown 200017 \"/tmp/t$n\" /var/tmp/u
             for d in \"/tmp/t$n\" /var/tmp/u; do
               exec 7<>/dev/fuse; mount -t fuse -o fd=7,rootmode=40000,user_id=200017,group_id=200017 x \"$d\"; sleep 600 >/dev/null 2>&1 &
             done",
        );
        assert_eq!(node.sh("grep -c user_id=200017 /proc/self/mountinfo"), "2");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_eq!(node.sh("grep -c -e user_id=200017 -e /home/alice /proc/self/mountinfo || :"), "0");
        assert_gone(&node, "mounts");
        node.assert_absent("/tmp/t* /var/tmp/u");
    }
}

/// Makes a tree of 300 levels with names of 100 characters here; nothing can name its end.
const DIG: &str = "set +e; n=d123456789; n=$n$n$n$n$n; n=$n$n; i=0; while [ $i -lt 300 ]; do mkdir $n && cd -P $n; i=$((i+1)); done 2>/dev/null; \
     echo x >end; [ -e end ]";

#[test]
fn trees_deeper_than_a_path_may_be_long_are_removed() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        assert_eq!(node.as_user(&alice, DIG).status, Some(0), "{userland:?}");
        assert_eq!(
            node.as_user(&alice, &format!("mkdir -p /tmp/deep/side; cd /tmp/deep; {DIG}")).status,
            Some(0)
        );
        // And with a mount at its end.
        assert_eq!(node.as_user(&alice, &format!("mkdir m; cd m; {DIG}; mkdir mnt")).status, Some(0));
        node.sh("cd /home/alice/m; while cd -P ./d*; do :; done 2>/dev/null; mount -t tmpfs x mnt 2>/dev/null || :");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, "deep");
    }
}

#[test]
fn files_are_found_in_every_place_where_a_tenant_can_write() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /run/lock /scratch /opt/shared /srv/a/b/c/d/e /etc/orion '/srv/odd name'; mount -t tmpfs -o mode=1777 t /run/lock; mkdir -p /var/crash; \
                 chmod 3777 /var/crash; chmod 1777 /scratch /opt/shared /srv/a/b/c/d/e '/srv/odd name'; mkdir -m 755 /data; mount -t tmpfs -o mode=755 t /data; \
                 mkdir -m 1777 /data/jobs; echo /srv/a/b/c/d/e >/etc/orion/places");
        let alice = created(&node, "alice", 200_017);
        let everywhere =
            "/run/lock /var/crash /scratch /opt/shared /srv/a/b/c/d/e /data/jobs /dev/shm '/srv/odd name'";
        assert_eq!(
            node.as_user(
                &alice,
                &format!(
                    "for d in {everywhere}; do mkdir \"$d/mine\" && echo x >\"$d/mine/f\" || exit 1; done"
                )
            )
            .status,
            Some(0)
        );
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, "places");
        node.assert_absent(
            "/run/lock/mine /var/crash/mine /scratch/mine /opt/shared/mine /srv/a/b/c/d/e/mine /data/jobs/mine /dev/shm/mine \
             '/srv/odd name/mine'",
        );
    }
}

#[test]
fn a_subvolume_in_a_home_is_removed_and_a_mount_of_the_machines_own_is_not() {
    let image = tempfile::NamedTempFile::new().expect("a file");
    image.as_file().set_len(200 << 20).expect("200 MiB");
    let run = |program: &str, args: &[&str]| {
        let done = Command::new(program).args(args).output().expect("it starts");
        assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text").trim().to_owned()
    };
    let path = image.path().to_str().expect("a path");
    run("mkfs.btrfs", &["-q", path]);
    let device = run("losetup", &["-f", "--show", path]);
    let number = device.trim_start_matches("/dev/loop");
    let node = Node::start(Userland::Debian);
    node.sh(&format!("mknod {device} b 7 {number}; mount -t btrfs -o user_subvol_rm_allowed {device} /home"));
    run("losetup", &["-d", &device]);
    for number in 0..2 {
        let alice = created(&node, "alice", 200_017 + number);
        let made = node.as_user(
            &alice,
            "btrfs subvolume create sub && echo x >sub/file && btrfs subvolume create sub/inner && echo x >sub/inner/file && mkdir plain && \
             btrfs subvolume create 'plain/odd name' && btrfs subvolume create 'plain/$(cd run; echo >injected)' && btrfs subvolume create 'plain/`cd run; echo >injected`' && btrfs subvolume snapshot -r sub snap",
        );
        assert_eq!(made.status, Some(0), "{}", String::from_utf8_lossy(&made.stderr));
        if number == 1 {
            node.sh("mv $(command -v btrfs) /usr/bin/btrfs.away; mount -o bind / /mnt");
            // Without the tool a read-only snapshot cannot be opened.
            node.sh("btrfs.away subvolume delete /home/alice/snap");
        }
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        node.assert_absent("/home/alice /run/injected");
        assert_eq!(node.sh(&format!("find /home -user {}", alice.uid)), "");
    }
    // Still there is what was mounted on the machine, and what is mounted into a directory of a tenant's stays whole.
    assert_eq!(node.sh("grep -c ' /mnt ' /proc/self/mountinfo; test -d /mnt/etc && echo whole"), "1\nwhole");
    node.sh("mv /usr/bin/btrfs.away /usr/bin/btrfs; mkdir -m 1777 /home/shared; btrfs subvolume create /home/kept; echo x >/home/kept/file");
    let alice = created(&node, "alice", 200_019);
    node.as_user(&alice, "mkdir /home/shared/d && btrfs subvolume create /home/shared/d/m");
    node.sh("mount -o bind /home/kept /home/shared/d/m");
    let report = node.done(playbooks().delete_user(), &alice.name_and_uid());
    assert_eq!(report.get("kept"), Some("/home/shared/d"), "{report:?}");
    assert_eq!(node.sh("cat /home/kept/file /home/shared/d/m/file"), "x\nx");
}

#[test]
fn a_process_that_cannot_be_killed_is_named_and_the_door_is_shut_all_the_same() {
    let freezer = format!("/sys/fs/cgroup/freezer/orion-test-{}", std::process::id());
    std::fs::create_dir(&freezer).expect("a cgroup of version 1 with a freezer");
    for userland in BOTH {
        let node = Node::start(userland);
        // An end that lies ahead is no lock.
        node.sh("mkdir -p /etc/default; echo EXPIRE=2099-12-31 >>/etc/default/useradd");
        let alice = created(&node, "alice", 200_017);
        node.sh("! command -v usermod >/dev/null || usermod -e 2099-12-31 alice");
        node.as_user(&alice, "echo x >/tmp/mine; setsid sleep 4711 >/dev/null 2>&1 &");
        node.wait_until("it sleeps", "grep -qs 471[1] /proc/[0-9]*/cmdline");
        // Other tests' processes have the uid, too.
        for pid in node.seen_from_outside(200_017) {
            std::fs::write(format!("{freezer}/cgroup.procs"), pid).expect("moved");
        }
        std::fs::write(format!("{freezer}/freezer.state"), "FROZEN").expect("frozen");
        let why = refused(node.play(playbooks().delete_user(), 1, &alice.name_and_uid()), 70);
        assert!(why.contains("processes of uid 200017 do not end"), "{why}");
        assert!(!node.test("grep -q ^alice: /etc/passwd") || node.test(IS_SHUT), "{userland:?}");
        node.assert_absent("/home/alice /tmp/mine");
        assert!(node.test("test -e /var/lib/orion/leases/200017"));
        std::fs::write(format!("{freezer}/freezer.state"), "THAWED").expect("thawed");
        node.wait_until("it ends", "! grep -qs 471[1] /proc/[0-9]*/cmdline");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        assert_gone(&node, "frozen");
    }
    let _ = std::fs::remove_dir(&freezer);
}

#[test]
fn what_a_job_starts_and_writes_in_between_is_removed_and_not_given_to_root() {
    for userland in BOTH {
        let node = Node::start(userland);
        let alice = created(&node, "alice", 200_017);
        let job = crate::node::as_user_command(
            userland,
            &alice,
            "echo late >/tmp/late; setsid sleep 888 >/dev/null 2>&1 &",
        );
        // As cron's: between the removal of the files and the last look (the step of number 7).
        let job = format!("mkdir -p /home/alice; sh -c '{}' 3>&- 9>&-; sleep 1", job.replace('\'', r"'\''"));
        let broken = with_text_before_step("delete_user", 6, &job).expect("it has that many steps");
        node.done(&broken, &alice.name_and_uid());
        assert_gone(&node, "job");
        node.assert_absent("/tmp/late");
    }
}

#[test]
fn a_login_that_sshd_is_about_to_let_in_is_ended() {
    let node = Node::start(Userland::Debian);
    let alice = created(&node, "alice", 200_017);
    node.sh(
        "cp /bin/sleep /tmp/sshd; bash -c 'exec -a \"sshd: alice [priv]\" /tmp/sshd 4712' >/dev/null 2>&1 & \
             bash -c 'exec -a \"sshd: alicea [priv]\" /tmp/sshd 4713' >/dev/null 2>&1 &",
    );
    node.wait_until(
        "they run",
        "grep -qs 471[2] /proc/[0-9]*/cmdline && grep -qs 471[3] /proc/[0-9]*/cmdline",
    );
    node.done(playbooks().delete_user(), &alice.name_and_uid());
    node.wait_until("it is gone", "! grep -qs 471[2] /proc/[0-9]*/cmdline");
    assert!(node.test("grep -qs 471[3] /proc/[0-9]*/cmdline"), "another's goes on");
}

#[test]
fn an_account_has_no_end_and_no_age_while_it_is_leased() {
    let node = Node::start(Userland::Debian);
    node.sh(
        "sed -i 's/^PASS_MAX_DAYS.*/PASS_MAX_DAYS 1/; s/^PASS_MIN_DAYS.*/PASS_MIN_DAYS 7/' /etc/login.defs; \
             printf 'EXPIRE=2020-01-01\\nINACTIVE=3\\n' >>/etc/default/useradd",
    );
    let ageing = "grep ^alice: /etc/shadow | cut -d: -f4,5,7,8";
    let alice = created(&node, "alice", 200_017);
    assert_eq!(node.sh(ageing), "0:99999::");
    node.sh("chage -m 3 -M 4 -I 5 -E 2020-01-01 alice");
    node.done(playbooks().create_user(), &alice.create());
    assert_eq!(node.sh(ageing), "0:99999::", "and what somebody gave it later is taken away");
    assert!(node.sh("grep ^alice: /etc/shadow").starts_with(&format!("alice:{}:", alice.hash)));
}

#[test]
fn a_password_that_the_tenant_changed_stays_until_the_lease_has_another() {
    for userland in BOTH {
        let node = Node::start(userland);
        let mut alice = created(&node, "alice", 200_017);
        let hash = "grep ^alice: /etc/shadow | cut -d: -f2";
        let own = format!("$6$another${}", &alice.hash[20..]);
        node.sh(&format!("echo 'alice:{own}' | chpasswd -e"));
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(node.sh(hash), own, "{userland:?}");
        // Also when the account was locked meanwhile, by the tools or without them.
        node.sh("if command -v usermod; then usermod -L -e 1 alice; else passwd -l alice; sed -i 's,^\\(alice:.*\\):[^:]*$,\\1:/bin/false,' /etc/passwd; fi");
        node.done(playbooks().set_deadline(), &alice.deadline());
        assert_eq!(node.sh(hash), own, "{userland:?}");
        node.sh("sed -i 's/^alice:.6/alice:!6/' /etc/shadow; sed -i 's,^\\(alice:.*\\):.bin,\\1:!bin,' /etc/passwd");
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(node.sh(hash), own, "{userland:?}");
        assert!(node.sh("grep ^alice: /etc/passwd").contains(":/bin/"), "{userland:?}");
        alice.hash = format!("$6$third${}", &alice.hash[20..]);
        node.done(playbooks().create_user(), &alice.create());
        assert_eq!(node.sh(hash), alice.hash, "{userland:?}: a new one of the lease is set");
        node.done(playbooks().delete_user(), &alice.name_and_uid());
        node.assert_absent("/var/lib/orion/passwords/200017");
    }
}
