//! Sets of workers: starting twice, stopping, what a worker sees of the machine, what is left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use orion_testkit::{Agent, Workers, wait_until_blocking};

#[test]
fn three_workers_start_each_with_its_own_name_and_address() {
    let set = Workers::start(3);
    for worker in set.all() {
        assert_eq!(
            worker.sh("cat /proc/sys/kernel/hostname /etc/hostname"),
            format!("{0}\n{0}\n", worker.name())
        );
        let address = worker.sh("ip -4 -o addr show dev eth0 | awk '{print $4}'");
        assert_eq!(address, format!("{}/16\n", worker.ip()));
    }
    let keys: std::collections::BTreeSet<String> = set.all().iter().map(|worker| worker.host_key()).collect();
    assert_eq!(keys.len(), 3);
}

#[test]
fn starting_more_workers_leaves_the_running_ones_alone() {
    let mut set = Workers::start(2);
    let boots = |set: &Workers| -> Vec<String> {
        set.all().iter().map(|worker| worker.sh("cat /proc/sys/kernel/random/boot_id")).collect()
    };
    let before = boots(&set);
    set.grow_to(2);
    set.grow_to(3);
    assert_eq!(boots(&set)[..2], before);
    assert_eq!(set.status().matches("running").count(), 3);
}

#[test]
fn starting_a_running_worker_and_killing_a_dead_one_change_nothing() {
    let set = Workers::start(1);
    let boot_id = set[0].sh("cat /proc/sys/kernel/random/boot_id");
    set[0].start();
    assert_eq!(set[0].sh("cat /proc/sys/kernel/random/boot_id"), boot_id);
    set[0].kill();
    set[0].kill();
    set[0].start();
}

#[test]
fn workers_reach_the_machine_and_each_other() {
    let set = Workers::start(2);
    let listener = std::net::TcpListener::bind((set.gateway(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    set[0].sh(&format!("bash -c 'exec 3<>/dev/tcp/{}/{port}'", set.gateway()));
    set[0].sh(&format!("bash -c 'exec 3<>/dev/tcp/{}/22'", set[1].ip()));
}

#[test]
fn two_sets_at_once_do_not_disturb_each_other() {
    let [first, second] = [Workers::start(1), Workers::start(1)];
    assert_ne!(first[0].ip(), second[0].ip());
    drop(first);
    second[0].sh("true");
    assert!(second.status().contains("running"));
}

#[test]
fn stopping_leaves_nothing() {
    let mut set = Workers::start(2);
    let names: Vec<String> = set.all().iter().map(|worker| worker.name().to_owned()).collect();
    let (directory, bridge) = (set.directory().to_owned(), set.bridge());
    set[0].sh("useradd -m alice; setsid sleep 1000 >/dev/null 2>&1 & setsid su alice -c 'sleep 1000' >/dev/null 2>&1 &");
    set[1].freeze();
    assert!(!leftovers(&names, &directory, &bridge).is_empty(), "the check must bite");
    set.stop_all();
    assert_eq!(leftovers(&names, &directory, &bridge), Vec::<String>::new());
    set.grow_to(1);
    assert_eq!(set[0].try_sh("id alice").status.code(), Some(1), "a new disk");
    drop(set);
    assert_eq!(leftovers(&names, &directory, &bridge), Vec::<String>::new());
}

#[test]
fn stopping_cleans_what_a_crash_left() {
    let mut set = Workers::start(2);
    let names: Vec<String> = set.all().iter().map(|worker| worker.name().to_owned()).collect();
    let (directory, bridge) = (set.directory().to_owned(), set.bridge());
    // one lost its files, the other its outer process
    run("rm", &["-f", &path(&directory, &names[0], "pid"), &path(&directory, &names[0], "outer")]);
    let outer = fs::read_to_string(path(&directory, &names[1], "outer")).unwrap();
    run("kill", &["-KILL", outer.trim()]);
    run("umount", &["-l", &path(&directory, &names[1], "disk")]);
    set.stop_all();
    assert_eq!(leftovers(&names, &directory, &bridge), Vec::<String>::new());
}

#[test]
fn a_worker_whose_processes_all_died_starts_again() {
    let set = Workers::start(1);
    let outer = fs::read_to_string(path(set.directory(), set[0].name(), "outer")).unwrap();
    run("kill", &["-KILL", outer.trim()]);
    wait_until_blocking("the worker is gone", Duration::from_secs(5), || {
        let status = set.status();
        if status.contains("stopped") { Ok(()) } else { Err(status) }
    });
    set[0].start();
    set[0].sh("true");
}

#[test]
fn the_machines_accounts_are_untouched_whatever_a_worker_does() {
    let accounts =
        || ["/etc/passwd", "/etc/shadow", "/etc/group", "/etc/subuid"].map(|file| fs::read(file).ok());
    let before = accounts();
    let set = Workers::start(1);
    set[0].sh("useradd -m erin && echo erin:secret | chpasswd && usermod -aG daemon erin");
    assert!(accounts() == before, "the machine's account files changed");
    assert!(!Path::new("/home/erin").exists());
    set[0].sh("rm -rf /home /var/log /opt /etc/ssh/sshd_config; kill -KILL -1");
    assert!(accounts() == before, "the machine's account files changed");
    assert!(Path::new("/etc/ssh/sshd_config").exists());
}

#[test]
fn a_worker_sees_no_users_keys_or_passwords_of_the_machine() {
    let set = Workers::start(1);
    let worker = &set[0];
    assert_eq!(
        worker.sh("ls -A /home /root /tmp /var/tmp /srv"),
        "/home:\n\n/root:\n\n/srv:\n\n/tmp:\n\n/var/tmp:\n"
    );
    assert_eq!(worker.sh("awk -F: '$3 >= 1000 && $3 != 65534' /etc/passwd"), "");
    assert_eq!(worker.sh("awk -F: '$2 != \"*\"' /etc/shadow"), "");
    assert_eq!(
        worker.sh("ls /etc/ssh"),
        "ssh_config\nssh_host_ed25519_key\nssh_host_ed25519_key.pub\nsshd_config\nsshd_config.d\n"
    );
    assert_eq!(worker.sh("ls -d /var/lib/orion* 2>/dev/null || true"), "");
    assert_eq!(
        worker.sh("/usr/sbin/sshd -T | grep -E '^(maxstartups|permitrootlogin|usepam|passwordauth)'"),
        "usepam yes\npermitrootlogin without-password\npasswordauthentication yes\nmaxstartups 100:30:200\n"
    );
}

#[test]
fn the_agent_gets_its_settings_and_is_restarted_when_it_dies() {
    let directory = tempfile::tempdir().unwrap();
    let binary = directory.path().join("agent");
    // a stand-in that shows what it was given; the real agent has its own tests
    fs::write(&binary, "#!/bin/sh\necho \"started $*\"; env | sort; exec sleep 1000\n").unwrap();
    run("chmod", &["755", binary.to_str().unwrap()]);
    let agent = Agent::new(&binary, 8099, "join-secret")
        .setting("ORION_WORKER_TAGS", "gpu,big disk")
        .setting("RUST_LOG", "info");
    let set = Workers::start_with_agent(1, agent);
    let worker = &set[0];
    let starts = |wanted: usize| {
        wait_until_blocking("the agent runs", Duration::from_secs(5), || {
            let log = worker.agent_log();
            if log.matches("started run").count() == wanted && log.ends_with('\n') && log.contains("RUST_LOG")
            {
                Ok(log)
            } else {
                Err(log)
            }
        })
    };
    let log = starts(1);
    assert!(log.contains("started run --join-token-file /etc/orion/join-token\n"), "{log}");
    let settings = [
        format!("API_ENDPOINT=http://{}:8099", set.gateway()),
        format!("MY_HOST_IP={}", worker.ip()),
        "MY_HOST_PORT=22".to_owned(),
        "ORION_INSECURE_HTTP=1".to_owned(),
        "ORION_WORKER_TAGS=gpu,big disk".to_owned(),
        "RUST_LOG=info".to_owned(),
    ];
    for setting in &settings {
        assert!(log.lines().any(|line| line == setting), "{setting} is missing in\n{log}");
    }
    assert!(!log.contains("join-secret"), "the token is in the environment or the arguments");
    assert_eq!(
        worker.sh("stat -c '%a %U' /etc/orion/join-token && cat /etc/orion/join-token"),
        "600 root\njoin-secret\n"
    );
    worker.sh("pkill -x sleep");
    starts(2);
    worker.kill();
    worker.start();
    starts(3);
}

#[test]
fn workers_of_a_test_process_that_is_killed_are_removed() {
    // this test's own binary plays the process that is killed
    if std::env::var_os("ORION_TESTKIT_PLAYS_VICTIM").is_some() {
        let set = Workers::start(1);
        println!("\nVICTIM {} {} {}", set[0].name(), set.directory().display(), set.bridge());
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "workers::workers_of_a_test_process_that_is_killed_are_removed", "--nocapture"])
        .env("ORION_TESTKIT_PLAYS_VICTIM", "1")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(victim.stdout.take().unwrap()));
    let line =
        lines.map_while(Result::ok).find(|line| line.starts_with("VICTIM ")).expect("the victim's set");
    let words: Vec<&str> = line.split(' ').collect();
    let (names, directory, bridge) =
        ([words[1].to_owned()], Path::new(words[2]).to_owned(), words[3].to_owned());
    assert!(!leftovers(&names, &directory, &bridge).is_empty(), "the victim has a worker");
    victim.kill().unwrap();
    victim.wait().unwrap();
    wait_until_blocking("the keeper cleans up", Duration::from_secs(10), || {
        let left = leftovers(&names, &directory, &bridge);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_wrong_name_or_option_is_refused_with_a_hint() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../launch_workers.sh");
    for arguments in [
        &["--kill", "nobody1"][..],
        &["--kill"],
        &["--explode", "x"],
        &["1000"],
        &["three"],
        &["--stop", "x"],
    ] {
        let output =
            Command::new(&script).args(arguments).env("ORION_WORKERS_PREFIX", "none").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.starts_with("launch_workers.sh: "), "{arguments:?}: {message}");
    }
}

fn path(directory: &Path, name: &str, file: &str) -> String {
    directory.join(name).join(file).display().to_string()
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

/// Lists everything on the machine that belongs to these workers.
fn leftovers(names: &[String], directory: &Path, bridge: &str) -> Vec<String> {
    let mut found = Vec::new();
    let directory_text = directory.display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(
        mounts.lines().filter(|line| line.contains(&directory_text)).map(|line| format!("mount {line}")),
    );
    if directory.exists() {
        found.push(format!("directory {directory_text}"));
    }
    if Path::new("/sys/class/net").join(bridge).exists() {
        found.push(format!("bridge {bridge}"));
    }
    for entry in fs::read_dir("/sys/class/net").unwrap().map_while(Result::ok) {
        let alias = fs::read_to_string(entry.path().join("ifalias")).unwrap_or_default();
        if names.iter().any(|name| alias.contains(&format!(" {name} "))) {
            found.push(format!("link {alias}"));
        }
    }
    for name in names {
        let paths = [
            format!("/run/netns/{name}"),
            format!("/sys/fs/cgroup/freezer/orion-worker-{name}"),
            format!("/sys/fs/cgroup/orion-worker-{name}"),
        ];
        found.extend(paths.into_iter().filter(|path| Path::new(path).exists()));
    }
    for entry in fs::read_dir("/proc").unwrap().map_while(Result::ok) {
        // a worker's processes carry its name in their UTS namespace; from outside: by cgroup and arguments
        let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        let arguments = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let state = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let is_zombie =
            state.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']));
        let belongs = |name: &String| {
            cgroup.contains(&format!("orion-worker-{name}\n"))
                || arguments.contains(&format!("netns/{name}\0"))
        };
        if !is_zombie && names.iter().any(belongs) {
            found.push(format!("process {} {arguments}", entry.file_name().to_string_lossy()));
        }
    }
    found
}
