//! Tenants and machines that make leaving hard: full disks, locked account files, files and subvolumes anywhere. After a
//! release or a deadline nobody is let in within 5 s, and the node is offered again without an admin.

use super::{
    PATIENCE,
    site::{Site, is_shut_within_5_s},
    system::{Database, System},
    truthful::Truthful,
    user::{Ticket, User, is_clean, left_on},
};
use orion_testkit::{KeyPair, Kind, Worker};
use serde_json::json;
use std::time::{Duration, Instant};

/// Fills the file system of the homes to the last byte, as a tenant would.
const FILL: &str = "cd; fallocate -l 400M y 2>/dev/null; dd if=/dev/zero of=z bs=1M 2>/dev/null; \
                    while echo 1234567890 >>zz; do :; done 2>/dev/null; echo full";

async fn one(kind: Kind) -> (System, User, KeyPair) {
    let system = System::start_kinds(Database::Sqlite, &[kind]).await;
    let user = system.user("zoe").await;
    (system, user, KeyPair::generate())
}

fn site<'a>(system: &'a System, kind: Kind, user: &'a User, key: &'a KeyPair) -> Site<'a> {
    Site { system, worker: &system.workers()[0], tag: kind.as_str(), user, key }
}

/// The lease ends, nothing of it is left, and the node is offered without an admin.
async fn ends_and_is_offered_again(site: &Site<'_>, ticket: &Ticket) {
    site.user.until(ticket.rental_id, "over", |lease| lease["state"] == "ended").await;
    site.system.until_offered(std::slice::from_ref(site.worker)).await;
    is_clean(site.worker);
}

/// Holds the lock of the account files, as a package's script does while it adds a user.
struct AccountLock<'a>(&'a Worker);

impl<'a> AccountLock<'a> {
    fn hold(worker: &'a Worker) -> Self {
        // F_SETLKW of a write lock, as lckpwdf(3) sets it; held as long as the file is there.
        worker.sh(": >/run/hold; setsid perl -e 'open(F, \">>\", \"/etc/.pwd.lock\"); \
                   $lock = pack(\"s s x4 q q l x4\", 1, 0, 0, 0, 0); fcntl(F, 7, $lock) or die; open(R, \">\", \"/run/held\"); \
                   select(undef, undef, undef, 0.05) while -e \"/run/hold\"; unlink \"/run/held\"' \
                   >/dev/null 2>&1 </dev/null & timeout 10 sh -c 'until [ -e /run/held ]; do sleep 0.02; done'");
        Self(worker)
    }
}

impl Drop for AccountLock<'_> {
    fn drop(&mut self) {
        self.0.sh("rm -f /run/hold; timeout 10 sh -c 'while [ -e /run/held ]; do sleep 0.02; done'");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn account_files_that_another_program_locks_hold_up_the_work_and_nothing_else() {
    let (system, zoe, key) = one(Kind::Debian).await;
    let site = site(&system, Kind::Debian, &zoe, &key);

    let lock = AccountLock::hold(site.worker);
    let reply = site.try_rent().await;
    if reply.status == 200 {
        let ticket = super::user::tickets(&reply.body).remove(0);
        site.both_logins_work(&ticket, "while the files are locked").await;
        zoe.release(ticket.rental_id).await;
    } else {
        let node = system.node(site.worker).await.expect("known");
        assert_eq!(reply.status, 503, "{}", reply.body);
        assert!(node.to_string().contains("lock"), "the node says what is in the way: {node}");
    }
    drop(lock);
    site.is_well_again("the lock of a rent").await;

    let ticket = site.rent().await;
    let truthful = Truthful::watch(&zoe, std::slice::from_ref(&ticket));
    let lock = AccountLock::hold(site.worker);
    zoe.release(ticket.rental_id).await;
    is_shut_within_5_s(&ticket).await;
    drop(lock);
    ends_and_is_offered_again(&site, &ticket).await;
    truthful.was_true().await;

    // A lock whose owner has died is nobody's.
    site.worker.sh("echo -n 999999 >/etc/passwd.lock");
    site.is_well_again("a lock that was left").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_in_every_place_that_takes_them_go_with_the_lease() {
    let (system, zoe, key) = one(Kind::Debian).await;
    let site = site(&system, Kind::Debian, &zoe, &key);
    // /run/lock is a file system of its own on Debian, /var/crash is Ubuntu's, the others a site's.
    site.worker.sh(
        "mount -t tmpfs -o mode=1777 t /run/lock; install -d -m 3777 /var/crash; install -d -m 1777 /scratch /opt/shared; \
         mkdir -p /data/deep; mount -t tmpfs -o mode=755 t /data; install -d -m 1777 /data/work",
    );
    let ticket = site.rent().await;
    let truthful = Truthful::watch(&zoe, std::slice::from_ref(&ticket));
    let dirt = "for dir in /run/lock /var/crash /scratch /opt/shared /data/work /dev/shm /var/tmp; do \
                mkdir $dir/mine-dir && echo secret >$dir/mine-dir/mine && chmod 644 $dir/mine-dir/mine || exit 1; done; \
                echo done";
    assert_eq!(ticket.by_password().run(dirt).await.as_deref(), Ok("done\n"));
    assert!(
        left_on(site.worker).iter().filter(|line| line.ends_with("/mine")).count() == 7,
        "the look bites"
    );
    zoe.release(ticket.rental_id).await;
    ends_and_is_offered_again(&site, &ticket).await;
    truthful.was_true().await;
    // Nor has anything become root's.
    let left = site
        .worker
        .sh("find / \\( -path /proc -o -path /sys -o -path /usr \\) -prune -o -name 'mine*' -print");
    assert_eq!(left, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn btrfs_subvolumes_in_a_home_go_with_the_lease() {
    let (system, zoe, key) = one(Kind::Hardened).await;
    let site = site(&system, Kind::Hardened, &zoe, &key);
    let ticket = site.rent().await;
    let truthful = Truthful::watch(&zoe, std::slice::from_ref(&ticket));
    let dirt = "PATH=$PATH:/usr/sbin:/sbin; cd && btrfs subvolume create sub >/dev/null && echo x >sub/file && \
                btrfs subvolume create sub/inner >/dev/null && echo y >sub/inner/file && mkdir -p deep/er && \
                btrfs subvolume snapshot -r sub deep/er/snapshot >/dev/null && echo done";
    assert_eq!(ticket.by_password().run(dirt).await.as_deref(), Ok("done\n"));
    zoe.release(ticket.rental_id).await;
    ends_and_is_offered_again(&site, &ticket).await;
    truthful.was_true().await;
    // The probe of the way in has a home for a moment.
    assert_eq!(site.worker.sh("ls -A /home | grep -vx orion-probe; btrfs subvolume list /home"), "");
    // The name can be used again there.
    site.is_well_again("subvolumes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_who_fills_the_disk_is_told_so_at_an_extension_and_leaves_at_the_release() {
    let (system, zoe, key) = one(Kind::Debian).await;
    let site = site(&system, Kind::Debian, &zoe, &key);
    let ticket = site.rent().await;
    let truthful = Truthful::watch(&zoe, std::slice::from_ref(&ticket));
    assert_eq!(ticket.by_password().run(FILL).await.as_deref(), Ok("full\n"));
    let path = format!("/api/extend/{}", ticket.rental_id);
    let extended = zoe.post(&path, json!({ "additional_hours": 1 })).await.expect(200);
    if extended["applied"] == false {
        let lease = zoe.show(ticket.rental_id).await;
        assert_eq!(lease["applied"], false, "{lease}");
        // Half of it is enough; it is applied without an admin.
        assert_eq!(ticket.by_password().run("rm y && echo room").await.as_deref(), Ok("room\n"));
        zoe.until(ticket.rental_id, "the extension is applied", |lease| lease["applied"] == true).await;
        assert_eq!(ticket.by_password().run(FILL).await.as_deref(), Ok("full\n"));
    }
    zoe.release(ticket.rental_id).await;
    is_shut_within_5_s(&ticket).await;
    ends_and_is_offered_again(&site, &ticket).await;
    truthful.was_true().await;
    site.is_well_again("a full disk").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_who_uses_up_the_inodes_leaves_at_the_release() {
    let (system, zoe, key) = one(Kind::Debian).await;
    let site = site(&system, Kind::Debian, &zoe, &key);
    site.worker.limit_inodes(2000);
    let ticket = site.rent().await;
    let truthful = Truthful::watch(&zoe, std::slice::from_ref(&ticket));
    let fill = "cd; i=0; while : >f$i; do i=$((i + 1)); done 2>/dev/null; echo full";
    let filled = ticket.by_password().run(&format!("bash -c '{fill}'")).await;
    assert_eq!(filled.as_deref(), Ok("full\n"));
    zoe.release(ticket.rental_id).await;
    is_shut_within_5_s(&ticket).await;
    ends_and_is_offered_again(&site, &ticket).await;
    truthful.was_true().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_alone_ends_the_lease_of_a_tenant_who_filled_the_disk() {
    let (system, zoe, key) = one(Kind::Debian).await;
    let site = site(&system, Kind::Debian, &zoe, &key);
    let rented_for = Duration::from_secs(15);
    let body = json!({ "duration_hours": rented_for.as_secs_f64() / 3600.0 });
    let ticket = zoe.rent(body).await.remove(0);
    let begun = Instant::now();
    system.up().kill();
    let stays = format!("nohup setsid sleep 3000 >/dev/null 2>&1 </dev/null & {FILL}");
    assert_eq!(ticket.by_password().run(&stays).await.as_deref(), Ok("full\n"));
    // The grace is 10 s.
    let end = rented_for + Duration::from_secs(10);
    assert!(begun.elapsed() < end, "the disk was full too late");
    super::wait_until_time(begun, end).await;
    is_shut_within_5_s(&ticket).await;
    orion_testkit::wait_until("no process is left", PATIENCE, async || {
        let left: Vec<String> =
            left_on(site.worker).into_iter().filter(|line| line.contains(" process ")).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    system.up().start();
    system.up().answers().await;
    ends_and_is_offered_again(&site, &ticket).await;
}
