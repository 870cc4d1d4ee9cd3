//! `orion-agent check`: what the agent would do here, and what is in its way. Changes nothing; a probe account is there
//! for a moment.

use crate::{banner, config::Config, deadline, register, sshd::Sshd, state::StateDir, way_in};
use orion_domain::way_in::clock_off_text;
use std::fs;

/// Hint at the command that opens the way in where a setting of sshd is in the way.
pub const OPEN_LEASES: &str = "`orion-agent install --open-leases` writes a rule for sshd that lets in members of orion-lease, and nobody else";

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
    if let Ok(off_ms) = config.api.clock_off_ms().await {
        let off = clock_off_text(off_ms);
        say("clock", off.map_or_else(|| Ok("agrees with the control plane's".into()), Err));
    }
    let address = register::address(config).await.map_err(|error| error.to_string());
    say(
        "address",
        address.map(|ip| format!("{} at {ip} port {}", config.hostname.as_str(), config.ssh_port)),
    );
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
    say("host keys", own.usable_host_keys().map(|keys| format!("sshd shows {}", keys.len())));
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
    let probe = way_in::Probe::new(config);
    if probe.is_usable() {
        let ip = register::address(config).await.unwrap_or_default();
        let found = tokio::task::spawn_blocking(move || probe.prove(&ip)).await;
        say(
            "logins of leases",
            match found {
                Ok(Ok(found)) if found.open => Ok("work, by password and by key".into()),
                Ok(Ok(found)) => Err(format!("{}; {OPEN_LEASES}", found.reason)),
                Ok(Err(busy)) => Err(format!("were not tried: {busy}")),
                Err(error) => Err(error.to_string()),
            },
        );
    } else {
        say("logins of leases", Ok("not tried: that needs root, and the usual places".into()));
    }
    say("deadlines", leases(config));
    if missing == 0 { Ok(()) } else { Err(format!("{missing} things are missing (see above)")) }
}

fn leases(config: &Config) -> Result<String, String> {
    let now = deadline::boot_seconds().map_err(|error| error.to_string())?;
    let kept = deadline::read_kept(&config.run_dir).unwrap_or_default();
    let files = deadline::lease_files(&config.node_dir);
    let not_kept: Vec<_> = files.iter().filter(|uid| !kept.iter().any(|one| one.uid == **uid)).collect();
    if !not_kept.is_empty() {
        return Err(format!("nothing keeps the lease files of uid {not_kept:?}; does the agent run?"));
    }
    let lines: Vec<_> = kept
        .iter()
        .map(|one| match one.locked {
            true => format!("lease {} of {} is over", one.lease, one.user),
            false => format!(
                "lease {} of {} ends in {} s",
                one.lease,
                one.user,
                one.deadline_boot_s.saturating_sub(now)
            ),
        })
        .collect();
    Ok(if lines.is_empty() { "no lease is kept".into() } else { lines.join(", ") })
}
