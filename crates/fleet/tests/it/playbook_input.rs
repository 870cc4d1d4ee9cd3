//! What goes in: cut off, malformed, from an old epoch, or while another run holds the node.

use orion_fleet::playbook::Reply;

use orion_domain::credentials::SSH_PUBLIC_KEY_MAX;

use crate::node::{Account, BOTH, Node, parse, playbooks};

const TOUCH: &str = "name: touch\ndescription: For tests.\ntimeout_s: 20\nsteps:\n  - name: touch\n    run: echo x >>/root/touched\n";

#[test]
fn an_input_that_is_cut_off_anywhere_is_refused_and_nothing_is_done() {
    for userland in BOTH {
        let node = Node::start(userland);
        let before = node.sh("cat /etc/passwd /etc/shadow /etc/group");
        let create = playbooks();
        let create = create.create_user();
        let whole = create.stdin(5, &Account::new("alice", 200_017).create()).expect("good values");
        for length in 0..whole.len() {
            let ran = node.play_raw(create, &whole[..length]);
            assert_eq!(ran, Reply::InputIncomplete, "{userland:?} after {length} bytes");
        }
        assert_eq!(node.sh("cat /etc/passwd /etc/shadow /etc/group"), before);
        assert!(!node.test("ls /var/lib/orion") && !node.test("ls /home/alice"));
        assert!(matches!(node.play_raw(create, &whole), Reply::Done(_)));
    }
}

#[test]
fn a_wrong_header_or_a_missing_dot_is_refused() {
    for userland in BOTH {
        let node = Node::start(userland);
        let touch = parse(TOUCH);
        for input in [
            "orion-playbook 2 1\n1\n.\n",
            "orion-playbook 1 2\n1\n.\n",
            "orion-playbook 1 1\n1\n..\n",
            "orion-playbook 1 1\n1\n2\n.\n",
            "\n\n\n",
        ] {
            assert_eq!(
                node.play_raw(&touch, input.as_bytes()),
                Reply::InputIncomplete,
                "{userland:?} {input:?}"
            );
        }
        assert!(!node.test("ls /root/touched"));
    }
}

#[test]
fn a_bad_value_is_refused_by_the_node_too() {
    for userland in BOTH {
        let node = Node::start(userland);
        let create = playbooks();
        let create = create.create_user();
        let good = Account::new("alice", 200_017);
        let bad = [
            ("user", ""),
            ("user", "Alice"),
            ("user", "1alice"),
            ("user", "-rf"),
            ("user", "al ice"),
            ("user", "a;reboot"),
            ("user", "$(id)"),
            ("user", "al/ice"),
            ("user", "alice*"),
            ("user", "alic\u{e9}"),
            ("user", "an-account-name-of-32-characters"),
            ("uid", "0"),
            ("uid", "1000"),
            ("uid", "0200017"),
            ("uid", "-1"),
            ("uid", "20001x"),
            ("uid", "12345678901"),
            ("lease", ""),
            ("lease", "4 2"),
            ("lease_ulid", "01K000000000000000000002A"),
            ("lease_ulid", "01k0000000000000000000020a"),
            ("lease_ulid", "../../../../../etc/passwd0"),
            ("is_new", "perhaps"),
            ("is_new", "No"),
            ("password_hash", ""),
            ("password_hash", "$6$a:b"),
            ("password_hash", "`id`"),
            ("public_key", "ssh-ed25519 AAAA\tx"),
            ("public_key", "#comment"),
            ("public_key", "ssh-ed25519 'x'"),
            ("deadline_s", ""),
            ("deadline_s", "010"),
            ("deadline_s", "1h"),
            ("agent", "maybe"),
            ("agent", "YES"),
        ];
        for (name, value) in bad {
            let line = |key: &str| {
                let values = good.create();
                let given = values.iter().find(|(known, _)| *known == key).expect("declared").1;
                format!("{}\n", if key == name { value } else { given })
            };
            let keys = [
                "user",
                "uid",
                "lease",
                "lease_ulid",
                "is_new",
                "password_hash",
                "public_key",
                "deadline_s",
                "agent",
            ];
            let lines: String = keys.iter().map(|key| line(key)).collect();
            let reply = node.play_raw(create, format!("orion-playbook 1 10\n1\n{lines}.\n").as_bytes());
            assert_eq!(reply, Reply::BadValue(name.to_owned()), "{userland:?} {value:?}");
        }
        assert!(!node.test("ls /var/lib/orion/leases/*") && !node.test("grep -q alice /etc/passwd"));
        for epoch in ["", "x", "07", "-1", "9999999999999999999"] {
            let reply = node.play_raw(&parse(TOUCH), format!("orion-playbook 1 1\n{epoch}\n.\n").as_bytes());
            assert_eq!(reply, Reply::BadValue("epoch".to_owned()), "{userland:?} {epoch:?}");
        }
        assert!(!node.test("ls /root/touched"));
    }
}

#[test]
fn every_allowed_character_passes_on_both_sides() {
    let every = "name: every\ndescription: For tests.\ntimeout_s: 20\nvalues:\n  - {name: text, first: 'a-z', chars: 'a-zA-Z0-9 \"$`#&|;<>(){}*?~%@=+,./:_''-', min: 0, max: 200}\nsteps:\n  - name: say\n    run: |\n      printf '%s' \"$text\" >/root/said\n";
    let text = "z a-z\"$HOME`id`#&|;<>(){}*?~%@=+,./:_'AZ09-";
    for userland in BOTH {
        let node = Node::start(userland);
        node.done(&parse(every), &[("text", text)]);
        assert_eq!(node.sh("cat /root/said"), text, "{userland:?}");
        node.done(&parse(every), &[("text", "")]);
        assert_eq!(node.sh("cat /root/said"), "");
    }
}

#[test]
fn an_older_epoch_is_refused_and_a_newer_one_is_stored() {
    for userland in BOTH {
        let node = Node::start(userland);
        let touch = parse(TOUCH);
        let play = |epoch| node.play(&touch, epoch, &[]);
        let stored = || node.sh("cat /var/lib/orion/epoch");
        for epoch in [0, 7, 7, 9, 10, 12345] {
            assert!(matches!(play(epoch), Reply::Done(_)), "{userland:?} {epoch}");
            assert_eq!(stored(), epoch.to_string());
        }
        assert_eq!(play(12344), Reply::StaleEpoch { seen: 12345 });
        assert_eq!(stored(), "12345");
        assert_eq!(node.sh("wc -l </root/touched").trim(), "6");
        // Whatever a broken disk left in the file, the next order repairs it.
        for junk in ["", "junk", "00000000000000000000099", "999999999999999999999999999 x"] {
            node.sh(&format!("printf '%s' '{junk}' >/var/lib/orion/epoch"));
            assert!(matches!(play(20000), Reply::Done(_)), "{userland:?} {junk:?}");
            assert_eq!(stored(), "20000", "{junk:?}");
        }
        let list = playbooks();
        let range = [("uid_min", "200000"), ("uid_max", "299999")];
        assert_eq!(node.play(list.list_users(), 1, &range), Reply::StaleEpoch { seen: 20000 });
        assert!(matches!(node.play(list.list_users(), 30000, &range), Reply::Done(_)));
        assert_eq!(stored(), "20000", "a reader stores nothing");
    }
}

#[test]
fn a_node_that_is_locked_by_another_run_is_busy_and_a_free_one_is_not() {
    for userland in BOTH {
        let node = Node::start(userland);
        let touch = parse(TOUCH);
        assert!(matches!(node.play(&touch, 1, &[]), Reply::Done(_)));
        let mut holder = node.spawn("exec 9>>/run/orion/lock; flock 9; echo held >/run/held; read x");
        node.wait_until("the lock is held", "test -e /run/held");
        assert_eq!(node.play(&touch, 1, &[]), Reply::Busy, "{userland:?}");
        // A holder that ends soon is waited for.
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| node.play(&touch, 1, &[]));
            drop(holder.stdin.take());
            second.join().expect("it ends")
        });
        assert!(matches!(waiting, Reply::Done(_)), "{userland:?} {waiting:?}");
        holder.wait();
        assert_eq!(node.sh("stat -c %a /run/orion/lock"), "600", "a tenant who could open it could hold it");
    }
}

#[test]
fn a_run_that_takes_too_long_is_ended_with_all_it_started() {
    for userland in BOTH {
        let node = Node::start(userland);
        let slow = parse(
            "name: slow\ndescription: For tests.\ntimeout_s: 1\nsteps:\n  - name: first\n    run: ':'\n  - name: hang\n    run: |\n      sleep 1234 | cat\n",
        );
        let reply = node.play(&slow, 1, &[]);
        assert_eq!(reply, Reply::TimedOut { step: "hang".to_owned() }, "{userland:?}");
        let runs = "for f in /proc/[0-9]*/cmdline; do [ \"$(tr '\\0' ' ' 2>/dev/null <$f)\" != 'sleep 1234 ' ] || exit 1; done";
        node.wait_until("nothing of it runs", runs);
        assert!(matches!(node.play(&parse(TOUCH), 1, &[]), Reply::Done(_)), "and the lock is free again");
    }
}

#[test]
fn a_failing_step_is_named_with_its_own_words_and_its_status() {
    for userland in BOTH {
        let node = Node::start(userland);
        let fails = parse(
            "name: fails\ndescription: For tests.\ntimeout_s: 20\nsteps:\n  - name: first\n    run: echo noise\n  - name: second\n    run: |\n      echo out of paper >&2\n      (exit 7)\n      echo never >&2\n",
        );
        let expected =
            Reply::Refused { step: "second".to_owned(), status: 7, output: "noise\nout of paper".to_owned() };
        assert_eq!(node.play(&fails, 1, &[]), expected, "{userland:?}");
    }
}

/// One limit: a key that the API takes is taken by every playbook that gets one.
#[test]
fn a_playbook_takes_a_public_key_as_long_as_the_api_does_and_no_longer() {
    let create = playbooks();
    let create = create.create_user();
    let with_key = |length: usize| {
        let key = format!("ssh-rsa {}", "A".repeat(length - "ssh-rsa ".len()));
        let account = Account::new("alice", 200_017);
        let values: Vec<(&str, &str)> = account
            .create()
            .into_iter()
            .map(|(name, value)| (name, if name == "public_key" { key.as_str() } else { value }))
            .collect();
        create.stdin(5, &values)
    };
    assert!(with_key(SSH_PUBLIC_KEY_MAX).is_ok());
    assert!(with_key(SSH_PUBLIC_KEY_MAX + 1).is_err());
}
