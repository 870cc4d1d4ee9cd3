//! Commands that are run, and processes that are ended.

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How often the processes of a uid are looked for before it is given up for now.
const ROUNDS_MAX: u32 = 50;

/// What a command left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Finished {
    /// Its complaint in one line, for a log.
    pub fn complaint(&self) -> String {
        let text = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let cut: String = line.chars().take(300).collect();
        format!("{} ({})", if cut.is_empty() { "it said nothing" } else { &cut }, self.status)
    }
}

/// Runs `program`, found in the system's directories, with an environment of its own: the join token stays
/// with the agent. For commands that print less than a pipe holds (64 KiB). Blocks.
///
/// # Errors
/// It could not be started, or took longer than `longest` and was killed.
pub fn run<A: AsRef<OsStr>>(program: &str, args: &[A], longest: Duration) -> io::Result<Finished> {
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| io::Error::new(error.kind(), format!("{program} does not start: {error}")))?;
    let until = Instant::now() + longest;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            let _ = child.kill();
            let _ = child.wait();
            let text = format!("{program} took longer than {} s", longest.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let stdout = child.stdout.take().map(read_start).unwrap_or_default();
    let stderr = child.stderr.take().map(read_start).unwrap_or_default();
    Ok(Finished { status, stdout, stderr })
}

fn read_start(pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // What came before an error is still worth showing.
    let _ = pipe.take(65_536).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Ends every process that has `uid` as real, effective, saved or file-system uid: stops them all first, so
/// that none can start another, then kills until none is left. Returns how many it killed, and whether any
/// was left at last.
pub fn end_all_of(uid: u32) -> (usize, bool) {
    let mut killed = std::collections::BTreeSet::new();
    for round in 0..ROUNDS_MAX {
        let found = processes_of(uid);
        if found.is_empty() {
            return (killed.len(), false);
        }
        for pid in &found {
            send(*pid, uid, Signal::STOP);
        }
        for pid in found {
            if send(pid, uid, Signal::KILL) {
                killed.insert(pid);
            }
        }
        // The kernel needs a moment to take a killed process apart.
        std::thread::sleep(Duration::from_millis(u64::from(round).min(20)));
    }
    (killed.len(), !processes_of(uid).is_empty())
}

/// Processes of `uid`, those excepted that have ended and only wait to be noticed.
pub fn processes_of(uid: u32) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| belongs_to(*pid, uid))
        .collect()
}

fn belongs_to(pid: i32, uid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| status_is_of(&status, uid))
}

fn status_is_of(status: &str, uid: u32) -> bool {
    let mut ended = false;
    for line in status.lines() {
        if let Some(state) = line.strip_prefix("State:") {
            ended = state.trim_start().starts_with(['Z', 'X']);
        } else if let Some(uids) = line.strip_prefix("Uid:") {
            return !ended && uids.split_whitespace().any(|field| field.parse() == Ok(uid));
        }
    }
    false
}

/// Sends `signal` to `pid` if it still is a process of `uid`. The process is held by a descriptor while it
/// is looked at, so that a number used anew meanwhile is not hit.
fn send(pid: i32, uid: u32, signal: Signal) -> bool {
    let Some(number) = Pid::from_raw(pid) else { return false };
    match pidfd_open(number, PidfdFlags::empty()) {
        Ok(held) => belongs_to(pid, uid) && pidfd_send_signal(held, signal).is_ok(),
        Err(rustix::io::Errno::SRCH) => false,
        // A kernel before 5.3, or no descriptors left.
        Err(_) => belongs_to(pid, uid) && kill_process(number, signal).is_ok(),
    }
}

/// Sends SIGHUP to `pid`.
///
/// # Errors
/// The kernel's reason.
pub fn hang_up(pid: i32) -> io::Result<()> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, Signal::HUP)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_any_of_its_four_uids() {
        let status =
            |uids: &str| format!("Name:\tx\nUmask:\t0022\nState:\tS (sleeping)\nUid:\t{uids}\nGid:\t1\n");
        for uids in ["7\t0\t0\t0", "0\t7\t0\t0", "0\t0\t7\t0", "0\t0\t0\t7"] {
            assert!(status_is_of(&status(uids), 7), "{uids}");
        }
        assert!(!status_is_of(&status("70\t17\t0\t0"), 7));
        assert!(!status_is_of("Name:\tx\nState:\tZ (zombie)\nUid:\t7\t7\t7\t7\n", 7));
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let error = run("sleep", &["60"], Duration::from_millis(50)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_command_does_not_inherit_the_environment() {
        let done = run("env", &[] as &[&str], Duration::from_secs(10)).unwrap();
        let mut names: Vec<_> = done.stdout.lines().filter_map(|line| line.split('=').next()).collect();
        names.sort_unstable();
        assert_eq!(names, ["LC_ALL", "PATH"]);
        assert!(done.status.success());
    }
}
