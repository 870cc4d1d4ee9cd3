//! The link: beats, orders, and what happens when it breaks.

use crate::{
    agent::{Home, Lease, boot_id, boot_now, number, wait_for},
    control_plane::{ControlPlane, JOIN_TOKEN, World},
    worker::Worker,
};
use orion_domain::{
    LeaseId,
    agent::{FromAgent, LeaseDeadline, ToAgent},
};
use std::{fs, time::Instant};

const UID: u32 = 3_999_999_001;

fn linked() -> (Home, ControlPlane, crate::agent::Agent) {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| !beats(world).is_empty());
    (home, control_plane, agent)
}

fn beats(world: &World) -> Vec<(u64, bool)> {
    let beat = |message: &FromAgent| match message {
        FromAgent::Beat { seq, sshd, .. } => Some((*seq, *sshd)),
        FromAgent::Hello { .. } | FromAgent::Inventory { .. } | FromAgent::Deadlines { .. } => None,
    };
    world.messages.iter().filter_map(beat).collect()
}

fn deadline(uid: u32, lease: i64, user: &str, remaining_s: u64) -> LeaseDeadline {
    LeaseDeadline { lease_id: LeaseId(lease), user: user.into(), uid, remaining_s }
}

#[test]
fn a_link_says_hello_and_beats_with_the_state_of_sshd() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    let sshd = home.start_sshd();
    let _agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane
        .wait_until("beats with sshd up", |world| beats(world).iter().filter(|beat| beat.1).count() >= 2);
    let hello = control_plane.world().messages[0].clone();
    let FromAgent::Hello { boot_id: said, .. } = hello else { panic!("{hello:?} came before hello") };
    assert_eq!(said, boot_id());
    drop(sshd);
    control_plane.wait_until("a beat that says sshd is gone", |world| !beats(world).last().unwrap().1);
    let _sshd = home.start_sshd();
    control_plane.wait_until("a beat that says sshd is back", |world| beats(world).last().unwrap().1);
    let numbers: Vec<_> = beats(&control_plane.world()).iter().map(|beat| beat.0).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(control_plane.world().links_taken, 1);
}

#[test]
fn a_link_whose_beats_nobody_acknowledges_is_dialled_anew() {
    let (home, control_plane) = (Home::new(), ControlPlane::start());
    control_plane.world().acks = false;
    let start = Instant::now();
    let agent = home.start(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a second link", |world| world.links_taken == 2);
    assert!((9..20).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    agent.logs("no beat was acknowledged for 10 s", 1);
    control_plane.world().acks = true;
    agent.logs("the link is up", 1);
    assert_eq!(control_plane.world().registrations.len(), 1);
}

#[test]
fn a_control_plane_that_restarts_has_its_links_back_at_once() {
    let (home, control_plane, agent) = linked();
    let addr = control_plane.addr;
    drop(control_plane);
    agent.logs("the link failed, trying on", 1);
    let start = Instant::now();
    // It starts without its memory, too: the worker joins anew.
    let control_plane = ControlPlane::start_at(addr);
    control_plane.wait_until("a link", |world| world.links_taken == 1);
    assert!(start.elapsed().as_secs() < 8, "{:?}", start.elapsed());
    assert_eq!(home.identity()["node_id"], 1);
}

#[test]
fn a_machine_that_changed_is_reported() {
    let (worker, control_plane) = (Worker::start(), ControlPlane::start());
    let install = |names: &str| {
        let lines: String =
            names.split(',').map(|name| format!("echo 'GPU 0: {name} (UUID: GPU-1)'\n")).collect();
        worker.write("/usr/local/bin/nvidia-smi", &format!("#!/bin/sh\n[ \"$1\" = -L ] || exit 2\n{lines}"));
        worker.sh("chmod 755 /usr/local/bin/nvidia-smi");
    };
    install("Tesla T4");
    let _agent = worker.start_agent(&control_plane.url(), JOIN_TOKEN);
    control_plane.wait_until("a link", |world| !beats(world).is_empty());
    assert_eq!(control_plane.world().registrations[0].body["gpus"], serde_json::json!(["Tesla T4"]));
    let reported = |world: &World| {
        world.messages.iter().rev().find_map(|message| match message {
            FromAgent::Inventory { facts } => Some(facts.gpus.clone()),
            FromAgent::Hello { .. } | FromAgent::Beat { .. } | FromAgent::Deadlines { .. } => None,
        })
    };
    install("Tesla T4,NVIDIA L4");
    control_plane.cut_links();
    assert_eq!(control_plane.wait("an inventory", reported), ["Tesla T4", "NVIDIA L4"]);
    assert_eq!(control_plane.world().registrations.len(), 1);
}

#[test]
fn a_message_from_the_future_is_ignored() {
    let (_home, control_plane, mut agent) = linked();
    control_plane.say_text(r#"{"type":"dance","how":"well"}"#);
    control_plane.say_text("not even json");
    agent.logs("a message is not understood and ignored", 2);
    let before = beats(&control_plane.world()).len();
    control_plane.wait_until("another beat", |world| beats(world).len() > before);
    assert!(agent.is_running() && control_plane.world().links_taken == 1);
}

#[test]
fn deadlines_move_in_files_that_exist_and_in_no_other() {
    let (home, control_plane, agent) = linked();
    home.write_lease(&Lease::ending("alice", UID, 100));
    home.write_lease(&Lease::ending("bob", UID + 1, 900));
    home.write_lease(&Lease::ending("carl", UID + 2, 100));
    let path = home.path("node/leases");
    let locked = format!("{}locked=1\n", Lease::ending("dora", UID + 3, -5).text());
    fs::write(path.join((UID + 3).to_string()), &locked).unwrap();
    let leases = vec![
        deadline(UID, 42, "alice", 500),
        deadline(UID + 1, 42, "bob", 300),
        deadline(UID + 2, 43, "carl", 700),
        deadline(UID + 3, 42, "dora", 700),
        deadline(UID + 4, 42, "erin", 700),
    ];
    let before = boot_now();
    control_plane.say(&ToAgent::Leases { desired_version: 5, leases });
    let ends = |uid: u32| number(&home.read_lease(uid), "deadline_boot_s") - before;
    wait_for("alice's deadline is later", || (ends(UID) > 400).then_some(()));
    wait_for("bob's deadline is earlier", || (ends(UID + 1) < 400).then_some(()));
    assert!((498..=503).contains(&ends(UID)) && (298..=303).contains(&ends(UID + 1)));
    let text = home.read_lease(UID);
    let unix_less_boot = number(&text, "deadline_unix_s") - number(&text, "deadline_boot_s");
    assert!((unix_less_boot - (crate::agent::unix_now() - boot_now())).abs() <= 2, "{text}");
    agent.logs("belongs to lease 42 here and to lease 43 there", 1);
    assert!(ends(UID + 2) <= 100, "another lease's deadline was taken over");
    assert_eq!(home.read_lease(UID + 3), locked);
    assert!(!path.join((UID + 4).to_string()).exists());

    // What was decided earlier and comes late does not win.
    control_plane.say(&ToAgent::Leases { desired_version: 4, leases: vec![deadline(UID, 42, "alice", 50)] });
    control_plane
        .say(&ToAgent::Leases { desired_version: 6, leases: vec![deadline(UID + 1, 42, "bob", 600)] });
    wait_for("bob's deadline is later again", || (ends(UID + 1) > 550).then_some(()));
    assert!(ends(UID) > 400);
    control_plane.wait_until("the agent tells what it keeps", |world| {
        world.messages.iter().any(|message| match message {
            FromAgent::Deadlines { kept } => {
                let of = |uid| kept.iter().find(|one| one.uid == uid);
                of(UID + 3).is_some_and(|one| one.locked)
                    && of(UID + 1).is_some_and(|one| !one.locked && one.remaining_s > 500)
            }
            FromAgent::Hello { .. } | FromAgent::Beat { .. } | FromAgent::Inventory { .. } => false,
        })
    });
}

#[test]
fn a_deadline_waits_for_a_playbook_that_is_running() {
    let (home, control_plane, _agent) = linked();
    home.write_lease(&Lease::ending("alice", UID, 100));
    fs::create_dir_all(home.path("run")).unwrap();
    let lock = fs::File::options().create(true).append(true).open(home.path("run/lock")).unwrap();
    lock.lock().unwrap();
    let before = home.read_lease(UID);
    control_plane.say(&ToAgent::Leases { desired_version: 5, leases: vec![deadline(UID, 42, "alice", 500)] });
    let beats_before = beats(&control_plane.world()).len();
    control_plane.wait_until("a beat later", |world| beats(world).len() > beats_before);
    assert_eq!(home.read_lease(UID), before);
    drop(lock);
    wait_for("the deadline moves", || (home.read_lease(UID) != before).then_some(()));
    let left = number(&home.read_lease(UID), "deadline_boot_s") - boot_now();
    assert!((480..=500).contains(&left), "counted from when the message came, {left}");
}

#[test]
fn an_agent_at_work_stays_under_16_mebibytes() {
    let (home, control_plane, agent) = linked();
    let many: Vec<_> = (0..200).map(|n| deadline(UID + n, i64::from(n), "alice", 500)).collect();
    for lease in &many {
        home.write_lease(&Lease::ending("alice", lease.uid, 100));
    }
    for desired_version in 1..50 {
        control_plane.say(&ToAgent::Leases { desired_version, leases: many.clone() });
    }
    let three_beats = beats(&control_plane.world()).len() + 3;
    control_plane.wait_until("three beats", |world| beats(world).len() >= three_beats);
    eprintln!("resident: {} KiB", agent.resident_kb());
    assert!(agent.resident_kb() < 16 * 1024, "{} KiB", agent.resident_kb());
}

#[test]
fn a_worker_that_is_asked_to_end_says_goodbye() {
    let (_home, control_plane, mut agent) = linked();
    let start = Instant::now();
    assert!(agent.terminate().success());
    assert!(start.elapsed().as_secs() < 3);
    control_plane.wait_until("a goodbye", |world| world.goodbyes == 1);
}

#[test]
fn a_worker_that_is_asked_to_end_while_nobody_answers_ends() {
    let home = Home::new();
    let mut agent = home.start(&format!("http://127.0.0.1:{}", crate::agent::free_port()), JOIN_TOKEN);
    agent.logs("the registration failed", 1);
    assert!(agent.terminate().success());
}
