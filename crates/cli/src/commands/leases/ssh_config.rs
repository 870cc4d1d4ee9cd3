//! `ssh-config`: plain `ssh train`, `scp`, `rsync`, editors, for every lease by its name.
//!
//! A `Host` block a lease says what never changes while it lives: account, key, alias and file of its host keys.
//! What changes when it moves (address and host keys) is asked when a connection is made: ssh runs
//! `orion ssh-proxy ID`, which waits for a lease that is just moving, writes the pinned keys of the node where it is
//! now, and then carries bytes. ssh reads that file only after the server has spoken through the proxy, so it always
//! sees the keys of the very node it talks to. (A `Match exec` would ask the API at every ssh to anywhere.) The blocks
//! are renewed by `rent`, `ls` and `release`.

use super::ssh;
use crate::{
    client::Client,
    context::Context,
    error::{CliError, Kind},
    model::{Rental, shape},
    output::{self, Format, note},
    ssh_command::{alias, checked_user, known_hosts, quoted},
};
use orion_domain::names::LeaseName;
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    os::{
        fd::AsFd,
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

/// The line above the `Include`.
const MARK: &str = "# Orion's leases by name; `orion ssh-config --remove` takes these two lines out.";

/// The arguments of `orion ssh-config`.
#[derive(Debug, clap::Args)]
pub struct SshConfigArgs {
    /// Have ~/.ssh/config include it, and keep it up to date
    #[arg(long)]
    install: bool,
    /// Take it out of ~/.ssh/config again
    #[arg(long, conflicts_with = "install")]
    remove: bool,
}

/// The arguments of `orion ssh-proxy`.
#[derive(Debug, clap::Args)]
pub struct ProxyArgs {
    /// Seconds to wait while the lease is on its way to another node
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,
    /// The lease's number
    #[arg(value_parser = super::lease_argument)]
    lease: String,
}

/// Prints the configuration, or installs or removes it.
pub async fn run(context: &Context, args: SshConfigArgs) -> Result<(), CliError> {
    if args.remove {
        let removed = edit(&user_config()?, |text| without(text, &context.paths.ssh_config()))?;
        let _ = fs::remove_file(context.paths.ssh_config());
        note(if removed { "✔ ~/.ssh/config is as it was before" } else { "it was not installed" });
        return Ok(());
    }
    let list = context.client()?.list("/api/rentals").await?;
    let text = text(context, &list)?;
    if !args.install {
        return match context.format {
            Format::Json => output::json(&json!({ "ssh_config": text })),
            Format::Table => output::data(text.trim_end()),
        };
    }
    context.paths.keep_ssh_config(&text)?;
    let own = context.paths.ssh_config();
    let file = user_config()?;
    let changed = edit(&file, |text| with(text, &own))?;
    let names = names(context, &list).join(", ");
    let first = if changed { "includes it now" } else { "includes it already" };
    note(&format!("✔ {} {first} · ssh, scp and rsync know: {}", file.display(), or_none(&names)));
    Ok(())
}

fn or_none(names: &str) -> &str {
    if names.is_empty() { "no lease yet (rent one)" } else { names }
}

/// Renews the blocks after a change of leases, if they are installed. It is not worth failing for.
pub fn renew(context: &Context, list: &[Value]) {
    if !context.paths.ssh_config().is_file() {
        return;
    }
    let renewed = text(context, list).and_then(|text| context.paths.keep_ssh_config(&text));
    if let Err(error) = renewed {
        note(&format!("{error}").replace("error: ", "warning: ssh's list of leases is not renewed: "));
    }
}

/// The same, with the leases asked for.
pub async fn renew_now(context: &Context, client: &Client) {
    if context.paths.ssh_config().is_file()
        && let Ok(list) = client.list("/api/rentals").await
    {
        renew(context, &list);
    }
}

/// The user's own leases: an admin's list holds everybody's.
fn own(context: &Context, list: &[Value]) -> Result<Vec<Rental>, CliError> {
    let user = context.session.as_ref().map(|session| session.user.clone()).unwrap_or_default();
    let rentals = list.iter().map(|value| shape::<Rental>(value, "lease")).collect::<Result<Vec<_>, _>>()?;
    let is_own =
        |rental: &Rental| user.starts_with('(') || rental.client_user.as_deref() == Some(user.as_str());
    Ok(rentals.into_iter().filter(is_own).collect())
}

/// The names by which ssh knows a lease.
fn patterns(rental: &Rental) -> Vec<String> {
    let name = rental.name.as_ref().filter(|name| name.parse::<LeaseName>().is_ok());
    let mut patterns: Vec<String> =
        name.into_iter().flat_map(|name| [name.clone(), format!("{name}.orion")]).collect();
    patterns.push(format!("{}.orion", rental.rental_id));
    patterns
}

fn names(context: &Context, list: &[Value]) -> Vec<String> {
    let own = own(context, list).unwrap_or_default();
    own.iter().filter_map(|rental| patterns(rental).into_iter().next()).collect()
}

fn text(context: &Context, list: &[Value]) -> Result<String, CliError> {
    let program = std::env::current_exe()
        .map_err(|error| CliError::failed(format!("cannot tell where this program is: {error}")))?;
    let command = format!("{} --api {}", shell_word(&program.to_string_lossy()), shell_word(&context.api));
    let mut text = format!(
        "# Written by orion for {}. Changes are lost: rent, ls and release write it anew.\n",
        context.api
    );
    for rental in own(context, list)? {
        let (id, Some(user)) = (rental.rental_id, rental.client_user.as_deref()) else { continue };
        let key = context.paths.identity(&context.api, id);
        let hosts = context.paths.known_hosts(&context.api, id);
        text.push_str(&format!("\nHost {}\n", patterns(&rental).join(" ")));
        for (option, value) in [
            ("User", checked_user(user)?.to_owned()),
            ("ProxyCommand", format!("{} ssh-proxy {id}", command.replace('%', "%%"))),
            ("HostKeyAlias", alias(id)),
            ("UserKnownHostsFile", quoted(&hosts)),
            ("GlobalKnownHostsFile", "/dev/null".to_owned()),
            ("StrictHostKeyChecking", "yes".to_owned()),
            ("KnownHostsCommand", "none".to_owned()),
            ("VerifyHostKeyDNS", "no".to_owned()),
            ("UpdateHostKeys", "no".to_owned()),
            ("IdentityFile", quoted(&key)),
            ("IdentitiesOnly", "yes".to_owned()),
            // No connection that was made before a move may be taken for one after it.
            ("ControlPath", "none".to_owned()),
            ("ServerAliveInterval", "10".to_owned()),
            ("ServerAliveCountMax", "3".to_owned()),
        ] {
            text.push_str(&format!("    {option} {value}\n"));
        }
    }
    Ok(text)
}

/// `text` as one word for a shell.
fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@+,".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn user_config() -> Result<PathBuf, CliError> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    match home {
        Some(home) => Ok(home.join(".ssh/config")),
        None => {
            Err(CliError::failed("no home directory: HOME is not set").hint("set HOME to an absolute path"))
        }
    }
}

fn include(own: &Path) -> String {
    format!("Include \"{}\"", own.display())
}

/// `text` with the two lines first, outside of every `Host` block; none if they are there.
fn with(text: &str, own: &Path) -> Option<String> {
    let include = include(own);
    if text.lines().any(|line| line.trim() == include) {
        return None;
    }
    Some(format!("{MARK}\n{include}\n{text}"))
}

/// `text` without the two lines; none if they are not there.
fn without(text: &str, own: &Path) -> Option<String> {
    let include = include(own);
    let is_ours = |line: &&str| matches!(line.trim(), line if line == include || line == MARK);
    if !text.lines().any(|line| is_ours(&line)) {
        return None;
    }
    Some(text.split_inclusive('\n').filter(|line| !is_ours(line)).collect())
}

/// Writes a file anew, whole, with the mode it has; says whether it changed. A link stays one.
fn edit(path: &Path, change: impl Fn(&str) -> Option<String>) -> Result<bool, CliError> {
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (text, mode) = match fs::read_to_string(&path) {
        Ok(text) => {
            let mode = fs::metadata(&path).map_or(0o600, |data| data.permissions().mode() & 0o7777);
            (text, mode)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (String::new(), 0o600),
        Err(error) => return Err(CliError::file("cannot read", &path, &error)),
    };
    let Some(changed) = change(&text) else { return Ok(false) };
    let write = || -> io::Result<()> {
        if let Some(directory) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let temporary = path.with_extension(format!("orion-{}", std::process::id()));
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(changed.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_data()?;
        fs::rename(&temporary, &path)
    };
    write().map_err(|error| CliError::file("cannot write", &path, &error))?;
    Ok(true)
}

/// Finds the lease, pins its node's keys, and carries bytes between ssh and the node.
pub async fn proxy(context: &Context, args: ProxyArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let rental = ssh::usable(context, &client, &args.lease, args.wait).await?;
    let (Some(host), Some(port)) = (&rental.host_ip, rental.ssh_port) else {
        return Err(CliError::new(
            Kind::Unavailable,
            format!("lease {} has no address now", rental.handle()),
        ));
    };
    let keys = known_hosts(rental.rental_id, &rental.known_hosts)?;
    context.paths.keep_known_hosts(&context.api, rental.rental_id, &keys)?;
    let lost = |error: io::Error| {
        CliError::new(Kind::Unavailable, format!("{}: {error}", rental.address()))
            .hint(format!("see what is known of it: orion show {}", rental.handle()))
    };
    let node = TcpStream::connect((host.as_str(), port)).map_err(lost)?;
    let _ = node.set_nodelay(true);
    let mut to_node = node.try_clone().map_err(lost)?;
    let mut from_ssh = File::from(io::stdin().as_fd().try_clone_to_owned().map_err(lost)?);
    let mut to_ssh = File::from(io::stdout().as_fd().try_clone_to_owned().map_err(lost)?);
    std::thread::spawn(move || {
        let _ = carry(&mut from_ssh, &mut to_node);
        let _ = to_node.shutdown(Shutdown::Write);
    });
    // Whether the node or ssh hung up: ssh knows what to say about it.
    let mut from_node = node;
    let _ = carry(&mut from_node, &mut to_ssh);
    Ok(())
}

/// Copies until the end of `from`. Not [`io::copy`]: that uses splice(2) here, which keeps ssh from reading its pipe
/// for
/// as long as it waits for the socket.
fn carry(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => to.write_all(&buffer[..length])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn installing_and_removing_gives_back_what_was_there() {
        let own = Path::new("/home/a b/.config/orion/ssh_config");
        for before in ["", "Host *\n  User x\n", "Host *\n  User x", "# mine\n\n\nHost a\n"] {
            let installed = with(before, own).expect("it is not there");
            assert!(installed.contains("Include \"/home/a b/.config/orion/ssh_config\"\n"), "{installed}");
            assert_eq!(with(&installed, own), None, "a second time changes nothing");
            assert_eq!(without(&installed, own).as_deref(), Some(before));
            assert_eq!(without(before, own), None);
        }
    }

    #[test]
    fn a_linked_configuration_stays_a_link_and_keeps_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("config"));
        fs::write(&real, "Host *\n").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(edit(&link, |text| with(text, Path::new("/o"))).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o644);
        assert!(edit(&link, |text| without(text, Path::new("/o"))).unwrap());
        assert_eq!(fs::read_to_string(&real).unwrap(), "Host *\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(shell_word("/usr/bin/orion"), "/usr/bin/orion");
        assert_eq!(shell_word("/a b/o'r"), "'/a b/o'\\''r'");
    }
}
