//! The way in of this node: proves, by a real login at its own sshd, that lease accounts can log in.
//!
//! The probe is `playbooks/lib/way_in.sh`, which the control plane runs on nodes without an agent, too. Lives here:
//! when to probe. A probe runs at the start, whenever something that the way in depends on has changed, and every
//! [`PROBE_EVERY`] while it is open: what no file shows is found then.

use crate::{
    config::{Config, SSH_PORT},
    deadline::boot_seconds,
    process,
    sshd::Sshd,
};
use orion_domain::way_in::{PROBE_EVERY, WayInReport};
use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// Pause between two looks at what the way in depends on.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time for a change to settle before the probe.
const SETTLE: Duration = Duration::from_millis(300);
/// Pause before a probe is repeated that did not come to its login, because the node was busy.
const BUSY_FOR: Duration = Duration::from_secs(5);
/// First and longest pause before a probe that failed is repeated although nothing has changed.
const SHUT_FOR: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// Longest probe.
const PROBE_MAX: Duration = Duration::from_secs(90);

/// Commands that a playbook has around its steps (`crates/fleet/src/playbook/compile.rs`), as far as the
/// probe needs them.
const PRELUDE: &str = r#"set -eu
umask 022
PATH=/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
export PATH LC_ALL
exec 3>&1 1>&2
report() { printf '::report %s\n' "$*" >&3; }
(umask 077; mkdir -p /run/orion)
exec 9>>/run/orion/lock
"#;
const ACCOUNT: &str = include_str!("../../playbooks/lib/probe_account.sh");
const WAY_IN: &str = include_str!("../../playbooks/lib/way_in.sh");

/// Settings for probes of this node's sshd.
#[derive(Clone, Debug)]
pub struct Probe {
    sshd: Sshd,
    ssh_port: u16,
    config_file: PathBuf,
    pid_file: PathBuf,
    every: Duration,
    /// Whether a probe is possible: not if the agent works for a system whose accounts are not this
    /// machine's.
    usable: bool,
}

impl Probe {
    /// Makes the probe from the agent's settings.
    pub fn new(config: &Config) -> Self {
        Self {
            sshd: Sshd::new(&config.sshd_config_dir, &config.sshd_pid_file, PathBuf::new()),
            ssh_port: config.ssh_port,
            config_file: config.sshd_config_dir.join("sshd_config"),
            pid_file: config.sshd_pid_file.clone(),
            every: config.probe_every,
            usable: [
                (&config.run_dir, "/run/orion"),
                (&config.node_dir, "/var/lib/orion"),
                (&config.sshd_config_dir, "/etc/ssh"),
            ]
            .iter()
            .all(|(dir, usual)| dir.as_path() == Path::new(usual)),
        }
    }

    /// Makes the probe of a machine with everything at its usual places.
    pub fn of_this_machine() -> Self {
        let (dir, pid_file) = (Path::new("/etc/ssh"), Path::new("/run/sshd.pid"));
        Self {
            sshd: Sshd::new(dir, pid_file, PathBuf::new()),
            ssh_port: SSH_PORT,
            config_file: dir.join("sshd_config"),
            pid_file: pid_file.to_owned(),
            every: PROBE_EVERY,
            usable: true,
        }
    }

    /// Whether the agent may make accounts here: its directories are this machine's own, and it is root.
    pub fn is_usable(&self) -> bool {
        self.usable && rustix::process::geteuid().is_root()
    }

    /// Logs in, by password and by key, with an account that is there only meanwhile. `ip` is the address under which
    /// the control plane reaches this node. Blocks for a second or two.
    ///
    /// # Errors
    /// Why nothing was found out: the node is busy.
    pub fn prove(&self, ip: &str) -> Result<WayInReport, String> {
        let shut = |reason: String| Ok(WayInReport { open: false, reason });
        let effective = match self.sshd.effective() {
            Ok(effective) => effective,
            Err(problem) => return shut(problem),
        };
        let disagreements = effective.disagreements();
        if !disagreements.is_empty() {
            return shut(format!("the control plane cannot log in: {}", disagreements.join("; ")));
        }
        let listens = effective.listens;
        let port = listens.first().map_or(self.ssh_port, |address| address.port());
        let ip = ip.parse::<IpAddr>().ok().or_else(|| listens.first().map(|address| address.ip()));
        let ip = ip.unwrap_or(Ipv4Addr::LOCALHOST.into());
        match self.run(&format!("prove_way_in {ip} {port}")) {
            Ok(lines) => read_report(&lines),
            Err(problem) => shut(format!("the probe login did not come to an end: {problem}")),
        }
    }

    /// Lists what the way in depends on.
    fn watched(&self) -> Watched {
        let listed = self.run(
            "{ way_in_files | sort -u | sed 's/^/file /'; way_in_directories | sed 's/^/directory /'; } |
             while IFS= read -r line; do report \"$line\"; done",
        );
        let lines = listed.unwrap_or_else(|problem| {
            tracing::warn!("what the way in depends on is not known: {problem}");
            String::new()
        });
        let paths = |kind: &str| {
            let prefix = format!("::report {kind} ");
            lines.lines().filter_map(|line| line.strip_prefix(&prefix)).map(PathBuf::from).collect()
        };
        let mut files: Vec<PathBuf> = paths("file");
        files.extend([self.config_file.clone(), self.pid_file.clone()]);
        let mut ports = vec![self.ssh_port];
        if let Ok(effective) = self.sshd.effective() {
            ports = effective.listens.iter().map(|address| address.port()).collect();
        }
        Watched { files, directories: paths("directory"), ports }
    }

    fn run(&self, command: &str) -> Result<String, String> {
        let script = format!(
            "{PRELUDE}sshd_config={}\n{ACCOUNT}\n{WAY_IN}\ndetached_script={}\n{command}\n",
            quote(&self.config_file.to_string_lossy()),
            quote(ACCOUNT)
        );
        let done = process::run("/bin/sh", &["-c", &script], PROBE_MAX).map_err(|error| error.to_string())?;
        if done.status.success() { Ok(done.stdout) } else { Err(done.complaint()) }
    }
}

/// Files, directories and ports that the way in depends on and that show a change of it.
#[derive(Clone, Debug, Default)]
struct Watched {
    files: Vec<PathBuf>,
    /// Directories that are watched themselves, without what is in them.
    directories: Vec<PathBuf>,
    /// Ports on which sshd listens.
    ports: Vec<u16>,
}

impl Watched {
    /// A value that changes when one of the files does, or sshd listens anew.
    fn stamp(&self) -> Stamp {
        let file = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            let (modified, changed) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
            Some(((meta.dev(), meta.ino(), meta.size()), modified, changed))
        };
        let directory = |path: &PathBuf| {
            let meta = fs::metadata(path).ok()?;
            Some((meta.dev(), meta.ino(), meta.mode(), meta.uid(), meta.gid()))
        };
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        let sockets = tables.iter().filter_map(|table| fs::File::open(table).ok());
        Stamp {
            files: self.files.iter().map(file).collect(),
            directories: self.directories.iter().map(directory).collect(),
            sockets: sockets.flat_map(|table| listening(BufReader::new(table), &self.ports)).collect(),
        }
    }
}

/// Device, inode and size of a file, and its times of change; none where there is no such file.
type FileStamp = Option<((u64, u64, u64), (i64, i64), (i64, i64))>;
/// Device, inode, mode, owner and group of a directory.
type DirectoryStamp = Option<(u64, u64, u32, u32, u32)>;

/// See [`Watched::stamp`].
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    files: Vec<FileStamp>,
    directories: Vec<DirectoryStamp>,
    /// Inodes of the sockets at which sshd listens: others when it was started or read its configuration anew.
    sockets: Vec<String>,
}

/// Inodes of the sockets of a table (`/proc/net/tcp`) that listen at one of these ports. They stand before all others,
/// which are not read.
fn listening(table: impl BufRead, ports: &[u16]) -> Vec<String> {
    let socket = |line: String| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (*state == "0A").then(|| (port, (*inode).to_owned()))
    };
    let sockets = table.lines().map_while(Result::ok).skip(1).map_while(socket);
    sockets.filter(|(port, _)| ports.contains(port)).map(|(_, inode)| inode).collect()
}

/// Result of a probe, and the time of it.
#[derive(Clone, Debug)]
pub struct Proven {
    /// Report of the probe.
    pub report: WayInReport,
    /// Seconds of `CLOCK_BOOTTIME` when it ended.
    at: u64,
}

impl Proven {
    /// Seconds since it ended, those included in which the machine was suspended.
    pub fn age_s(&self) -> u64 {
        boot_seconds().map_or(u64::MAX, |now| now.saturating_sub(self.at))
    }
}

/// Channel of the last probe's result; none before the first one.
pub type Found = watch::Receiver<Option<Proven>>;

/// Probes for ever; `found` holds what the last probe found. `ip` is the address under which the control plane reaches
/// this node.
pub async fn prove_forever(
    probe: Probe,
    mut ip: watch::Receiver<String>,
    found: watch::Sender<Option<Proven>>,
) {
    if !probe.is_usable() {
        tracing::info!("the way in is not probed by this agent; the control plane does it");
        return std::future::pending().await;
    }
    let mut shut_for = SHUT_FOR.0;
    loop {
        let (prober, address) = (probe.clone(), ip.borrow_and_update().clone());
        let proven = tokio::task::spawn_blocking(move || {
            let watched = prober.watched();
            // Before the probe: what changes meanwhile is probed again.
            let stamp = watched.stamp();
            (prober.prove(&address), watched, stamp)
        });
        let Ok((report, watched, stamp)) = proven.await else {
            tokio::time::sleep(SHUT_FOR.1).await;
            continue;
        };
        let open = report.as_ref().is_ok_and(|report| report.open);
        let pause = match &report {
            Ok(_) if open => probe.every,
            Ok(_) => shut_for,
            Err(_) => BUSY_FOR,
        };
        match report {
            Ok(report) => publish(&found, report),
            // What was found before stays, and grows old.
            Err(busy) => tracing::debug!("the way in could not be probed: {busy}"),
        }
        let proven_at = Instant::now();
        let changed = loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if watched.stamp() != stamp || ip.has_changed().unwrap_or(false) {
                tokio::time::sleep(SETTLE).await;
                break true;
            }
            if proven_at.elapsed() >= pause {
                break false;
            }
        };
        shut_for = if changed || open { SHUT_FOR.0 } else { (shut_for * 2).min(SHUT_FOR.1) };
    }
}

fn publish(found: &watch::Sender<Option<Proven>>, report: WayInReport) {
    let is_news = found.borrow().as_ref().is_none_or(|before| before.report != report);
    match (is_news, report.open) {
        (true, true) => tracing::info!("lease accounts can log in"),
        (true, false) => tracing::error!("lease accounts cannot log in: {}", report.reason),
        (false, _) => {}
    }
    found.send_replace(Some(Proven { report, at: boot_seconds().unwrap_or(0) }));
}

/// Reads the probe's report; a probe that reported nothing found nothing open. Fails if the probe was too
/// busy to look.
fn read_report(lines: &str) -> Result<WayInReport, String> {
    let value = |key: &str| {
        let prefix = format!("::report {key} ");
        lines.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
    };
    match value("way_in_not_known") {
        Some(busy) => Err(busy),
        None => Ok(WayInReport {
            open: value("way_in").as_deref() == Some("open"),
            reason: value("way_in_reason").unwrap_or_default(),
        }),
    }
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_report_of_an_open_way_in_opens_it() {
        let open = |lines| read_report(lines).unwrap().open;
        assert!(open("noise\n::report way_in open\n"));
        assert!(!open("") && !open("::report way_in\n") && !open("::report way_in openx\n"));
        let shut = read_report("::report way_in shut\n::report way_in_reason AllowUsers of sshd (root)\n");
        let shut = shut.unwrap();
        assert_eq!(shut, WayInReport { open: false, reason: "AllowUsers of sshd (root)".into() });
    }
    #[test]
    fn a_node_that_is_busy_says_nothing_of_its_way_in() {
        assert_eq!(read_report("::report way_in_not_known a run\n"), Err("a run".to_owned()));
    }

    #[test]
    fn sshd_is_another_one_when_it_listens_at_another_socket() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
                     1: 0100007F:0016 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n   \
                     2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        assert_eq!(listening(table.as_bytes(), &[22]), ["4711"]);
        assert!(listening(table.as_bytes(), &[2222]).is_empty() && listening(&b""[..], &[22]).is_empty());
    }
}
