//! A private MariaDB server for the tests: own directory, own port, gone with the test process.

use sqlx::{Connection, mysql::MySqlConnection};
use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, OnceLock, mpsc},
    time::{Duration, Instant},
};

pub struct Server {
    directory: PathBuf,
    pub port: u16,
    process: Mutex<Child>,
}

/// The server that all tests of this binary share; each has a database of its own.
pub fn shared() -> &'static Server {
    static SHARED: OnceLock<Server> = OnceLock::new();
    SHARED.get_or_init(|| Server::start("shared"))
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Server {
    pub fn start(name: &str) -> Self {
        assert!(
            Path::new("/usr/sbin/mariadbd").exists(),
            "mariadbd is missing; hint: apt-get install mariadb-server"
        );
        let directory = PathBuf::from(format!("/var/tmp/orion-store-test-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).unwrap();
        run(Command::new("chown").arg("mysql").arg(&directory));
        run(Command::new("mariadb-install-db")
            .args(["--no-defaults", "--user=mysql", "--auth-root-authentication-method=normal"])
            // Many servers at once use up what io_uring may lock.
            .args(["--skip-test-db", "--innodb-log-file-size=16M", "--innodb-use-native-aio=0"])
            // A server that starts removes others' temporary tables where it keeps its own.
            .arg(format!("--tmpdir={}", directory.display()))
            .arg(format!("--datadir={}", directory.join("data").display())));
        let mut init = fs::File::create(directory.join("init.sql")).unwrap();
        writeln!(init, "CREATE USER IF NOT EXISTS orion@'127.0.0.1' IDENTIFIED BY 'orion';").unwrap();
        writeln!(init, "GRANT ALL ON *.* TO orion@'127.0.0.1';").unwrap();
        remove_when_over(&directory);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = Mutex::new(launch(&directory, port));
        let server = Self { directory, port, process };
        server.wait_until_ready();
        server
    }

    pub fn url(&self, database: &str) -> String {
        format!("mysql://orion:orion@127.0.0.1:{}/{database}", self.port)
    }

    /// Makes an empty database.
    pub async fn create_database(&self, name: &str) -> String {
        let mut connection = MySqlConnection::connect(&self.url("mysql")).await.unwrap();
        let sql = format!("CREATE DATABASE {name} CHARACTER SET utf8mb4");
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        self.url(name)
    }

    fn signal(&self, signal: &str) -> u32 {
        let pid = self.process.lock().unwrap().id();
        run(Command::new("kill").args(["-s", signal, &pid.to_string()]));
        pid
    }

    /// Stops every thread of the server: on a busy machine some go on for a while after the signal.
    pub fn stop(&self) {
        let pid = self.signal("STOP");
        let started = Instant::now();
        while !all_threads_are_stopped(pid) {
            assert!(started.elapsed() < Duration::from_secs(20), "mariadbd does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn go_on(&self) {
        self.signal("CONT");
    }

    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn restart(&self) {
        *self.process.lock().unwrap() = launch(&self.directory, self.port);
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            let answers = Command::new("mariadb-admin")
                .args(["--no-defaults", "-h127.0.0.1", "-uorion", "-porion", "--connect-timeout=1"])
                .args([&format!("-P{}", self.port), "ping"])
                .output();
            if answers.is_ok_and(|output| output.status.success()) {
                return;
            }
            if let Ok(Some(status)) = self.process.lock().unwrap().try_wait() {
                panic!("mariadbd stopped ({status}): {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("mariadbd does not answer: {}", self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("error.log")).unwrap_or_default()
    }
}

fn all_threads_are_stopped(pid: u32) -> bool {
    fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|thread| {
        // `tid (name) state …`; a thread that is gone by now does nothing either.
        let stat = fs::read_to_string(thread.unwrap().path().join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('T'))
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Starts the server from a thread that lives as long as the process: the kernel ends the child with the
/// *thread* that made it (and forgets to when the child changes its user later: so setpriv does that).
fn launch(directory: &Path, port: u16) -> Child {
    let (reply, child) = mpsc::channel();
    let directory = directory.to_path_buf();
    std::thread::spawn(move || {
        let option = |name: &str, path: &str| format!("--{name}={}", directory.join(path).display());
        let child = Command::new("setpriv")
            .args(["--reuid=mysql", "--regid=mysql", "--init-groups", "--pdeathsig=KILL", "mariadbd"])
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-name-resolve", "--skip-log-bin"])
            .arg("--innodb-use-native-aio=0")
            .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M"])
            .args(["--innodb-log-file-size=16M", "--max-connections=400"])
            .arg(format!("--tmpdir={}", directory.display()))
            .args([option("datadir", "data"), option("socket", "s.sock"), option("pid-file", "s.pid")])
            .args([
                option("log-error", "error.log"),
                option("init-file", "init.sql"),
                format!("--port={port}"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        reply.send(child).unwrap();
        loop {
            std::thread::park();
        }
    });
    child.recv().unwrap()
}

/// A static is never dropped: a little process waits for this one to end and removes the directory.
fn remove_when_over(directory: &Path) {
    let script = "while [ -d \"/proc/$0\" ]; do sleep 0.5; done; sleep 0.5; rm -rf \"$1\"";
    let status = Command::new("setsid")
        .args(["--fork", "sh", "-c", script, &std::process::id().to_string()])
        .arg(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "setsid failed");
}
