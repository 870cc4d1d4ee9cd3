//! Completion scripts: good for their shells, and with the names of leases.

use orion_testkit::{FakeApi, Home};
use serde_json::json;
use std::process::Command;

#[test]
fn the_bash_script_is_good_bash_and_completes_names_of_leases() {
    let api =
        FakeApi::always(200, json!([{"rental_id": 1, "name": "train"}, {"rental_id": 2, "name": "trial"}]));
    let home = Home::logged_in(&api);
    let script = home.run(&["completions", "bash"]);
    assert_eq!(script.code, Some(0), "{script:?}");
    let path = home.path().join("orion.bash");
    std::fs::write(&path, &script.out).expect("written");
    let checked = Command::new("bash").arg("-n").arg(&path).output().expect("bash is there");
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    home.program("orion", &format!("#!/bin/sh\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_orion")));
    for (line, expected) in [
        ("orion ssh tra", "train"),
        ("orion -o json release t", "train trial"),
        ("orion rel", "release"),
        ("orion ssh --wa", "--wait"),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let program = format!(
            ". {}; COMP_WORDS=({line}); COMP_CWORD={}; _orion_and_leases orion '{}' '{}'; echo ${{COMPREPLY[@]}}",
            path.display(),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let mut bash = home.command(&[]);
        let environment: Vec<_> =
            bash.get_envs().map(|(k, v)| (k.to_owned(), v.map(ToOwned::to_owned))).collect();
        bash = Command::new("bash");
        bash.env_clear().args(["--norc", "-c", &program]);
        bash.envs(environment.into_iter().filter_map(|(name, value)| value.map(|value| (name, value))));
        let output = bash.output().expect("bash is there");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), expected, "{line}: {output:?}");
    }
}

#[test]
fn the_other_shells_scripts_ask_for_leases_too() {
    let home = Home::new();
    for (shell, wanted) in [("zsh", ":_orion_leases'"), ("fish", "(orion complete leases 2>/dev/null)")] {
        let script = home.run(&["completions", shell]);
        assert!(script.code == Some(0) && script.out.contains(wanted), "{shell}: {}", script.out);
    }
}

#[test]
fn completing_without_a_session_is_silent() {
    let ended = Home::new().run(&["complete", "leases"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(0), "", ""));
}
