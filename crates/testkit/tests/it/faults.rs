//! The failure table: what each fault looks like from outside, and how it ends.

use std::io;
use std::time::{Duration, Instant};

use orion_testkit::{Worker, Workers, wait_until};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

const SHORT: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_killed_worker_refuses_connections_at_once() {
    let set = Workers::start(1);
    set[0].kill();
    let started = Instant::now();
    let refusal = banner(&set[0]).await.expect_err("nothing listens");
    assert_eq!(refusal.kind(), io::ErrorKind::ConnectionRefused);
    assert!(started.elapsed() < Duration::from_millis(200), "{:?}", started.elapsed());
    assert!(set.status().contains("stopped"), "{}", set.status());
}

#[tokio::test]
async fn killing_a_worker_ends_its_open_connections_at_once() {
    let set = Workers::start(1);
    let mut connection = connect_and_read_banner(&set[0]).await;
    set[0].kill();
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(2), connection.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection still hangs");
}

#[tokio::test]
async fn a_cut_worker_times_out_and_its_connections_resume_after_uncut() {
    let set = Workers::start(1);
    let mut connection = connect_and_read_banner(&set[0]).await;
    set[0].cut();
    assert!(set.status().contains("cut"), "{}", set.status());
    match timeout(SHORT, banner(&set[0])).await {
        Err(_) => {}
        Ok(answer) => {
            let kind = answer.expect_err("the cable is out").kind();
            assert!(matches!(kind, io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut), "{kind:?}");
        }
    }
    // a line of nonsense: sshd's refusal can only arrive when the old connection works again
    tokio::io::AsyncWriteExt::write_all(&mut connection, b"nonsense\r\n").await.unwrap();
    let mut rest = Vec::new();
    let answer = timeout(SHORT, connection.read_to_end(&mut rest)).await;
    assert!(answer.is_err(), "an answer through a cut cable: {answer:?}");
    set[0].uncut();
    timeout(Duration::from_secs(10), connection.read_to_end(&mut rest)).await.expect("it resumes").unwrap();
    assert!(String::from_utf8_lossy(&rest).contains("Invalid SSH identification"), "{rest:?}");
    wait_until("new connections", Duration::from_secs(10), async || banner(&set[0]).await).await;
}

#[tokio::test]
async fn a_frozen_worker_accepts_connections_and_never_says_a_word() {
    let set = Workers::start(1);
    set[0].freeze();
    assert!(set.status().contains("frozen"), "{}", set.status());
    let mut connection = timeout(SHORT, TcpStream::connect(set[0].ssh_socket())).await.unwrap().unwrap();
    let mut byte = [0];
    assert!(timeout(SHORT, connection.read(&mut byte)).await.is_err(), "a frozen sshd spoke");
    set[0].thaw();
    let read = timeout(Duration::from_secs(5), connection.read(&mut byte)).await.unwrap().unwrap();
    assert_eq!((read, byte), (1, *b"S"));
}

#[tokio::test]
async fn a_frozen_worker_can_be_killed_and_started() {
    let set = Workers::start(1);
    set[0].freeze();
    set[0].kill();
    set[0].start();
    assert!(banner(&set[0]).await.unwrap().starts_with("SSH-2.0"));
}

#[test]
fn a_started_worker_has_its_old_disk_and_key_but_an_empty_tmp_run_and_root() {
    let set = Workers::start(1);
    let worker = &set[0];
    let host_key = worker.host_key();
    let machine_id = worker.sh("cat /etc/machine-id");
    let boot_id = worker.sh("cat /proc/sys/kernel/random/boot_id");
    let mac = worker.sh("cat /sys/class/net/eth0/address");
    worker.sh("useradd -m alice && touch /home/alice/work /tmp/t /run/r /root/q /dev/shm/s /var/tmp/kept");
    worker.kill();
    worker.start();
    assert_eq!(
        worker.sh("id -un alice; ls /home/alice /var/tmp"),
        "alice\n/home/alice:\nwork\n\n/var/tmp:\nkept\n"
    );
    assert_eq!(
        worker.sh("ls /tmp /dev/shm /root; ls /run/r 2>/dev/null || true"),
        "/dev/shm:\n\n/root:\n\n/tmp:\n"
    );
    assert_eq!(worker.host_key(), host_key);
    assert_eq!(worker.sh("ssh-keyscan -t ed25519 127.0.0.1 2>/dev/null | cut -d' ' -f2-"), {
        let words: Vec<&str> = host_key.split_whitespace().take(2).collect();
        words.join(" ") + "\n"
    });
    assert_eq!(worker.sh("cat /etc/machine-id"), machine_id);
    assert_eq!(worker.sh("cat /sys/class/net/eth0/address"), mac);
    assert_ne!(worker.sh("cat /proc/sys/kernel/random/boot_id"), boot_id);
}

#[test]
fn the_uptime_of_a_worker_begins_when_it_boots() {
    let set = Workers::start(1);
    let uptime: f64 = set[0].sh("cut -d' ' -f1 /proc/uptime").trim().parse().unwrap();
    assert!((0.0..30.0).contains(&uptime), "{uptime}");
}

#[test]
fn a_full_disk_makes_useradd_fail_until_it_is_emptied() {
    let set = Workers::start(1);
    let worker = &set[0];
    worker.fill_disk();
    assert!(set.status().contains("full"), "{}", set.status());
    let refused = worker.try_sh("useradd -m alice");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("No space left on device"));
    assert_eq!(worker.sh("echo still >/tmp/writable && cat /tmp/writable"), "still\n");
    worker.empty_disk();
    worker.sh("useradd -m alice && id -u alice");
}

#[test]
fn a_worker_with_a_full_disk_boots() {
    let set = Workers::start(1);
    set[0].fill_disk();
    set[0].kill();
    set[0].start();
    assert!(!set[0].try_sh("useradd -m alice").status.success());
}

#[test]
fn a_read_only_worker_refuses_useradd_until_it_is_writable() {
    let set = Workers::start(1);
    let worker = &set[0];
    worker.make_read_only();
    assert!(set.status().contains("readonly"), "{}", set.status());
    assert!(!worker.try_sh("useradd -m alice").status.success());
    assert!(!worker.try_sh("touch /home/x").status.success());
    worker.make_writable();
    worker.sh("useradd -m alice");
}

#[tokio::test]
async fn an_sshd_that_is_stopped_stays_down_and_one_that_dies_comes_back() {
    let set = Workers::start(1);
    let worker = &set[0];
    worker.stop_sshd();
    assert_eq!(banner(worker).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    worker.start_sshd();
    banner(worker).await.unwrap();
    worker.sh("kill -KILL $(cat /run/sshd.pid)");
    wait_until("init starts sshd again", Duration::from_secs(5), async || banner(worker).await).await;
}

#[tokio::test]
async fn processes_that_are_orphaned_are_reaped_promptly() {
    let set = Workers::start(1);
    set[0].sh("for i in 1 2 3 4 5; do (sleep 0.05 &); done");
    let worker = set[0].clone();
    wait_until("no zombie and no sleeper", Duration::from_secs(1), async || {
        let left = worker.sh("ps -eo ppid=,stat=,comm= | grep -E ' Z|sleep' || true");
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
}

async fn banner(worker: &Worker) -> io::Result<String> {
    let mut connection = TcpStream::connect(worker.ssh_socket()).await?;
    let mut line = [0; 64];
    let length = connection.read(&mut line).await?;
    if length == 0 {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }
}

async fn connect_and_read_banner(worker: &Worker) -> TcpStream {
    let mut connection = TcpStream::connect(worker.ssh_socket()).await.unwrap();
    let mut line = [0; 64];
    assert!(connection.read(&mut line).await.unwrap() > 0);
    connection
}
