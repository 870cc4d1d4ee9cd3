//! What the agent keeps on disk: who it is to the control plane (`node.json`), and the registration that
//! it has begun (`registering.json`).

use orion_domain::{NodeId, Secret};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Identity of this node at the control plane.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Number of the node at the control plane.
    pub node_id: NodeId,
    /// Token that proves the identity.
    pub node_token: Secret,
    /// The control plane's certificate authority, one public key a line.
    pub ssh_ca: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct IdentityOnDisk {
    node_id: NodeId,
    node_token: String,
    ssh_ca: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Registering {
    idempotency_key: String,
    body: String,
}

/// The agent's directory, readable by root only.
#[derive(Clone, Debug)]
pub struct StateDir {
    dir: PathBuf,
}

impl StateDir {
    /// Makes `dir` if needed and closes it to others.
    ///
    /// # Errors
    /// It cannot be made or closed.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The same for a directory that is only looked at.
    pub fn existing(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Returns this node's identity; none before the first registration.
    ///
    /// # Errors
    /// The file cannot be read; [`io::ErrorKind::InvalidData`] when it is not understood.
    pub fn identity(&self) -> io::Result<Option<Identity>> {
        let text = match fs::read_to_string(self.path("node.json")) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let IdentityOnDisk { node_id, node_token, ssh_ca } = serde_json::from_str(&text)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok(Some(Identity { node_id, node_token: Secret::new(node_token), ssh_ca }))
    }

    /// [`Self::identity`], but a file that is not understood is put aside under another name, and said.
    ///
    /// # Errors
    /// The file cannot be read or put aside.
    pub fn identity_or_start_anew(&self) -> io::Result<Option<Identity>> {
        match self.identity() {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let (path, aside) = (self.path("node.json"), self.path("node.json.broken"));
                tracing::error!(
                    "{} is broken ({error}); it is kept as {}, and this node has to join anew",
                    path.display(),
                    aside.display()
                );
                fs::rename(path, aside)?;
                Ok(None)
            }
            found => found,
        }
    }

    /// Keeps `identity`; returns when it is on disk.
    ///
    /// # Errors
    /// It could not be written.
    pub fn keep(&self, identity: &Identity) -> io::Result<()> {
        let on_disk = IdentityOnDisk {
            node_id: identity.node_id,
            node_token: identity.node_token.expose().to_owned(),
            ssh_ca: identity.ssh_ca.clone(),
        };
        self.write_json("node.json", &on_disk)?;
        match fs::remove_file(self.path("registering.json")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The idempotency key under which `body` is sent: the same after a crash, so that a reply (with the
    /// node token) that was lost on the way is given again. Another body gets another key.
    ///
    /// # Errors
    /// It could not be written.
    pub fn idempotency_key(&self, body: &str) -> io::Result<String> {
        if let Ok(text) = fs::read_to_string(self.path("registering.json"))
            && let Ok(begun) = serde_json::from_str::<Registering>(&text)
            && begun.body == body
        {
            return Ok(begun.idempotency_key);
        }
        let idempotency_key = format!("agent-{:032x}", rand::random::<u128>());
        self.write_json(
            "registering.json",
            &Registering { idempotency_key: idempotency_key.clone(), body: body.into() },
        )?;
        Ok(idempotency_key)
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        write_whole(&self.path(name), &self.path(&format!("{name}.new")), &(text + "\n"), 0o600)
    }
}

/// Puts `text` at `path` all at once: written to `beside` (same file system), synced, renamed. Whoever reads
/// sees the old or the new, also after a power cut.
///
/// # Errors
/// It could not be written; `path` is as before.
pub fn write_whole(path: &Path, beside: &Path, text: &str, mode: u32) -> io::Result<()> {
    match fs::remove_file(beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(beside, path)
    })();
    if let Err(error) = written {
        let _ = fs::remove_file(beside);
        return Err(error);
    }
    if let Some(dir) = path.parent() {
        File::open(dir)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity { node_id: NodeId(7), node_token: Secret::new("node-secret"), ssh_ca: vec!["a b".into()] }
    }

    #[test]
    fn the_identity_survives_and_only_root_can_read_it() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(&root.path().join("agent")).unwrap();
        assert!(state.identity().unwrap().is_none());
        state.keep(&identity()).unwrap();
        let again = state.identity().unwrap().unwrap();
        assert_eq!((again.node_id, again.node_token.expose()), (NodeId(7), "node-secret"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&state.path("node.json")), mode(&root.path().join("agent"))), (0o600, 0o700));
    }

    #[test]
    fn a_broken_identity_is_put_aside() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        fs::write(state.path("node.json"), "{\"node_id\": 3").unwrap();
        assert_eq!(state.identity().unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(state.identity_or_start_anew().unwrap().is_none());
        assert!(state.path("node.json.broken").exists() && !state.path("node.json").exists());
    }

    #[test]
    fn a_registration_keeps_its_key_until_it_succeeded_or_says_something_else() {
        let root = tempfile::tempdir().unwrap();
        let state = StateDir::open(root.path()).unwrap();
        let first = state.idempotency_key("body").unwrap();
        assert_eq!(state.idempotency_key("body").unwrap(), first);
        let other = state.idempotency_key("other").unwrap();
        assert_ne!(other, first);
        state.keep(&identity()).unwrap();
        assert_ne!(state.idempotency_key("other").unwrap(), other);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("x");
        fs::write(&path, "old").unwrap();
        let unwritable = root.path().join("no-such-dir/x.new");
        assert!(write_whole(&path, &unwritable, "new", 0o600).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
