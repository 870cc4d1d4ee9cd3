//! `orion doctor` against a running system: clean, then with a node and a database that somebody changed by hand.

use super::{
    PATIENCE,
    system::{Database, System},
};
use orion_testkit::{Ended, Home, wait_until};
use serde_json::{Value, json};

/// `orion doctor -o json` on the database of `system`, and its report.
fn examine(system: &System) -> (Ended, Value) {
    let data = system.up().data_dir().display().to_string();
    let ended = Home::new().run(&["-o", "json", "doctor", "--data-dir", &data]);
    let report = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    (ended, report)
}

/// The findings of a report: check and text.
fn findings(report: &Value) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().expect("a list");
    let found = checks.iter().flat_map(|check| check["findings"].as_array().expect("a list"));
    found
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().expect("a text").to_owned();
            (text("check"), text("what"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_what_was_done_by_hand_on_nodes_and_nothing_else() {
    let system = System::start(Database::Sqlite, 2).await;
    let user = system.user("tess").await;
    let ticket = user.rent_one().await;
    let (ended, report) = examine(&system);
    assert_eq!((ended.code, findings(&report)), (Some(0), vec![]), "{ended:?}");
    assert_eq!(report["nodes"]["examined"], json!(2), "{report}");

    let leased = system.worker_at(&ticket.host_ip);
    let free = system.workers().iter().find(|worker| worker.ip() != leased.ip()).expect("two");
    let uid = leased.sh("id -u tess").trim().to_owned();

    free.sh("useradd -l -M -u 345678 mallory");
    let (ended, report) = examine(&system);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let [(check, what)] = &findings(&report)[..] else { panic!("{report}") };
    assert!(check == "I2" && what.contains("mallory (345678)"), "{what}");
    assert!(ended.err.contains("hint: what to do stands with each"), "{ended:?}");
    free.sh("userdel mallory");

    leased.sh("usermod -L tess");
    let (_, report) = examine(&system);
    let [(check, what)] = &findings(&report)[..] else { panic!("{report}") };
    assert!(check == "I3" && what.contains("locked before its time"), "{what}");
    leased.sh("usermod -U tess");

    let file = format!("/var/lib/orion/leases/{uid}");
    leased.sh(&format!("cp {file} /root/kept"));
    // The agent writes the file anew now and then, with the right deadline: then it is done once more.
    let what = wait_until("a deadline that is too late is found", PATIENCE, async || {
        leased.sh(&format!("sed -i 's/^deadline_boot_s=/&9/' {file}"));
        let (_, report) = examine(&system);
        match &findings(&report)[..] {
            [(check, what)] if check == "I3" => Ok(what.clone()),
            _ => Err(report.to_string()),
        }
    })
    .await;
    assert!(what.contains("later than the lease says"), "{what}");
    leased.sh(&format!("rm {file}"));
    let (_, report) = examine(&system);
    assert!(
        findings(&report).iter().any(|(check, what)| check == "I3" && what.contains("no lease file")),
        "{report}"
    );
    leased.sh(&format!("cp /root/kept {file}"));

    let (ended, report) = examine(&system);
    assert_eq!((ended.code, findings(&report)), (Some(0), vec![]), "{ended:?}");

    let data = system.up().data_dir().display().to_string();
    let text = Home::new().run(&["doctor", "--no-nodes", "--data-dir", &data]);
    assert!(text.code == Some(0) && text.out.contains("✔ I1") && text.err.contains("not asked"), "{text:?}");
}

#[test]
fn a_doctor_that_cannot_look_says_so_with_a_status_of_its_own_and_makes_nothing() {
    let home = Home::new();
    let data = home.config("nothing-here").display().to_string();
    let ended = home.run(&["doctor", "--data-dir", &data]);
    assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{ended:?}");
    assert!(ended.err.contains("hint: ") && ended.err.contains("--data-dir DIR"), "{ended:?}");
    assert!(!std::path::Path::new(&data).exists());
}
