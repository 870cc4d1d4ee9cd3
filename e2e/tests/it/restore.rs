//! A database that is lost, and restored from a backup that is older than the nodes: with the databases' own
//! tools, with and without `orion admin after-restore`.

use super::{
    PATIENCE,
    system::{Database, System},
    user::{Ticket, User, is_clean, is_refused, tickets},
};
use orion_testkit::{MariaDb, SshClient, Worker, program, wait_until};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// A backup by the database's own tool.
struct Backup {
    file: PathBuf,
    /// `mysql://orion:PASSWORD@127.0.0.1:PORT/NAME`; none for SQLite.
    mariadb: Option<Server>,
}

struct Server {
    password: String,
    port: String,
    name: String,
}

impl Server {
    fn of(url: &str) -> Self {
        let parts = url.strip_prefix("mysql://orion:").and_then(|rest| rest.split_once("@127.0.0.1:"));
        let (password, rest) = parts.expect("a URL of the testkit");
        let (port, name) = rest.split_once('/').expect("a URL of the testkit");
        Self { password: password.into(), port: port.into(), name: name.into() }
    }

    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .args(["--no-defaults", "--host=127.0.0.1", "--user=orion", &format!("--port={}", self.port)])
            .env("MYSQL_PWD", &self.password);
        command
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn sqlite3(file: &Path, order: &str) {
    succeeds(Command::new("sqlite3").arg("-bail").arg(file).arg(order));
}

impl Backup {
    /// Made while Orion runs.
    fn make(system: &System) -> Self {
        let file = system.up().data_dir().with_file_name("backup");
        let mariadb = system.up().database_url().map(Server::of);
        match &mariadb {
            Some(server) => succeeds(
                server
                    .tool("mariadb-dump")
                    .args(["--single-transaction", &server.name])
                    .stdout(File::create(&file).expect("own directory")),
            ),
            None => {
                sqlite3(&system.up().data_dir().join("orion.db"), &format!(".backup '{}'", file.display()));
            }
        }
        Self { file, mariadb }
    }

    /// Wipes the database and puts the backup in its place.
    fn restore(&self, system: &System) {
        match &self.mariadb {
            Some(server) => {
                let Server { name, .. } = server;
                let anew = format!("DROP DATABASE {name}; CREATE DATABASE {name} CHARACTER SET utf8mb4");
                MariaDb::shared().execute(&anew);
                let dump = File::open(&self.file).expect("it was made");
                succeeds(server.tool("mariadb").arg(name).stdin(dump));
            }
            None => {
                let directory = system.up().data_dir();
                for name in ["orion.db", "orion.db-wal", "orion.db-shm"] {
                    // The last two are there only after a crash.
                    let _ = fs::remove_file(directory.join(name));
                }
                fs::copy(&self.file, directory.join("orion.db")).expect("own directory");
            }
        }
    }
}

/// `orion admin after-restore`, again and again while the processes that the backup remembers seem to run.
async fn after_restore(system: &System) {
    let told = wait_until("the database is settled", PATIENCE, async || {
        let mut command = Command::new(program("orion"));
        command.args(["admin", "after-restore", "--data-dir"]).arg(system.up().data_dir());
        command.env_remove("ORION_DATABASE_URL").env_remove("ORION_MASTER_KEY");
        if let Some(url) = system.up().database_url() {
            command.env("ORION_DATABASE_URL", url);
        }
        let output = command.output().expect("it starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            return Ok(told);
        }
        assert!(told.contains("in use by") && told.contains("hint: stop every control plane"), "{told}");
        Err(told)
    })
    .await;
    assert!(told.contains("4 nodes will be looked at") && told.contains("2 leases live"), "{told}");
}

/// The highest uid that a lease has had on this node, as the node remembers it.
fn highest_uid(worker: &Worker) -> u32 {
    let text = worker.sh("cat /var/lib/orion/highest_uid 2>/dev/null || echo 0");
    text.split_whitespace().next().expect("a uid").parse().expect("a uid")
}

/// The lease accounts on the worker, as root sees them.
fn accounts_on(worker: &Worker) -> String {
    worker.sh("awk -F: '$3 >= 200000 && $3 < 60000000 { print $1 }' /etc/passwd").trim().to_owned()
}

async fn uid_at(login: &SshClient) -> u32 {
    login.run("id -u").await.expect("the login works").trim().parse().expect("a uid")
}

/// What shows why a login on this worker is refused.
async fn what_is_on(system: &System, worker: &Worker) -> String {
    let look = "date -u +%T.%N; cat /etc/passwd /etc/shadow; tail -v -n +1 /var/lib/orion/leases/* \
                /var/lib/orion/epoch /var/lib/orion/highest_uid; ps -ef";
    format!("{}\n{:#?}", worker.sh(look), system.events().await)
}

async fn works(user: &User, ticket: &Ticket) -> SshClient {
    let login = user.login_now(ticket).await;
    let name = format!("{}\n", user.name);
    assert_eq!(login.run("id -un").await.as_deref(), Ok(name.as_str()));
    login
}

/// Rents one node; waits while none of those that are free is offered yet, because none was looked at.
async fn rents_once_offered(user: &User) -> Ticket {
    let reply = wait_until("a node is offered", PATIENCE, async || {
        let reply = user.try_rent(&json!({ "duration_hours": 1 }), None).await?;
        if reply.status == 503 { Err(format!("{:?}", reply.body)) } else { Ok(reply.expect(200)) }
    });
    tickets(&reply.await).remove(0)
}

fn count(events: &[Value], kind: &str) -> usize {
    events.iter().filter(|event| event["kind"] == kind).count()
}

/// Whether `after-restore` is run, and whether somebody rents in the very moment of the start.
struct Course {
    settled: bool,
    in_a_hurry: bool,
}

async fn an_older_backup_is_restored(database: Database, course: Course) {
    let mut system = System::start(database, 4).await;
    let [mut sara, mut bob] = [system.user("sara").await, system.user("bob").await];
    let ended_since = sara.rent_one().await;
    let lasting = bob.rent_one().await;
    let lasting_uid = uid_at(&works(&bob, &lasting).await).await;
    let ended_uid = uid_at(&works(&sara, &ended_since).await).await;
    let backup = Backup::make(&system);

    // What the backup knows nothing of: one lease is over, every node that is free has others, a user signs up, a
    // worker joins.
    sara.release(ended_since.rental_id).await;
    let carol = system.user("carol").await;
    system.until_offered(std::slice::from_ref(system.worker_at(&ended_since.host_ip))).await;
    let made_since = carol.rent(json!({ "duration_hours": 1, "count": 3 })).await;
    system.grow_to(5);
    system.until_offered(&system.workers()[4..]).await;
    let on_the_fifth = carol.rent_one().await;
    carol.release(made_since[0].rental_id).await;
    for ticket in &made_since[1..] {
        works(&carol, ticket).await;
    }
    let seen_before = system.workers().iter().map(highest_uid).max().expect("five");
    assert!(seen_before > lasting_uid.max(ended_uid), "the backup is older than the nodes");

    system.up().kill();
    backup.restore(&system);
    if course.settled {
        after_restore(&system).await;
    }
    system.up().start();
    system.up().answers().await;
    let old_token = sara.token.clone();
    if course.settled {
        assert_eq!(sara.get("/api/rentals").await.status, 401, "all tokens are void");
        system.log_in_again().await;
        sara = sara.logged_in("sara", &sara.password).await;
        bob = bob.logged_in("bob", &bob.password).await;
    } else {
        assert_eq!(sara.with_token(&old_token).get("/api/rentals").await.status, 200);
    }
    assert_eq!(carol.get("/api/rentals").await.status, 401, "the backup knows no carol");

    let hurried = if course.in_a_hurry {
        // A node that remembers more than the database is in nobody's way: the rent succeeds all the same.
        let erin = system.user("erin").await;
        let ticket = rents_once_offered(&erin).await;
        works(&erin, &ticket).await;
        Some((erin, ticket))
    } else {
        None
    };

    everything_is_looked_at(&system).await;
    let worker = system.worker_at(&ended_since.host_ip);
    let login = sara.login_now(&ended_since).await;
    assert_eq!(login.run("id -un").await.as_deref(), Ok("sara\n"), "{}", what_is_on(&system, worker).await);
    let login = works(&bob, &lasting).await;
    assert_eq!(uid_at(&login).await, lasting_uid, "it is the same account");
    for ticket in made_since.iter().chain([&on_the_fifth]) {
        is_refused(&ticket.by_password()).await;
    }
    let mut live = vec![(ended_since.host_ip.as_str(), "sara"), (lasting.host_ip.as_str(), "bob")];
    if let Some((erin, ticket)) = &hurried {
        live.push((ticket.host_ip.as_str(), erin.name.as_str()));
    }
    for worker in system.workers() {
        match live.iter().find(|(ip, _)| *ip == worker.ip().to_string()) {
            Some((_, user)) => assert_eq!(accounts_on(worker), *user, "on {}", worker.name()),
            None => is_clean(worker),
        }
    }

    // Every node that is free is rented: none gets a uid that any node has seen.
    let dave = system.user("dave").await;
    let free = 5 - live.len();
    let new = dave.rent(json!({ "duration_hours": 1, "count": free })).await;
    for ticket in &new {
        let uid = uid_at(&works(&dave, ticket).await).await;
        assert!(uid > seen_before, "{uid} was used before: the highest was {seen_before}");
    }
    let events = system.events().await;
    let raised = (count(&events, "uids.raised") > 0, count(&events, "node.epoch_raised") > 0);
    assert_eq!(count(&events, "database.restored"), usize::from(course.settled));
    assert_eq!(
        raised,
        (!course.settled, !course.settled),
        "what `after-restore` raised need not be raised again"
    );
    assert_eq!(count(&events, "node.quarantined"), 0);
}

/// Waits until the control plane knows all five workers, has looked at each, and none is left dirty.
async fn everything_is_looked_at(system: &System) {
    for worker in system.workers() {
        // First the epoch: the node is dirty from the moment that it is raised.
        wait_until("the database has what the node remembers", PATIENCE, async || {
            let node = system.node(worker).await?;
            let remembers = worker.sh("cat /var/lib/orion/epoch").trim().parse::<i64>().expect("an epoch");
            let known = epoch_of(system, node["node_id"].as_i64().expect("a number"));
            if known >= remembers { Ok(()) } else { Err(format!("{known} < {remembers}: {node}")) }
        })
        .await;
        let looked =
            |node: &Value| node["status"] == "alive" && node["dirty"] == false && node["agent"] == "up";
        system.until_node(worker, "looked at and clean", looked).await;
    }
}

/// The epoch that the database has of a node.
fn epoch_of(system: &System, node: i64) -> i64 {
    let sql = format!("SELECT epoch FROM nodes WHERE id = {node}");
    let epoch = match system.up().database_url().map(Server::of) {
        Some(server) => MariaDb::shared().execute(&format!("USE {}; {sql}", server.name)),
        None => {
            let file = system.up().data_dir().join("orion.db");
            let output = Command::new("sqlite3").args(["-readonly", "-bail"]).arg(file).arg(sql).output();
            String::from_utf8(output.expect("Debian: sqlite3").stdout).expect("a number")
        }
    };
    epoch.trim().parse().expect("an epoch")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_of_sqlite_is_restored_and_settled() {
    an_older_backup_is_restored(Database::Sqlite, Course { settled: true, in_a_hurry: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_of_mariadb_is_restored_and_settled() {
    an_older_backup_is_restored(Database::MariaDb, Course { settled: true, in_a_hurry: true }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_of_sqlite_is_restored_and_nobody_settles_it() {
    an_older_backup_is_restored(Database::Sqlite, Course { settled: false, in_a_hurry: true }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_backup_of_mariadb_is_restored_and_nobody_settles_it() {
    an_older_backup_is_restored(Database::MariaDb, Course { settled: false, in_a_hurry: false }).await;
}
