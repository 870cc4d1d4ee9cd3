//! Puts the agent on a machine so that it starts at boot, and takes everything off again.
//!
//! Lives here: the order of the steps and what is refused before the first one. Does not live here: joining
//! the control plane (the agent does that when it runs), and installing packages.
//!
//! ```text
//! places    where everything goes, writing and removing it; each change is said
//! settings  /etc/orion/agent.env and the files beside it
//! boot      systemd and OpenRC: the service's file, enabling, starting, stopping
//! removal   uninstall
//! ```
//!
//! Every step is idempotent, and none depends on an earlier run having come to its end: `install` again is an
//! upgrade in place, and `uninstall` removes half an installation as well.

mod boot;
mod places;
mod removal;
mod settings;

use crate::{
    check::OPEN_LEASES,
    config::{Options, SSH_PORT},
    sshd::Sshd,
    state::StateDir,
    way_in::Probe,
};
use boot::Init;
use clap::{Args, ValueEnum};
use places::{Places, say};
use settings::{Given, Settings};
use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use removal::uninstall;

/// Longest wait for the first registration.
const REGISTERED_WITHIN: Duration = Duration::from_secs(10);

/// Options of `install` beyond the agent's own settings, which it writes down.
#[derive(Args)]
#[command(
    after_help = "The join token comes from --join-token-file, from ORION_JOIN_TOKEN or from standard input.\n\
                        Settings that are not given stay as an earlier installation left them."
)]
pub struct InstallArgs {
    /// The control plane's authority for logins (public keys, one a line), if it is known beforehand
    #[arg(long, value_name = "FILE")]
    ssh_ca: Option<PathBuf>,
    /// Init system that starts the agent at boot; by default the one that is found
    #[arg(long, value_enum)]
    init: Option<Init>,
    /// Install into the system that lies in DIR (an image, a chroot) and start nothing
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
    /// Start nothing now, only at the next boot
    #[arg(long)]
    no_start: bool,
    /// Let lease accounts log in by password and key whatever sshd is told otherwise: a rule for the group orion-lease
    #[arg(long)]
    open_leases: bool,
}

/// Options of `uninstall`.
#[derive(Args)]
pub struct UninstallArgs {
    /// Remove what protects this node from an outdated control plane, too: the epoch and the highest uid
    #[arg(long)]
    purge: bool,
    /// Go on although accounts of leases are on the machine; they stay, and nobody locks them at their end
    #[arg(long)]
    force: bool,
    /// Remove from the system that lies in DIR
    #[arg(long, value_name = "DIR", default_value = "/", hide_default_value = true)]
    root: PathBuf,
}

/// `orion-agent install`. Says each step on standard output. Blocks.
///
/// # Errors
/// What is in the way, with a hint. Before the first step is said, nothing has changed.
pub fn install(args: &InstallArgs, options: &Options) -> Result<(), String> {
    must_be_root("install")?;
    let places = Places::in_system(&args.root)?;
    refuse_other_places(options)?;
    let sshd = Sshd::of_system(places.root(), places.state("sshd-told"));
    sshd.program().map_err(|problem| format!("{problem}\nhint: {}", places.how_to_install_sshd()))?;
    let init = boot::choose(args.init, &places)?;
    let settings = Settings::load(&places, &Given::from(options)?)?;
    settings.check(&places)?;
    let authority = authority(args, &places)?;
    sshd.test().map_err(|problem| {
        format!(
            "sshd's own configuration must be repaired first: {problem}\n\
             hint: a node whose sshd does not start again is lost; `sshd -t` must be content"
        )
    })?;

    places.begin()?;
    let program_is_new = places.install_program()?;
    let settings_are_new = settings.write(&places)?;
    if let Some(authority) = &authority {
        let installed = sshd.trust(authority).map_err(|problem| {
            format!("{problem}\nhint: the agent was not started; mend this and install again, or uninstall")
        })?;
        say(if installed { "wrote" } else { "same" }, &sshd.ca_file());
        say(if installed { "wrote" } else { "same" }, &sshd.snippet_file());
    }
    if args.open_leases {
        let written = sshd.open_leases().map_err(|problem| {
            format!("{problem}\nhint: without --open-leases sshd's rules stay as they are")
        })?;
        say(if written { "wrote" } else { "same" }, &sshd.lease_rule_file());
    }
    let service_is_new = init.write_service(&places)?;
    init.enable(&places)?;
    if args.no_start || !init.is_running(&places) {
        println!("not started: {}", init.how_to_start(&places));
    } else {
        init.start(program_is_new || settings_are_new || service_is_new)?;
        wait_for_registration(&places, init);
        note_way_in(&settings);
    }
    note_port(&sshd, &settings);
    Ok(())
}

fn must_be_root(what: &str) -> Result<(), String> {
    if rustix::process::geteuid().is_root() {
        Ok(())
    } else {
        Err(format!("`{what}` changes /etc and needs root\nhint: sudo orion-agent {what} …"))
    }
}

/// The service has the usual places written in it.
fn refuse_other_places(options: &Options) -> Result<(), String> {
    if options.has_usual_places() {
        return Ok(());
    }
    Err("an installed agent keeps everything at its usual places\n\
         hint: leave --state-dir, --node-dir, --run-dir, --sshd-config-dir and --sshd-pid-file away; \
         --root DIR installs into an image"
        .into())
}

/// The control plane's authority: as given, or as this node learned it when it registered.
fn authority(args: &InstallArgs, places: &Places) -> Result<Option<Vec<String>>, String> {
    if let Some(file) = &args.ssh_ca {
        let text = fs::read_to_string(file)
            .map_err(|error| format!("--ssh-ca {} cannot be read: {error}", file.display()))?;
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        Sshd::check_authority(&lines).map_err(|problem| {
            format!(
                "--ssh-ca {}: {problem}\nhint: one public key a line, as `ssh_ca` in the reply to a registration",
                file.display()
            )
        })?;
        return Ok(Some(lines));
    }
    let known = StateDir::existing(&places.state_dir()).identity().ok().flatten();
    Ok(known.map(|known| known.ssh_ca).filter(|lines| !lines.is_empty()))
}

/// Says how the first registration went. That there is none yet is no failure: the agent tries on.
fn wait_for_registration(places: &Places, init: Init) {
    let until = Instant::now() + REGISTERED_WITHIN;
    let state = StateDir::existing(&places.state_dir());
    while Instant::now() < until {
        if let Ok(Some(known)) = state.identity()
            && fs::exists(state.path("sshd-told")).unwrap_or(false)
        {
            println!("registered as node {}; sshd trusts the control plane", known.node_id);
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("not registered yet, it tries on: see {} and `orion-agent check`", init.where_the_log_is());
}

/// Says what keeps lease accounts from logging in.
fn note_way_in(settings: &Settings) {
    let found = Probe::of_this_machine().prove(&settings.get("MY_HOST_IP").unwrap_or_default());
    // The agent, which runs already, may be at it.
    if let Ok(found) = found
        && !found.open
    {
        println!("note: no lease can be placed here yet: {}\nhint: {OPEN_LEASES}", found.reason);
    }
}

/// A port that is forwarded to sshd's is fine; one that was forgotten is not.
fn note_port(sshd: &Sshd, settings: &Settings) {
    let Ok(effective) = sshd.effective() else { return };
    let port = settings.get("MY_HOST_PORT").and_then(|text| text.parse().ok()).unwrap_or(SSH_PORT);
    if !effective.listens.is_empty() && effective.listens.iter().all(|at| at.port() != port) {
        let own: Vec<_> = effective.listens.iter().map(|at| at.port().to_string()).collect();
        println!(
            "note: the control plane will dial port {port}, sshd listens on {}: right only if that port is \
             forwarded; otherwise install again with --ssh-port",
            own.join(", ")
        );
    }
}

/// Whether `path` is there, be it a broken link.
fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

impl ValueEnum for Init {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Systemd, Self::Openrc, Self::None]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.name()))
    }
}
