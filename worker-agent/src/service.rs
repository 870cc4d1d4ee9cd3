//! The agent at work: deadlines first, then registration and link, for ever.

use crate::{
    config::Config,
    containers::{self, Containers},
    deadline::Deadlines,
    link::{self, Ended},
    pace::{Backoff, ThrottledWarning},
    register,
    state::{Identity, StateDir},
    watcher::Watcher,
    way_in,
};
use orion_domain::Secret;
use std::time::{Duration, Instant};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// Short at first: how soon a node is known to be alive depends on it.
const REDIAL_FIRST: Duration = Duration::from_millis(200);
const REDIAL_LONGEST: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The agent cannot work here at all; never because the control plane is away.
pub async fn run(config: Config) -> Result<(), String> {
    tracing::info!("orion-agent {} for {}", env!("CARGO_PKG_VERSION"), config.api);
    let deadlines = Deadlines::start(config.node_dir.clone(), config.run_dir.clone())
        .map_err(|error| format!("the deadline thread does not start: {error}"))?;
    let stop = CancellationToken::new();
    let mut ended = deadlines.kept.clone();
    let outcome = tokio::select! {
        outcome = work(&config, &deadlines, &stop) => outcome,
        asked = stop_asked(&stop) => asked,
        // Its end is never in order: whoever started the agent starts it anew.
        () = async { while ended.changed().await.is_ok() {} } => Err("the deadline thread has ended".into()),
    };
    deadlines.stop();
    if outcome.is_ok() {
        tracing::info!("stopped; deadlines are kept again when the agent starts");
    }
    outcome
}

/// Waits for a signal, tells everyone, and gives the link a moment to say goodbye.
async fn stop_asked(stop: &CancellationToken) -> Result<(), String> {
    let hear = |kind| signal(kind).map_err(|error| format!("signals cannot be heard: {error}"));
    let (mut terminate, mut interrupt) = (hear(SignalKind::terminate())?, hear(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(())
}

async fn work(config: &Config, deadlines: &Deadlines, stop: &CancellationToken) -> Result<(), String> {
    let unusable = |error: std::io::Error| {
        format!(
            "{} cannot be used: {error}\nhint: run as root, or give --state-dir",
            config.state_dir.display()
        )
    };
    let state = StateDir::open(&config.state_dir).map_err(unusable)?;
    let mut identity = state.identity_or_start_anew().map_err(unusable)?;
    let mut watcher = Watcher::new(config, &state);
    let (token_tx, token) = watch::channel(None);
    let tell_token = |identity: &Identity| {
        token_tx.send_replace(Some(identity.node_token.clone()));
    };
    if let Some(known) = &identity {
        watcher.look(known).await;
        tell_token(known);
    }
    serve_containers(config, token, stop);
    let (found_tx, found) = watch::channel(None);
    let (ip_tx, ip) = watch::channel(String::new());
    let mut probing = Some((way_in::Probe::new(config), ip, found_tx));
    let mut redial = Backoff::new(REDIAL_FIRST, REDIAL_LONGEST);
    let mut complaint = ThrottledWarning::new("the link");
    loop {
        let mut registered = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            registered = register::until_accepted(config, &state, identity.as_ref()) => registered,
        };
        identity = Some(registered.identity.clone());
        tell_token(&registered.identity);
        watcher.look(&registered.identity).await;
        ip_tx.send_if_modified(|before| {
            let moved = *before != registered.ip;
            before.clone_from(&registered.ip);
            moved
        });
        if let Some((probe, ip, found)) = probing.take() {
            tokio::spawn(way_in::prove_forever(probe, ip, found));
        }
        loop {
            let (ended, was_up) =
                link::hold(config, &mut registered, deadlines, &mut watcher, &found, stop).await;
            if was_up {
                redial.reset();
                complaint.works(Instant::now());
            }
            let mut pause = redial.next_pause();
            let register_again = match ended {
                Ended::Stopped => return Ok(()),
                Ended::RegisterAgain => {
                    tracing::warn!("the control plane does not know this node; registering again");
                    true
                }
                Ended::Lost(why, asked_pause) => {
                    complaint.failed(why, Instant::now());
                    pause = pause.max(asked_pause);
                    false
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
            // Another network may have given this machine another address.
            let moved = register::address(config).await.is_ok_and(|ip| ip != registered.ip);
            if register_again || moved {
                break;
            }
        }
    }
}

/// Serves the container routes, where they are asked for. The agent goes on when their port is taken.
fn serve_containers(config: &Config, token: watch::Receiver<Option<Secret>>, stop: &CancellationToken) {
    let Some(listen) = config.containers.clone() else { return };
    let hostname = config.hostname.to_string();
    let host = match &config.ip {
        Some(ip) => ip.to_string(),
        None if listen.address.ip().is_unspecified() => hostname.clone(),
        None => listen.address.ip().to_string(),
    };
    let (containers, stop) = (Containers::new(hostname, host), stop.clone());
    tokio::spawn(async move {
        if let Err(problem) = containers::serve(listen, containers, token, stop).await {
            tracing::error!("{problem}");
        }
    });
}
