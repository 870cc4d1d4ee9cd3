//! ed25519 key pairs and user certificates, made by `ssh-keygen`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::host::{require_program, run_or_panic};

/// An ed25519 key pair in a private directory that goes with it.
pub struct KeyPair {
    directory: TempDir,
    public_line: String,
}

impl KeyPair {
    /// A new key; ~10 ms.
    ///
    /// # Panics
    /// When `ssh-keygen` (Debian: openssh-client) is missing.
    #[must_use]
    pub fn generate() -> Self {
        require_program("ssh-keygen", "openssh-client");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let private = directory.path().join("key");
        run_or_panic(
            Command::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "testkit", "-f"])
                .arg(&private),
        );
        let public_line = fs::read_to_string(private.with_extension("pub")).expect("ssh-keygen wrote it");
        Self { directory, public_line: public_line.trim().to_owned() }
    }

    /// The private key's file, mode 0600, in OpenSSH format.
    #[must_use]
    pub fn private_path(&self) -> PathBuf {
        self.directory.path().join("key")
    }

    /// The private key's text.
    ///
    /// # Panics
    /// When somebody removed the file.
    #[must_use]
    pub fn private_text(&self) -> String {
        fs::read_to_string(self.private_path()).expect("the key's file")
    }

    /// `ssh-ed25519 AAAA… testkit`, one line without a newline.
    #[must_use]
    pub fn public_line(&self) -> &str {
        &self.public_line
    }

    /// Signs this key with `authority` as a user certificate and puts it where `ssh` finds it by itself.
    /// `principals` are separated by commas; `validity` is in `ssh-keygen -V` form, for example `-1m:+10m`.
    ///
    /// # Panics
    /// When ssh-keygen refuses the arguments.
    pub fn certify(&self, authority: &KeyPair, principals: &str, validity: &str, serial: u64) -> PathBuf {
        let public = self.private_path().with_extension("pub");
        run_or_panic(
            Command::new("ssh-keygen")
                .args([
                    "-q",
                    "-I",
                    "testkit",
                    "-n",
                    principals,
                    "-V",
                    validity,
                    "-z",
                    &serial.to_string(),
                    "-s",
                ])
                .arg(authority.private_path())
                .arg(&public),
        );
        let certificate: &Path = self.directory.path();
        certificate.join("key-cert.pub")
    }
}
