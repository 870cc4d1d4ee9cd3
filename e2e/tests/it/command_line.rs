//! Every command of a client and an admin against a real system.

use super::{
    PATIENCE,
    system::{Database, System},
    user::is_clean,
};
use orion_testkit::{Ended, Home, wait_until};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    process::Child,
    sync::{Arc, Mutex},
    thread,
};

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_serves_a_client_and_an_admin() {
    let system = System::start(Database::Sqlite, 2).await;
    let home = Home::new();
    let data = system.up().data_dir().display().to_string();
    let made = home.run_with_input(
        &["admin", "create", "chief", "--password-stdin", "--data-dir", &data],
        "chief of all nodes\n",
    );
    assert_eq!(made.code, Some(0), "{made:?}");
    let api = system.url();
    let logged_in =
        home.run_with_input(&["--api", &api, "login", "chief", "--password-stdin"], "chief of all nodes\n");
    assert_eq!(logged_in.code, Some(0), "{logged_in:?}");
    let token = done(home.run(&["token", "create", "--note", "rack 3", "--uses", "2"]));
    assert!(token.starts_with("orion-join_") && token.lines().count() == 1, "{token}");

    let home = Home::new();
    let signed_up = home
        .run_with_input(&["--api", &api, "signup", "tess", "--password-stdin"], "correct horse battery\n");
    assert_eq!(signed_up.code, Some(0), "{signed_up:?}");
    let refused = home.run(&["token", "create"]);
    assert!(refused.code != Some(0) && refused.err.contains("admin"), "{refused:?}");
    let following = Following::start(&home);

    let rented = json_of(home.run(&["-o", "json", "rent", "--for", "90m", "--count", "2", "--name", "pair"]));
    assert_eq!(rented.as_array().map(Vec::len), Some(2));
    let too_many = home.run(&["rent", "--hours", "1"]);
    assert_eq!((too_many.code, too_many.out.as_str()), (Some(5), ""), "{too_many:?}");
    assert!(too_many.err.contains("hint:"), "{too_many:?}");
    let listed = json_of(home.run(&["-o", "json", "ls"]));
    let names: Vec<&Value> = listed.as_array().expect("a list").iter().map(|lease| &lease["name"]).collect();
    assert_eq!(names, [&json!("pair-1"), &json!("pair-2")]);
    let nodes = json_of(home.run(&["-o", "json", "nodes"]));
    assert!(nodes.as_array().is_some_and(|nodes| nodes.iter().all(|node| node["allocated"] == true)));
    let extended = json_of(home.run(&["-o", "json", "extend", "pair-1", "30m"]));
    assert_eq!(extended["applied"], true, "{extended}");
    assert_eq!(done(home.run(&["ssh", "pair-1", "--", "id", "-un"])), "tess\n");
    assert_eq!(
        home.run(&["ssh", "pair-2", "--", "exit", "7"]).code,
        Some(7),
        "the status of ssh is passed on"
    );
    let shown = json_of(home.run(&["-o", "json", "show", "pair-1"]));
    assert_eq!((&shown["state"], &shown["rental_id"]), (&json!("active"), &extended["lease_id"]));

    done(home.run(&["release", "pair-1", "pair-2"]));
    system.workers().iter().for_each(is_clean);
    let over = home.run(&["ssh", "pair-1", "--", "true"]);
    assert!(over.code != Some(0) && over.err.contains("hint:"), "{over:?}");
    following.until_seen("lease.extended").await;
    following.until_seen("lease.ended").await;
    let past = done(home.run(&["events"]));
    assert!(past.contains("lease.placed") && past.contains("lease.ended"), "{past}");
    done(home.run(&["logout"]));
    assert_eq!(home.run(&["ls"]).code, Some(3), "nobody is logged in");
}

fn done(ended: Ended) -> String {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.out
}

fn json_of(ended: Ended) -> Value {
    serde_json::from_str(&done(ended)).expect("JSON on standard output")
}

/// A running `orion events -f`.
struct Following {
    process: Child,
    seen: Arc<Mutex<String>>,
}

impl Following {
    fn start(home: &Home) -> Self {
        let mut process = home.command(&["-o", "json", "events", "-f"]).spawn().expect("orion starts");
        let lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let seen: Arc<Mutex<String>> = Arc::default();
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                log.lock().expect("the log").push_str(&(line + "\n"));
            }
        });
        Self { process, seen }
    }

    async fn until_seen(&self, kind: &str) {
        wait_until(&format!("events -f shows {kind}"), PATIENCE, async || {
            let seen = self.seen.lock().expect("the log").clone();
            if seen.contains(kind) { Ok(()) } else { Err(seen) }
        })
        .await;
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
