//! How the demo ends: the times, what runs and what to try next, or where the logs are.

use super::{
    containers::{IMAGE, TENANTS},
    options::Subject,
    place::Place,
    story::USER,
    system::System,
};
use orion_console::terminal;
use std::{fs, time::Duration};

/// Lines of Orion's log that are shown after a failure.
const LOG_LINES: usize = 20;

/// Prints the times of the key steps.
pub fn times(times: &[(String, Duration)]) {
    terminal::heading("Times");
    for (what, time) in times {
        terminal::line(&format!("{:>10}  {what}", terminal::seconds(*time)));
    }
}

/// Prints what runs, and what to try. `passwords` are the admin's and the user's.
pub fn what_next(system: &System, passwords: &(String, String)) {
    let (orion, url) = (system.program("orion"), system.url());
    terminal::heading("Orion runs");
    terminal::line(&format!("status page      {url}/"));
    terminal::line(&format!("admin            admin, password {}", passwords.0));
    match system.subject {
        Subject::Lease | Subject::Fleet => {
            terminal::line(&format!("client           {USER}, password {}", passwords.1));
        }
        Subject::Containers => {
            terminal::line(&format!("clients          {}, password {}", TENANTS.join(" and "), passwords.1));
        }
    }
    terminal::line(&format!("log              {}", system.place.shown("orion.log")));
    terminal::line("\nTry next, with Orion's own client:");
    if system.subject == Subject::Containers {
        containers_next(system);
        return;
    }
    for line in [
        format!("export ORION_API={url}"),
        format!("{orion} login {USER}"),
        format!("{orion} rent --hours 2 --name train"),
        format!("{orion} ssh train"),
        "./launch_workers.sh --kill worker1      # or --freeze, --cut; then look where train is:".to_owned(),
        format!("{orion} show train; {orion} nodes; {orion} events -f"),
        format!("{orion} release train"),
    ] {
        terminal::command(&line);
    }
    terminal::line("\nOr with curl:");
    let login = format!(r#"{{"username": "{USER}", "password": "{}"}}"#, passwords.1);
    for line in [
        format!("curl -s {url}/auth/login --json '{login}'"),
        format!(
            "curl -s {url}/api/rent -H \"Authorization: Bearer $TOKEN\" --json '{{\"duration_hours\": 0.5}}'"
        ),
        format!("curl -s {url}/api/nodes -H \"Authorization: Bearer $TOKEN\""),
    ] {
        terminal::command(&line);
    }
    tear_down();
}

/// Prints what to try with containers.
fn containers_next(system: &System) {
    let (orion, url) = (system.program("orion"), system.url());
    let image = format!("{}/{IMAGE}", system.registry());
    for line in [
        format!("export ORION_API={url}"),
        format!("{orion} login {}", TENANTS[0]),
        format!("{orion} rent --for 2h --name job --cpus 0.5 --memory 512m --image {image} -- sleep 7200"),
        format!("{orion} exec -it job 1 -- bash"),
        format!("{orion} run job {image} --name web --memory 64 -p 8080 -- busybox httpd -f -p 8080 -h /etc"),
        format!("{orion} open job web      # the certificate is of an authority of Caddy's own"),
        format!(
            "{orion} ps job; {orion} stats job; {orion} logs -f job 1; {orion} forward job web 9000:8080"
        ),
        "./launch_workers.sh --kill worker1      # or --freeze, --cut; then look where job is".to_owned(),
        format!("{orion} release job"),
    ] {
        terminal::command(&line);
    }
    tear_down();
}

fn tear_down() {
    terminal::line("\nTear it down:");
    terminal::command("cargo xtask demo --stop");
}

/// The last lines of orion's log.
pub fn end_of_log(place: &Place) {
    let log = fs::read_to_string(place.file("orion.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if !last.is_empty() {
        terminal::heading(&format!("The end of {}", place.shown("orion.log")));
        last.iter().for_each(|line| terminal::note(&terminal::without_colour(line)));
    }
}

/// Prints the places where the logs stay after a failure.
pub fn where_logs_are(place: &Place) {
    terminal::heading("Logs");
    terminal::line(&place.shown("orion.log"));
    terminal::line(&format!("{}/*/{{agent,sshd,boot,dockerd}}.log", place.shown("workers")));
}
