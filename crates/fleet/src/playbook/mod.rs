//! Playbooks: what is run on a node, as YAML that an operator can read and change.
//!
//! Here: reading a playbook, compiling it to one shell command line, framing its values for standard
//! input, and reading the reply. Not here: SSH, the database, and any decision about leases; the caller
//! executes the command and acts on the [`Reply`].
//!
//! # The file
//! ```yaml
//! name: greet                     # a-z 0-9 _
//! description: Says hello.        # for the reader
//! timeout_s: 30                   # the whole run, under `timeout -k 5`
//! read_only: false                # true: checks the epoch, stores none
//! include: [accounts]             # playbooks/lib/accounts.sh: shell functions for the steps; lines of a
//!                                 # library file that begin with # are dropped, wherever they stand
//! detached: [deadline]            # library files whose text stands in $detached_script
//! values:                         # the order here is the order on the wire
//!   - name: user                  # becomes the shell variable $user
//!     first: 'a-z_'               # bracket class of the first character; optional
//!     chars: 'a-z0-9_-'           # bracket class of every character; a literal - stands last
//!     min: 1                      # length in bytes, 1 unless said otherwise; 0 = may be empty
//!     max: 31                     # at most 4096
//!     secret: false               # true: scrubbed from all output that is shown
//! steps:
//!   - name: greet                 # one line; named in the reply when it fails
//!     run: |                      # POSIX sh, under `set -eu`, standard input is /dev/null
//!       report greeted "$user"
//! ```
//!
//! # On the wire
//! A whole playbook is one exec of a constant command line, `exec timeout -k 5 N /bin/sh -c '…'`; no value
//! is in it. The values go in on standard input: `orion-playbook 1 COUNT`, the epoch, one value a line, and
//! a final `.`, all read and checked before the first step, so a lost connection never looks like a complete
//! input. Then the run takes `/run/orion/lock`, refuses an epoch below `/var/lib/orion/epoch`, stores a higher one.
//!
//! The reply comes on standard output, a line each: `::step NAME` before each step, `::report KEY VALUE…`
//! from the function `report`, `::bad NAME` from `bad NAME`, `::why TEXT` from `refuse STATUS TEXT…`, and
//! `::ok` at the very end. What the tools print goes to standard error.
//!
//! A playbook that is run all the time need not go over the wire each time ([`Kept`]).
//!
//! | status | meaning | [`Reply`] |
//! |---|---|---|
//! | 0 with `::ok` | every step was carried out | `Done` |
//! | 64 | a value is not as declared | `BadValue` |
//! | 65 | the name or the uid belongs to somebody else on this node | `Unfit` |
//! | 66 | the input was not complete | `InputIncomplete` |
//! | 67 | the uid lies in a subordinate range of the node | `Unfit` |
//! | 68 | the uid of a new lease is not higher than all that the node has seen | `UidSeen` |
//! | 72 | the name belongs to somebody else on this node, or has rights there: a new lease gets another | `NameUnusable` |
//! | 70 | something that a tenant left could not be removed or ended; what, is said | `Refused` |
//! | 71 | what passes: account files locked by another program, no room; the same work is tried again | `Refused` |
//! | 75 | the lock was not got, or the process table was full | `Busy` |
//! | 76 | the epoch is older than the node's | `StaleEpoch` |
//! | 77 | what only a person can judge | `Refused` |
//! | 124, 137 | the time limit passed | `TimedOut` |
//! | none, or 0 without `::ok` | not known | `Unknown` |
//! | other | the step failed | `Refused` |

mod compile;
mod kept;
mod parse;
mod reply;

use std::io;
use std::path::Path;

pub use compile::EPOCH_MAX;
pub use kept::{Kept, NOT_KEPT};
pub use parse::Library;
pub use reply::{InventoryError, ListedAccount, NodeInventory, Reply, Report, read_reply};

use parse::PlaybookFile;
pub(crate) use reply::{seen_epoch, seen_uid};

/// A playbook that cannot be used, or a value that it does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaybookError {
    /// The file is not the YAML of a playbook.
    #[error("not a playbook: {0}")]
    Yaml(String),
    /// The file says something that makes no sense.
    #[error("not a usable playbook: {0}")]
    Invalid(String),
    /// A file of the operator's directory could not be read or is wrong.
    #[error("{file}: {problem}")]
    File {
        /// Path of the file.
        file: String,
        /// Description of the problem with the value.
        problem: String,
    },
    /// A value is missing, given twice, not declared, or not as declared. The value itself is not shown.
    #[error("the value {name} {problem}")]
    Value {
        /// Name of the value.
        name: String,
        /// Description of the problem with the value.
        problem: String,
    },
}

/// One playbook, checked and compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playbook {
    file: PlaybookFile,
    command: String,
    kept: Kept,
}

impl Playbook {
    /// Reads, checks and compiles a playbook with the built-in library.
    pub fn parse(yaml: &str) -> Result<Self, PlaybookError> {
        Self::parse_with_library(yaml, &Library::builtin())
    }

    /// Reads, checks and compiles a playbook with this library.
    pub fn parse_with_library(yaml: &str, library: &Library) -> Result<Self, PlaybookError> {
        let file = PlaybookFile::read(yaml)?;
        let script = compile::script(&file, library)?;
        let command = compile::command_line(&file, &script);
        let kept = Kept::new(&file, script);
        Ok(Self { file, command, kept })
    }

    /// Returns the playbook's name.
    pub fn name(&self) -> &str {
        &self.file.name
    }

    /// Returns the description of what the playbook does, for people.
    pub fn description(&self) -> &str {
        &self.file.description
    }

    /// Seconds after which the node itself ends the run (5 more until it is killed). The caller waits a
    /// little longer than both.
    pub fn timeout_s(&self) -> u32 {
        self.file.timeout_s
    }

    /// The command line of the exec. Constant: it shows no value.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Returns how the playbook is run from a file that the node keeps.
    pub const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Returns the standard input of a run. Needs every declared value exactly once, in any order; the epoch
    /// has at most 18 digits.
    pub fn stdin(&self, epoch: u64, values: &[(&str, &str)]) -> Result<Vec<u8>, PlaybookError> {
        compile::frame(&self.file, epoch, values)
    }

    /// Returns those of the given values that the playbook declares secret: [`read_reply`] must scrub them.
    pub fn secrets<'value>(&self, values: &[(&str, &'value str)]) -> Vec<&'value str> {
        let is_secret = |name: &str| self.file.values.iter().any(|spec| spec.secret && spec.name == name);
        values.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| *value).collect()
    }

    fn first_step(&self) -> &str {
        self.file.steps.first().map_or("start", |step| step.name.as_str())
    }
}

/// The playbooks that Orion itself runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playbooks {
    create_user: Playbook,
    delete_user: Playbook,
    set_deadline: Playbook,
    list_users: Playbook,
    probe_login: Playbook,
    remove_containers: Playbook,
    keep_containers: Playbook,
    start_container: Playbook,
}

/// Source of the files: the operator's directory first, then the program.
struct Source<'directory> {
    directory: Option<&'directory Path>,
    library: Library,
}

impl Source<'_> {
    /// The operator's file of this name, if there is one.
    fn own(&self, name: &str) -> Result<Option<(String, String)>, PlaybookError> {
        let Some(path) = self.directory.map(|directory| directory.join(name)) else { return Ok(None) };
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some((path.display().to_string(), text))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(PlaybookError::File { file: path.display().to_string(), problem: error.to_string() })
            }
        }
    }

    fn load(&self, name: &str, builtin: &str) -> Result<Playbook, PlaybookError> {
        let Some((file, yaml)) = self.own(&format!("{name}.yml"))? else {
            return Playbook::parse_with_library(builtin, &self.library);
        };
        let playbook = Playbook::parse_with_library(&yaml, &self.library)
            .map_err(|error| PlaybookError::File { file: file.clone(), problem: error.to_string() })?;
        if playbook.name() != name {
            return Err(PlaybookError::File { file, problem: format!("is named {:?}", playbook.name()) });
        }
        Ok(playbook)
    }

    fn playbooks(&self) -> Result<Playbooks, PlaybookError> {
        Ok(Playbooks {
            create_user: self.load("create_user", include_str!("../../../../playbooks/create_user.yml"))?,
            delete_user: self.load("delete_user", include_str!("../../../../playbooks/delete_user.yml"))?,
            set_deadline: self
                .load("set_deadline", include_str!("../../../../playbooks/set_deadline.yml"))?,
            list_users: self.load("list_users", include_str!("../../../../playbooks/list_users.yml"))?,
            probe_login: self.load("probe_login", include_str!("../../../../playbooks/probe_login.yml"))?,
            remove_containers: self
                .load("remove_containers", include_str!("../../../../playbooks/remove_containers.yml"))?,
            keep_containers: self
                .load("keep_containers", include_str!("../../../../playbooks/keep_containers.yml"))?,
            start_container: self
                .load("start_container", include_str!("../../../../playbooks/start_container.yml"))?,
        })
    }
}

impl Playbooks {
    /// The playbooks that are built into this program.
    ///
    /// # Errors
    /// Never with the files of this repository; a test holds that.
    pub fn builtin() -> Result<Self, PlaybookError> {
        Source { directory: None, library: Library::builtin() }.playbooks()
    }

    /// The built-in ones, each replaced by `NAME.yml` of this directory where it has one; likewise
    /// `lib/NAME.sh`. A playbook that lacks values which the built-in one declares is refused when it is run.
    pub fn from_dir_over_builtin(directory: &Path) -> Result<Self, PlaybookError> {
        if !directory.is_dir() {
            let file = directory.display().to_string();
            return Err(PlaybookError::File { file, problem: "is not a directory".to_owned() });
        }
        let mut source = Source { directory: Some(directory), library: Library::builtin() };
        let names: Vec<String> = source.library.0.keys().cloned().collect();
        for name in names.into_iter().chain(own_library_names(directory)) {
            if let Some((_, text)) = source.own(&format!("lib/{name}.sh"))? {
                source.library.insert(&name, &text);
            }
        }
        source.playbooks()
    }

    /// Creates or repairs a lease account: `user uid lease lease_ulid is_new password_hash public_key deadline_s
    /// agent`.
    pub fn create_user(&self) -> &Playbook {
        &self.create_user
    }

    /// Removes a lease account and all it left: `user uid`.
    pub fn delete_user(&self) -> &Playbook {
        &self.delete_user
    }

    /// Gives an account a new deadline, reopens it: `user uid deadline_s agent password_hash`.
    pub fn set_deadline(&self) -> &Playbook {
        &self.set_deadline
    }

    /// Lists what the node holds: `uid_min uid_max`.
    pub fn list_users(&self) -> &Playbook {
        &self.list_users
    }

    /// Starts a container that was made before: `lease lease_ulid container deadline_s agent`.
    pub fn start_container(&self) -> &Playbook {
        &self.start_container
    }

    /// Gives a lease's containers a new deadline: `lease lease_ulid deadline_s agent`.
    pub fn keep_containers(&self) -> &Playbook {
        &self.keep_containers
    }

    /// Removes a lease's containers, networks and volumes: `lease_ulid grace_s`.
    pub fn remove_containers(&self) -> &Playbook {
        &self.remove_containers
    }

    /// Proves by a login that lease accounts can log in.
    pub fn probe_login(&self) -> &Playbook {
        &self.probe_login
    }
}

/// Names of the `lib/*.sh` files in the operator's directory; none when there is no such directory.
fn own_library_names(directory: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory.join("lib")) else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".sh").map(str::to_owned))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_domain::reconcile::FIRST_UID;

    #[test]
    fn the_built_in_playbooks_compile_and_fit_into_one_exec() {
        let playbooks = Playbooks::builtin().expect("the repository's playbooks are good");
        let all = [
            playbooks.create_user(),
            playbooks.delete_user(),
            playbooks.set_deadline(),
            playbooks.list_users(),
            playbooks.probe_login(),
            playbooks.start_container(),
        ];
        for playbook in all {
            // OpenSSH takes packets of 256 KiB, and Linux arguments of 128 KiB.
            assert!(playbook.command().len() < 64_000, "{}: {}", playbook.name(), playbook.command().len());
            // The lowest uid is handed in; a script that had a number of its own would differ from it one day.
            let (number, script) = (FIRST_UID.to_string(), playbook.command());
            let handed_in = script.matches(&format!("first_uid={number}\n")).count();
            assert!(handed_in >= 1 && script.matches(&number).count() == handed_in, "{}", playbook.name());
        }
    }

    /// `find` replaces `{}` also inside of a script that it starts: a name there would be run.
    #[test]
    fn no_script_that_find_starts_contains_the_place_of_a_name() {
        let text = include_str!("../../../../playbooks/lib/removal.sh");
        for name in
            ["enter", "remove_entry", "remove_directory", "remove_subvolume", "is_mounted", "keep_directory"]
        {
            let start = text.find(&format!("\n{name}='")).expect("it is there") + name.len() + 3;
            let end = start + text[start..].find('\'').expect("it ends");
            assert!(!text[start..end].contains("{}"), "{name}");
        }
    }

    #[test]
    fn the_hash_is_declared_secret() {
        let playbooks = Playbooks::builtin().expect("they are good");
        let values = [("user", "alice"), ("password_hash", "$6$salt$hash")];
        assert_eq!(playbooks.create_user().secrets(&values), ["$6$salt$hash"]);
        assert_eq!(playbooks.set_deadline().secrets(&values), ["$6$salt$hash"]);
        assert!(playbooks.delete_user().secrets(&values).is_empty());
    }

    #[test]
    fn an_operators_file_replaces_the_built_in_one_and_only_that() {
        let directory = tempfile::tempdir().expect("a directory");
        let write =
            |name: &str, text: &str| std::fs::write(directory.path().join(name), text).expect("written");
        std::fs::create_dir(directory.path().join("lib")).expect("a directory");
        write("lib/greetings.sh", "# says hello\nsay_hello() { echo hello >&2; }\n");
        write(
            "list_users.yml",
            "name: list_users\ndescription: Ours.\ntimeout_s: 5\ninclude: [greetings]\nsteps:\n  - {name: own, run: say_hello}\n",
        );
        let ours = Playbooks::from_dir_over_builtin(directory.path()).expect("good files");
        let builtin = Playbooks::builtin().expect("good files");
        assert_eq!(ours.list_users().description(), "Ours.");
        assert!(
            ours.list_users().command().contains("say_hello() {")
                && !ours.list_users().command().contains("says")
        );
        assert_eq!(ours.create_user(), builtin.create_user());

        write("lib/accounts.sh", "read_account() { refuse 65 changed; }\n");
        let ours = Playbooks::from_dir_over_builtin(directory.path()).expect("good files");
        assert!(ours.create_user().command().contains("refuse 65 changed"));
    }

    #[test]
    fn a_wrong_operators_file_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let refused = |text: &str| {
            std::fs::write(directory.path().join("delete_user.yml"), text).expect("written");
            Playbooks::from_dir_over_builtin(directory.path()).expect_err("refused").to_string()
        };
        assert!(refused("steps: 7").contains("delete_user.yml"));
        let other = "name: other\ndescription: d\ntimeout_s: 5\nsteps:\n  - {name: own, run: 'true'}\n";
        assert!(refused(other).contains("is named \"other\""));
        let nowhere = directory.path().join("nowhere");
        assert!(
            Playbooks::from_dir_over_builtin(&nowhere).expect_err("refused").to_string().contains("nowhere")
        );
    }
}
