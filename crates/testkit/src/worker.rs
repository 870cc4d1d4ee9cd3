//! One worker of a set: its address and key, its faults, commands inside.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use crate::host::{messages, output_or_panic, run_or_panic};
use crate::script::Script;
use crate::ssh::SshAddress;
use crate::wait::wait_until_blocking;

/// Processes that stand still until this is dropped ([`Worker::freeze_processes`]).
pub struct FrozenProcesses {
    cgroup: PathBuf,
}

impl Drop for FrozenProcesses {
    fn drop(&mut self) {
        // Gone already where the worker is.
        drop(fs::write(self.cgroup.join("freezer.state"), "THAWED"));
    }
}

/// One worker. A clone means the same worker; it is gone when its [`crate::Workers`] is.
#[derive(Clone)]
pub struct Worker {
    pub(crate) script: Arc<Script>,
    pub(crate) name: String,
    pub(crate) ip: Ipv4Addr,
}

impl Worker {
    /// Returns the worker's host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the worker's address.
    #[must_use]
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Returns the address and port on which the worker's sshd listens.
    #[must_use]
    pub fn ssh_socket(&self) -> SocketAddr {
        (self.ip, 22).into()
    }

    /// Returns the worker's public host key, `ssh-ed25519 AAAA… root@NAME`.
    ///
    /// # Panics
    /// When the worker was never started.
    #[must_use]
    pub fn host_key(&self) -> String {
        let path = self.disk().join("upper/etc/ssh/ssh_host_ed25519_key.pub");
        fs::read_to_string(path).expect("the worker has a host key").trim().to_owned()
    }

    /// Address and pinned host key, for [`crate::SshClient`].
    #[must_use]
    pub fn ssh_address(&self) -> SshAddress {
        SshAddress::new(self.ssh_socket(), &self.host_key())
    }

    /// SIGKILL to every process (~20 ms); disk and address stay, connections are refused at once.
    pub fn kill(&self) {
        self.script.run(&["--kill", &self.name]);
    }

    /// Kills several at the same moment, as when a rack loses its power.
    pub fn kill_together(workers: &[&Self]) {
        let names = workers.iter().map(|worker| worker.name.as_str());
        let words: Vec<&str> = std::iter::once("--kill").chain(names).collect();
        if let Some(worker) = workers.first() {
            worker.script.run(&words);
        }
    }

    /// Boots it again (~0.1 s): same disk and host key; empty /run, /tmp and /root; a new boot id.
    pub fn start(&self) {
        self.script.run(&["--start", &self.name]);
    }

    /// Stops every process in place: connections open, nothing answers.
    pub fn freeze(&self) {
        self.script.run(&["--freeze", &self.name]);
    }

    /// Ends [`Worker::freeze`].
    pub fn thaw(&self) {
        self.script.run(&["--thaw", &self.name]);
    }

    /// Stops in place those of its processes whose command line (arguments end with a NUL) contains `text`, until the
    /// reply is dropped: not even SIGKILL ends them meanwhile. Needs cgroup version 1's freezer.
    ///
    /// # Panics
    /// Without that, and when there is no such process.
    #[must_use]
    pub fn freeze_processes(&self, text: &str) -> FrozenProcesses {
        let worker = PathBuf::from(format!("/sys/fs/cgroup/freezer/orion-worker-{}", self.name));
        let cgroup = worker.join("frozen");
        fs::create_dir_all(&cgroup).expect("a cgroup");
        let is_meant = |pid: &&str| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            arguments.windows(text.len()).any(|window| window == text.as_bytes())
        };
        // Whoever started them in the background may be a moment ahead of them.
        let meant = wait_until_blocking(&format!("processes with {text:?}"), Duration::from_secs(5), || {
            let all = fs::read_to_string(worker.join("cgroup.procs")).expect("cgroup version 1's freezer");
            let meant: Vec<String> = all.lines().filter(is_meant).map(str::to_owned).collect();
            if meant.is_empty() { Err(format!("{}: none", self.name)) } else { Ok(meant) }
        });
        for pid in meant {
            fs::write(cgroup.join("cgroup.procs"), pid).expect("a cgroup takes it");
        }
        fs::write(cgroup.join("freezer.state"), "FROZEN").expect("it can be frozen");
        let frozen = FrozenProcesses { cgroup };
        wait_until_blocking("the processes stand still", Duration::from_secs(5), || {
            let state = fs::read_to_string(frozen.cgroup.join("freezer.state")).unwrap_or_default();
            if state.trim() == "FROZEN" { Ok(()) } else { Err(state) }
        });
        frozen
    }

    /// Pulls the network cable.
    pub fn cut(&self) {
        self.script.run(&["--cut", &self.name]);
    }

    /// Plugs the cable in again.
    pub fn uncut(&self) {
        self.script.run(&["--uncut", &self.name]);
    }

    /// Leaves no free byte on its disk (/tmp, /run and /root are other file systems).
    pub fn fill_disk(&self) {
        self.script.run(&["--fill-disk", &self.name]);
    }

    /// Ends [`Worker::fill_disk`].
    pub fn empty_disk(&self) {
        self.script.run(&["--empty-disk", &self.name]);
    }

    /// Leaves so many free inodes on its disk, for the rest of its life.
    ///
    /// # Panics
    /// When the disk's limit cannot be changed.
    pub fn limit_inodes(&self, free: u64) {
        let disk = self.disk();
        let used = run_or_panic(Command::new("df").args(["--output=iused"]).arg(&disk));
        let used: u64 = used.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number");
        let limit = format!("remount,nr_inodes={}", used + free);
        run_or_panic(Command::new("mount").args(["-o", &limit]).arg(&disk));
    }

    /// Makes / read-only.
    pub fn make_read_only(&self) {
        self.script.run(&["--readonly", &self.name]);
    }

    /// Makes / writable again.
    pub fn make_writable(&self) {
        self.script.run(&["--readwrite", &self.name]);
    }

    /// Runs a shell script as root inside, not over ssh; its standard output.
    ///
    /// # Panics
    /// When it ends with anything but 0, with its messages.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        assert!(output.status.success(), "{}: {script}: {}\n{}", self.name, output.status, messages(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a script as [`Worker::sh`] does, but also returns the output of one that fails.
    ///
    /// # Panics
    /// When launch_workers.sh cannot be started.
    #[must_use]
    pub fn try_sh(&self, script: &str) -> Output {
        output_or_panic(&mut self.script.command(&["--sh", &self.name, "/bin/sh", "-c", script]))
    }

    /// Makes sshd accept user certificates of this authority (one public key line), as the agent does after
    /// registering; returns when the reloaded sshd listens.
    pub fn install_ca(&self, public_line: &str) {
        self.write_file("/etc/ssh/orion/user_ca.pub", "644", public_line);
        self.write_file(
            "/etc/ssh/sshd_config.d/00-orion.conf",
            "644",
            "TrustedUserCAKeys /etc/ssh/orion/user_ca.pub",
        );
        self.reload_sshd();
    }

    /// Allows logins as root with this public key until the next boot (/root is empty then).
    pub fn write_root_key(&self, public_line: &str) {
        self.write_file("/root/.ssh/authorized_keys", "600", public_line);
    }

    /// Checks sshd's configuration and reloads it; returns when it listens again.
    ///
    /// # Panics
    /// When the configuration is wrong, or sshd does not listen again within 10 s.
    pub fn reload_sshd(&self) {
        // sshd removes its pid file when it restarts and makes a new one when it listens
        self.sh("/usr/sbin/sshd -t && old=$(stat -c %i /run/sshd.pid) && kill -HUP $(cat /run/sshd.pid) && \
                 timeout 10 sh -c \"until [ -s /run/sshd.pid ] && [ \\$(stat -c %i /run/sshd.pid) != $old ]; \
                 do sleep 0.01; done\"");
    }

    /// Kills the sshd that listens; it stays down until [`Worker::start_sshd`]. Open sessions go on.
    pub fn stop_sshd(&self) {
        // until it is gone: a process that is being killed still has its socket
        self.sh(": >/run/no-sshd-restart; sshd=$(cat /run/sshd.pid); kill -KILL $sshd; \
                 while kill -0 $sshd 2>/dev/null; do sleep 0.01; done; rm /run/sshd.pid");
    }

    /// Ends [`Worker::stop_sshd`]; returns when sshd listens.
    pub fn start_sshd(&self) {
        self.sh("rm -f /run/no-sshd-restart; [ ! -d /run/systemd/system ] || systemctl start ssh");
        self.wait_for_sshd();
    }

    /// The agent's log so far, over all boots; empty without an agent.
    #[must_use]
    pub fn agent_log(&self) -> String {
        fs::read_to_string(self.script.directory().join(&self.name).join("agent.log")).unwrap_or_default()
    }

    /// sshd's log so far, over all boots.
    #[must_use]
    pub fn sshd_log(&self) -> String {
        fs::read_to_string(self.script.directory().join(&self.name).join("sshd.log")).unwrap_or_default()
    }

    fn write_file(&self, path: &str, mode: &str, line: &str) {
        assert!(!line.contains('\''), "no quotes in a key");
        self.sh(&format!(
            "mkdir -p $(dirname {path}) && printf '%s\\n' '{line}' >{path}.new && chmod {mode} {path}.new && \
             mv {path}.new {path}"
        ));
    }

    fn wait_for_sshd(&self) {
        let what = format!("sshd of {} listens", self.name);
        wait_until_blocking(&what, Duration::from_secs(10), || {
            let listens = self.try_sh("kill -0 $(cat /run/sshd.pid)");
            if listens.status.success() { Ok(()) } else { Err(messages(&listens)) }
        });
    }

    fn disk(&self) -> PathBuf {
        self.script.directory().join(&self.name).join("disk")
    }
}
