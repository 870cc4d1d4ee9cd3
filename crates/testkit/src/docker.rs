//! A private Docker engine (`docker/engine.sh`), and the images that this machine makes for it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::host::run_or_panic;
use crate::keeper::DeadlineEnforcer;

/// First two bytes of the /16 of the engine's networks: beside the ranges of [`crate::Workers`].
const NETWORK: &str = "10.121";

/// Times that the images are made which others are built on.
const BASE_IMAGES_TRIES: u32 = 3;

/// A running Docker engine of the tests' own. Its images outlive it, in `target/docker`; containers, networks
/// and volumes do not.
pub struct Docker {
    environment: Vec<(String, String)>,
    keeper: DeadlineEnforcer,
}

impl Docker {
    /// One engine for the whole test process, started at the first call; it ends with the process. Waits as
    /// long as another test process has one. Makes the images that others are built on, which takes a minute
    /// where they are not there yet.
    ///
    /// # Panics
    /// When a script fails; its message names a missing Debian package.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Docker> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn start() -> Self {
        fs::create_dir_all("/tmp/orion-testkit").expect("/tmp is writable");
        let lock = File::options().create(true).append(true).open("/tmp/orion-testkit/docker.lock");
        let lock = lock.expect("a lock file in /tmp");
        lock.lock().expect("a file can be locked");
        run_or_panic(&mut engine("--stop")); // what a test process that was killed has left
        let keeper = DeadlineEnforcer::start(&engine("--stop"), Some(&lock));
        run_or_panic(&mut engine("--start"));
        // `export NAME=VALUE NAME=VALUE…`, without spaces in them
        let environment = run_or_panic(&mut engine("--env"));
        let settings = environment.split_whitespace().filter_map(|word| word.split_once('='));
        let environment = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let docker = Self { environment, keeper };
        // Packages come over the network: what is there after a failure stays.
        for _ in 1..BASE_IMAGES_TRIES {
            if docker.command(base_images()).status().is_ok_and(|status| status.success()) {
                return docker;
            }
            std::thread::sleep(Duration::from_secs(10));
        }
        run_or_panic(&mut docker.command(base_images()));
        docker
    }

    /// First two bytes of the /16 in which networks may be made: 10.121.1.0/24 and so on.
    #[must_use]
    pub fn network(&self) -> &'static str {
        NETWORK
    }

    /// A program that speaks to this engine: `docker`, `docker-compose`, or a script of the repository.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let program = program.as_ref();
        let mut command = Command::new(program);
        // Debian's programs first: another docker may lack what builds images.
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin");
        for name in ["DOCKER_CONTEXT", "DOCKER_TLS_VERIFY", "COMPOSE_FILE", "COMPOSE_PROJECT_NAME"] {
            command.env_remove(name);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value))).current_dir(root());
        command
    }

    /// `docker ARGUMENTS…`; what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        run_or_panic(self.command("docker").args(arguments))
    }

    /// Makes `orion/NAME` for each name out of the programs in `directory`, by Orion's own Dockerfiles.
    ///
    /// # Panics
    /// When a program is missing or an image cannot be built.
    pub fn build_images(&self, directory: &Path, names: &[&str]) {
        run_or_panic(self.command(root().join("docker/build-images.sh")).arg(directory).args(names));
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        drop(engine("--stop").output());
        self.keeper.dismiss();
    }
}

fn engine(option: &str) -> Command {
    let mut command = Command::new(root().join("docker/engine.sh"));
    command.arg(option).env("ORION_ENGINE_NET", NETWORK).env_remove("ORION_ENGINE_DIR");
    command
}

fn base_images() -> PathBuf {
    root().join("docker/base-images.sh")
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the repository is there")
}
