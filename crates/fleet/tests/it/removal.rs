//! What a removal leaves alone, and what it never calls clean.

use orion_fleet::playbook::Reply;

use crate::node::{Account, BOTH, Node, playbooks};

#[test]
fn a_home_of_somebody_else_survives_the_removal_of_a_lease_that_was_refused() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh(
            "mkdir -p /home/bob /var/spool/cron/crontabs /var/mail; echo x >/home/bob/thesis; chown -R 1234 /home/bob; \
             for file in /var/spool/cron/crontabs/bob /var/mail/bob; do echo x >$file; chown 1234 $file; done",
        );
        let bob = Account::new("bob", 200_123);
        let reply = node.play(playbooks().create_user(), 1, &bob.create());
        let Reply::NameUnusable { reason } = &reply else { panic!("{userland:?}: {reply:?}") };
        assert!(reason.contains("belongs to somebody else"), "{reason}");
        assert!(
            !node.test("test -e /var/lib/orion/leases/200123"),
            "{userland:?}: a refused lease left its file"
        );
        // Such a file of an earlier version, or of a creation that was refused later on.
        let carol = Account::new("carol", 200_123);
        node.done(playbooks().create_user(), &carol.create());
        node.sh("sed -i '/^carol:/d' /etc/passwd /etc/shadow /etc/group; rm -rf /home/carol; \
                 sed -i 's/carol/bob/' /var/lib/orion/leases/200123; grep bob /var/lib/orion/leases/200123");
        for name in ["orion-uid-200123", "bob"] {
            node.done(playbooks().delete_user(), &[("user", name), ("uid", "200123")]);
            let kept = "cat /home/bob/thesis /var/spool/cron/crontabs/bob /var/mail/bob";
            assert_eq!(node.sh(kept), "x\nx\nx", "{userland:?} {name}");
        }
    }
}

#[test]
fn file_systems_of_the_machine_below_links_are_not_emptied() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /srv/keep; mount -t tmpfs keep /srv/keep; echo x >/srv/keep/file; \
                 mkdir -p /srv/real; mv /home /srv/real/home; ln -s /srv/real/home /home; \
                 rm -rf /var/tmp; mkdir -m 1777 /srv/real/tmp; ln -s /srv/real/tmp /var/tmp");
        let alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(&alice, "mkdir -p /home/alice/data /var/tmp/a/data");
        node.sh("mount -o bind /srv/keep /home/alice/data; mount -o bind /srv/keep /var/tmp/a/data");
        let reply = node.play(playbooks().delete_user(), 1, &alice.name_and_uid());
        assert_eq!(node.sh("cat /srv/keep/file"), "x", "{userland:?}");
        let said = format!("{reply:?}");
        assert!(said.contains("/home/alice/data") && said.contains("/var/tmp/a"), "{userland:?}: {said}");
        assert!(!node.test("test -e /home/alice"), "{userland:?}: {said}");
    }
}

#[test]
fn a_tenant_with_thousands_of_open_directories_hides_nothing() {
    for userland in BOTH {
        let node = Node::start(userland);
        node.sh("mkdir -p /home/alice; mount -t tmpfs -o mode=711 home /home/alice; chown 200017:200017 /home/alice");
        let alice = Account::new("alice", 200_017);
        node.done(playbooks().create_user(), &alice.create());
        node.as_user(
            &alice,
            "chmod 711 /home/alice; cd /home/alice; name=$(printf '%0230d' 0); umask 0; i=0; \
             while [ $i -lt 9000 ]; do echo $name$i; i=$((i + 1)); done | xargs mkdir; echo x >/tmp/hidden; chmod 711 .",
        );
        assert_eq!(node.sh("find /home/alice -type d -perm -0002 | wc -l"), "9000");
        // What the deadline process found earlier may name as many.
        node.sh("mkdir -p /run/orion; find /home/alice -type d >/run/orion/places");
        let reply = node.play(playbooks().delete_user(), 1, &alice.name_and_uid());
        assert_eq!(
            node.sh("find / /tmp /home -xdev -user 200017 2>/dev/null | wc -l"),
            "0",
            "{userland:?}: {reply:?}"
        );
        let Reply::Done(report) = &reply else { panic!("{userland:?}: {reply:?}") };
        assert!(report.count("files") > 1, "{report:?}");
    }
}
