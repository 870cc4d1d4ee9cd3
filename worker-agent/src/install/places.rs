//! Where everything of an installed agent goes. Each change is said on standard output, in one line.

use super::is_there;
use crate::state::{StateDir, write_whole};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Directories that an installation made and that may be somebody else's as well; removed when empty.
const MADE_DIRS: &str = "etc/orion/installed";

/// Says one step.
pub fn say(what: &str, path: &Path) {
    println!("{what:<8} {}", path.display());
}

/// The places below a system's root.
pub struct Places {
    root: PathBuf,
}

impl Places {
    /// Returns the places of the system in `root`.
    ///
    /// # Errors
    /// No system lies there.
    pub fn in_system(root: &Path) -> Result<Self, String> {
        let looks_right = root.join("etc/passwd");
        let root = fs::canonicalize(root).and_then(|root| fs::metadata(looks_right).map(|_| root));
        let root = root.map_err(|error| {
            format!("--root holds no system: its etc/passwd cannot be read: {error}\nhint: name a directory like debootstrap's")
        })?;
        Ok(Self { root })
    }

    /// The system's root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is the machine that runs, and not an image.
    pub fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// A path without its leading slash, in this system.
    pub fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The agent itself.
    pub fn program(&self) -> PathBuf {
        self.at("usr/local/sbin/orion-agent")
    }

    /// The agent's directory.
    pub fn state_dir(&self) -> PathBuf {
        self.at("var/lib/orion-agent")
    }

    /// A file in it.
    pub fn state(&self, name: &str) -> PathBuf {
        self.state_dir().join(name)
    }

    /// A file of its settings.
    pub fn setting(&self, name: &str) -> PathBuf {
        self.at("etc/orion").join(name)
    }

    /// Returns the command that installs sshd, for a hint.
    pub fn how_to_install_sshd(&self) -> &'static str {
        if is_there(&self.at("sbin/apk")) { "apk add openssh" } else { "apt-get install openssh-server" }
    }

    /// Makes the directories, and notes those that were not there.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn begin(&self) -> Result<(), String> {
        self.make_dir("etc/orion")?;
        for dir in ["usr/local/sbin", "etc/ssh/sshd_config.d"] {
            self.make_dir(dir)?;
        }
        let dir = self.state_dir();
        let is_new = !dir.is_dir();
        StateDir::open(&dir).map_err(|error| format!("{} cannot be made: {error}", dir.display()))?;
        say(if is_new { "made" } else { "same" }, &dir);
        Ok(())
    }

    /// Makes a directory and its parents; which of them were not there is noted before it is made, so that
    /// it is known even if this run ends here.
    ///
    /// # Errors
    /// It cannot be made or noted.
    pub fn make_dir(&self, dir: &str) -> Result<(), String> {
        let mut missing: Vec<_> =
            Path::new(dir).ancestors().take_while(|dir| !is_there(&self.root.join(dir))).collect();
        missing.reverse();
        for part in missing {
            let path = self.root.join(part);
            let failed = |error: io::Error| format!("{} cannot be made: {error}", path.display());
            fs::create_dir(&path).map_err(failed)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
            // The first is etc/orion itself, which holds the notes.
            let text = self.made_dirs().join("\n") + "\n" + &part.to_string_lossy() + "\n";
            self.put(&self.at(MADE_DIRS), text.trim_start(), 0o600)?;
            say("made", &path);
        }
        Ok(())
    }

    /// The directories that an installation made, in the order of their making.
    pub fn made_dirs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at(MADE_DIRS)).unwrap_or_default();
        // A note that leads out of the system is not believed.
        let is_inside = |line: &&str| !line.is_empty() && !line.starts_with('/') && !line.contains("..");
        text.lines().filter(is_inside).map(str::to_owned).collect()
    }

    /// Writes a file unless it has `text` and `mode` already. True if it was written.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path, text: &str, mode: u32) -> Result<bool, String> {
        let as_wanted = fs::read_to_string(path).is_ok_and(|found| found == text)
            && fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o7777 == mode);
        if !as_wanted {
            self.put(path, text, mode)?;
        }
        say(if as_wanted { "same" } else { "wrote" }, path);
        Ok(!as_wanted)
    }

    fn put(&self, path: &Path, text: &str, mode: u32) -> Result<(), String> {
        write_whole(path, &beside(path), text, mode)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    /// Puts the running program at its place. A running agent keeps the old one until it is started anew.
    /// True if it was not there or was another one.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn install_program(&self) -> Result<bool, String> {
        let (own, place) = (Path::new("/proc/self/exe"), self.program());
        let failed = |error: io::Error| {
            format!("{} cannot be written: {error}\nhint: is the disk full or read-only?", place.display())
        };
        let as_wanted = is_same(own, &place).unwrap_or(false);
        if !as_wanted {
            let beside = beside(&place);
            let copied = fs::copy(own, &beside)
                .and_then(|_| fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)))
                .and_then(|()| File::open(&beside)?.sync_all())
                .and_then(|()| fs::rename(&beside, &place));
            if let Err(error) = copied {
                let _ = fs::remove_file(&beside);
                return Err(failed(error));
            }
        }
        say(if as_wanted { "same" } else { "wrote" }, &place);
        Ok(!as_wanted)
    }

    /// Removes a file, and what a run that was cut off left beside it. True if it was there.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove(&self, path: &Path) -> Result<bool, String> {
        let _ = fs::remove_file(beside(path));
        match fs::remove_file(path) {
            Ok(()) => {
                say("removed", path);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(format!("{} cannot be removed: {error}", path.display())),
        }
    }

    /// Removes a directory with all in it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub fn remove_tree(&self, path: &Path) -> Result<(), String> {
        match fs::remove_dir_all(path) {
            Ok(()) => {
                say("removed", path);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(format!("{} cannot be removed: {error}", path.display())),
        }
    }

    /// Removes a directory if it is empty.
    pub fn remove_if_empty(&self, path: &Path) {
        if fs::remove_dir(path).is_ok() {
            say("removed", path);
        }
    }

    /// Removes the notes of [`Self::make_dir`] and the directories in them that are empty.
    ///
    /// # Errors
    /// The notes cannot be removed.
    pub fn remove_made_dirs(&self) -> Result<(), String> {
        let made = self.made_dirs();
        self.remove(&self.at(MADE_DIRS))?;
        for dir in made.iter().rev() {
            self.remove_if_empty(&self.at(dir));
        }
        Ok(())
    }
}

/// Returns the path to which a file is written before it takes its place: a name that neither sshd nor an
/// init reads.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".orion-new");
    path.with_file_name(name)
}

/// Whether two files hold the same.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (a, b) = (fs::metadata(one)?, fs::metadata(other)?);
    if (a.dev(), a.ino()) == (b.dev(), b.ino()) {
        return Ok(true);
    }
    Ok(a.len() == b.len() && b.permissions().mode() & 0o111 != 0 && fs::read(one)? == fs::read(other)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> (tempfile::TempDir, Places) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc/ssh")).unwrap();
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        let places = Places::in_system(root.path()).unwrap();
        (root, places)
    }

    #[test]
    fn directories_that_were_made_go_and_those_that_were_there_stay() {
        let (root, places) = system();
        fs::create_dir(root.path().join("usr")).unwrap();
        places.begin().unwrap();
        places.begin().unwrap();
        let made = ["etc/orion", "usr/local", "usr/local/sbin", "etc/ssh/sshd_config.d"];
        assert_eq!(places.made_dirs(), made);
        places.remove_made_dirs().unwrap();
        assert!(root.path().join("usr").is_dir() && !root.path().join("usr/local").exists());
        assert!(root.path().join("etc/ssh").is_dir() && !root.path().join("etc/orion").exists());
    }

    #[test]
    fn a_made_directory_that_somebody_uses_stays() {
        let (root, places) = system();
        places.begin().unwrap();
        fs::write(root.path().join("usr/local/sbin/other"), "").unwrap();
        places.remove_made_dirs().unwrap();
        assert!(root.path().join("usr/local/sbin/other").exists());
    }

    #[test]
    fn a_file_is_written_once_and_again_when_its_mode_is_wrong() {
        let (_root, places) = system();
        let path = places.at("etc/x");
        assert!(places.write(&path, "a\n", 0o600).unwrap());
        assert!(!places.write(&path, "a\n", 0o600).unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(places.write(&path, "a\n", 0o600).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn notes_that_lead_out_of_the_system_are_not_believed() {
        let (_root, places) = system();
        fs::create_dir(places.at("etc/orion")).unwrap();
        fs::write(places.at(MADE_DIRS), "/tmp\n../../x\netc/y\n").unwrap();
        assert_eq!(places.made_dirs(), ["etc/y"]);
    }

    #[test]
    fn a_directory_without_a_system_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        assert!(Places::in_system(empty.path()).is_err_and(|problem| problem.contains("no system")));
    }
}
