//! Locks a lease account and opens it again, with Debian's tools or with BusyBox's. Locks only: accounts
//! are made and removed by the control plane.

use crate::{lease_file::UID_MIN, process, state::write_whole};
use std::{fs, io, path::Path, time::Duration};

/// Longest that a tool may take; shadow's tools wait up to 15 s for the lock of /etc/passwd.
const TOOL_MAX: Duration = Duration::from_secs(20);
/// Lowest uid of accounts that are known by their group alone.
const LEASE_UID_MIN: u32 = 200_000;
const LEASE_GROUP: &str = "orion-lease";
const CLOSED_SHELL: &str = "/bin/false";

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: u32,
    gid: u32,
    shell: String,
}

/// The accounts that have `uid`.
///
/// # Errors
/// /etc/passwd cannot be read.
pub fn with_uid(uid: u32) -> io::Result<Vec<Account>> {
    Ok(parse_passwd(&fs::read_to_string("/etc/passwd")?).into_iter().filter(|a| a.uid == uid).collect())
}

/// The accounts of the group `orion-lease` with a uid of its range.
///
/// # Errors
/// /etc/passwd or /etc/group cannot be read.
pub fn of_leases() -> io::Result<Vec<Account>> {
    of_leases_in(Path::new("/"))
}

/// The same of the system that lies in the directory `root`.
///
/// # Errors
/// Its /etc/passwd or /etc/group cannot be read.
pub fn of_leases_in(root: &Path) -> io::Result<Vec<Account>> {
    let accounts = parse_passwd(&fs::read_to_string(root.join("etc/passwd"))?);
    Ok(members(accounts, &fs::read_to_string(root.join("etc/group"))?))
}

fn parse_passwd(text: &str) -> Vec<Account> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<_> = line.split(':').collect();
            let [name, _, uid, gid, _, _, shell] = fields[..] else { return None };
            Some(Account {
                name: name.into(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                shell: shell.into(),
            })
        })
        .collect()
}

fn members(accounts: Vec<Account>, group: &str) -> Vec<Account> {
    let Some(line) = group.lines().find(|line| line.split(':').next() == Some(LEASE_GROUP)) else {
        return Vec::new();
    };
    let fields: Vec<_> = line.split(':').collect();
    let gid: Option<u32> = fields.get(2).and_then(|gid| gid.parse().ok());
    let named: Vec<_> = fields.get(3).map(|names| names.split(',').collect()).unwrap_or_default();
    accounts
        .into_iter()
        .filter(|a| a.uid >= LEASE_UID_MIN && (Some(a.gid) == gid || named.contains(&a.name.as_str())))
        .collect()
}

/// Whether nobody can log in to `account`: its password is locked, and either it has expired or its shell is
/// closed.
pub fn is_locked(account: &Account) -> bool {
    let shadow = fs::read_to_string("/etc/shadow").unwrap_or_default();
    let Some((password_locked, expired)) = shadow_state(&shadow, &account.name) else { return false };
    let shell_closed = || {
        with_uid(account.uid)
            .is_ok_and(|found| found.iter().any(|a| a.name == account.name && a.shell == CLOSED_SHELL))
    };
    password_locked && (expired || shell_closed())
}

/// Whether the password is locked, and whether the account's end lies at the beginning of time.
fn shadow_state(shadow: &str, name: &str) -> Option<(bool, bool)> {
    let line = shadow.lines().find(|line| line.split(':').next() == Some(name))?;
    let fields: Vec<_> = line.split(':').collect();
    let password_locked = fields.get(1).is_some_and(|hash| hash.starts_with('!'));
    let expired = fields.get(7).is_some_and(|day| *day == "1");
    Some((password_locked, expired))
}

/// Closes `account` to every kind of login; does nothing if it is closed.
///
/// # Errors
/// What the tool said; the account may still be open.
pub fn lock(account: &Account) -> Result<(), String> {
    if account.uid < UID_MIN {
        return Err(format!("{} is no tenant's account", account.name));
    }
    if is_locked(account) {
        return Ok(());
    }
    let usermod = run("usermod", &["-L", "-e", "1", "--", &account.name]);
    if is_not_there(&usermod) {
        succeed("passwd -l", run("passwd", &["-l", &account.name]))?;
        set_shell(account, CLOSED_SHELL)?;
    } else {
        succeed("usermod -L", usermod)?;
    }
    if is_locked(account) {
        Ok(())
    } else {
        Err(format!("{} is still open after it was locked", account.name))
    }
}

/// Opens `account` again with the password and the shell that it had when it was looked up.
///
/// # Errors
/// What the tool said; the account may still be locked.
pub fn reopen(account: &Account) -> Result<(), String> {
    let usermod = run("usermod", &["-U", "-e", "", "--", &account.name]);
    if is_not_there(&usermod) {
        succeed("passwd -u", run("passwd", &["-u", &account.name]))?;
        return set_shell(account, &account.shell);
    }
    succeed("usermod -U", usermod)
}

fn run(program: &str, args: &[&str]) -> io::Result<process::Finished> {
    process::run(program, args, TOOL_MAX)
}

fn is_not_there(result: &io::Result<process::Finished>) -> bool {
    matches!(result, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

fn succeed(tool: &str, result: io::Result<process::Finished>) -> Result<(), String> {
    match result {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!("{tool}: {}", done.complaint())),
        Err(error) => Err(format!("{tool}: {error}")),
    }
}

/// BusyBox has no tool that changes a shell. `/etc/passwd+` is what BusyBox itself writes to.
fn set_shell(account: &Account, shell: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("the shell of {} cannot be set: {error}", account.name);
    let text = fs::read_to_string("/etc/passwd").map_err(failed)?;
    let changed = with_shell(&text, account, shell);
    if changed == text {
        return Ok(());
    }
    write_whole(Path::new("/etc/passwd"), Path::new("/etc/passwd+"), &changed, 0o644).map_err(failed)
}

fn with_shell(passwd: &str, account: &Account, shell: &str) -> String {
    let mut changed = String::with_capacity(passwd.len() + shell.len());
    for line in passwd.lines() {
        let mut fields: Vec<_> = line.split(':').collect();
        let is_it = fields.len() == 7
            && fields.first() == Some(&account.name.as_str())
            && fields.get(2).is_some_and(|uid| uid.parse() == Ok(account.uid));
        if let (true, Some(last)) = (is_it, fields.last_mut()) {
            *last = shell;
        }
        changed += &fields.join(":");
        changed.push('\n');
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nalice:x:200001:200001::/home/alice:/bin/bash\n\
                          bob:x:200002:990::/home/bob:/bin/sh\ncarl:x:1001:990::/home/carl:/bin/sh\n";

    #[test]
    fn lease_accounts_are_known_by_group_and_uid() {
        let names = |group: &str| -> Vec<String> {
            members(parse_passwd(PASSWD), group).into_iter().map(|account| account.name).collect()
        };
        assert_eq!(names("orion-lease:x:990:alice,root,carl\n"), ["alice", "bob"]);
        assert_eq!(names("orion-lease:x:991:\n"), [] as [String; 0]);
        assert_eq!(names("other:x:990:alice\n"), [] as [String; 0]);
    }

    #[test]
    fn only_the_shell_of_that_account_changes() {
        let alice = parse_passwd(PASSWD).remove(1);
        let changed = with_shell(PASSWD, &alice, CLOSED_SHELL);
        assert_eq!(changed, PASSWD.replace("/home/alice:/bin/bash", "/home/alice:/bin/false"));
        assert_eq!(with_shell(&changed, &alice, &alice.shell), PASSWD);
    }

    #[test]
    fn an_account_is_locked_when_its_password_is_and_it_has_expired() {
        let shadow = "alice:!$6$x:20000:0:99999:7::1:\nbob:$6$x:20000:0:99999:7:::\ncarl:!:20000::::::\n";
        assert_eq!(shadow_state(shadow, "alice"), Some((true, true)));
        assert_eq!(shadow_state(shadow, "bob"), Some((false, false)));
        assert_eq!(shadow_state(shadow, "carl"), Some((true, false)));
        assert_eq!(shadow_state(shadow, "ali"), None);
    }

    #[test]
    fn a_system_account_is_never_locked() {
        let root = parse_passwd(PASSWD).remove(0);
        assert!(lock(&root).unwrap_err().contains("no tenant"));
    }
}
