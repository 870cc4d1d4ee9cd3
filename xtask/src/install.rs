//! What the tests and the demo need from Debian: says what is missing and why, and installs it.
//!
//! No system service is started: the tests and the demo run their own sshd and MariaDB, on their own addresses.

use Use::{Bench, Checks, Client, Containers, Demo, Fleet, Tests};
use orion_console::{
    Failure, Outcome,
    process::{capture, command_of, find_program, root_prefix},
    terminal,
};
use std::{path::Path, process::Command};

/// What packages are needed for: a task of this name, the demo with `containers` or `--fleet` beyond every demo, the
/// client of `gen`, the checks of `ci` beyond the tests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Use {
    Demo,
    Containers,
    Fleet,
    Tests,
    Bench,
    Client,
    Checks,
}

/// A package: its uses, its name, programs that it brings (where there is none, dpkg is asked for the package itself),
/// and why it is needed.
struct Need(&'static [Use], &'static str, &'static str, &'static str);

const NEEDS: [Need; 33] = [
    Need(&[Demo, Tests, Bench], "openssh-server", "sshd", "the workers' logins"),
    Need(&[Demo, Tests, Bench], "openssh-client", "ssh ssh-keygen", "to log in to a rented worker"),
    Need(&[Demo, Tests, Bench], "iproute2", "ip ss", "the workers' network"),
    Need(&[Demo, Tests, Bench], "util-linux", "unshare nsenter flock setsid", "the workers' namespaces"),
    Need(&[Demo, Tests], "curl", "curl", "to speak to the API"),
    Need(&[Demo, Tests], "procps", "pkill ps", "to end the processes of a lease"),
    Need(&[Containers, Tests], "ca-certificates", "", "certificate authorities for TLS"),
    Need(&[Tests, Bench], "mariadb-server", "mariadbd mariadb-install-db mariadb", "all that uses MariaDB"),
    Need(&[Tests], "mariadb-client", "mariadb mariadb-dump", "backups of MariaDB"),
    Need(&[Tests], "sqlite3", "sqlite3", "backups of SQLite"),
    Need(&[Containers, Tests], "busybox-static", "", "images, and the playbooks' tests with BusyBox's tools"),
    Need(&[Tests], "sshpass", "sshpass", "logins with a password"),
    Need(&[Tests], "cron", "cron crontab", "tests that a lease's cron jobs go with it"),
    Need(&[Tests], "at", "at atd", "tests that a lease's at jobs go with it"),
    Need(&[Fleet, Tests], "systemd", "systemctl systemd-analyze", "tests of machines that boot with systemd"),
    Need(&[Fleet, Tests], "dbus", "dbus-daemon", "workers in which systemd is process 1"),
    Need(&[Fleet, Tests], "libpam-systemd", "", "workers whose logins are sessions of logind"),
    Need(&[Fleet, Tests], "libnss-extrausers", "", "workers with accounts of a directory"),
    Need(&[Fleet, Containers, Tests], "btrfs-progs", "mkfs.btrfs btrfs", "workers whose homes are btrfs"),
    Need(&[Tests], "sudo", "sudo", "workers whose sudoers name users"),
    Need(&[Tests], "faketime", "faketime", "machines whose clocks differ"),
    Need(&[Tests], "openrc", "openrc-init openrc-run", "tests of machines that boot with OpenRC"),
    Need(&[Containers, Tests], "iptables", "iptables", "networks of containers, and ones that drop packets"),
    Need(&[Containers, Tests], "caddy", "caddy", "TLS in front of the API and of containers' ports"),
    Need(&[Containers, Tests], "docker.io", "dockerd docker", "containers"),
    Need(&[Tests], "docker-compose", "docker-compose", "the composed stack"),
    Need(&[Containers, Tests], "docker-registry", "docker-registry", "pulls of images"),
    Need(&[Tests], "mmdebstrap", "mmdebstrap", "the image that all others are built on"),
    Need(&[Tests], "binutils", "strip", "small images"),
    Need(&[Bench], "ansible-core", "ansible-playbook", "what renting is compared with"),
    Need(&[Client], "nodejs", "node", "to run the TypeScript client and its generator"),
    Need(&[Client], "npm", "npm", "to install them"),
    Need(&[Checks], "shellcheck", "shellcheck", "to check the shell scripts"),
];

/// Services of packages that are installed here, by package.
const SERVICES: [(&str, &str); 7] = [
    ("openssh-server", "ssh"),
    ("mariadb-server", "mariadb"),
    ("cron", "cron"),
    ("at", "atd"),
    ("caddy", "caddy"),
    ("docker.io", "docker.socket docker"),
    ("docker-registry", "docker-registry"),
];

impl Need {
    fn is_met(&self) -> bool {
        let Self(_, package, programs, _) = self;
        if programs.is_empty() {
            let query = ["--show", "--showformat=${db:Status-Status}", package];
            return capture(Command::new("dpkg-query").args(query)).is_ok_and(|status| status == "installed");
        }
        programs.split(' ').all(|program| find_program(program).is_some())
    }
}

/// Installs what is missing for `wanted`; quick, and without a word, when nothing is.
///
/// # Errors
/// When something is missing and apt-get cannot install it.
pub fn install_missing(wanted: Use) -> Outcome {
    let is_missing = |need: &&Need| need.0.contains(&wanted) && !need.is_met();
    let missing: Vec<&Need> = NEEDS.iter().filter(is_missing).collect();
    if !missing.is_empty() {
        terminal::heading(&format!("Install {} packages of Debian", missing.len()));
        for Need(_, package, _, why) in &missing {
            terminal::line(&format!("{package:<16} {why}"));
        }
        let packages: Vec<&str> = missing.iter().map(|Need(_, package, ..)| *package).collect();
        install(&packages)?;
        let services = SERVICES.iter().filter(|(package, _)| packages.contains(package));
        let services: Vec<&str> = services.map(|(_, service)| *service).collect();
        if Path::new("/run/systemd/system").is_dir() && !services.is_empty() {
            terminal::note("systemd starts the packages' services at the next boot, unless you forbid it:");
            terminal::note(&format!("systemctl disable {}", services.join(" ")));
        }
        if let Some(Need(_, package, ..)) = missing.iter().find(|need| !need.is_met()) {
            let absent = format!("{package} was installed, but its programs are not there");
            let hint = format!("apt-get install --reinstall {package}");
            return Err(Failure::new(absent).hint(hint));
        }
    }
    match wanted {
        Use::Demo | Use::Tests | Use::Bench => make_sshd_directory(),
        Use::Containers | Use::Fleet | Use::Client | Use::Checks => Ok(()),
    }
}

/// Makes the directory without which sshd refuses to start, and which a machine's own sshd service would have made.
fn make_sshd_directory() -> Outcome {
    if Path::new("/run/sshd").is_dir() {
        return Ok(());
    }
    let prefix = root_prefix("making /run/sshd", "")?;
    capture(&mut command_of(&prefix, &["mkdir", "-p", "-m", "755", "/run/sshd"])?).map(drop)
}

fn install(packages: &[&str]) -> Outcome {
    if find_program("apt-get").is_none() {
        return Err(Failure::new("this system has no apt-get").hint(format!(
            "install by your system's own means what these packages of Debian hold: {}",
            packages.join(" ")
        )));
    }
    let prefix = root_prefix("installing packages", "")?;
    let words = [&["sh", "-ec", INSTALL, "sh"], packages].concat();
    capture(&mut command_of(&prefix, &words)?)
        .map(drop)
        .map_err(|failure| failure.hint("is there a way to a Debian mirror? see /etc/apt/sources.list.d"))
}

/// Installs its arguments without starting their services (invoke-rc.d(8): status 101 of the policy forbids it).
/// Package lists that are absent or old name files that the mirror no longer has; where there is no network, but a
/// full cache, installing works with the old ones.
const INSTALL: &str = "\
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    printf '#!/bin/sh\\nexit 101\\n' >$policy
    chmod 755 $policy
fi
export DEBIAN_FRONTEND=noninteractive
apt() { apt-get -q -y -o DPkg::Lock::Timeout=300 \"$@\"; }
apt update || echo 'the package lists stay as they are'
apt install --no-install-recommends \"$@\"";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_there_and_one_that_is_not_are_told_apart() {
        assert!(Need(&[], "dash", "sh", "").is_met());
        assert!(!Need(&[], "dash", "sh no-such-program", "").is_met());
        assert!(!Need(&[], "no-such-package-at-all", "", "").is_met());
    }
}
