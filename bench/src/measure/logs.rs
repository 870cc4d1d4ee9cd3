//! The log of a container, read by the API, beside `docker logs` over ssh; and the memory that the API takes for it.

use crate::{
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    floor::Floor,
    measure::containers::Lease,
    plan::Plan,
    process::usage,
    progress::Progress,
    site::Site,
};
use serde::Deserialize;
use std::time::{Duration, Instant};

/// Lines of the log.
const LINES: usize = 100_000;
/// Length of each, with its end: the engine keeps 20 MB, its own words to each line included.
const LINE_BYTES: usize = 100;
/// Clients that read it at once while the memory is looked at.
const READERS: usize = 8;
/// Pause between two looks at the memory.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest wait for the container's end.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// A line of the API's reply.
#[derive(Deserialize)]
struct Piece {
    stream: String,
    text: String,
}

/// `container_log_mib_per_s` and `container_log_rss_mib`.
///
/// # Errors
/// When anything fails, or a byte of the log is missing.
pub async fn measure(plan: &Plan, site: &Site) -> Result<Vec<Figure>, Broken> {
    let floor = Floor::open(site).await?;
    let lease = Lease::rent(site).await?;
    let script = format!("yes $(printf %0{}d 7) | head -n {LINES}", LINE_BYTES - 1);
    lease.run("talker", &script).await?;
    until_ended(&lease).await?;
    let (path, index) =
        (format!("{}/logs?follow=true", lease.path("talker")), floor.index_of(lease.worker.name())?);
    let command = format!("docker logs --follow orion-{}-1", lease.id);
    by_api(site, &path).await?;
    by_ssh(&floor, index, &command).await?;
    let (mut samples, mut by_hand) = (Samples::default(), Samples::default());
    let mut progress = Progress::start("reading the log of a container", plan.log_reads);
    for round in 0..plan.log_reads {
        let first = if round % 2 == 0 { Some(by_ssh(&floor, index, &command).await?) } else { None };
        samples.push(by_api(site, &path).await?);
        by_hand.push(match first {
            Some(per_s) => per_s,
            None => by_ssh(&floor, index, &command).await?,
        });
        progress.step(&format!("API {:.1} MiB/s, ssh {:.1} MiB/s", samples.median(), by_hand.median()));
    }
    let mut figures = vec![Figure {
        name: "container_log_mib_per_s",
        unit: "MiB/s",
        samples,
        floor: Some(by_hand),
        goal: Goal::RatioAtLeast(0.6),
        note: format!(
            "{LINES} lines of {LINE_BYTES} bytes, GET /api/rentals/ID/containers/NAME/logs?follow=true to the end, counted \
             without the JSON around them; floor: docker logs --follow on the node over ControlMaster"
        ),
    }];
    figures.push(memory(site, &path).await?);
    lease.release().await?;
    Ok(figures)
}

async fn until_ended(lease: &Lease<'_>) -> Result<(), Broken> {
    let started = Instant::now();
    loop {
        let shown = lease.show("talker").await?;
        if shown["state"] == "exited" {
            return Ok(());
        }
        if started.elapsed() > END_TIMEOUT {
            return Err(Broken::new(format!("the container that writes the log does not end: {shown}")));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn mib_per_s(elapsed: Duration) -> f64 {
    (LINES * LINE_BYTES) as f64 / f64::from(1 << 20) / elapsed.as_secs_f64()
}

/// Reads the log by the API; MiB of it in a second.
async fn by_api(site: &Site, path: &str) -> Result<f64, Broken> {
    let started = Instant::now();
    let body = site.api.read(path).await?;
    let elapsed = started.elapsed();
    let mut bytes = 0;
    for line in body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let piece: Piece = serde_json::from_slice(line).context("a line of the log")?;
        if piece.stream != "stdout" {
            return Err(Broken::new(format!("the log by the API breaks off: {}", piece.text)));
        }
        bytes += piece.text.len();
    }
    whole("the API", bytes)?;
    Ok(mib_per_s(elapsed))
}

async fn by_ssh(floor: &Floor, index: usize, command: &str) -> Result<f64, Broken> {
    let started = Instant::now();
    let log = floor.read(index, command).await?;
    let elapsed = started.elapsed();
    whole("ssh", log.len())?;
    Ok(mib_per_s(elapsed))
}

fn whole(by: &str, bytes: usize) -> Result<(), Broken> {
    if bytes == LINES * LINE_BYTES {
        return Ok(());
    }
    Err(Broken::new(format!("{bytes} of {} bytes of the log by {by}", LINES * LINE_BYTES)))
}

/// The most that the API's process takes above what it took before, while several read at once.
async fn memory(site: &Site, path: &str) -> Result<Figure, Broken> {
    let mut progress = Progress::start(&format!("{READERS} read it at once"), 1);
    let resident = || Ok::<_, Broken>(usage(site.up_pid()?)?.1);
    let before = resident()?;
    let reading = async {
        let readers = (0..READERS).map(|_| site.api.read(path));
        futures_util::future::try_join_all(readers).await.map(drop)
    };
    tokio::pin!(reading);
    let mut most = before;
    loop {
        tokio::select! {
            read = &mut reading => break read?,
            () = tokio::time::sleep(LOOK_EVERY) => most = most.max(resident()?),
        }
    }
    let (mut samples, above) = (Samples::default(), most - before);
    samples.push(above);
    progress.step(&format!("{above:.1} MiB"));
    Ok(Figure {
        name: "container_log_rss_mib",
        unit: "MiB",
        samples,
        floor: None,
        goal: Goal::AtMost(32.0),
        note: format!(
            "largest VmRSS of orion up while {READERS} clients read that log at once, above {before:.1} MiB before"
        ),
    })
}
