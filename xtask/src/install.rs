//! What the tests and the demo need from Debian: says what is missing and why, and installs it.
//!
//! No system service is started: the tests and the demo run their own sshd and MariaDB, on their own addresses.

use orion_console::{
    Failure, Outcome,
    process::{capture, command_of, find_program, root_prefix},
    terminal,
};
use std::{path::Path, process::Command};

/// A package, how to see that it is there, and why it is needed.
pub struct Need {
    package: &'static str,
    /// Programs that it brings; none means that dpkg is asked for the package itself.
    programs: &'static [&'static str],
    why: &'static str,
}

const fn need(package: &'static str, programs: &'static [&'static str], why: &'static str) -> Need {
    Need { package, programs, why }
}

const SSHD: Need = need("openssh-server", &["sshd"], "the workers' logins");
const SSH: Need = need("openssh-client", &["ssh", "ssh-keygen"], "to log in to a rented worker");
const IPROUTE: Need = need("iproute2", &["ip", "ss"], "the workers' network");
const UTIL_LINUX: Need =
    need("util-linux", &["unshare", "nsenter", "flock", "setsid"], "the workers' namespaces");
const CURL: Need = need("curl", &["curl"], "to speak to the API");
const PROCPS: Need = need("procps", &["pkill", "ps"], "to end the processes of a lease");

const SYSTEMD: Need =
    need("systemd", &["systemctl", "systemd-analyze"], "tests of machines that boot with systemd");
const DBUS: Need = need("dbus", &["dbus-daemon"], "workers in which systemd is process 1");
const PAM_SYSTEMD: Need = need("libpam-systemd", &[], "workers whose logins are sessions of logind");
const EXTRAUSERS: Need = need("libnss-extrausers", &[], "workers with accounts of a directory");
const BTRFS: Need = need("btrfs-progs", &["mkfs.btrfs", "btrfs"], "workers whose homes are btrfs");

const IPTABLES: Need =
    need("iptables", &["iptables"], "networks of containers, and tests of ones that drop packets");
const CADDY: Need = need("caddy", &["caddy"], "TLS in front of the API and of the ports of containers");
const DOCKER: Need = need("docker.io", &["dockerd", "docker"], "containers");
const REGISTRY: Need = need("docker-registry", &["docker-registry"], "pulls of images");
const BUSYBOX: Need = need("busybox-static", &[], "images, and the playbooks' tests with BusyBox's tools");

const MARIADB: Need = need(
    "mariadb-server",
    &["mariadbd", "mariadb-install-db", "mariadb"],
    "what runs on MariaDB: the store's tests, the services",
);

/// Packages for `cargo xtask demo`.
pub const DEMO: &[Need] = &[SSHD, SSH, IPROUTE, UTIL_LINUX, CURL, PROCPS];

/// Packages for `cargo xtask demo containers`, beyond those for every demo.
pub const CONTAINERS: &[Need] = &[IPTABLES, CADDY, DOCKER, REGISTRY, BTRFS, BUSYBOX];

/// Packages for the workers of `cargo xtask demo --fleet`.
pub const FLEET: &[Need] = &[SYSTEMD, DBUS, PAM_SYSTEMD, EXTRAUSERS, BTRFS];

/// Packages for `cargo xtask test`.
pub const TESTS: &[Need] = &[
    SSHD,
    SSH,
    IPROUTE,
    UTIL_LINUX,
    CURL,
    PROCPS,
    need("ca-certificates", &[], "certificate authorities for TLS"),
    MARIADB,
    need("mariadb-client", &["mariadb", "mariadb-dump"], "backups of MariaDB"),
    need("sqlite3", &["sqlite3"], "backups of SQLite"),
    BUSYBOX,
    need("sshpass", &["sshpass"], "logins with a password"),
    need("cron", &["cron", "crontab"], "tests that a lease's cron jobs go with it"),
    need("at", &["at", "atd"], "tests that a lease's at jobs go with it"),
    SYSTEMD,
    DBUS,
    PAM_SYSTEMD,
    EXTRAUSERS,
    BTRFS,
    need("sudo", &["sudo"], "workers whose sudoers name users"),
    need("faketime", &["faketime"], "machines whose clocks differ"),
    need("openrc", &["openrc-init", "openrc-run"], "tests of machines that boot with OpenRC"),
    IPTABLES,
    CADDY,
    DOCKER,
    need("docker-compose", &["docker-compose"], "the composed stack"),
    REGISTRY,
    need("mmdebstrap", &["mmdebstrap"], "the image that all others are built on"),
    need("binutils", &["strip"], "small images"),
];

/// Packages for `cargo xtask bench`.
pub const BENCH: &[Need] = &[
    SSHD,
    SSH,
    IPROUTE,
    UTIL_LINUX,
    MARIADB,
    need("ansible-core", &["ansible-playbook"], "what renting is compared with"),
];

/// Packages for `cargo xtask gen`.
pub const CLIENT: &[Need] = &[
    need("nodejs", &["node"], "to run the TypeScript client and its generator"),
    need("npm", &["npm"], "to install them"),
];

/// Packages for `cargo xtask ci`, beyond those for the tests.
pub const CHECKS: &[Need] = &[need("shellcheck", &["shellcheck"], "to check the shell scripts")];

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
        if self.programs.is_empty() {
            let query = ["--show", "--showformat=${db:Status-Status}", self.package];
            return capture(Command::new("dpkg-query").args(query)).is_ok_and(|status| status == "installed");
        }
        self.programs.iter().all(|program| find_program(program).is_some())
    }
}

/// Installs what is missing of `needs`; quick, and without a word, when nothing is.
///
/// # Errors
/// When something is missing and apt-get cannot install it.
pub fn install_missing(needs: &[Need]) -> Outcome {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.is_met()).collect();
    if !missing.is_empty() {
        terminal::heading(&format!("Install {} packages of Debian", missing.len()));
        for need in &missing {
            terminal::line(&format!("{:<16} {}", need.package, need.why));
        }
        install(&missing.iter().map(|need| need.package).collect::<Vec<_>>())?;
        let services =
            SERVICES.iter().filter(|(package, _)| missing.iter().any(|need| need.package == *package));
        let services: Vec<&str> = services.map(|(_, service)| *service).collect();
        if Path::new("/run/systemd/system").is_dir() && !services.is_empty() {
            terminal::note("systemd starts the packages' services at the next boot, unless you forbid it:");
            terminal::note(&format!("systemctl disable {}", services.join(" ")));
        }
        if let Some(need) = missing.iter().find(|need| !need.is_met()) {
            let absent = format!("{} was installed, but its programs are not there", need.package);
            let hint = format!("apt-get install --reinstall {}", need.package);
            return Err(Failure::new(absent).hint(hint));
        }
    }
    Ok(())
}

/// sshd refuses to start without its directory, which a machine's own sshd service would have made.
pub fn make_sshd_directory() -> Outcome {
    if Path::new("/run/sshd").is_dir() {
        return Ok(());
    }
    let prefix = root_prefix("making /run/sshd", &[])?;
    capture(&mut command_of(&prefix, &["mkdir", "-p", "-m", "755", "/run/sshd"])?).map(drop)
}

fn install(packages: &[&str]) -> Outcome {
    if find_program("apt-get").is_none() {
        return Err(Failure::new("this system has no apt-get").hint(format!(
            "install by your system's own means what these packages of Debian hold: {}",
            packages.join(" ")
        )));
    }
    let prefix = root_prefix("installing packages", &[])?;
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
        assert!(need("dash", &["sh"], "").is_met());
        assert!(!need("dash", &["sh", "no-such-program"], "").is_met());
        assert!(!need("no-such-package-at-all", &[], "").is_met());
    }

    #[test]
    fn nothing_is_installed_when_all_is_there() {
        install_missing(&[need("dash", &["sh"], "it is always there")]).unwrap();
    }
}
