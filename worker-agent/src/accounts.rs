//! The accounts of leases on this machine, for those who install and remove an agent.

use orion_domain::reconcile::FIRST_UID;
use std::{fs, io, path::Path};

const LEASE_GROUP: &str = "orion-lease";

/// A line of /etc/passwd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Name of the account.
    pub name: String,
    /// Uid of the account.
    pub uid: u32,
    gid: u32,
}

/// The accounts of the group `orion-lease` with a uid of its range, of the system that lies in the directory `root`.
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
            let [name, _, uid, gid, _, _, _] = fields[..] else { return None };
            Some(Account { name: name.into(), uid: uid.parse().ok()?, gid: gid.parse().ok()? })
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
        .filter(|a| a.uid >= FIRST_UID && (Some(a.gid) == gid || named.contains(&a.name.as_str())))
        .collect()
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
}
