//! What the command line keeps between two calls: the session, its own SSH key, pinned host keys.
//!
//! Lives here: the directory (`$XDG_CONFIG_HOME/orion` or `~/.config/orion`, mode 0700) and the files in it,
//! all written whole or not at all. Does not live here: talking to the API, the `ssh` command line.

use crate::error::{CliError, Kind};
use orion_domain::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A login that was accepted: who, where, and the token that proves it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Session {
    /// The API's address, without a slash at its end. The token is sent nowhere else.
    pub api: String,
    /// The user's name.
    pub user: String,
    /// The bearer token.
    pub token: String,
    /// The certificate authority file that `login` was given, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_ca: Option<PathBuf>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("api", &self.api).field("user", &self.user).finish_non_exhaustive()
    }
}

impl Session {
    /// Returns the expiry of the token by its `exp` claim, if it has one (not verified: the API checks the
    /// token).
    pub fn expires_at(&self) -> Option<Timestamp> {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        #[derive(Deserialize)]
        struct Claims {
            exp: f64,
        }
        let payload = URL_SAFE_NO_PAD.decode(self.token.split('.').nth(1)?).ok()?;
        let claims: Claims = serde_json::from_slice(&payload).ok()?;
        Some(Timestamp::from_micros((claims.exp * 1_000_000.0) as i64))
    }
}

/// The directory that holds all of it.
#[derive(Clone, Debug)]
pub struct Paths {
    directory: PathBuf,
}

impl Paths {
    /// Derives the directory from `XDG_CONFIG_HOME` (where it is absolute, as its specification demands) or
    /// `HOME`.
    ///
    /// # Errors
    /// When neither is set.
    pub fn from_environment() -> Result<Self, CliError> {
        let absolute =
            |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        match base {
            Some(base) => Ok(Self { directory: base.join("orion") }),
            None => Err(CliError::failed("no home directory: HOME is not set")
                .hint("set HOME, or XDG_CONFIG_HOME to an absolute path")),
        }
    }

    /// The CLI's own private SSH key.
    pub fn ssh_key(&self) -> PathBuf {
        self.directory.join("id_ed25519")
    }

    /// The file with a `Host` block for each lease, which `orion ssh-config --install` has ssh include.
    pub fn ssh_config(&self) -> PathBuf {
        self.directory.join("ssh_config")
    }

    /// Writes [`Self::ssh_config`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_ssh_config(&self, text: &str) -> Result<(), CliError> {
        self.write_private(&self.ssh_config(), text.as_bytes())
    }

    /// Returns the path of the file with the pinned host keys of a lease.
    pub fn known_hosts(&self, api: &str, lease_id: i64) -> PathBuf {
        self.directory.join("known_hosts.d").join(format!("{}-lease-{lease_id}", file_safe(api)))
    }

    fn session_file(&self) -> PathBuf {
        self.directory.join("session.json")
    }

    /// The session of the last login, or none.
    ///
    /// # Errors
    /// When the file is there but cannot be read or understood.
    pub fn session(&self) -> Result<Option<Session>, CliError> {
        let path = self.session_file();
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
                CliError::new(Kind::NotLoggedIn, format!("{} cannot be understood: {error}", path.display()))
                    .hint("log in again: orion login NAME")
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(CliError::file("cannot read", &path, &error)),
        }
    }

    /// Keeps `session`, readable by this user alone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_session(&self, session: &Session) -> Result<(), CliError> {
        let text = serde_json::to_string_pretty(session)
            .map_err(|error| CliError::failed(format!("cannot write the session down: {error}")))?;
        self.write_private(&self.session_file(), text.as_bytes())
    }

    /// Forgets the session. Says whether there was one.
    ///
    /// # Errors
    /// When the file is there and cannot be removed.
    pub fn forget_session(&self) -> Result<bool, CliError> {
        let path = self.session_file();
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(CliError::file("cannot remove", &path, &error)),
        }
    }

    /// Writes the pinned host keys of one lease and says where.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_known_hosts(&self, api: &str, lease_id: i64, text: &str) -> Result<PathBuf, CliError> {
        let path = self.known_hosts(api, lease_id);
        self.write_private(&path, text.as_bytes())?;
        Ok(path)
    }

    /// Remembers that `lease_id` was rented with the key pair whose private half is `private_key`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_identity(&self, api: &str, lease_id: i64, private_key: &Path) -> Result<(), CliError> {
        use std::os::unix::ffi::OsStrExt;
        self.write_private(&self.identity_file(api, lease_id), private_key.as_os_str().as_bytes())
    }

    /// The private key that `lease_id` was rented with: the CLI's own, unless another was remembered.
    pub fn identity(&self, api: &str, lease_id: i64) -> PathBuf {
        use std::os::unix::ffi::OsStringExt;
        match fs::read(self.identity_file(api, lease_id)) {
            Ok(bytes) if !bytes.is_empty() => PathBuf::from(std::ffi::OsString::from_vec(bytes)),
            Ok(_) | Err(_) => self.ssh_key(),
        }
    }

    fn identity_file(&self, api: &str, lease_id: i64) -> PathBuf {
        self.directory.join("identities.d").join(format!("{}-lease-{lease_id}", file_safe(api)))
    }

    /// The CLI's own public key in OpenSSH's one-line form; the pair is made first where there is none.
    ///
    /// # Errors
    /// When `ssh-keygen` is missing or fails.
    pub fn public_key(&self) -> Result<String, CliError> {
        self.make_directory(&self.directory)?;
        // Two first rentals at once: the second waits here and finds the key of the first.
        let lock_path = self.directory.join("id_ed25519.lock");
        let lock =
            private_file(&lock_path).map_err(|error| CliError::file("cannot open", &lock_path, &error))?;
        lock.lock().map_err(|error| CliError::file("cannot lock", &lock_path, &error))?;
        let key = self.ssh_key();
        if !key.exists() {
            ssh_keygen(&["-q", "-t", "ed25519", "-N", "", "-C", "orion", "-f"], &key)?;
        }
        ssh_keygen(&["-y", "-f"], &key)
    }

    fn make_directory(&self, directory: &Path) -> Result<(), CliError> {
        let make = || -> io::Result<()> {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let mode = fs::metadata(&self.directory)?.permissions().mode();
            if mode & 0o077 != 0 {
                fs::set_permissions(&self.directory, Permissions::from_mode(0o700))?;
            }
            Ok(())
        };
        make().map_err(|error| CliError::file("cannot make the directory", directory, &error))
    }

    /// Writes a file of mode 0600 so that a reader sees the old or the new text, never a part.
    fn write_private(&self, path: &Path, bytes: &[u8]) -> Result<(), CliError> {
        self.make_directory(path.parent().unwrap_or(&self.directory))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".new-{}", std::process::id()));
        let temporary = path.with_file_name(name);
        let write = || -> io::Result<()> {
            let _ = fs::remove_file(&temporary);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|error| {
            let _ = fs::remove_file(&temporary);
            CliError::file("cannot write", path, &error)
        })
    }
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// An API address as a part of a file name.
fn file_safe(api: &str) -> String {
    let address = api.split_once("://").map_or(api, |(_, address)| address);
    address.chars().map(|c| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' }).collect()
}

fn ssh_keygen(arguments: &[&str], key: &Path) -> Result<String, CliError> {
    let output = Command::new("ssh-keygen").args(arguments).arg(key).stdin(Stdio::null()).output();
    let output = output.map_err(|error| {
        CliError::failed(format!("cannot run ssh-keygen: {error}"))
            .hint("install OpenSSH's client (Debian: apt install openssh-client)")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(CliError::failed(format!("ssh-keygen failed on {}: {said}", key.display())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(directory: &tempfile::TempDir) -> Paths {
        Paths { directory: directory.path().join("orion") }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_session_reads_back_and_is_private_even_in_a_directory_that_was_not() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(&directory);
        fs::create_dir(&paths.directory).unwrap();
        fs::set_permissions(&paths.directory, Permissions::from_mode(0o755)).unwrap();
        assert!(paths.session().unwrap().is_none());
        let session =
            Session { api: "http://a".into(), user: "alice".into(), token: "t".into(), api_ca: None };
        paths.keep_session(&session).unwrap();
        paths.keep_session(&session).unwrap();
        assert_eq!(paths.session().unwrap().map(|s| s.token), Some("t".to_owned()));
        assert_eq!(mode(&paths.session_file()), 0o600);
        assert_eq!(mode(&paths.directory), 0o700);
        assert!(paths.forget_session().unwrap());
        assert!(!paths.forget_session().unwrap());
    }

    #[test]
    fn the_ssh_key_is_made_once() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(&directory);
        let first = paths.public_key().unwrap();
        assert!(first.starts_with("ssh-ed25519 AAAA"), "{first}");
        assert_eq!(paths.public_key().unwrap(), first);
        assert_eq!(mode(&paths.ssh_key()), 0o600);
    }

    #[test]
    fn a_token_says_when_it_expires() {
        use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
        let payload = URL_SAFE_NO_PAD.encode(r#"{"sub":"1","exp":1763690000}"#);
        let session =
            |token: String| Session { api: "http://a".into(), user: "a".into(), token, api_ca: None };
        assert_eq!(
            session(format!("h.{payload}.s")).expires_at().map(Timestamp::as_secs),
            Some(1_763_690_000)
        );
        assert_eq!(session("opaque".into()).expires_at(), None);
    }

    #[test]
    fn a_session_does_not_show_its_token_when_debugged() {
        let session =
            Session { api: "http://a".into(), user: "a".into(), token: "geheim".into(), api_ca: None };
        assert!(!format!("{session:?}").contains("geheim"));
    }

    #[test]
    fn a_lease_remembers_the_key_it_was_rented_with() {
        let directory = tempfile::tempdir().unwrap();
        let paths = paths(&directory);
        paths.keep_identity("http://a:1", 7, Path::new("/k/mine")).unwrap();
        assert_eq!(paths.identity("http://a:1", 7), Path::new("/k/mine"));
        assert_eq!(paths.identity("http://b:1", 7), paths.ssh_key());
    }
}
