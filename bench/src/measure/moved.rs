//! A worker is lost under a lease: how long until the same user logs in with the same key on another one.

use crate::{
    api::Place,
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    plan::Plan,
    progress::Progress,
    site::Site,
};
use orion_testkit::Worker;
use std::{
    fs,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::process::Command;

/// Pause between two looks at where the lease is.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Longest wait for a lease to move.
const MOVE_TIMEOUT: Duration = Duration::from_secs(90);

/// Cause of a worker's loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to all of its processes; the kernel refuses connections.
    Killed,
    /// Pulled network cable; nothing answers.
    Cut,
}

impl Fault {
    /// The figure's name.
    pub fn figure(self) -> &'static str {
        match self {
            Self::Killed => "move_killed_s",
            Self::Cut => "move_cut_s",
        }
    }

    fn strike(self, worker: &Worker) {
        match self {
            Self::Killed => worker.kill(),
            Self::Cut => worker.cut(),
        }
    }

    fn mend(self, worker: &Worker) {
        match self {
            Self::Killed => worker.start(),
            Self::Cut => worker.uncut(),
        }
    }
}

/// Durations of one move.
struct Move {
    /// Time until the API showed the new address.
    shown: Duration,
    /// Time until `ssh` had logged in at the new address.
    login: Duration,
}

/// `move_killed_s` or `move_cut_s`.
///
/// # Errors
/// When a lease does not move, or its login does not work.
pub async fn measure(plan: &Plan, site: &Site, fault: Fault) -> Result<Figure, Broken> {
    let (count, what, goal_s) = match fault {
        Fault::Killed => (plan.kills, "moves after the processes were killed", 2.0),
        Fault::Cut => (plan.cuts, "moves after the cable was pulled", 15.0),
    };
    let (mut logins, mut shown) = (Samples::default(), Samples::default());
    let mut progress = Progress::start(what, count);
    for _ in 0..count {
        let moved = move_once(site, fault).await?;
        logins.push(moved.login.as_secs_f64());
        shown.push(moved.shown.as_secs_f64());
        progress.step(&format!("{:.3} s (address {:.3} s)", logins.median(), shown.median()));
    }
    Ok(Figure {
        name: fault.figure(),
        unit: "s",
        samples: logins,
        floor: None,
        goal: Goal::Below(goal_s),
        note: format!(
            "from the order to launch_workers.sh until ssh logged in; GET /api/rentals/ID showed the new \
             address after {:.3} s (median)",
            shown.median()
        ),
    })
}

async fn move_once(site: &Site, fault: Fault) -> Result<Move, Broken> {
    site.settle().await?;
    let (rentals, _) = site.api.rent(1, site.tenant_key.public_line()).await?;
    let rental = rentals.first().ok_or_else(|| Broken::new("no rental"))?;
    let worker = site.worker(&rental.node_name)?.clone();
    let before = site.api.place_of(rental.id).await?;
    log_in(site, &rental.user, &before).await?;
    let struck = worker.clone();
    let started = Instant::now();
    let striking = tokio::task::spawn_blocking(move || fault.strike(&struck));
    let moved = wait_for_login(site, rental.id, &rental.user, worker.name(), started).await;
    striking.await.context("the fault")?;
    let moved = match moved {
        Ok(moved) => moved,
        Err(error) => {
            let history = site.api.history(rental.id).await?;
            return Err(Broken::new(format!("{error}\nits events: {history}")));
        }
    };
    fault.mend(&worker);
    site.api.release(rental.id).await?;
    Ok(moved)
}

/// Looks at the lease until it is elsewhere, and tries to log in there until that works.
async fn wait_for_login(
    site: &Site,
    rental: i64,
    user: &str,
    lost_worker: &str,
    started: Instant,
) -> Result<Move, Broken> {
    let mut shown = None;
    let mut last = String::from("the API showed no new address");
    while started.elapsed() < MOVE_TIMEOUT {
        let place = site.api.place_of(rental).await?;
        let elsewhere = place.node_name.as_deref() != Some(lost_worker);
        if place.state == "active" && elsewhere && place.address.is_some() {
            let shown = *shown.get_or_insert_with(|| started.elapsed());
            match log_in(site, user, &place).await {
                Ok(()) => return Ok(Move { shown, login: started.elapsed() }),
                Err(error) => last = error.to_string(),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Err(Broken::new(format!("lease {rental} did not move from {lost_worker}: {last}")))
}

/// Logs in as the tenant does, with the host key that the API gave.
async fn log_in(site: &Site, user: &str, place: &Place) -> Result<(), Broken> {
    let Some((host, port)) = &place.address else { return Err(Broken::new("the lease has no address")) };
    let known_hosts = site.directory().join("tenant_known_hosts");
    fs::write(&known_hosts, &place.known_hosts).context("known_hosts")?;
    let output = tenant_ssh(&known_hosts, &site.tenant_key.private_path())
        .args(["-l", user, "-p", &port.to_string(), host, "id -un"])
        .output()
        .await
        .context("ssh")?;
    if output.status.success() && String::from_utf8_lossy(&output.stdout).trim() == user {
        return Ok(());
    }
    Err(Broken::new(format!("ssh {user}@{host}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

fn tenant_ssh(known_hosts: &Path, key: &Path) -> Command {
    let mut command = Command::new("ssh");
    command
        .args(["-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"])
        .args(["-o", "GlobalKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=5"])
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known_hosts.display()))
        .arg("-i")
        .arg(key)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}
