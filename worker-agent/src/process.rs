//! Commands that are run.

use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    io::{self, Read},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Result of a command.
#[derive(Debug)]
pub struct Finished {
    /// Exit status of the command.
    pub status: ExitStatus,
    /// Standard output of the command.
    pub stdout: String,
    /// Standard error of the command.
    pub stderr: String,
}

impl Finished {
    /// Returns the command's error message and status in one line, for a log.
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
