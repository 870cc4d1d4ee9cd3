//! A throw-away worker: real accounts and processes in Linux namespaces on an overlay of `/` (Debian's
//! tools) or in a root that holds nothing but BusyBox. The host's accounts are never touched. Not here:
//! network and sshd; a playbook's command line is run as sshd would run it.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orion_fleet::playbook::{Library, Playbook, Playbooks, Reply, Report, read_reply};

/// Set of tools that the worker has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Userland {
    Debian,
    BusyBox,
}

pub const BOTH: [Userland; 2] = [Userland::Debian, Userland::BusyBox];

const MOUNTS: &str = r#"
mkdir -p proc sys dev run tmp root
mount -t proc proc proc
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=1777 tmp var/tmp
mount -t tmpfs -o mode=755 dev dev
for x in null zero full random urandom tty; do : >dev/$x; mount --bind /dev/$x dev/$x; done
mkdir dev/shm host
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s /proc/self/fd dev/fd
hostname worker
pivot_root . host
exec <&- 2>/dev/null
cd /
"#;

const DEBIAN: &str = r#"
mkdir "$BASE/u" "$BASE/w" "$BASE/m"
mount -t overlay worker -o "lowerdir=/,upperdir=$BASE/u,workdir=$BASE/w" "$BASE/m"
cd "$BASE/m"
rm -rf var/lib/orion
"#;

const BUSYBOX: &str = r#"
mkdir "$BASE/m"
mount -t tmpfs -o mode=755,size=128m worker "$BASE/m"
cd "$BASE/m"
mkdir -p bin sbin usr/bin usr/sbin etc home var/tmp var/spool/cron/crontabs var/mail
chmod 1777 var/tmp
cp "$BUSYBOX" bin/busybox
for applet in $("$BUSYBOX" --list); do [ "$applet" = busybox ] || ln -s busybox "bin/$applet"; done
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'root:x:0:' >etc/group
(umask 077; echo 'root:*:19000:0:99999:7:::' >etc/shadow)
"#;

/// PID 1 of the worker: reaps what is orphaned and says when it is there.
const INIT_DEBIAN: &str = r#"umount -l /host; rmdir /host
exec /bin/bash -c 'trap : CHLD; echo ready; exec >/dev/null; while :; do sleep 0.2 & wait; done'"#;
const INIT_BUSYBOX: &str = r#"/bin/umount -l /host; /bin/rmdir /host
exec /bin/sh -c 'trap : CHLD; echo ready; exec >/dev/null; while :; do sleep 0.2 & wait; done'"#;

static NUMBER: AtomicU32 = AtomicU32::new(0);

pub struct Node {
    pub userland: Userland,
    unshare: Child,
    init: u32,
    base: PathBuf,
}

/// Result of one command.
#[derive(Debug)]
pub struct Ran {
    pub status: Option<u32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Node {
    pub fn start(userland: Userland) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let base =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("node-{}-{number}", std::process::id()));
        fs::create_dir_all(&base).expect("a directory for the node");
        let (root, init) = match userland {
            Userland::Debian => (DEBIAN, INIT_DEBIAN),
            Userland::BusyBox => (BUSYBOX, INIT_BUSYBOX),
        };
        let mount_base = "mount -t tmpfs -o mode=755,size=256m worker \"$BASE\"\n";
        let mut unshare = Command::new("unshare")
            .args(["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child=KILL", "sh", "-euc"])
            .arg(format!("{mount_base}{root}{MOUNTS}{init}"))
            .env("BASE", &base)
            .env("BUSYBOX", busybox())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let mut ready = [0_u8; 6];
        let mut stdout = unshare.stdout.take().expect("it is piped");
        let got = stdout.read_exact(&mut ready);
        assert!(got.is_ok() && &ready == b"ready\n", "the worker did not start ({got:?})");
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init =
            fs::read_to_string(children).expect("unshare has a child").trim().parse().expect("one child");
        Self { userland, unshare, init, base }
    }

    /// Runs a command line as sshd does: in a new session, by root's login shell.
    pub fn run(&self, command: &str, stdin: &[u8]) -> Ran {
        let mut child = self.spawn(command);
        // A script that refuses early does not read the rest.
        let _ = child.stdin.take().expect("it is piped").write_all(stdin);
        child.wait()
    }

    /// Returns the processes of a uid in this node, by their numbers outside of it.
    pub fn seen_from_outside(&self, uid: u32) -> Vec<String> {
        let pid_namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/pid")).ok();
        let inside = pid_namespace(&self.init.to_string());
        let has_uid = |process: &String| {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            status.contains(&format!("\nUid:\t{uid}\t"))
        };
        let entries = fs::read_dir("/proc").expect("it is there").flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|process| pid_namespace(process) == inside && has_uid(process)).collect()
    }

    /// Starts a command line; the caller feeds standard input and waits.
    pub fn spawn(&self, command: &str) -> Running {
        let (stdout, stderr) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let mut child = Command::new("nsenter")
            .args(["-t", &self.init.to_string(), "-m", "-u", "-i", "-p", "setsid", "/bin/sh", "-c", command])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(stdout.try_clone().expect("a second handle"))
            .stderr(stderr.try_clone().expect("a second handle"))
            .spawn()
            .expect("nsenter starts");
        Running { stdin: child.stdin.take(), child, stdout, stderr }
    }

    /// Runs a command that must succeed; what it printed, without the last newline.
    pub fn sh(&self, command: &str) -> String {
        let ran = self.run(command, b"");
        assert_eq!(
            ran.status,
            Some(0),
            "{:?}: {command}\n{}",
            self.userland,
            String::from_utf8_lossy(&ran.stderr)
        );
        String::from_utf8_lossy(&ran.stdout).trim_end().to_owned()
    }

    /// Does the command succeed?
    pub fn test(&self, command: &str) -> bool {
        self.run(command, b"").status == Some(0)
    }

    /// Runs a playbook and reads its reply.
    pub fn play(&self, playbook: &Playbook, epoch: u64, values: &[(&str, &str)]) -> Reply {
        let stdin = playbook.stdin(epoch, values).expect("good values");
        self.play_raw(playbook, &stdin)
    }

    /// The same with these bytes on standard input.
    pub fn play_raw(&self, playbook: &Playbook, stdin: &[u8]) -> Reply {
        let ran = self.run(playbook.command(), stdin);
        read_reply(playbook, ran.status, &ran.stdout, &ran.stderr, &[])
    }

    /// Runs a playbook that must succeed.
    pub fn done(&self, playbook: &Playbook, values: &[(&str, &str)]) -> Report {
        let reply = self.play(playbook, 1, values);
        let Reply::Done(report) = reply else {
            panic!("{:?}: {} ended with {reply:?}", self.userland, playbook.name());
        };
        report
    }

    /// A shell command as this uid, on whatever userland; it goes on in the background when it ends in `&`.
    pub fn as_user(&self, account: &Account, command: &str) -> Ran {
        self.run(&as_user_command(self.userland, account, command), b"")
    }

    /// Waits until the command succeeds; panics after ten seconds.
    pub fn wait_until(&self, what: &str, command: &str) {
        let start = Instant::now();
        while !self.test(command) {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{:?}: waited in vain until {what}",
                self.userland
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Panics when any of these files is there, a link that leads nowhere included. `paths` are shell words.
    pub fn assert_absent(&self, paths: &str) {
        let list = format!(
            "for f in {paths}; do if [ -e \"$f\" ] || [ -L \"$f\" ]; then printf '%s\\n' \"$f\"; fi; done"
        );
        assert_eq!(self.sh(&list), "", "{:?}: still there", self.userland);
    }

    /// Files of this uid on every file system of the node, the processes' own excepted.
    pub fn files_of(&self, uid: &str) -> String {
        self.sh(&format!(
            "cut -d ' ' -f 5 /proc/self/mountinfo | while read -r m; do d=$(printf '%b.' \"$m\"); d=${{d%.}}; \
             case $d in /proc | /proc/* | /sys | /sys/*) ;; *) if [ -d \"$d\" ]; then find \"$d\" -xdev -user {uid}; fi ;; esac; done"
        ))
    }

    /// Uids and states of everything that runs with this uid in any of the four fields.
    pub fn processes_of(&self, uid: &str) -> String {
        self.sh(&list_of_processes(uid))
    }

    /// Waits until one process runs with this uid: the shell that started it may be there for a moment.
    pub fn until_one_process_of(&self, uid: &str) {
        let command = format!("[ \"$({} | wc -l)\" = 1 ]", list_of_processes(uid));
        self.wait_until("one process of the uid is left", &command);
    }
}

fn list_of_processes(uid: &str) -> String {
    format!(
        "{{ for f in /proc/[0-9]*/status; do grep -Eq '^Uid:.*[^0-9]{uid}([^0-9]|$)' $f 2>/dev/null && \
         ! grep -q '^State:.[ZX]' $f && sed -n 1p $f; done; :; }}"
    )
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        let _ = fs::remove_dir(&self.base);
    }
}

pub fn as_user_command(userland: Userland, account: &Account, command: &str) -> String {
    let quoted = command.replace('\'', r"'\''");
    match userland {
        Userland::Debian => format!(
            "cd /home/{0} && exec setpriv --reuid={1} --regid={1} --clear-groups /bin/sh -c '{quoted}'",
            account.user, account.uid
        ),
        Userland::BusyBox => {
            let again = format!("cd /home/{}; {command}", account.user).replace('\'', r"'\''");
            format!("exec su -s /bin/sh -c '{again}' {}", account.user)
        }
    }
}

/// A command under way.
pub struct Running {
    pub stdin: Option<std::process::ChildStdin>,
    child: Child,
    stdout: File,
    stderr: File,
}

impl Running {
    pub fn wait(mut self) -> Ran {
        drop(self.stdin.take());
        let status: ExitStatus = self.child.wait().expect("it ends");
        let read = |file: &mut File| {
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("a readable file");
            bytes
        };
        Ran {
            status: status.code().and_then(|code| u32::try_from(code).ok()),
            stdout: read(&mut self.stdout),
            stderr: read(&mut self.stderr),
        }
    }
}

/// A BusyBox with all its applets, built once from Debian's source (launch_workers/busybox.sh).
fn busybox() -> &'static Path {
    static BUSYBOX: OnceLock<PathBuf> = OnceLock::new();
    BUSYBOX.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orion-busybox/busybox");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../launch_workers/busybox.sh");
        let built =
            Command::new("sh").arg(script).arg(&path).stdin(Stdio::null()).status().expect("sh starts");
        assert!(built.success(), "BusyBox could not be built");
        path
    })
}

/// The values of one lease account.
#[derive(Debug, Clone)]
pub struct Account {
    pub user: String,
    pub uid: String,
    pub ulid: String,
    pub is_new: &'static str,
    pub hash: String,
    pub key: String,
    pub deadline_s: String,
    pub agent: String,
}

impl Account {
    pub fn new(user: &str, uid: u32) -> Self {
        Self {
            user: user.to_owned(),
            uid: uid.to_string(),
            ulid: format!("01K{uid:023}"),
            is_new: "no",
            hash: "$6$saltsaltsaltsalt$bsrPd5nmVHkUWtBuSFhQBPwoAqtNIR6UCdfDQ0qZzV8JQqCRXYbHzkbZuyf.5TPD5LbnhhvXDHJYIDUhfEDFX1".to_owned(),
            key: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Zr9mKcnkTdpGBGhLwoGzmWGqD1ZKeCVBE1eZ7cYtL alice@laptop".to_owned(),
            deadline_s: "3600".to_owned(),
            agent: "yes".to_owned(),
        }
    }

    pub fn create(&self) -> [(&str, &str); 9] {
        [
            ("user", &self.user),
            ("uid", &self.uid),
            ("lease", "42"),
            ("lease_ulid", &self.ulid),
            ("is_new", self.is_new),
            ("password_hash", &self.hash),
            ("public_key", &self.key),
            ("deadline_s", &self.deadline_s),
            ("agent", &self.agent),
        ]
    }

    pub fn name_and_uid(&self) -> [(&str, &str); 2] {
        [("user", &self.user), ("uid", &self.uid)]
    }

    pub fn deadline(&self) -> [(&str, &str); 5] {
        [
            ("user", &self.user),
            ("uid", &self.uid),
            ("deadline_s", &self.deadline_s),
            ("agent", &self.agent),
            ("password_hash", &self.hash),
        ]
    }
}

/// Playbook with the actions of the deadline process on an account.
pub const LOCK_USER: &str = r#"
name: lock
description: Shuts the door of an account and ends its processes.
timeout_s: 60
include: [accounts, door, processes, leases]
values:
  - name: user
    chars: 'a-z0-9_-'
    max: 31
  - name: uid
    chars: '0-9'
    max: 10
steps:
  - name: shut the door
    run: |
      shut_door
  - name: end its processes
    run: |
      kill_processes "$uid" "$user"
      report processes "$killed"
  - name: mark it
    run: |
      if read_lease "$uid"; then
        store_lease "$lease_user" "$uid" "$lease_number" "$lease_boot_s" "$lease_unix_s" "$lease_remaining_s" 1
      fi
"#;

pub fn playbooks() -> Playbooks {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../playbooks");
    Playbooks::from_dir_over_builtin(&directory).expect("the playbooks of the repository are good")
}

/// The YAML of a built-in playbook, to be changed by a test.
pub fn yaml(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../playbooks/{name}.yml"));
    fs::read_to_string(path).expect("a playbook of the repository")
}

pub fn parse(yaml: &str) -> Playbook {
    Playbook::parse_with_library(yaml, &Library::builtin()).expect("a good playbook")
}

/// A playbook with this shell text put before the step of that number (0 = first).
pub fn with_text_before_step(name: &str, number: usize, text: &str) -> Option<Playbook> {
    let yaml = yaml(name);
    let steps = yaml.find("steps:\n").expect("it has steps");
    let at = yaml[steps..].match_indices("    run: |\n").nth(number)?.0 + steps + "    run: |\n".len();
    Some(parse(&format!("{}      {text}\n{}", &yaml[..at], &yaml[at..])))
}
