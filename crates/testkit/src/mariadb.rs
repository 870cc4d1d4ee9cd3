//! A private MariaDB server: own data directory, port and socket, its own process, killed with the tests.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tempfile::TempDir;

use crate::host::{free_port, random_word, require_program, run_or_panic};
use crate::keeper::DeadlineEnforcer;
use crate::wait::wait_until_blocking;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running MariaDB server. Dropping it kills it and removes its data.
pub struct MariaDb {
    root: TempDir,
    port: u16,
    password: String,
    server: Mutex<Option<Child>>,
    keeper: DeadlineEnforcer,
}

/// One database of a [`MariaDb`], with its own name.
#[derive(Clone, Debug)]
pub struct Database {
    /// The database's name.
    pub name: String,
    /// `mysql://orion:PASSWORD@127.0.0.1:PORT/NAME`
    pub url: String,
}

impl MariaDb {
    /// A new server; takes about a second. Tests that do not stop it use [`MariaDb::shared`].
    ///
    /// # Panics
    /// When Debian's mariadb-server is missing or the server does not come up within 60 s.
    #[must_use]
    pub fn start() -> Self {
        require_program("mariadbd", "mariadb-server");
        require_program("mariadb-install-db", "mariadb-server");
        require_program("mariadb", "mariadb-client");
        // the server runs as user mysql, who must be able to reach its directory
        let root = tempfile::Builder::new()
            .prefix("orion-testkit-db-")
            .tempdir_in("/tmp")
            .expect("/tmp is writable");
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).expect("own directory");
        run_or_panic(Command::new("chown").arg("mysql").arg(root.path()));
        run_or_panic(Command::new("mariadb-install-db").arg("--no-defaults").args([
            "--user=mysql",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--innodb-log-file-size=16M",
            // Many servers at once use up what io_uring may lock.
            "--innodb-use-native-aio=0",
            // A server that starts removes others' temporary tables where it keeps its own.
            &format!("--tmpdir={}", root.path().display()),
            &format!("--datadir={}", root.path().join("data").display()),
        ]));
        let password = random_word();
        let accounts = format!(
            "CREATE USER IF NOT EXISTS orion@'127.0.0.1' IDENTIFIED BY '{password}';\n\
             GRANT ALL ON *.* TO orion@'127.0.0.1';\n"
        );
        fs::write(root.path().join("accounts.sql"), accounts).expect("own directory");
        let keeper = DeadlineEnforcer::start(&cleanup(root.path()), None);
        let server = Self { root, port: free_port(), password, server: Mutex::new(None), keeper };
        server.start_again();
        server
    }

    /// One server for the whole test process, started at the first call; it ends with the process.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A new, empty database (utf8mb4); ~20 ms.
    ///
    /// # Panics
    /// When the server is down.
    pub fn create_database(&self) -> Database {
        let name = format!("test_{}", &random_word()[..16]);
        self.execute(&format!("CREATE DATABASE {name} CHARACTER SET utf8mb4"));
        Database { url: format!("mysql://orion:{}@127.0.0.1:{}/{name}", self.password, self.port), name }
    }

    /// Runs SQL as the server's root over its socket; rows come back a line each, columns divided by tabs.
    ///
    /// # Panics
    /// When the server is down or refuses the statement.
    pub fn execute(&self, sql: &str) -> String {
        run_or_panic(
            Command::new("mariadb")
                .args(["--no-defaults", "--user=root", "--batch", "--skip-column-names", "--execute", sql])
                .arg(format!("--socket={}", self.root.path().join("socket").display())),
        )
    }

    /// The TCP port on 127.0.0.1; it stays the same over stops and starts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts the server on its old data and port; returns when it accepts connections. Does nothing when it
    /// runs.
    ///
    /// # Panics
    /// When it does not accept connections within 60 s, with its log.
    pub fn start_again(&self) {
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if server.is_some() {
            return;
        }
        let mut child = self.launch();
        let process_id = child.id();
        fs::write(self.root.path().join("process-id"), process_id.to_string()).expect("own directory");
        wait_until_blocking("mariadbd accepts connections", START_TIMEOUT, || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("mariadbd ended: {status}\n{}", self.log());
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))
                .map_err(|error| format!("{error}\n{}", self.log()))
        });
        *server = Some(child);
    }

    /// An orderly shutdown; returns when the process is gone.
    pub fn stop(&self) {
        self.end("TERM");
    }

    /// The server dies without a word, as in a power cut; returns when the process is gone.
    pub fn kill(&self) {
        self.end("KILL");
    }

    /// The server hangs: connections open, nothing answers.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// Ends [`MariaDb::pause`].
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// The server's own log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("server.log")).unwrap_or_default()
    }

    fn launch(&self) -> Child {
        let root = self.root.path();
        let log = fs::File::options().create(true).append(true).open(root.join("server.log"));
        Command::new("mariadbd")
            .arg("--no-defaults")
            .args(["--user=mysql", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"])
            .arg("--innodb-use-native-aio=0")
            .args(["--character-set-server=utf8mb4", "--max-connections=300", "--performance-schema=OFF"])
            .args(["--innodb-buffer-pool-size=64M", "--innodb-log-file-size=16M"])
            .arg(format!("--port={}", self.port))
            .arg(format!("--tmpdir={}", root.display()))
            .arg(format!("--datadir={}", root.join("data").display()))
            .arg(format!("--socket={}", root.join("socket").display()))
            .arg(format!("--pid-file={}", root.join("data/pid").display()))
            .arg(format!("--init-file={}", root.join("accounts.sql").display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("own directory"))
            .process_group(0)
            .spawn()
            .expect("mariadbd starts")
    }

    fn signal(&self, signal: &str) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        let child = server.as_ref().expect("the server runs");
        run_or_panic(Command::new("/bin/kill").args(["-s", signal, &child.id().to_string()]));
    }

    fn end(&self, signal: &str) {
        self.signal(signal);
        let mut server = self.server.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = server.take() {
            drop(child.wait());
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let server = self.server.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = server.take() {
            drop(child.kill());
            drop(child.wait());
        }
        self.keeper.dismiss();
    }
}

/// Kills the server whose data is below `root` and removes the directory.
fn cleanup(root: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args([
        "-c",
        r#"process=$(cat "$1/process-id")
        if grep -qs "$1" "/proc/$process/cmdline"; then kill -KILL "$process"; fi
        while grep -qs "$1" "/proc/$process/cmdline"; do sleep 0.05; done
        rm -rf "$1""#,
        "cleanup",
    ]);
    command.arg(root);
    command
}
