//! `orion-agent uninstall`: stops the agent and removes all that an installation and the agent put here.

use super::{
    UninstallArgs,
    boot::Init,
    is_there, must_be_root,
    places::{Places, say},
    settings::Settings,
};
use crate::{accounts, sshd::Sshd};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

/// `orion-agent uninstall`. Says each step on standard output; does what it can of half an installation.
/// Blocks.
///
/// # Errors
/// What is in the way, with a hint; calling it again goes on.
pub fn uninstall(args: &UninstallArgs) -> Result<(), String> {
    must_be_root("uninstall")?;
    let places = Places::in_system(&args.root)?;
    let left = leases(&places)?;
    if !left.is_empty() && !args.force {
        return Err(format!(
            "leases are on this machine: {}\n\
             hint: `orion nodes drain NODE` moves them elsewhere; --force leaves them here, and then nobody locks \
             them at their end",
            left.join(", ")
        ));
    }

    Init::remove_services(&places)?;
    let sshd = Sshd::of_system(places.root(), places.state("sshd-told"));
    let (ca_file, snippet, lease_rule) = (sshd.ca_file(), sshd.snippet_file(), sshd.lease_rule_file());
    let had_lease_rule = is_there(&lease_rule);
    if sshd.distrust()? {
        say("removed", &ca_file);
        say("removed", &snippet);
        if had_lease_rule {
            say("removed", &lease_rule);
        }
    }
    for unfinished in [&ca_file, &snippet, &lease_rule].map(|file| file.with_extension("new")) {
        places.remove(&unfinished)?;
    }
    places.remove_if_empty(&places.at("etc/ssh/orion"));
    for file in Settings::files(&places) {
        places.remove(&file)?;
    }
    places.remove_tree(&places.state_dir())?;
    places.remove(&places.program())?;
    places.remove_made_dirs()?;
    places.remove_if_empty(&places.at("etc/orion"));
    remove_records(&places, args.purge, !left.is_empty())?;
    say_what_is_left(&places, &left);
    Ok(())
}

/// The accounts of leases, and the lease files of others.
fn leases(places: &Places) -> Result<Vec<String>, String> {
    let accounts = accounts::of_leases_in(places.root()).map_err(|error| {
        format!("it cannot be seen whether leases are here: {error}\nhint: mend /etc/passwd and /etc/group")
    })?;
    let mut left: Vec<String> =
        accounts.iter().map(|account| format!("{} (uid {})", account.name, account.uid)).collect();
    for file in lease_files(places) {
        let uid = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !accounts.iter().any(|account| account.uid.to_string() == uid) {
            left.push(format!("{} (a lease file without an account)", file.display()));
        }
    }
    Ok(left)
}

fn lease_files(places: &Places) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(places.at("var/lib/orion/leases")) else { return Vec::new() };
    let is_uid = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
    };
    entries.flatten().map(|entry| entry.path()).filter(is_uid).collect()
}

/// Removes what the control plane's playbooks keep on a node. An epoch and a highest uid are kept for the
/// case that this machine becomes a node again; an agent installed later keeps the deadlines of leases
/// that stay.
fn remove_records(places: &Places, purge: bool, leases_stay: bool) -> Result<(), String> {
    let records = places.at("var/lib/orion");
    if leases_stay {
        return Ok(());
    }
    if purge {
        places.remove_tree(&records)?;
        remove_group(places)?;
    } else {
        for dir in ["leases", "keys", "passwords"] {
            places.remove_if_empty(&records.join(dir));
        }
        places.remove_tree(&records.join("reserve"))?;
        places.remove_if_empty(&records);
    }
    // A playbook that is at work holds its lock; then it stays, and goes with the next boot.
    let lock = places.at("run/orion/lock");
    let is_free = match File::open(&lock) {
        Ok(file) => file.try_lock().is_ok(),
        Err(_) => true,
    };
    if is_free {
        // The deadline process has ended with the last lease file.
        places.remove_tree(&places.at("run/orion"))?;
    }
    Ok(())
}

/// The group of lease accounts, which has no members any more.
fn remove_group(places: &Places) -> Result<(), String> {
    let is_ours = |line: &str| line.split(':').next() == Some("orion-lease");
    let there = fs::read_to_string(places.at("etc/group")).is_ok_and(|text| text.lines().any(is_ours));
    if !there {
        return Ok(());
    }
    let root = places.root().to_string_lossy();
    let tool = if is_there(&places.at("usr/sbin/groupdel")) { "groupdel" } else { "delgroup" };
    let args: &[&str] = if places.is_this_machine() {
        &[tool, "orion-lease"]
    } else {
        &["chroot", &root, tool, "orion-lease"]
    };
    let said = |problem: String| {
        format!("the group orion-lease cannot be removed: {problem}\nhint: {tool} orion-lease")
    };
    let done = crate::process::run(args[0], &args[1..], std::time::Duration::from_secs(20))
        .map_err(|error| said(error.to_string()))?;
    if !done.status.success() {
        return Err(said(done.complaint()));
    }
    println!("removed  the group orion-lease");
    Ok(())
}

fn say_what_is_left(places: &Places, leases: &[String]) {
    if !leases.is_empty() {
        println!("left     leases, which nobody locks at their end now: {}", leases.join(", "));
    }
    let records = places.at("var/lib/orion");
    if is_there(&records) {
        println!(
            "left     {} (what protects a node from an outdated control plane; --purge removes it)",
            records.display()
        );
    }
    if places.is_this_machine()
        && let Some(pid) = another_agent()
    {
        println!("left     a running agent that no service started (process {pid}): end it");
    }
    if places.is_this_machine() {
        println!("the control plane sees this node as dead from now on");
    }
}

/// An agent that runs on although it was removed.
fn another_agent() -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let own_namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    pids.filter(|pid| *pid != std::process::id()).find(|pid| {
        let link = |name: &str| fs::read_link(Path::new("/proc").join(pid.to_string()).join(name));
        link("exe").is_ok_and(|exe| exe.to_string_lossy().starts_with("/usr/local/sbin/orion-agent"))
            && link("ns/pid").is_ok_and(|namespace| namespace == own_namespace)
    })
}
