//! What the tests and the demo need from Debian: says what is missing and why, and installs it.
//!
//! No system service is started: the tests and the demo run their own sshd and MariaDB, on their own addresses.

use crate::{
    failure::{Failure, Outcome, failed_to},
    process::{capture, command_of, find_program, root_prefix, shown},
    terminal,
};
use std::{fs, path::Path, process::Command};

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

const MARIADB: Need = need(
    "mariadb-server",
    &["mariadbd", "mariadb-install-db", "mariadb"],
    "what runs on MariaDB: the store's tests, the services",
);

/// For `cargo xtask demo`.
pub const DEMO: &[Need] = &[SSHD, SSH, IPROUTE, UTIL_LINUX, CURL, PROCPS];

/// For `cargo xtask test`.
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
    need("busybox-static", &[], "the playbooks' tests with BusyBox's tools"),
    need("sshpass", &["sshpass"], "logins with a password"),
    need("cron", &["cron", "crontab"], "tests that a lease's cron jobs go with it"),
    need("at", &["at", "atd"], "tests that a lease's at jobs go with it"),
    need("systemd", &["systemctl", "systemd-analyze"], "tests of machines that boot with systemd"),
    need("openrc", &["openrc-init", "openrc-run"], "tests of machines that boot with OpenRC"),
    need("iptables", &["iptables"], "tests of networks that drop packets"),
    need("caddy", &["caddy"], "TLS in front of the API"),
    need("docker.io", &["dockerd", "docker"], "workers and services as containers"),
    need("docker-compose", &["docker-compose"], "the composed stack"),
    need("mmdebstrap", &["mmdebstrap"], "the image that all others are built on"),
    need("binutils", &["strip"], "small images"),
];

/// For `cargo xtask bench`.
pub const BENCH: &[Need] = &[
    SSHD,
    SSH,
    IPROUTE,
    UTIL_LINUX,
    MARIADB,
    need("ansible-core", &["ansible-playbook"], "what renting is compared with"),
];

/// For `cargo xtask gen`.
pub const CLIENT: &[Need] = &[
    need("nodejs", &["node"], "to run the TypeScript client and its generator"),
    need("npm", &["npm"], "to install them"),
];

/// For `cargo xtask ci`, beyond the tests.
pub const CHECKS: &[Need] = &[need("shellcheck", &["shellcheck"], "to check the shell scripts")];

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
        if let Some(need) = missing.iter().find(|need| !need.is_met()) {
            return Err(Failure::new(format!(
                "{} was installed, but what it should bring is not there",
                need.package
            ))
            .hint(format!("apt-get install --reinstall {}", need.package)));
        }
    }
    Ok(())
}

/// sshd refuses to start without its directory, which a machine's own sshd service would have made.
///
/// # Errors
/// When it cannot be made.
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
    let apt = |words: &[&str]| {
        let fixed =
            ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"];
        command_of(&prefix, &[&fixed, words].concat()).and_then(|mut command| {
            terminal::command(&shown(&command));
            capture(&mut command).map(drop)
        })
    };
    let _quiet = NoServices::begin(&prefix)?;
    // Lists that are absent or old name files that the mirror no longer has. Where there is no network, but a
    // full cache, installing works all the same.
    if let Err(failure) = apt(&["update"]) {
        terminal::note(&format!("the package lists stay as they are: {failure}"));
    }
    apt(&[&["install", "--no-install-recommends"], packages].concat())
        .map_err(|failure| failure.hint("is there a way to a Debian mirror? see /etc/apt/sources.list.d"))
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

/// As long as it lives, packages do not start their services (invoke-rc.d(8): status 101 forbids it).
struct NoServices<'prefix> {
    prefix: &'prefix [String],
    is_ours: bool,
}

impl<'prefix> NoServices<'prefix> {
    fn begin(prefix: &'prefix [String]) -> Outcome<Self> {
        if fs::symlink_metadata(POLICY).is_ok() {
            return Ok(Self { prefix, is_ours: false });
        }
        let write = format!("printf '#!/bin/sh\\nexit 101\\n' >{POLICY} && chmod 755 {POLICY}");
        capture(&mut command_of(prefix, &["sh", "-c", &write])?)
            .map_err(failed_to("keep Debian from starting services"))?;
        if Path::new("/run/systemd/system").is_dir() {
            terminal::note(
                "the packages' own services are not started now; systemd starts them at the next boot",
            );
            terminal::note("unless you forbid it: systemctl disable ssh mariadb cron atd");
        }
        Ok(Self { prefix, is_ours: true })
    }
}

impl Drop for NoServices<'_> {
    fn drop(&mut self) {
        if self.is_ours
            && let Ok(mut command) = command_of(self.prefix, &["rm", "-f", POLICY])
            && let Err(failure) = capture(&mut command)
        {
            terminal::bad(&format!("{POLICY} is left behind: {failure}"));
        }
    }
}

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
