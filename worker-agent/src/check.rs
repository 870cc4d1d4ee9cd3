//! `orion-agent check`: what the agent would do here, and what is in its way. Changes nothing.

use crate::{
    banner, config::Config, deadline, facts, lease_file::LeaseFile, register, sshd::Sshd, state::StateDir,
};
use std::fs;

/// Prints one line for each thing that the agent needs.
///
/// # Errors
/// How many of them are missing.
pub async fn check(config: &Config) -> Result<(), String> {
    let mut missing = 0;
    let mut say = |what: &str, found: Result<String, String>| match found {
        Ok(text) => println!("ok       {what}: {text}"),
        Err(text) => {
            missing += 1;
            println!("MISSING  {what}: {text}");
        }
    };
    say("control plane", Ok(config.api.to_string()));
    say(
        "reached",
        config.api.connect().await.map(|_| "takes connections".into()).map_err(|error| error.to_string()),
    );
    let address = register::address(config).await.map_err(|error| error.to_string());
    say(
        "address",
        address.map(|ip| format!("{} at {ip} port {}", config.hostname.as_str(), config.ssh_port)),
    );
    say("host keys", facts::host_keys(&config.sshd_config_dir).map(|keys| format!("{} found", keys.len())));

    let state = StateDir::existing(&config.state_dir);
    let node_file = state.path("node.json");
    let known = match fs::exists(&node_file) {
        Ok(true) => state.identity().map_err(|error| format!("{}: {error}", node_file.display())),
        Ok(false) => Ok(None),
        Err(error) => Err(format!("{}: {error}", node_file.display())),
    };
    match known {
        Ok(Some(known)) => {
            say("identity", Ok(format!("node {}; registers again with its node token", known.node_id)))
        }
        Ok(None) => {
            say("identity", Ok("none yet; joins with the join token".into()));
            say("join token", config.join_token().map(|_| "there".into()));
        }
        Err(problem) => say("identity", Err(problem)),
    }

    let own = Sshd::new(&config.sshd_config_dir, &config.sshd_pid_file, state.path("sshd-told"));
    match own.effective() {
        Ok(effective) => {
            let answer = banner::answers(&effective.listens).await;
            let listens: Vec<_> = effective.listens.iter().map(ToString::to_string).collect();
            let listens = listens.join(", ");
            say(
                "sshd",
                if answer {
                    Ok(format!("answers at {listens}"))
                } else {
                    Err(format!("no answer at {listens}"))
                },
            );
            let obstacles = own.obstacles(&effective);
            let fresh =
                fs::exists(config.sshd_config_dir.join("orion/user_ca.pub")).is_ok_and(|there| !there);
            say(
                "control plane's authority",
                match obstacles.as_slice() {
                    [] => Ok("in effect".into()),
                    [_] if fresh => Ok("not there yet; installed after the registration".into()),
                    some => Err(some.join("; ")),
                },
            );
        }
        Err(problem) => say("sshd", Err(problem)),
    }
    say("deadlines", leases(config));
    if missing == 0 { Ok(()) } else { Err(format!("{missing} things are missing (see above)")) }
}

fn leases(config: &Config) -> Result<String, String> {
    let now = deadline::boot_seconds().map_err(|error| error.to_string())?;
    let Ok(entries) = fs::read_dir(config.node_dir.join("leases")) else {
        return Ok("no lease is kept".into());
    };
    let mut lines = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.parse::<u32>().is_err() {
            continue;
        }
        let text = fs::read_to_string(entry.path()).map_err(|error| format!("{name}: {error}"))?;
        let file = LeaseFile::parse(&name, &text).map_err(|problem| format!("{name}: {problem}"))?;
        lines.push(match file.locked {
            true => format!("lease {} of {} is over", file.lease, file.user),
            false => format!(
                "lease {} of {} ends in {} s",
                file.lease,
                file.user,
                file.deadline_boot_s.saturating_sub(now)
            ),
        });
    }
    Ok(if lines.is_empty() { "no lease is kept".into() } else { lines.join(", ") })
}
