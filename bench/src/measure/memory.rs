//! What an idle system needs: resident memory of `orion up` and of the agents.

use crate::{
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    plan::Plan,
    process::resident_mib,
    progress::Progress,
    site::Site,
};
use std::{fs, time::Duration};

/// Readings, a second apart, after the idle time.
const READINGS: usize = 5;

/// Waits, then reads `VmRSS` of every process.
///
/// # Errors
/// When one of them does not run.
pub async fn measure(plan: &Plan, site: &Site) -> Result<Vec<Figure>, Broken> {
    let mut progress = Progress::start("memory of an idle system", READINGS);
    tokio::time::sleep(plan.idle).await;
    let (mut up, mut agents) = (Samples::default(), Samples::default());
    for _ in 0..READINGS {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let status = fs::read_to_string(format!("/proc/{}/status", site.up_pid()?)).context("orion up")?;
        up.push(resident_mib(&status)?);
        for worker in site.workers.all() {
            // its own /proc shows the same figure as the machine's
            agents.push(resident_mib(&worker.sh(r#"for process in /proc/[0-9]*; do
                     read -r name <"$process/comm" || continue
                     if [ "$name" = orion-agent ]; then cat "$process/status"; fi
                   done 2>/dev/null"#))?);
        }
        progress.step(&format!("up {:.1} MiB", up.median()));
    }
    let figure = |name, samples, limit, note: &str| Figure {
        name,
        unit: "MiB",
        samples,
        floor: None,
        goal: Goal::Below(limit),
        note: note.to_owned(),
    };
    let workers = site.workers.all().len();
    let idle_s = plan.idle.as_secs();
    Ok(vec![
        figure("orion_up_rss_mib", up, 64.0, &format!("VmRSS, idle for {idle_s} s with {workers} workers")),
        figure("orion_agent_rss_mib", agents, 16.0, &format!("VmRSS of each of the {workers} agents, idle")),
    ])
}
