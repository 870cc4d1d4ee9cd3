//! A registry of images: Debian's `docker-registry`, without TLS, and images put into it without an engine.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::wait::wait_until_blocking;

/// A running registry; it ends when this is dropped.
pub struct Registry {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Name of the user of [`Registry::start_private`].
    pub const USER: &'static str = "fisher";
    /// Password of that user.
    pub const PASSWORD: &'static str = "swordfish";
    /// The password as bcrypt has it.
    const PASSWORD_HASH: &'static str = "$2b$04$rfo3fF5/lkGC1j2/iD116ORnGekhXFBM31Fv7DilU0CWtq8vtupoa";

    /// Starts a registry that is open to all, at an address and port.
    ///
    /// # Panics
    /// When it does not listen within 10 s, or is not installed.
    #[must_use]
    pub fn start(address: &str) -> Self {
        Self::start_with(address, |_| String::new())
    }

    /// Starts a registry that lets in [`Registry::USER`] alone.
    ///
    /// # Panics
    /// As [`Registry::start`].
    #[must_use]
    pub fn start_private(address: &str) -> Self {
        Self::start_with(address, |dir| {
            let file = dir.join("htpasswd");
            fs::write(&file, format!("{}:{}\n", Self::USER, Self::PASSWORD_HASH)).expect("written");
            format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display())
        })
    }

    fn start_with(address: &str, auth: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {0}/data}}}}\nhttp: {{addr: '{address}'}}\n{1}",
            dir.path().display(),
            auth(dir.path())
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).expect("written");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is missing: apt-get install docker-registry");
        wait_until_blocking("the registry listens", Duration::from_secs(10), || {
            std::net::TcpStream::connect(address).map(drop).map_err(|error| error.to_string())
        });
        Self { child, address: address.to_owned(), dir }
    }

    /// Returns its address and port, as names of images have it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Puts files into its storage, as a push would: an image of one platform with layers of these sizes. Returns the
    /// digest of its manifest.
    ///
    /// # Panics
    /// When its directory cannot be written.
    pub fn put_image(&self, repository: &str, tag: &str, layers: &[usize]) -> String {
        let config =
            self.put_blob(repository, br#"{"os":"linux","architecture":"amd64","rootfs":{"type":"layers"}}"#);
        let layers: Vec<String> = layers
            .iter()
            .enumerate()
            .map(|(number, size)| {
                let digest = self.put_blob(repository, &vec![u8::try_from(number).unwrap_or(0); *size]);
                format!(r#"{{"mediaType":"application/vnd.docker.image.rootfs.diff.tar.gzip","size":{size},"digest":"{digest}"}}"#)
            })
            .collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{{"mediaType":"application/vnd.docker.container.image.v1+json","size":64,"digest":"{config}"}},"layers":[{}]}}"#,
            layers.join(",")
        );
        let digest = self.put_blob(repository, manifest.as_bytes());
        let manifests = self.repository(repository).join("_manifests");
        let hex = digest.trim_start_matches("sha256:");
        for place in [
            manifests.join("revisions/sha256").join(hex).join("link"),
            manifests.join("tags").join(tag).join("current/link"),
            manifests.join("tags").join(tag).join("index/sha256").join(hex).join("link"),
        ] {
            write(&place, digest.as_bytes());
        }
        digest
    }

    fn repository(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("data/docker/registry/v2/repositories").join(name)
    }

    fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let hex = sha256(bytes);
        let short = hex.get(..2).unwrap_or_default();
        write(
            &self.dir.path().join("data/docker/registry/v2/blobs/sha256").join(short).join(&hex).join("data"),
            bytes,
        );
        let digest = format!("sha256:{hex}");
        write(&self.repository(repository).join("_layers/sha256").join(&hex).join("link"), digest.as_bytes());
        digest
    }
}

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    fs::write(path, bytes).expect("written");
}

/// Returns the digest by coreutils: this crate needs it nowhere else.
fn sha256(bytes: &[u8]) -> String {
    use std::io::Write as _;
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("coreutils");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("written");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().next().expect("a digest").to_owned()
}
