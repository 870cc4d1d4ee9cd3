//! Plain `ssh` and `scp` by a lease's name, before and after it moved.

use super::{
    PATIENCE,
    system::{Database, System},
};
use orion_testkit::{Home, wait_until};
use serde_json::Value;
use std::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn plain_ssh_and_scp_follow_a_lease_by_its_name_without_a_new_configuration() {
    let system = System::start(Database::Sqlite, 2).await;
    let home = Home::new();
    let api = system.url();
    let input = "correct horse battery\n";
    let signed_up = home.run_with_input(&["--api", &api, "signup", "tess", "--password-stdin"], input);
    assert_eq!(signed_up.code, Some(0), "{signed_up:?}");
    assert_eq!(home.run(&["ssh-config", "--install"]).code, Some(0));
    let rented = home.run(&["rent", "--hours", "1", "--name", "train"]);
    assert_eq!(rented.code, Some(0), "{rented:?}");

    let config = home.path().join(".ssh/config");
    let blocks = std::fs::read_to_string(home.config("ssh_config")).expect("rent wrote it");
    let run = |program: &str, arguments: &[&str]| {
        let mut command: Command = home.command(&[]);
        let path =
            command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value).map(Into::into);
        let path: std::ffi::OsString = path.expect("a PATH");
        command = Command::new(program);
        command.arg("-F").arg(&config).args(["-o", "BatchMode=yes"]).args(arguments);
        command.env_clear().env("HOME", home.path()).env("PATH", path);
        let output = command.output().expect("OpenSSH's client is there");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    };
    let file = home.path().join("file");
    let (file, back) = (file.display().to_string(), format!("{file}.back", file = file.display()));
    let data: Vec<u8> = (0..3_000_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    std::fs::write(&file, &data).expect("written");
    for name in ["train", "train.orion"] {
        assert_eq!(run("ssh", &[name, "id", "-un"]), "tess\n");
    }
    run("scp", &["-q", &file, "train:data"]);
    run("scp", &["-q", "train:data", &back]);
    assert!(std::fs::read(&back).expect("read") == data, "scp carries it there and back unchanged");

    let shown = home.run(&["-o", "json", "show", "train"]);
    let lease: Value = serde_json::from_str(&shown.out).expect("JSON");
    let ip = lease["host_ip"].as_str().expect("an address").to_owned();
    system.worker_at(&ip).kill();
    wait_until("the lease has moved", PATIENCE, async || {
        let shown = home.run(&["-o", "json", "show", "train"]);
        let lease: Value = serde_json::from_str(&shown.out).map_err(|error| error.to_string())?;
        if lease["state"] == "active" && lease["host_ip"] != ip.as_str() { Ok(()) } else { Err(shown.out) }
    })
    .await;
    assert_eq!(run("ssh", &["train", "id", "-un"]), "tess\n");
    run("scp", &["-q", &file, "train:data"]);
    assert_eq!(std::fs::read_to_string(home.config("ssh_config")).expect("it is there"), blocks);

    assert_eq!(home.run(&["release", "train"]).code, Some(0));
    let blocks = std::fs::read_to_string(home.config("ssh_config")).expect("release wrote it");
    assert!(!blocks.contains("Host "), "{blocks}");
    assert_eq!(home.run(&["ssh-config", "--remove"]).code, Some(0));
    assert_eq!(std::fs::read_to_string(&config).expect("it is there"), "");
}
