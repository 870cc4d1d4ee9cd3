//! A machine of its own for accounts: namespaces with an overlay over `/`, a real sshd on loopback, and the
//! agent inside. What happens to accounts and processes there does not touch the host.

use crate::agent::{Agent, Lease, binary, free_port, run, wait_for};
use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

const SETUP: &str = r#"
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=512m worker "$d"; mkdir "$d"/u "$d"/w "$d"/m
mount -t overlay worker -o lowerdir=/,upperdir="$d/u",workdir="$d/w" "$d/m"; cd "$d/m"
mount -t proc proc proc; mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run; mount -t tmpfs -o mode=1777 tmp tmp; mount -t tmpfs -o mode=700 root root
mount -t tmpfs -o mode=755 dev dev
for x in null zero full random urandom tty; do : >dev/$x; mount --bind /dev/$x dev/$x; done
mkdir dev/pts dev/shm run/sshd; mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
: >usr/local/bin/orion-agent; mount --bind "$BINARY" usr/local/bin/orion-agent
rm -rf etc/ssh/orion var/lib/orion var/lib/orion-agent; mkdir -p var/lib/orion/leases
rm -f etc/ssh/ssh_host_* etc/ssh/sshd_config.d/*; ssh-keygen -q -t ed25519 -N "" -f etc/ssh/ssh_host_ed25519_key
printf 'Port %s\nListenAddress 127.0.0.1\n' "$PORT" >etc/ssh/sshd_config.d/10-test.conf
hostname worker-1; mkdir host; pivot_root . host; umount -l /host; rmdir /host; cd /
groupadd orion-lease
/usr/sbin/sshd
touch /run/ready
exec sleep infinity </dev/null >/dev/null
"#;

/// The machine; gone with everything in it when dropped.
pub struct Worker {
    outer: Child,
    init: u32,
    dir: tempfile::TempDir,
    pub sshd_port: u16,
}

impl Worker {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount_point = dir.path().join("worker");
        fs::create_dir(&mount_point).unwrap();
        let sshd_port = free_port();
        let log = dir.path().join("setup.log");
        let mut outer = Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--uts",
                "--ipc",
                "--fork",
                "--kill-child=KILL",
                "bash",
                "-eu",
                "-c",
                SETUP,
            ])
            .env("d", &mount_point)
            .env("BINARY", binary())
            .env("PORT", sshd_port.to_string())
            .stdin(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let children = format!("/proc/{0}/task/{0}/children", outer.id());
        let init = wait_for("the worker is up", || {
            let said = fs::read_to_string(&log).unwrap();
            assert!(outer.try_wait().unwrap().is_none(), "the worker does not start: {said}");
            let init = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            fs::exists(format!("/proc/{init}/root/run/ready")).ok()?.then_some(init)
        });
        Self { outer, init, dir, sshd_port }
    }

    /// A path inside, as seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init))
    }

    fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-p", "-u", "-i", "-r", "-w"]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    /// Runs a line of shell inside; its output.
    pub fn sh(&self, line: &str) -> String {
        let done = self.inside().args(["sh", "-euc", line]).output().unwrap();
        assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Does a line of shell succeed inside?
    pub fn test(&self, line: &str) -> bool {
        self.inside().args(["sh", "-c", line]).output().unwrap().status.success()
    }

    /// A process of `user` inside that goes on in the background.
    pub fn start_process(&self, user: &str, line: &str) {
        self.sh(&format!(
            "setsid setpriv --reuid {user} --regid {user} --clear-groups sh -c 'exec {line}' >/dev/null 2>&1 &"
        ));
    }

    /// An account with a home, the password `sesame-2468`, and a process.
    pub fn add_account(&self, user: &str, uid: u32) {
        self.sh(&format!(
            "useradd -m -s /bin/bash -G orion-lease -u {uid} {user}; echo {user}:sesame-2468 | chpasswd"
        ));
        self.start_process(user, "sleep 1000");
        wait_for("the account has a process", || (self.processes(uid) == 1).then_some(()));
    }

    /// Living processes with `uid` as any of their four; nobody in there collects the dead.
    pub fn processes(&self, uid: u32) -> usize {
        let entries = fs::read_dir(self.path("/proc")).unwrap().flatten();
        let statuses = entries.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok());
        let lives = |status: &String| {
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            !field("State:").trim().starts_with('Z')
                && field("Uid:").split_whitespace().any(|one| one == uid.to_string())
        };
        statuses.filter(lives).count()
    }

    /// Whether the password opens a login right now.
    pub fn can_log_in(&self, user: &str) -> bool {
        password_opens(self.sshd_port, user)
    }

    pub fn shadow(&self, user: &str) -> String {
        let text = fs::read_to_string(self.path("/etc/shadow")).unwrap();
        text.lines().find(|line| line.starts_with(&format!("{user}:"))).unwrap().to_owned()
    }

    /// Shut by the tools (an end in the past, or a shell that is none), or by a byte each of both files.
    pub fn is_locked(&self, user: &str) -> bool {
        let line = self.shadow(user);
        let fields: Vec<_> = line.split(':').collect();
        let shell = self.shell(user);
        fields[1].starts_with('!') && (fields[7] == "1" || shell == "/bin/false" || shell.starts_with('!'))
    }

    pub fn shell(&self, user: &str) -> String {
        let text = fs::read_to_string(self.path("/etc/passwd")).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{user}:"))).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    }

    pub fn write_lease(&self, lease: &Lease) {
        lease.write(&self.path("/var/lib/orion/leases"));
    }

    pub fn lease_path(&self, uid: u32) -> PathBuf {
        self.path(&format!("/var/lib/orion/leases/{uid}"))
    }

    pub fn read_lease(&self, uid: u32) -> String {
        fs::read_to_string(self.lease_path(uid)).unwrap()
    }

    pub fn wait_locked(&self, uid: u32) {
        wait_for("the lease file says locked", || {
            self.read_lease(uid).lines().any(|line| line == "locked=1").then_some(())
        });
    }

    /// Takes the playbooks' lock.
    pub fn hold_playbook_lock(&self) -> File {
        fs::create_dir_all(self.path("/run/orion")).unwrap();
        let lock = File::options().create(true).append(true).open(self.path("/run/orion/lock")).unwrap();
        lock.lock().unwrap();
        lock
    }

    /// The agent inside, with nothing but defaults.
    pub fn start_agent(&self, api: &str, join_token: &str) -> Agent {
        self.start_agent_with(api, join_token, &[])
    }

    /// The agent inside, with these settings, too.
    pub fn start_agent_with(&self, api: &str, join_token: &str, settings: &[(&str, &str)]) -> Agent {
        let log = self.dir.path().join("agent.log");
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = self.inside();
        command.env("API_ENDPOINT", api).env("MY_HOST_PORT", self.sshd_port.to_string());
        command.env("ORION_JOIN_TOKEN", join_token).env("RUST_LOG", "debug").envs(settings.iter().copied());
        let child = command.arg("/usr/local/bin/orion-agent").stderr(stderr).spawn().unwrap();
        Agent::with_log(child, log)
    }

    /// The agent inside, with no control plane to ask.
    pub fn start_lonely_agent(&self) -> Agent {
        self.start_agent(&format!("http://127.0.0.1:{}", free_port()), "none")
    }

    /// Writes a file inside.
    pub fn write(&self, inside: &str, text: &str) {
        File::create(self.path(inside)).unwrap().write_all(text.as_bytes()).unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-KILL", &self.init.to_string()]).status();
        let _ = self.outer.wait();
    }
}

/// Whether the password `sesame-2468` opens a login at an sshd of this machine right now.
pub fn password_opens(port: u16, user: &str) -> bool {
    let done = Command::new("sshpass")
        .args(["-p", "sesame-2468", "ssh", "-F", "none", "-p", &port.to_string()])
        .args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ])
        .args(["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1", "-o", "ConnectTimeout=10"])
        .args([&format!("{user}@127.0.0.1"), "echo", "in"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    done.stdout == b"in\n"
}

/// A certificate authority and a key of root's that it signed for `principal`.
pub fn certificate_login(worker: &Worker, principal: &str) -> (String, impl Fn() -> bool + use<>) {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for name in ["ca", "key"] {
        run("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-C", name, "-f", &file(name)]);
    }
    run(
        "ssh-keygen",
        &["-q", "-s", &file("ca"), "-I", "test", "-n", principal, "-V", "-1m:+5m", &file("key.pub")],
    );
    let authority = fs::read_to_string(dir.path().join("ca.pub")).unwrap();
    let port = worker.sshd_port.to_string();
    let log_in = move || {
        let done = Command::new("ssh")
            .args(["-F", "none", "-p", &port, "-i", dir.path().join("key").to_str().unwrap()])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-o",
                "BatchMode=yes",
            ])
            .args(["-o", "IdentitiesOnly=yes", "root@127.0.0.1", "echo", "in"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .unwrap();
        done.stdout == b"in\n"
    };
    (authority, log_in)
}
