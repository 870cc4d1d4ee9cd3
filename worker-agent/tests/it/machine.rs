//! A machine that boots: namespaces with an overlay over `/` and a real init as process 1 (Debian's own systemd,
//! OpenRC, or a container's entrypoint). Its disk outlives a reboot, its boot id does not.

use crate::agent::{Lease, binary, free_port, run, wait_for};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// Outside: the disk, and one boot after the other for as long as process 1 asks for a reboot (the kernel
/// ends it by SIGHUP then, reboot(2)).
const MACHINE: &str = r#"
mount --make-rprivate /
mount -t tmpfs -o mode=755,size=1g machine "$d"; mkdir "$d"/u "$d"/w "$d"/m
for file in boot prepare init; do eval "printf '%s\n' \"\$$file\"" >"$d/$file"; done
echo $$ >"$CGROUP/cgroup.procs"
while :; do
    result=0
    unshare --mount --pid --uts --ipc --cgroup --fork --kill-child=KILL bash -eu "$d/boot" || result=$?
    [ "$result" = 129 ] || exit 0
done
"#;

/// Inside: the file systems, on the first boot what the machine is, then its init.
const BOOT: &str = r#"
mount --make-rprivate /
mount -t overlay machine -o lowerdir=/,upperdir="$d/u",workdir="$d/w" "$d/m"
cp "$d/prepare" "$d/init" "$d/m/opt/"; cd "$d/m"
mount -t proc proc proc; mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 run run; mount -t tmpfs -o mode=1777 tmp tmp; mount -t tmpfs -o mode=700 root root
mount -t tmpfs -o mode=755 dev dev
for x in null zero full random urandom tty; do : >dev/$x; mount --bind /dev/$x dev/$x; done
mkdir dev/pts dev/shm; mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd
cp "$BINARY" opt/orion-agent.new; mv opt/orion-agent.new opt/orion-agent
if [ ! -e opt/prepared ]; then
    rm -rf etc/ssh/orion var/lib/orion var/lib/orion-agent etc/orion usr/local/sbin/orion-agent
    rm -f etc/ssh/ssh_host_* etc/ssh/sshd_config.d/* etc/rc?.d/* etc/runlevels/*/*
    rm -rf etc/systemd/system/* home/*; sed -i /^orion-lease:/d etc/group etc/gshadow
    : >etc/fstab; : >etc/machine-id; echo worker-1 >etc/hostname
    ssh-keygen -q -t ed25519 -N "" -f etc/ssh/ssh_host_ed25519_key
    printf 'Port %s\nListenAddress 127.0.0.1\n' "$PORT" >etc/ssh/sshd_config.d/10-test.conf
    . opt/prepare
    touch opt/prepared
fi
mount --bind proc/sys proc/sys; mount -o remount,bind,ro proc/sys
cat /proc/sys/kernel/random/uuid >run/boot_id; mount --bind run/boot_id proc/sys/kernel/random/boot_id
hostname worker-1; mkdir host; pivot_root . host; umount -l /host; rmdir /host; cd /
exec env -i container=orion PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -eu /opt/init </dev/null
"#;

/// systemd as Debian starts it; logind is not there to be asked before a reboot.
const SYSTEMD: [&str; 2] = [
    r"ln -s /lib/systemd/system/multi-user.target etc/systemd/system/default.target
      for unit in systemd-logind.service systemd-timesyncd.service systemd-udevd.service; do
          ln -s /dev/null etc/systemd/system/$unit
      done
      mkdir etc/systemd/system/multi-user.target.wants
      ln -s /lib/systemd/system/ssh.service etc/systemd/system/multi-user.target.wants/ssh.service",
    "exec /lib/systemd/systemd --system --show-status=no --log-target=console",
];

/// OpenRC's own init, with sshd as its service.
const OPENRC: [&str; 2] = [
    r#"ln -s /etc/init.d/sshd etc/runlevels/default/sshd; rm -f etc/init.d/ssh
      printf '%s\n' '#!/sbin/openrc-run' 'command=/usr/sbin/sshd' 'pidfile=/run/sshd.pid' \
          'start_pre() { checkpath -d -m 755 /run/sshd; }' >etc/init.d/sshd; chmod 755 etc/init.d/sshd
      echo 'rc_sys=""' >>etc/rc.conf"#,
    "exec /sbin/openrc-init",
];

/// Init system that a machine boots with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Boots {
    Systemd,
    Openrc,
}

/// Gone with everything in it when dropped.
pub struct Machine {
    outer: Child,
    cgroup: PathBuf,
    dir: tempfile::TempDir,
    pub sshd_port: u16,
}

impl Machine {
    pub fn boot(with: Boots) -> Self {
        match with {
            Boots::Systemd => {
                assert!(Path::new("/lib/systemd/systemd").exists(), "apt-get install systemd");
                let machine = Self::start(SYSTEMD);
                machine.wait_booted(with);
                machine
            }
            Boots::Openrc => {
                assert!(Path::new("/sbin/openrc-init").exists(), "apt-get install openrc");
                let machine = Self::start(OPENRC);
                machine.wait_booted(with);
                machine
            }
        }
    }

    /// A container: `prepare` is run in its root on the first start, `init` becomes process 1.
    pub fn start([prepare, init]: [&str; 2]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount_point = dir.path().join("machine");
        fs::create_dir(&mount_point).unwrap();
        let (sshd_port, cgroup) = (free_port(), own_cgroup());
        let log = File::create(dir.path().join("console")).unwrap();
        // Whoever runs the tests in the background ignores SIGINT, and a shell cannot undo that for its children.
        let outer = Command::new("env")
            .args([
                "--default-signal=INT,QUIT",
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--fork",
                "--kill-child=KILL",
                "bash",
                "-eu",
                "-c",
                MACHINE,
            ])
            .envs([("boot", BOOT), ("prepare", prepare), ("init", init)])
            .env("d", &mount_point)
            .env("BINARY", binary())
            .env("PORT", sshd_port.to_string())
            .env("CGROUP", &cgroup)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut machine = Self { outer, cgroup, dir, sshd_port };
        wait_for("the machine starts", || {
            assert!(machine.outer.try_wait().unwrap().is_none(), "{}", machine.console());
            machine.init()
        });
        machine
    }

    fn wait_booted(&self, with: Boots) {
        let line = match with {
            Boots::Systemd => "systemctl is-system-running | grep -Ex 'running|degraded'",
            Boots::Openrc => "[ -e /run/openrc/started/sshd ] && [ ! -e /run/openrc/rc.starting ]",
        };
        wait_for("the machine has booted", || self.try_sh(line).status.success().then_some(()));
    }

    /// Returns what process 1 and the setting up printed.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.path().join("console")).unwrap()
    }

    /// The process that is process 1 inside, once it is the init.
    fn init(&self) -> Option<u32> {
        let mut pid = self.outer.id();
        loop {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let inside = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            if inside.split_whitespace().count() > 1 {
                let root = PathBuf::from(format!("/proc/{pid}/root"));
                // The root has changed with the last step before the init.
                return (fs::exists(root.join("opt/prepared")).ok()?
                    && !fs::exists(root.join("host")).ok()?)
                .then_some(pid);
            }
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
            pid = children.split_whitespace().last()?.parse().ok()?;
        }
    }

    /// A path inside, as seen from here.
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.init().unwrap()))
    }

    pub fn try_sh(&self, line: &str) -> Output {
        let init = self.init().unwrap_or(0).to_string();
        Command::new("nsenter")
            .args(["-t", &init, "-m", "-p", "-u", "-i", "-C", "-r", "-w", "sh", "-euc", line])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Runs a line of shell inside; its output.
    pub fn sh(&self, line: &str) -> String {
        let done = self.try_sh(line);
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{line}: {out}{err}");
        out.into_owned()
    }

    /// Runs a line of shell inside that has to fail; what it complains of.
    pub fn refused(&self, line: &str) -> String {
        let done = self.try_sh(line);
        assert!(!done.status.success(), "{line} succeeded: {}", String::from_utf8_lossy(&done.stdout));
        String::from_utf8(done.stderr).unwrap()
    }

    /// Restarts it and waits until it is up again.
    pub fn reboot(&self, with: Boots) {
        let (before, boot_id) = (self.init(), self.boot_id());
        // The machine may be gone before the tool has its answer.
        let _ = self.try_sh(match with {
            Boots::Systemd => "systemctl --no-wall --force reboot",
            Boots::Openrc => "openrc-shutdown --reboot now",
        });
        wait_for("another boot", || self.init().filter(|init| Some(*init) != before));
        self.wait_booted(with);
        assert_ne!(self.boot_id(), boot_id);
    }

    /// Whether process 1 has ended, and everything with it.
    pub fn has_ended(&self) -> bool {
        self.init().is_none()
    }

    pub fn boot_id(&self) -> String {
        self.sh("cat /proc/sys/kernel/random/boot_id").trim().to_owned()
    }

    /// Lists everything on the disk that an installation could touch: names, kinds, modes, owners, and
    /// contents. No probe of the way in is at work meanwhile.
    pub fn tree(&self) -> Vec<String> {
        let found = self.sh(
            "if [ -d /run/orion ]; then exec 8>>/run/orion/probe.lock && flock 8; fi
             find /etc /usr/local /var/lib /var/log /home /opt -xdev \
                 \\( -path '/etc/*-' -o -path /var/lib/systemd -o -path /var/log/journal -o -path /etc/machine-id -o -path /etc/.pwd.lock -o -path /etc/.updated -o -path /var/.updated -o -path /var/lib/private \
                     -o -path /var/log/wtmp -o -path /var/log/lastlog -o -path /var/log/btmp -o -name '*.cache' \\) -prune \
                 -o -type f -size -1M -printf '%p %m %U %G ' -exec sh -c 'md5sum <\"$0\"' {} \\; \
                 -o ! -type f -printf '%p %y %m %U %G %l\\n' | sort",
        );
        found.lines().map(str::to_owned).collect()
    }

    pub fn write_lease(&self, lease: &Lease) {
        let mut lease = lease.clone();
        lease.boot_id = self.boot_id();
        lease.write(&self.path("/var/lib/orion/leases"));
    }

    /// An account of a lease with the password `sesame-2468`.
    pub fn add_account(&self, user: &str, uid: u32) {
        self.sh(&format!(
            "groupadd -f orion-lease; useradd -m -s /bin/bash -G orion-lease -u {uid} {user}; echo {user}:sesame-2468 | chpasswd"
        ));
    }

    pub fn is_locked(&self, user: &str) -> bool {
        let shadow = self.sh(&format!("getent shadow {user}"));
        let fields: Vec<_> = shadow.split(':').collect();
        fields[1].starts_with('!') && fields[7] == "1"
    }

    /// Whether the password opens a login right now.
    pub fn can_log_in(&self, user: &str) -> bool {
        crate::worker::password_opens(self.sshd_port, user)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("console:\n{}", self.console());
            let said = self.try_sh(
                "journalctl --no-pager -u orion-agent | tail -n 40; tail -n 40 /var/log/orion-agent.log",
            );
            eprintln!("agent:\n{}", String::from_utf8_lossy(&said.stdout));
        }
        // Everything of it is in its cgroup, whatever it has become.
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.outer.wait();
        let is_gone = || {
            let cgroup = self.cgroup.to_string_lossy();
            let _ = Command::new("find").args([&*cgroup, "-depth", "-type", "d", "-delete"]).output();
            (!self.cgroup.exists()).then_some(())
        };
        if !std::thread::panicking() {
            wait_for("every process of the machine has ended", is_gone);
        } else {
            std::thread::sleep(std::time::Duration::from_secs(1));
            is_gone();
        }
    }
}

/// A cgroup for one machine: its init makes its own below it.
fn own_cgroup() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let hierarchy =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|mount| mount[2] == "cgroup2");
    let hierarchy =
        hierarchy.expect("no cgroup2 is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")[1].to_owned();
    let name = format!("orion-machine-{}", run("cat", &["/proc/sys/kernel/random/uuid"]).trim());
    let cgroup = Path::new(&hierarchy).join(name);
    fs::create_dir(&cgroup).unwrap();
    cgroup
}
