//! What starts the agent at boot: systemd, OpenRC, or nothing (somebody else does).
//!
//! The services' files are those of `deploy/`, compiled in. Enabling is a link in a directory for both; it is
//! made with the init's own tool where it runs, and by hand in an image.

use super::{
    is_there,
    places::{Places, say},
};
use crate::process;
use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

const UNIT: &str = include_str!("../../../deploy/systemd/orion-agent.service");
const SCRIPT: &str = include_str!("../../../deploy/openrc/orion-agent");

const UNIT_FILE: &str = "etc/systemd/system/orion-agent.service";
const WANTS_DIR: &str = "etc/systemd/system/multi-user.target.wants";
const SCRIPT_FILE: &str = "etc/init.d/orion-agent";
const RUNLEVELS: &str = "etc/runlevels";
const OPENRC_LOG: &str = "var/log/orion-agent.log";

/// Longest that the init's tools may take: stopping takes up to 15 s.
const TOOL_MAX: Duration = Duration::from_secs(60);

/// Init system that starts services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Init {
    /// systemd, by a unit file.
    Systemd,
    /// OpenRC, by a script.
    Openrc,
    /// Absence of both: the agent is started by whoever runs the machine.
    None,
}

/// The init that was asked for, or the one that is found.
///
/// # Errors
/// The one that was asked for is not there.
pub fn choose(asked: Option<Init>, places: &Places) -> Result<Init, String> {
    let Some(asked) = asked else {
        let running = [Init::Systemd, Init::Openrc].into_iter().find(|init| init.is_running(places));
        let there = [Init::Systemd, Init::Openrc].into_iter().find(|init| init.is_there(places));
        return Ok(running.or(there).unwrap_or(Init::None));
    };
    if asked != Init::None && !asked.is_there(places) {
        return Err(format!(
            "there is no {} in {}\nhint: leave --init away, then what is there is taken; --init none installs no service",
            asked.name(),
            places.root().display()
        ));
    }
    Ok(asked)
}

impl Init {
    /// Returns the name that `--init` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::Openrc => "openrc",
            Self::None => "none",
        }
    }

    fn is_there(self, places: &Places) -> bool {
        let programs: &[&str] = match self {
            Self::Systemd => &["lib/systemd/systemd", "usr/lib/systemd/systemd"],
            Self::Openrc => &["sbin/openrc-run", "usr/sbin/openrc-run"],
            Self::None => &[],
        };
        programs.iter().any(|program| is_there(&places.at(program)))
    }

    /// Whether it runs this very system.
    pub fn is_running(self, places: &Places) -> bool {
        places.is_this_machine()
            && match self {
                Self::Systemd => Path::new("/run/systemd/system").is_dir(),
                Self::Openrc => Path::new("/run/openrc/softlevel").exists(),
                Self::None => false,
            }
    }

    /// Puts the service's file in place. True if it is new.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_service(self, places: &Places) -> Result<bool, String> {
        match self {
            Self::Systemd => {
                places.make_dir("etc/systemd/system")?;
                places.write(&places.at(UNIT_FILE), UNIT, 0o644)
            }
            Self::Openrc => {
                places.make_dir("etc/init.d")?;
                places.write(&places.at(SCRIPT_FILE), SCRIPT, 0o755)
            }
            Self::None => Ok(false),
        }
    }

    /// Makes it start at boot.
    ///
    /// # Errors
    /// What its tool says against it.
    pub fn enable(self, places: &Places) -> Result<(), String> {
        let link = match self {
            Self::Systemd => places.at(WANTS_DIR).join("orion-agent.service"),
            Self::Openrc => places.at(RUNLEVELS).join("default/orion-agent"),
            Self::None => {
                println!("no service: nothing on this machine starts the agent");
                return Ok(());
            }
        };
        if self.is_running(places) {
            match self {
                Self::Systemd => {
                    tool("systemctl", &["daemon-reload"])?;
                    tool("systemctl", &["--quiet", "enable", "orion-agent.service"])?;
                }
                Self::Openrc if is_there(&link) => {}
                Self::Openrc => tool("rc-update", &["--quiet", "add", "orion-agent", "default"])?,
                Self::None => {}
            }
        } else if !is_there(&link) {
            let (dir, target) = match self {
                Self::Systemd => (WANTS_DIR, format!("/{UNIT_FILE}")),
                Self::Openrc | Self::None => ("etc/runlevels/default", format!("/{SCRIPT_FILE}")),
            };
            places.make_dir(dir)?;
            symlink(target, &link).map_err(|error| format!("{} cannot be made: {error}", link.display()))?;
        }
        say("enabled", &link);
        Ok(())
    }

    /// Starts it, or starts it anew if `anew` says that something about it has changed.
    ///
    /// # Errors
    /// What its tool says against it.
    pub fn start(self, anew: bool) -> Result<(), String> {
        let how = if anew { "restart" } else { "start" };
        match self {
            Self::Systemd => tool("systemctl", &[how, "orion-agent.service"])?,
            // Starting what is started is an error for OpenRC.
            Self::Openrc if !anew && Self::openrc_has_started() => {}
            Self::Openrc => tool("rc-service", &["--quiet", "orion-agent", how])?,
            Self::None => return Ok(()),
        }
        println!("started  orion-agent ({})", self.name());
        Ok(())
    }

    fn openrc_has_started() -> bool {
        is_there(Path::new("/run/openrc/started/orion-agent"))
    }

    /// Stops it and makes it start no more; also what is left of another init's service.
    ///
    /// # Errors
    /// It cannot be stopped or removed.
    pub fn remove_services(places: &Places) -> Result<(), String> {
        let (unit, script) = (places.at(UNIT_FILE), places.at(SCRIPT_FILE));
        let by_systemd = Self::Systemd.is_running(places);
        if by_systemd && systemd_knows_the_agent() {
            tool("systemctl", &["stop", "orion-agent.service"])?;
            println!("stopped  orion-agent (systemd)");
        }
        if Self::Openrc.is_running(places) && is_there(&script) && Self::openrc_has_started() {
            tool("rc-service", &["--quiet", "orion-agent", "stop"])?;
            println!("stopped  orion-agent (openrc)");
        }
        let mut links = links_to_the_agent(&places.at("etc/systemd/system"), "orion-agent.service");
        links.extend(links_to_the_agent(&places.at(RUNLEVELS), "orion-agent"));
        for link in links {
            places.remove(&link)?;
        }
        let had_unit = places.remove(&unit)?;
        places.remove(&script)?;
        places.remove(&places.at(OPENRC_LOG))?;
        if by_systemd && had_unit {
            tool("systemctl", &["daemon-reload"])?;
            // It is remembered only if it had failed.
            let _ = process::run("systemctl", &["reset-failed", "orion-agent.service"], TOOL_MAX);
        }
        let drop_ins = places.at("etc/systemd/system/orion-agent.service.d");
        if is_there(&drop_ins) {
            println!("note: {} is yours and stays", drop_ins.display());
        }
        Ok(())
    }

    /// Returns a hint how the agent is started.
    pub fn how_to_start(self, places: &Places) -> String {
        match (self, places.is_this_machine()) {
            (Self::None, _) => "set -a; . /etc/orion/agent.env; exec /usr/local/sbin/orion-agent run".into(),
            (Self::Systemd | Self::Openrc, false) => "it starts when the image boots".into(),
            (Self::Systemd, true) => "it starts at boot, or with `systemctl start orion-agent`".into(),
            (Self::Openrc, true) => "it starts at boot, or with `rc-service orion-agent start`".into(),
        }
    }

    /// Returns the place of the agent's log, for a hint.
    pub fn where_the_log_is(self) -> &'static str {
        match self {
            Self::Systemd => "`journalctl -u orion-agent`",
            Self::Openrc => "/var/log/orion-agent.log",
            Self::None => "its standard error",
        }
    }
}

/// A unit whose file was removed by hand may run on.
fn systemd_knows_the_agent() -> bool {
    process::run("systemctl", &["show", "--property=LoadState,ActiveState", "orion-agent.service"], TOOL_MAX)
        .is_ok_and(|done| {
            !(done.stdout.contains("LoadState=not-found") && done.stdout.contains("ActiveState=inactive"))
        })
}

/// Links called `name` in the directories below `dir`.
fn links_to_the_agent(dir: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let links = entries.flatten().map(|entry| entry.path().join(name));
    links.filter(|link| fs::symlink_metadata(link).is_ok_and(|found| found.is_symlink())).collect()
}

fn tool(program: &str, args: &[&str]) -> Result<(), String> {
    let said = |problem: String| {
        format!("`{program} {}` failed: {problem}\nhint: run it by hand to see more", args.join(" "))
    };
    let done = process::run(program, args, TOOL_MAX).map_err(|error: io::Error| said(error.to_string()))?;
    if done.status.success() { Ok(()) } else { Err(said(done.complaint())) }
}
