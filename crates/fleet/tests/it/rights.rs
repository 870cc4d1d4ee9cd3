//! A name gives no rights: what a machine grants to a name is not for a tenant who happens to have it.

use orion_fleet::playbook::Reply;

use crate::node::{Account, BOTH, Node, Userland, playbooks};

fn is_refused(node: &Node, user: &str, words: &str) {
    let account = Account::new(user, 200_017);
    let reply = node.play(playbooks().create_user(), 1, &account.create());
    let Reply::NameUnusable { reason } = &reply else { panic!("{:?} {user}: {reply:?}", node.userland) };
    assert!(reason.contains(words), "{reason}");
    let left = format!("grep -q '^{user}:' /etc/passwd || [ -e /home/{user} ]");
    assert!(!node.test(&left), "{:?}: an account {user} is there", node.userland);
}

#[test]
fn a_name_that_sudo_gives_rights_to_is_root_on_no_node() {
    let node = Node::start(Userland::Debian);
    node.sh("command -v sudo; printf 'ansible ALL=(ALL) NOPASSWD: ALL\n%%admin ALL=(ALL) NOPASSWD: ALL\nUser_Alias OPS = carol, \\\\\n  dave\nOPS ALL=(ALL) NOPASSWD: ALL\n' \
             >/etc/sudoers.d/site; chmod 440 /etc/sudoers.d/site; visudo -c");
    for user in ["ansible", "admin", "carol", "dave"] {
        is_refused(&node, user, "/etc/sudoers.d/site");
    }
    // What only stands in a comment or is part of another word gives none.
    node.sh("echo '# for erin, erin-x and /srv/erin' >>/etc/sudoers.d/site; echo 'erin-x ALL=(ALL) ALL' >>/etc/sudoers.d/site");
    let erin = Account::new("erin", 200_018);
    node.done(playbooks().create_user(), &erin.create());
    assert_ne!(node.as_user(&erin, "sudo -n id").status, Some(0));
    node.done(playbooks().delete_user(), &erin.name_and_uid());
}

#[test]
fn a_sudo_rule_for_everybody_makes_no_account() {
    let node = Node::start(Userland::Debian);
    node.sh("echo 'ALL ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/site; chmod 440 /etc/sudoers.d/site");
    is_refused(&node, "alice", "sudo on this node lets alice run commands");
    assert!(!node.test("ls /var/lib/orion/leases/200017"));
    node.sh("rm /etc/sudoers.d/site");
    node.done(playbooks().create_user(), &Account::new("alice", 200_017).create());
}

#[test]
fn a_name_whose_login_has_rules_of_its_own_becomes_no_account() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /etc/ssh/sshd_config.d /etc/security
            printf 'Match Group orion-lease,uma-group\\n  X11Forwarding no\\n# DenyUsers frank\\nMatch User *,!root\\n  Banner none\\n' \
              >/etc/ssh/sshd_config
            printf 'DenyUsers alice bo?@10.0.0.*\\nMatch Address 10.0.0.1 User \"carol,d*\"\\n  PasswordAuthentication no\\n' \
              >/etc/ssh/sshd_config.d/site.conf
            printf '# -:frank:ALL\\n-:erin root:ALL EXCEPT LOCAL\\n+:ALL:ALL\\n' >/etc/security/access.conf");
        for user in ["alice", "bob", "carol", "dave"] {
            is_refused(&node, user, "sshd has rules for it (/etc/ssh/sshd_config.d/site.conf)");
        }
        is_refused(&node, "erin", "/etc/security/access.conf");
        for (user, uid) in [("frank", 200_018), ("bobby", 200_019), ("uma", 200_020)] {
            node.done(playbooks().create_user(), &Account::new(user, uid).create());
        }
    }
}

#[test]
fn left_overs_by_name_are_not_inherited() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /etc/polkit-1/rules.d; \
                 echo 'docker:x:998:root,alice' >>/etc/group; echo 'bob:100000:65536' >>/etc/subuid; echo carol >>/etc/cron.allow; \
                 echo 'polkit.addRule(function(a, s) { if (s.user == \"dave\") return polkit.Result.YES; });' >/etc/polkit-1/rules.d/50-site.rules; \
                 echo 'permit nopass erin as root' >>/etc/doas.conf");
        for (user, words) in [
            ("alice", "a member of docker"),
            ("bob", "subordinate ids"),
            ("carol", "/etc/cron.allow"),
            ("dave", "polkit"),
            ("erin", "/etc/doas.conf"),
        ] {
            is_refused(&node, user, words);
        }
        node.done(playbooks().create_user(), &Account::new("frank", 200_018).create());
    }
}

#[test]
fn the_list_tells_members_of_the_lease_group_and_calls_an_end_that_lies_ahead_no_lock() {
    let node = Node::start(Userland::Debian);
    node.done(playbooks().create_user(), &Account::new("alice", 200_017).create());
    node.sh("useradd -u 200500 -M stranger; usermod -e 2099-12-31 alice");
    let range = [("uid_min", "200000"), ("uid_max", "299999")];
    let list = || node.done(playbooks().list_users(), &range).node_inventory().expect("a good list");
    let found = list();
    assert_eq!(found.members, [200_017]);
    assert!(found.accounts.iter().any(|one| one.user == "stranger" && one.uid == 200_500));
    assert!(found.accounts.iter().all(|one| one.user != "alice" || !one.locked));
    node.sh("usermod -L -e 1 alice");
    assert!(list().accounts.iter().any(|one| one.user == "alice" && one.locked));
}
