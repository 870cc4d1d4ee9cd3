//! How the demo ends: the times, what runs and what to try next, or where the logs are.

use super::{place::Place, story::USER, system::System};
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
    terminal::line(&format!("client           {USER}, password {}", passwords.1));
    terminal::line(&format!("log              {}", system.place.shown("orion.log")));
    terminal::line("\nTry next, with Orion's own client:");
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
    terminal::line(&format!("{}/*/{{agent,sshd,boot}}.log", place.shown("workers")));
}
