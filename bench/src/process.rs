//! What a process used, as the kernel counts it, and services as processes.

use crate::{
    broken::{Broken, Context as _},
    child::{dies_with_us, log_tail, program},
    ground::Ground,
    plan::Options,
};
use std::{
    fs::{self, File},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};
use tokio::process::Child;

/// Clock ticks a second in /proc/PID/stat; Linux shows it as 100 on every machine (proc(5)).
const TICKS_PER_S: f64 = 100.0;
/// Longest wait for a service to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// CPU time of all threads of a process since its start, in seconds, and its resident memory, in MiB.
///
/// # Errors
/// When it has ended.
pub fn usage(pid: u32) -> Result<(f64, f64), Broken> {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).context("a measured process");
    Ok((cpu_seconds(&read("stat")?)?, resident_mib(&read("status")?)?))
}

/// User and system time of the text of a `/proc/PID/stat`, in seconds.
fn cpu_seconds(stat: &str) -> Result<f64, Broken> {
    // The name may hold blanks and parentheses; after it, user time is the 12th field, system time the 13th.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    match ticks.as_slice() {
        [user, system] => Ok((user + system) / TICKS_PER_S),
        _ => Err(Broken::new("a process has ended: its CPU time cannot be read")),
    }
}

/// `VmRSS` of the text of a `/proc/PID/status`, in MiB.
///
/// # Errors
/// When the process has ended.
pub fn resident_mib(status: &str) -> Result<f64, Broken> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| Broken::new("a process has ended: its memory cannot be read"))
}

/// One of Orion's services, as a process of its own. It is killed when this is dropped.
pub struct Service {
    child: Child,
    log: PathBuf,
}

impl Service {
    /// Starts a service on the database of `ground`, with these settings besides.
    ///
    /// # Errors
    /// When its program is missing.
    pub fn start(
        options: &Options,
        ground: &Ground,
        name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, Broken> {
        let log = match &options.log {
            Some(log) => log.with_added_extension(name),
            None => ground.directory().join(format!("{name}.log")),
        };
        let mut command = dies_with_us(program(&options.bin_dir, name)?.as_os_str());
        for (variable, _) in std::env::vars_os() {
            if variable.to_string_lossy().starts_with("ORION_") {
                command.env_remove(variable);
            }
        }
        let child = command
            .env("ORION_DATABASE_URL", &ground.url)
            .env("ORION_MASTER_KEY", ground.master_key.to_base64().expose())
            .env("ORION_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(&log).context("a service's log")?)
            .spawn()
            .context(name)?;
        Ok(Self { child, log })
    }

    /// Returns the id of the service's process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> Result<u32, Broken> {
        self.child.id().ok_or_else(|| Broken::new("the service has ended").with_log(&self.log_tail()))
    }

    /// Asks it to stop and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn stop(mut self) -> Result<(), Broken> {
        let pid = self.pid()?.to_string();
        let asked = tokio::process::Command::new("/bin/kill").args(["-s", "TERM", &pid]).status().await;
        asked.context("kill")?;
        let ended = tokio::time::timeout(STOP_TIMEOUT, self.child.wait()).await;
        let status = ended.map_err(|_| Broken::new("the service does not stop"))?.context("the service")?;
        if status.success() {
            return Ok(());
        }
        Err(Broken::new(format!("the service ended: {status}")).with_log(&self.log_tail()))
    }

    /// The last lines that it wrote.
    pub fn log_tail(&self) -> String {
        log_tail(&self.log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_blanks_and_parentheses() {
        let stat = "4711 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 3 0 100";
        assert!((cpu_seconds(stat).unwrap() - 2.0).abs() < 1e-9);
        assert!(cpu_seconds("4711 (gone) S").is_err());
        assert!(cpu_seconds("").is_err());
    }

    #[test]
    fn the_usage_of_this_process_is_more_than_nothing() {
        let (_, resident) = usage(std::process::id()).unwrap();
        assert!(resident > 0.5, "{resident} MiB");
    }

    #[test]
    fn resident_memory_is_read_in_mebibytes() {
        let mib = resident_mib("Name:\torion\nVmRSS:\t    2048 kB\nThreads:\t3\n").unwrap();
        assert!((mib - 2.0).abs() < 1e-9, "{mib}");
        assert!(resident_mib("").is_err());
    }
}
