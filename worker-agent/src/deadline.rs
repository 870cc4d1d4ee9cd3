//! Closes logins at their deadline, alone: on a thread of its own that needs no network and starts first.
//!
//! Reads `/var/lib/orion/leases` each second. Time is `CLOCK_BOOTTIME`, which nobody can set; after a reboot
//! the wall clock and the seconds that remained decide, whichever ends earlier. Locking waits for nobody.
//! Files are changed only under the playbooks' lock and only while they exist, so that a file which a
//! playbook removed never comes back; while a playbook holds it, changing waits for a later round.

use crate::{
    accounts::{self, Account},
    facts,
    lease_file::LeaseFile,
    process,
    state::write_whole,
};
use orion_domain::{
    Clock, LeaseId,
    agent::{KeptDeadline, LeaseDeadline},
};
use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tokio::sync::watch;

const ROUND_EVERY: Duration = Duration::from_secs(1);
/// How often `remaining_s` is saved, in seconds.
const SAVE_EVERY_S: u64 = 30;
/// How often locked accounts are looked at again, in seconds.
const SWEEP_EVERY_S: u64 = 5;
/// Deadlines that differ by less are the same: the way of a message takes time.
const SAME_WITHIN_S: u64 = 2;
const ORDERS_MAX: usize = 16;

/// What the control plane wants.
#[derive(Debug)]
pub enum Order {
    /// These deadlines, counted from when the message came.
    Leases(Vec<LeaseDeadline>),
    /// Every lease account locked now.
    LockAll,
}

/// A deadline that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    uid: u32,
    deadline_boot_s: u64,
    locked: bool,
}

impl Kept {
    /// As it goes over the link.
    pub fn on_the_wire(&self) -> KeptDeadline {
        let now = boot_seconds().unwrap_or(self.deadline_boot_s);
        KeptDeadline {
            uid: self.uid,
            remaining_s: self.deadline_boot_s.saturating_sub(now),
            locked: self.locked,
        }
    }
}

/// The other end of the thread.
#[derive(Debug)]
pub struct Deadlines {
    orders: SyncSender<(Order, Option<u64>)>,
    /// What is kept; closed when the thread has ended.
    pub kept: watch::Receiver<Vec<Kept>>,
    thread: JoinHandle<()>,
}

impl Deadlines {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(node_dir: PathBuf, run_dir: PathBuf, clock: Box<dyn Clock>) -> io::Result<Self> {
        let (orders, inbox) = sync_channel(ORDERS_MAX);
        let (kept_tx, kept) = watch::channel(Vec::new());
        let mut keeper = Keeper::new(node_dir, run_dir, clock, kept_tx);
        let thread =
            std::thread::Builder::new().name("deadlines".into()).spawn(move || keeper.keep(&inbox))?;
        Ok(Self { orders, kept, thread })
    }

    /// Passes `order` on.
    pub fn order(&self, order: Order) {
        match self.orders.try_send((order, boot_seconds().ok())) {
            Ok(()) => {}
            // The control plane repeats what it wants with the next change.
            Err(TrySendError::Full(_)) => tracing::warn!("an order was dropped: too many are waiting"),
            Err(TrySendError::Disconnected(_)) => tracing::error!("the deadline thread has ended"),
        }
    }

    /// Lets the thread finish its round and ends it.
    pub fn stop(self) {
        drop(self.orders);
        if self.thread.join().is_err() {
            tracing::error!("the deadline thread had panicked");
        }
    }
}

/// The three clocks of a round.
struct Now {
    boot_s: u64,
    unix_s: i64,
    boot_id: String,
}

/// An account that this agent locked and has not marked in its file yet.
struct Closed {
    file_then: String,
    accounts: Vec<Account>,
}

/// A deadline that the control plane moved and that is not in the file yet.
struct Moved {
    lease: LeaseId,
    user: String,
    deadline_boot_s: u64,
}

struct Keeper {
    leases_dir: PathBuf,
    node_dir: PathBuf,
    run_dir: PathBuf,
    clock: Box<dyn Clock>,
    kept: watch::Sender<Vec<Kept>>,
    closed: HashMap<u32, Closed>,
    moved: HashMap<u32, Moved>,
    /// Ordered to be locked; with the file's text at that time, if there is a file.
    to_lock: BTreeMap<u32, Option<String>>,
    /// Deadlines of files from before a reboot, with the file's text.
    from_earlier_boot: HashMap<u32, (String, u64)>,
    /// Said already.
    said: HashMap<String, String>,
    saved_at_s: u64,
    swept_at_s: u64,
}

type Files = BTreeMap<u32, (String, LeaseFile)>;

impl Keeper {
    fn new(
        node_dir: PathBuf,
        run_dir: PathBuf,
        clock: Box<dyn Clock>,
        kept: watch::Sender<Vec<Kept>>,
    ) -> Self {
        Self {
            leases_dir: node_dir.join("leases"),
            node_dir,
            run_dir,
            clock,
            kept,
            closed: HashMap::new(),
            moved: HashMap::new(),
            to_lock: BTreeMap::new(),
            from_earlier_boot: HashMap::new(),
            said: HashMap::new(),
            saved_at_s: 0,
            swept_at_s: 0,
        }
    }

    fn keep(&mut self, orders: &Receiver<(Order, Option<u64>)>) {
        loop {
            let next = Instant::now() + ROUND_EVERY;
            match self.now() {
                Ok(now) => self.round(&now),
                Err(error) => self.say("clock", format!("deadlines are not kept: no clock: {error}")),
            }
            loop {
                match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok((order, at_s)) => self.take(order, at_s),
                    Err(RecvTimeoutError::Timeout) => break,
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                if !self.to_lock.is_empty() {
                    break;
                }
            }
        }
    }

    fn now(&self) -> io::Result<Now> {
        let boot_id = facts::boot_id();
        if boot_id.is_empty() {
            return Err(io::Error::other("there is no boot id in /proc"));
        }
        Ok(Now { boot_s: boot_seconds()?, unix_s: self.clock.now().as_secs(), boot_id })
    }

    fn take(&mut self, order: Order, at_s: Option<u64>) {
        match order {
            Order::Leases(leases) => {
                let Some(at_s) = at_s else { return };
                self.moved = leases
                    .into_iter()
                    .map(|lease| {
                        let deadline_boot_s = at_s.saturating_add(lease.remaining_s);
                        (lease.uid, Moved { lease: lease.lease_id, user: lease.user, deadline_boot_s })
                    })
                    .collect();
            }
            Order::LockAll => {
                tracing::warn!("the control plane gives this node up: every lease account is locked");
                let files = self.read_files();
                let accounts = accounts::of_leases().unwrap_or_default().into_iter().map(|a| (a.uid, None));
                self.to_lock = accounts.collect();
                self.to_lock.extend(files.into_iter().map(|(uid, (text, _))| (uid, Some(text))));
            }
        }
    }

    fn round(&mut self, now: &Now) {
        let files = self.read_files();
        self.closed.retain(|uid, _| files.contains_key(uid));
        self.from_earlier_boot.retain(|uid, _| files.contains_key(uid));
        for (uid, (text, file)) in &files {
            let is_over = !file.locked && self.deadline_of(text, file, now) <= now.boot_s;
            if is_over && self.closed.get(uid).is_none_or(|closed| closed.file_then != *text) {
                self.close(*uid, Some((text, file)), "is over");
            }
        }
        for (uid, text_then) in std::mem::take(&mut self.to_lock) {
            let found = files.get(&uid);
            // Whoever changed the file meanwhile knew more.
            if found.map(|(text, _)| text) != text_then.as_ref() || found.is_some_and(|(_, f)| f.locked) {
                continue;
            }
            let closed = self.close(uid, found.map(|(text, file)| (text, file)), "is given up");
            if !closed && !accounts::with_uid(uid).is_ok_and(|found| found.is_empty()) {
                self.to_lock.insert(uid, text_then);
            }
        }
        self.write_back(&files, now);
        self.sweep(&files, now);
        self.publish(now);
    }

    /// The files that make sense. Others are said (once it is seen that they stay so) and left alone.
    fn read_files(&mut self) -> Files {
        let entries = match fs::read_dir(&self.leases_dir) {
            Ok(entries) => entries,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.say("leases", format!("{} cannot be read: {error}", self.leases_dir.display()));
                }
                return Files::new();
            }
        };
        let mut files = Files::new();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Anything else than a uid is a playbook's temporary file.
            let Ok(uid) = name.parse::<u32>() else { continue };
            let Ok(text) = fs::read_to_string(entry.path()) else { continue };
            let problem = match LeaseFile::parse(&name, &text) {
                Ok(file) => {
                    files.insert(uid, (text, file));
                    continue;
                }
                Err(problem) => problem,
            };
            // A file may be seen while it is written; one that is still the same a round later is broken.
            let seen = self.said.insert(format!("seen {name}"), text.clone());
            if seen.is_some_and(|before| before == text) {
                let path = entry.path();
                self.say(
                    &name,
                    format!(
                        "the lease file {} is not obeyed: {problem}; run `list_users` or remove it",
                        path.display()
                    ),
                );
            }
        }
        files
    }

    /// When `file` ends, on this boot's clock.
    fn deadline_of(&mut self, text: &str, file: &LeaseFile, now: &Now) -> u64 {
        if file.boot_id == now.boot_id {
            return file.deadline_boot_s;
        }
        if let Some((known, deadline_boot_s)) = self.from_earlier_boot.get(&file.uid)
            && known == text
        {
            return *deadline_boot_s;
        }
        let by_wall_clock = u64::try_from(file.deadline_unix_s.saturating_sub(now.unix_s)).unwrap_or(0);
        let deadline_boot_s = now.boot_s.saturating_add(file.remaining_s.min(by_wall_clock));
        self.from_earlier_boot.insert(file.uid, (text.to_owned(), deadline_boot_s));
        deadline_boot_s
    }

    /// Locks what has `uid` and ends its processes; true when both are done.
    fn close(&mut self, uid: u32, file: Option<(&String, &LeaseFile)>, why: &str) -> bool {
        // Sessions end first: locking may have to wait for another tool.
        let (mut ended, _) = process::end_all_of(uid);
        let accounts = match accounts::with_uid(uid) {
            Ok(accounts) => accounts,
            Err(error) => {
                self.say("passwd", format!("/etc/passwd cannot be read: {error}"));
                return false;
            }
        };
        if accounts.is_empty() {
            // Its file is written before the account is made: when it appears, it is locked.
            return false;
        }
        for account in &accounts {
            if let Err(problem) = accounts::lock(account) {
                self.say(
                    &format!("lock {uid}"),
                    format!("{} cannot be locked, trying on: {problem}", account.name),
                );
                return false;
            }
        }
        let (ended_later, some_left) = process::end_all_of(uid);
        ended += ended_later;
        if some_left {
            self.say(&format!("kill {uid}"), format!("processes of uid {uid} do not end, trying on"));
            return false;
        }
        let names = accounts.iter().map(|account| account.name.as_str()).collect::<Vec<_>>().join(", ");
        match file {
            Some((text, file)) => {
                tracing::info!(
                    "lease {} {why}: {names} (uid {uid}) is locked, {ended} processes ended",
                    file.lease
                );
                self.closed.insert(uid, Closed { file_then: text.clone(), accounts });
            }
            None => tracing::info!("{names} (uid {uid}) {why}: locked, {ended} processes ended"),
        }
        self.said.retain(|key, _| *key != format!("lock {uid}") && *key != format!("kill {uid}"));
        true
    }

    /// Writes what this agent knows better than the files, if no playbook is running.
    fn write_back(&mut self, files: &Files, now: &Now) {
        let save = now.boot_s.saturating_sub(self.saved_at_s) >= SAVE_EVERY_S;
        let earlier_boot = files.values().any(|(_, file)| !file.locked && file.boot_id != now.boot_id);
        if !save && !earlier_boot && self.closed.is_empty() && self.moved.is_empty() {
            return;
        }
        if files.is_empty() {
            self.moved.clear();
            return;
        }
        let Some(_held) = self.playbook_lock() else { return };
        // Read again: what was read before may be from before the lock.
        for (uid, (text, file)) in self.read_files() {
            let mut new = file.clone();
            if let Some(closed) = self.closed.remove(&uid) {
                if closed.file_then == text {
                    new.locked = true;
                } else if !file.locked && self.deadline_of(&text, &file, now) > now.boot_s {
                    self.open_again(&file, &closed.accounts);
                }
            }
            if !new.locked && !self.to_lock.contains_key(&uid) {
                new.deadline_boot_s = self.deadline_of(&text, &file, now);
                if file.boot_id != now.boot_id {
                    new.boot_id.clone_from(&now.boot_id);
                    new.remaining_s = new.deadline_boot_s.saturating_sub(now.boot_s);
                }
                if let Some(moved) = self.moved.get(&uid) {
                    move_deadline(&mut new, moved, now);
                }
                if save {
                    new.remaining_s = new.deadline_boot_s.saturating_sub(now.boot_s);
                }
            }
            if new != file {
                self.write(&new);
            }
        }
        self.moved.clear();
        if save {
            self.saved_at_s = now.boot_s;
        }
    }

    fn write(&mut self, file: &LeaseFile) {
        let path = self.leases_dir.join(file.uid.to_string());
        let beside = self.node_dir.join(format!(".lease-{}.agent", file.uid));
        if let Err(error) = write_whole(&path, &beside, &file.render(), 0o600) {
            self.say(
                &format!("write {}", file.uid),
                format!("{} cannot be written: {error}", path.display()),
            );
        }
    }

    /// A playbook moved the deadline while this agent was locking the account: the playbook is right.
    fn open_again(&mut self, file: &LeaseFile, accounts: &[Account]) {
        for account in accounts.iter().filter(|account| account.name == file.user) {
            match accounts::reopen(account) {
                Ok(()) => {
                    tracing::info!("lease {} was extended meanwhile: {} is open again", file.lease, file.user)
                }
                Err(problem) => {
                    self.say(
                        &format!("open {}", file.uid),
                        format!("{} cannot be opened: {problem}", file.user),
                    );
                }
            }
        }
    }

    /// Locked accounts stay locked and have no processes: a job of cron's may have started since.
    fn sweep(&mut self, files: &Files, now: &Now) {
        if now.boot_s.saturating_sub(self.swept_at_s) < SWEEP_EVERY_S {
            return;
        }
        self.swept_at_s = now.boot_s;
        if !files.values().any(|(_, file)| file.locked) {
            return;
        }
        // A playbook that is about to open one must not be undone.
        let Some(_held) = self.playbook_lock() else { return };
        for (uid, (_, file)) in self.read_files() {
            if !file.locked {
                continue;
            }
            let open =
                accounts::with_uid(uid).unwrap_or_default().into_iter().filter(|a| !accounts::is_locked(a));
            for account in open {
                match accounts::lock(&account) {
                    Ok(()) => {
                        tracing::warn!("{} had been opened after its lease's end; locked again", account.name)
                    }
                    Err(problem) => self.say(&format!("lock {uid}"), format!("{}: {problem}", account.name)),
                }
            }
            let (ended, _) = process::end_all_of(uid);
            if ended > 0 {
                tracing::warn!("{ended} processes of {} (uid {uid}) ended after its lease's end", file.user);
            }
        }
    }

    fn publish(&mut self, now: &Now) {
        let kept: Vec<_> = self
            .read_files()
            .into_iter()
            .map(|(uid, (text, file))| Kept {
                uid,
                deadline_boot_s: self.deadline_of(&text, &file, now),
                locked: file.locked || self.closed.contains_key(&uid),
            })
            .collect();
        self.kept.send_if_modified(|before| {
            let changed = *before != kept;
            *before = kept;
            changed
        });
    }

    /// The lock that every playbook takes, if it is free. Closed to others: whoever can open it can hold it.
    fn playbook_lock(&mut self) -> Option<File> {
        let opened = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.run_dir)
            .and_then(|()| fs::set_permissions(&self.run_dir, fs::Permissions::from_mode(0o700)))
            .and_then(|()| {
                let path = self.run_dir.join("lock");
                OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
            });
        match opened {
            Ok(file) => file.try_lock().is_ok().then_some(file),
            Err(error) => {
                self.say(
                    "lock",
                    format!("{} cannot be opened: {error}", self.run_dir.join("lock").display()),
                );
                None
            }
        }
    }

    /// Logs an error about `what` unless the same was said last.
    fn say(&mut self, what: &str, text: String) {
        if self.said.get(what) != Some(&text) {
            tracing::error!("{text}");
            self.said.insert(what.to_owned(), text);
        }
    }
}

fn move_deadline(file: &mut LeaseFile, moved: &Moved, now: &Now) {
    if file.lease != moved.lease || file.user != moved.user {
        tracing::warn!(
            "uid {} belongs to lease {} here and to lease {} there; its deadline stays",
            file.uid,
            file.lease,
            moved.lease
        );
        return;
    }
    if file.deadline_boot_s.abs_diff(moved.deadline_boot_s) < SAME_WITHIN_S {
        return;
    }
    let remaining_s = moved.deadline_boot_s.saturating_sub(now.boot_s);
    tracing::info!("lease {} now ends here in {remaining_s} s", file.lease);
    file.deadline_boot_s = moved.deadline_boot_s;
    file.remaining_s = remaining_s;
    file.deadline_unix_s = now.unix_s.saturating_add(i64::try_from(remaining_s).unwrap_or(i64::MAX));
}

/// Whole seconds of `CLOCK_BOOTTIME`, from `/proc/uptime`.
pub fn boot_seconds() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    let whole = text.split(['.', ' ']).next().and_then(|seconds| seconds.parse().ok());
    whole.ok_or_else(|| io::Error::other(format!("/proc/uptime says '{}'", text.trim())))
}
