//! Where the demo keeps its files, and which demo was there before.
//!
//! Two places: a directory (data, logs, what curl and ssh are told) and, in /run, a lock and a record for each
//! bridge of workers, because those are the machine's, whichever copy of the repository started them.

use super::options::DemoOptions;
use orion_console::{Failure, Outcome, failed_to, process, repo};
use serde_json::{Value, json};
use std::{
    env,
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// File that marks a directory as made by a demo, which may therefore empty it.
const MARK: &str = ".orion-demo";

/// The files of one demo.
pub struct Place {
    directory: PathBuf,
    record: PathBuf,
    /// Sockets: a path of them has at most 107 bytes.
    sockets: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
}

/// A program of a demo: its process, told apart from a later one with the same number by when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// Process id.
    pub process: u32,
    /// Field 22 of /proc/PID/stat, in clock ticks since boot.
    pub started: u64,
}

impl Place {
    /// Takes the lock of this machine's demo.
    ///
    /// # Errors
    /// When a demo is being played at this moment.
    pub fn claim(options: &DemoOptions) -> Outcome<Self> {
        let bridge = env::var("ORION_WORKERS_BRIDGE").unwrap_or_else(|_| "orion0".to_owned());
        let lock_path = PathBuf::from(format!("/run/orion-demo-{bridge}.lock"));
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(failed_to(format!("open {}", lock_path.display())))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::new("a demo is being played on this machine at this moment")
                    .hint("let it end, or stop it with Ctrl-C"));
            }
            Err(TryLockError::Error(error)) => return Err(failed_to("lock the demo")(error)),
        }
        let directory = match &options.keep_dir {
            Some(directory) => std::path::absolute(directory).map_err(failed_to("find the directory"))?,
            None => repo::root().join(".orion/demo"),
        };
        let (record, sockets) = (lock_path.with_extension("json"), lock_path.with_extension("d"));
        Ok(Self { directory, record, sockets, _lock: lock })
    }

    /// A file of the demo.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A socket of the demo, in a directory of root's alone.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.sockets.join(name)
    }

    /// The path of a file as one types it at the root of the repository.
    pub fn shown(&self, name: &str) -> String {
        let path = self.file(name);
        path.strip_prefix(repo::root()).unwrap_or(&path).display().to_string()
    }

    /// Makes the directory, empty.
    ///
    /// # Errors
    /// When it holds something that no demo has put there.
    pub fn prepare(&self) -> Outcome {
        let what = || format!("prepare {}", self.directory.display());
        self.remove_files()?;
        self.remove_sockets()?;
        for directory in [&self.directory, &self.sockets] {
            fs::create_dir_all(directory)
                .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)))
                .map_err(failed_to(what()))?;
        }
        self.write(MARK, "made by cargo xtask demo, and removed by it\n", 0o600)
    }

    /// Removes the directory with all that is in it.
    ///
    /// # Errors
    /// When it holds something that no demo has put there.
    pub fn remove_files(&self) -> Outcome {
        let is_empty = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => {
                entries.map_err(failed_to(format!("read {}", self.directory.display())))?.next().is_none()
            }
        };
        if !is_empty && !self.file(MARK).exists() {
            return Err(Failure::new(format!(
                "{} holds files that are not the demo's",
                self.directory.display()
            ))
            .hint("name an empty or new directory with --keep-dir"));
        }
        fs::remove_dir_all(&self.directory).map_err(failed_to(format!("remove {}", self.directory.display())))
    }

    fn remove_sockets(&self) -> Outcome {
        match fs::remove_dir_all(&self.sockets) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed_to(format!("remove {}", self.sockets.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// Writes a file of the demo.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&self, name: &str, text: &str, mode: u32) -> Outcome {
        let path = self.file(name);
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(mode)))
            .map_err(failed_to(format!("write {}", path.display())))
    }

    /// Notes that a demo runs from now on, with these programs.
    ///
    /// # Errors
    /// The disk's.
    pub fn note(&self, running: &[Running]) -> Outcome {
        let programs = running.iter().map(|one| json!({ "process": one.process, "started": one.started }));
        let record = json!({ "directory": self.directory, "programs": programs.collect::<Vec<_>>() });
        fs::write(&self.record, format!("{record}\n"))
            .map_err(failed_to(format!("write {}", self.record.display())))
    }

    /// Returns what still runs of a demo that was started and not stopped; none when there is no such demo.
    pub fn former(&self) -> Option<Vec<Running>> {
        let text = fs::read_to_string(&self.record).ok()?;
        let mut programs = programs_of(&serde_json::from_str(&text).unwrap_or_default());
        programs.retain(Running::is_there);
        Some(programs)
    }

    /// Notes that no demo runs any more.
    ///
    /// # Errors
    /// The disk's.
    pub fn forget(&self) -> Outcome {
        self.remove_sockets()?;
        match fs::remove_file(&self.record) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(failed_to(format!("remove {}", self.record.display()))(error))
            }
            _ => Ok(()),
        }
    }
}

/// The programs in a record.
fn programs_of(record: &Value) -> Vec<Running> {
    let programs = record["programs"].as_array().into_iter().flatten();
    let running = programs.filter_map(|program| {
        let process = program["process"].as_u64().and_then(|process| u32::try_from(process).ok())?;
        Some(Running { process, started: program["started"].as_u64()? })
    });
    running.collect()
}

impl Running {
    /// The process with this number, if there is one that has not ended.
    pub fn of(process: u32) -> Option<Self> {
        let (state, started) = state_and_start(&fs::read_to_string(format!("/proc/{process}/stat")).ok()?)?;
        (!matches!(state, 'Z' | 'X')).then_some(Self { process, started })
    }

    /// Whether it still runs.
    pub fn is_there(&self) -> bool {
        Self::of(self.process).as_ref() == Some(self)
    }

    /// Sends it a signal, by name.
    pub fn signal(&self, name: &str) {
        if self.is_there() {
            // It may end in between; whoever asks looks at `is_there` again.
            let _ = process::output(Command::new("kill").args(["-s", name, &self.process.to_string()]));
        }
    }
}

/// Reads the state and the start time from /proc/PID/stat. The program's name, in parentheses, may hold
/// anything.
fn state_and_start(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // The state is field 3, the start field 22.
    Some((fields.first()?.chars().next()?, fields.get(19)?.parse().ok()?))
}

/// The part of a path that is below the root of the repository, for people.
pub fn below_root(path: &Path) -> String {
    path.strip_prefix(repo::root()).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_read_whatever_its_name_is() {
        let stat = "17 (a) S (b) R 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(state_and_start(stat), Some(('R', 4711)));
        assert_eq!(state_and_start("17 (short) R 1"), None);
    }

    #[test]
    fn a_record_names_its_programs_and_one_that_is_damaged_names_none() {
        let record = json!({ "programs": [{ "process": 7, "started": 9 }, { "process": "x" }] });
        assert_eq!(programs_of(&record), [Running { process: 7, started: 9 }]);
        assert_eq!(programs_of(&Value::Null), []);
    }

    #[test]
    fn a_process_is_there_until_it_has_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let running = Running::of(child.id()).unwrap();
        assert!(running.is_there());
        assert!(
            !Running { started: running.started + 1, ..running }.is_there(),
            "another of the same number"
        );
        running.signal("KILL");
        child.wait().unwrap();
        assert!(!running.is_there());
    }
}
