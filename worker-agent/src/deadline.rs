//! Sees to it that the deadlines of this machine are kept: by the deadline process, a shell program that the control
//! plane's playbooks use as well (`playbooks/lib/deadline.sh`), so that killing, locking and reading lease files exist
//! once.
//!
//! Lives here: starting that process when lease files are there and it is not, passing orders to it, telling what it
//! keeps and says. On a thread of its own that needs no network and starts first. Does not live here: any decision
//! about a lease.

use crate::process;
use orion_domain::{
    agent::{KeptDeadline, LeaseDeadline},
    reconcile::FIRST_UID,
};
use std::{
    fmt::Write as _,
    fs,
    io::{self, Read as _, Seek as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;

const ROUND_EVERY: Duration = Duration::from_secs(1);
/// Longest that starting the deadline process may take.
const START_MAX: Duration = Duration::from_secs(30);
/// Most that is read of what the deadline process says in one round, in bytes.
const LOG_READ_MAX: u64 = 65_536;

/// The shell library of the playbooks, in the order in which the deadline process needs it.
const LIBRARY: [&str; 8] = [
    include_str!("../../playbooks/lib/accounts.sh"),
    include_str!("../../playbooks/lib/door.sh"),
    include_str!("../../playbooks/lib/processes.sh"),
    include_str!("../../playbooks/lib/leases.sh"),
    include_str!("../../playbooks/lib/places.sh"),
    include_str!("../../playbooks/lib/boot.sh"),
    include_str!("../../playbooks/lib/containers.sh"),
    include_str!("../../playbooks/lib/deadline.sh"),
];
/// Starts the deadline process with the text `$1`, as a playbook does and under the same lock, but not for longer than
/// a playbook that does its work holds it.
const START: &str = "\nexec 9>>/run/orion/lock\ntries=0\nuntil flock -n 9 || [ $tries -gt 15 ]; do\n\
                     tries=$((tries + 1))\nsleep 0.1 2>/dev/null || sleep 1\ndone\ndetached_script=$1\nstart_deadline\n";

/// Order of the control plane.
#[derive(Debug)]
pub enum Order {
    /// Deadlines to keep, counted from when the message came.
    Leases(Vec<LeaseDeadline>),
    /// Every lease account locked now.
    LockAll,
}

/// A deadline that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Uid of the account.
    pub uid: u32,
    /// Time at which the account is locked, in seconds of `CLOCK_BOOTTIME`.
    pub deadline_boot_s: u64,
    /// Whether it is.
    pub locked: bool,
    /// The lease's number.
    pub lease: String,
    /// The account's name.
    pub user: String,
}

impl Kept {
    /// Converts the deadline to its form on the link.
    pub fn on_the_wire(&self) -> KeptDeadline {
        let now = boot_seconds().unwrap_or(self.deadline_boot_s);
        KeptDeadline {
            uid: self.uid,
            remaining_s: self.deadline_boot_s.saturating_sub(now),
            locked: self.locked,
        }
    }
}

/// Orders that were not passed on yet. Of deadlines the last message counts; an order to lock all stays until it was
/// passed on.
#[derive(Debug, Default)]
struct Waiting {
    /// Deadlines, with the time from which they count, in seconds of `CLOCK_BOOTTIME`.
    leases: Option<(Vec<LeaseDeadline>, u64)>,
    lock_all: bool,
}

/// The other end of the thread.
#[derive(Debug)]
pub struct Deadlines {
    waiting: Arc<Mutex<Waiting>>,
    wake: SyncSender<()>,
    /// Channel of the deadlines that are kept; closed when the thread has ended.
    pub kept: watch::Receiver<Vec<Kept>>,
    thread: JoinHandle<()>,
}

impl Deadlines {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(node_dir: PathBuf, run_dir: PathBuf) -> io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let waiting = Arc::default();
        let (kept_tx, kept) = watch::channel(Vec::new());
        let mut keeper = DeadlineEnforcer {
            node_dir,
            run_dir,
            waiting: Arc::clone(&waiting),
            kept: kept_tx,
            said: None,
            heard: 0,
        };
        let thread =
            std::thread::Builder::new().name("deadlines".into()).spawn(move || keeper.keep(&woken))?;
        Ok(Self { waiting, wake, kept, thread })
    }

    /// Passes `order` on.
    pub fn order(&self, order: Order) {
        wait_with(&self.waiting, order);
        if let Err(TrySendError::Disconnected(())) = self.wake.try_send(()) {
            tracing::error!("the deadline thread has ended");
        }
    }

    /// Ends the thread after its round. The deadline process goes on.
    pub fn stop(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the deadline thread had panicked");
        }
    }
}

fn wait_with(waiting: &Mutex<Waiting>, order: Order) {
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    match (order, boot_seconds()) {
        (Order::Leases(leases), Ok(at_s)) => waiting.leases = Some((leases, at_s)),
        (Order::Leases(_), Err(error)) => tracing::error!("deadlines were not taken: {error}"),
        (Order::LockAll, _) => waiting.lock_all = true,
    }
}

struct DeadlineEnforcer {
    node_dir: PathBuf,
    run_dir: PathBuf,
    waiting: Arc<Mutex<Waiting>>,
    kept: watch::Sender<Vec<Kept>>,
    /// The error that was said last.
    said: Option<String>,
    /// Bytes of the deadline process's log that were passed on.
    heard: u64,
}

impl DeadlineEnforcer {
    fn keep(&mut self, woken: &Receiver<()>) {
        loop {
            let next = Instant::now() + ROUND_EVERY;
            if let Err(problem) = self.round() {
                self.say(problem);
            }
            loop {
                if let Err(error) = self.pass_on() {
                    self.say(format!("an order could not be passed on, trying on: {error}"));
                }
                match woken.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        }
    }

    fn round(&mut self) -> Result<(), String> {
        if self.has_work() && !self.is_running() {
            self.start()?;
        }
        self.hear();
        let kept = read_kept(&self.run_dir).unwrap_or_default();
        self.kept.send_if_modified(|before| {
            let changed = *before != kept;
            *before = kept;
            changed
        });
        Ok(())
    }

    fn has_work(&self) -> bool {
        let has_any = |directory: PathBuf| fs::read_dir(directory).is_ok_and(|found| found.count() > 0);
        !lease_files(&self.node_dir).is_empty()
            || has_any(self.node_dir.join("containers"))
            || has_any(self.run_dir.join("orders"))
    }

    fn is_running(&self) -> bool {
        let Ok(pid) = fs::read_to_string(self.run_dir.join("deadline.pid")) else { return false };
        fs::read(format!("/proc/{}/cmdline", pid.trim()))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains("/deadline.sh\0"))
    }

    fn start(&self) -> Result<(), String> {
        let failed = |problem: String| format!("the deadline process does not start: {problem}");
        self.make_run_dir("").map_err(|error| failed(error.to_string()))?;
        let first_uid = format!("first_uid={FIRST_UID}\n");
        let texts = [[LIBRARY[3], START].concat(), [&first_uid, &*LIBRARY.concat()].concat()];
        let [leases, script] = texts.map(|text| self.here(&text));
        let args = ["-c", &leases, "orion-agent", &script];
        let done = process::run("/bin/sh", &args, START_MAX).map_err(|error| failed(error.to_string()))?;
        if done.status.success() { Ok(()) } else { Err(failed(done.complaint())) }
    }

    /// The text with this agent's directories, and without comments and indentation, as playbooks send it: where the texts
    /// differ each would replace the other's process.
    fn here(&self, text: &str) -> String {
        let text: String = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty())
            .flat_map(|line| [line.trim_start_matches(' '), "\n"])
            .collect();
        text.replace("/var/lib/orion", &self.node_dir.to_string_lossy())
            .replace("/run/orion", &self.run_dir.to_string_lossy())
    }

    /// A directory below that of the playbooks' lock. Closed to others: whoever can open the lock can hold it.
    fn make_run_dir(&self, name: &str) -> io::Result<PathBuf> {
        let directory = self.run_dir.join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        fs::set_permissions(&self.run_dir, fs::Permissions::from_mode(0o700))?;
        Ok(directory)
    }

    /// Gives the deadline process what waits. What cannot be given goes on waiting, unless something newer does.
    fn pass_on(&self) -> io::Result<()> {
        let now = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut result = Ok(());
        if now.lock_all
            && let Err(error) = self.pass_on_file("lock_all", "")
        {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).lock_all = true;
            result = Err(error);
        }
        if let Some((leases, at_s)) = now.leases {
            let mut text = String::new();
            for lease in &leases {
                let ends = at_s.saturating_add(lease.remaining_s);
                let _ = writeln!(text, "{} {} {} {ends}", lease.uid, lease.lease_id, lease.user);
            }
            if let Err(error) = self.pass_on_file("leases", &text) {
                let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                waiting.leases.get_or_insert((leases, at_s));
                result = Err(error);
            }
        }
        result
    }

    fn pass_on_file(&self, name: &str, text: &str) -> io::Result<()> {
        let orders = self.make_run_dir("orders")?;
        let beside = self.run_dir.join(format!(".{name}.order"));
        fs::write(&beside, text)?;
        fs::rename(beside, orders.join(name))
    }

    /// Passes on what the deadline process said since.
    fn hear(&mut self) {
        let Ok(mut file) = fs::File::open(self.run_dir.join("deadline.log")) else { return };
        let length = file.metadata().map_or(0, |data| data.len());
        if length < self.heard {
            self.heard = 0;
        }
        let mut bytes = Vec::new();
        if file.seek(io::SeekFrom::Start(self.heard)).is_err()
            || file.take(LOG_READ_MAX).read_to_end(&mut bytes).is_err()
        {
            return;
        }
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        self.heard += whole as u64;
        for line in String::from_utf8_lossy(bytes.get(..whole).unwrap_or_default()).lines() {
            tracing::warn!("{line}");
        }
    }

    /// Logs an error unless the same was said last.
    fn say(&mut self, text: String) {
        if self.said.as_ref() != Some(&text) {
            tracing::error!("{text}");
            self.said = Some(text);
        }
    }
}

/// The uids that have a lease file.
pub fn lease_files(node_dir: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(node_dir.join("leases")) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Reads the deadlines that the deadline process keeps.
///
/// # Errors
/// It has said nothing yet: no lease is there, or it does not run.
pub fn read_kept(run_dir: &Path) -> io::Result<Vec<Kept>> {
    let text = fs::read_to_string(run_dir.join("kept"))?;
    Ok(text.lines().filter_map(parse_kept).collect())
}

fn parse_kept(line: &str) -> Option<Kept> {
    let mut words = line.split(' ');
    Some(Kept {
        uid: words.next()?.parse().ok()?,
        // One that was over before this boot has none.
        deadline_boot_s: words.next()?.parse::<i64>().ok()?.try_into().unwrap_or(0),
        locked: words.next()? == "1",
        lease: words.next()?.into(),
        user: words.next()?.into(),
    })
}

/// Whole seconds of `CLOCK_BOOTTIME`, from `/proc/uptime`.
pub fn boot_seconds() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let whole = text.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok());
    whole.ok_or_else(|| io::Error::other(format!("/proc/uptime says '{}'", text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::LeaseId;

    #[test]
    fn what_is_kept_is_read_line_by_line_and_a_line_that_makes_no_sense_is_none() {
        let kept = parse_kept("200017 900 1 42 alice").expect("a good line");
        assert_eq!((kept.uid, kept.deadline_boot_s, kept.locked, &*kept.user), (200_017, 900, true, "alice"));
        assert_eq!(parse_kept("200017 -5 0 42 alice").map(|kept| kept.deadline_boot_s), Some(0));
        assert!(
            ["", "200017", "x 900 0 42 alice", "200017 900 0 42"]
                .iter()
                .all(|line| parse_kept(line).is_none())
        );
    }

    #[test]
    fn an_order_to_lock_all_waits_until_it_was_passed_on_whatever_else_comes() {
        let directory = tempfile::tempdir().expect("a directory");
        let run_dir = directory.path().join("run");
        fs::write(&run_dir, "in the way").expect("written");
        let keeper = DeadlineEnforcer {
            node_dir: directory.path().join("node"),
            run_dir: run_dir.clone(),
            waiting: Arc::default(),
            kept: watch::channel(Vec::new()).0,
            said: None,
            heard: 0,
        };
        let deadline = |remaining_s| {
            let lease =
                LeaseDeadline { lease_id: LeaseId(42), user: "alice".into(), uid: 200_017, remaining_s };
            Order::Leases(vec![lease])
        };
        wait_with(&keeper.waiting, deadline(5));
        wait_with(&keeper.waiting, Order::LockAll);
        for number in 0..100 {
            wait_with(&keeper.waiting, deadline(number * 1_000_000));
        }
        assert!(keeper.pass_on().is_err());
        fs::remove_file(&run_dir).expect("removed");
        keeper.pass_on().expect("passed on");
        assert!(run_dir.join("orders/lock_all").exists());
        let leases = fs::read_to_string(run_dir.join("orders/leases")).expect("written");
        let ends: u64 = leases.trim().rsplit(' ').next().expect("a word").parse().expect("a number");
        assert!(
            leases.starts_with("200017 42 alice ") && ends >= 99_000_000,
            "the last one counts: {leases}"
        );
        // What was passed on is not passed on again.
        fs::remove_dir_all(&run_dir).expect("removed");
        keeper.pass_on().expect("nothing waits");
        assert!(!run_dir.exists());
    }
}
