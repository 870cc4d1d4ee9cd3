//! The private MariaDB server: databases apart from each other, outages, and its end.

use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use orion_testkit::MariaDb;

#[test]
fn each_test_gets_its_own_database_on_the_shared_server() {
    let server = MariaDb::shared();
    let [first, second] = [server.create_database(), server.create_database()];
    server.execute(&format!("CREATE TABLE {}.t (id INT); INSERT INTO {0}.t VALUES (7)", first.name));
    assert_eq!(server.execute(&format!("SELECT id FROM {}.t", first.name)), "7\n");
    assert_eq!(server.execute(&format!("SHOW TABLES IN {}", second.name)), "");
    assert!(first.url.starts_with("mysql://orion:") && first.url.ends_with(&first.name), "{}", first.url);
}

#[test]
fn the_url_opens_its_database_over_tcp() {
    let server = MariaDb::shared();
    let database = server.create_database();
    let (password, place) = database.url.strip_prefix("mysql://orion:").unwrap().split_once('@').unwrap();
    let (address, name) = place.split_once('/').unwrap();
    let (host, port) = address.split_once(':').unwrap();
    let output = std::process::Command::new("mariadb")
        .args(["--no-defaults", "--protocol=TCP", "-u", "orion", "-h", host, "-P", port, name])
        .args(["-NBe", "CREATE TABLE t (id INT); SELECT DATABASE()"])
        .env("MYSQL_PWD", password)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{name}\n"), "{output:?}");
}

#[test]
fn a_server_that_is_stopped_or_killed_comes_back_with_its_data() {
    let server = MariaDb::start();
    let database = server.create_database();
    server.execute(&format!(
        "CREATE TABLE {0}.t (id INT) ENGINE=InnoDB; INSERT INTO {0}.t VALUES (1)",
        database.name
    ));
    let port = server.port();
    for end in [MariaDb::stop, MariaDb::kill] {
        end(&server);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "the server still listens");
        server.start_again();
        assert_eq!(server.execute(&format!("SELECT COUNT(*) FROM {}.t", database.name)), "1\n");
    }
    assert_eq!(server.port(), port);
}

#[test]
fn a_paused_server_accepts_connections_and_says_nothing_until_it_is_resumed() {
    let server = MariaDb::start();
    server.pause();
    let mut connection = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    connection.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(connection.read(&mut [0]).is_err(), "a paused server spoke");
    server.resume();
    connection.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(connection.read(&mut [0]).unwrap(), 1);
    assert_eq!(server.execute("SELECT 1"), "1\n");
}

#[test]
fn a_dropped_server_is_gone_with_its_data_even_when_it_is_paused() {
    let server = MariaDb::start();
    let data = server.execute("SELECT @@datadir").trim().to_owned();
    assert!(Path::new(&data).exists());
    server.pause();
    let port = server.port();
    drop(server);
    assert!(!Path::new(&data).exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
