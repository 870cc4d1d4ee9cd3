//! A playbook that is run from a file which the node keeps.

use orion_fleet::playbook::{NOT_KEPT, Reply, read_reply};

use crate::node::{BOTH, Node, parse};

const GREET: &str = "name: greet\ndescription: For tests.\ntimeout_s: 20\nvalues:\n  - {name: who, chars: a-z, max: 8}\nsteps:\n  - name: greet\n    run: report greeted \"$who\"\n";

#[test]
fn a_script_that_a_node_keeps_is_run_with_the_same_input_and_reply() {
    for userland in BOTH {
        let node = Node::start(userland);
        let greet = parse(GREET);
        let kept = greet.kept();
        let stdin = greet.stdin(1, &[("who", "alice")]).expect("good values");
        let ran = node.run(&kept.command(), &stdin);
        assert_eq!((ran.status, ran.stdout), (Some(NOT_KEPT), Vec::new()), "{userland:?}");

        assert_eq!(node.run(&kept.keep_command(), kept.script().as_bytes()).status, Some(0), "{userland:?}");
        assert_eq!(node.sh("stat -c '%a %u' /run/orion /run/orion/greet-*"), "700 0\n600 0");
        let ran = node.run(&kept.command(), &stdin);
        let reply = read_reply(&greet, ran.status, &ran.stdout, &ran.stderr, &[]);
        assert!(
            matches!(&reply, Reply::Done(report) if report.get("greeted") == Some("alice")),
            "{userland:?}: {reply:?}"
        );
        let ran = node.run(&kept.command(), b"orion-playbook 1 2\n1\nali");
        let reply = read_reply(&greet, ran.status, &ran.stdout, &ran.stderr, &[]);
        assert_eq!(reply, Reply::InputIncomplete, "{userland:?}");
    }
}

#[test]
fn a_script_that_is_cut_off_is_not_kept() {
    for userland in BOTH {
        let node = Node::start(userland);
        let greet = parse(GREET);
        let (kept, script) = (greet.kept(), greet.kept().script().as_bytes());
        for length in [0, 1, script.len() / 2, script.len() - 1] {
            assert_eq!(node.run(&kept.keep_command(), &script[..length]).status, Some(1), "{userland:?}");
        }
        assert_eq!(node.sh("ls /run/orion"), "");
        assert_eq!(node.run(&kept.command(), b"").status, Some(NOT_KEPT));
    }
}

#[test]
fn of_several_versions_of_a_script_the_last_one_is_kept_and_other_playbooks_stay() {
    for userland in BOTH {
        let node = Node::start(userland);
        let texts = [GREET.replace("name: greet\nd", "name: greet_twice\nd"), GREET.to_owned()];
        let newer = GREET.replace("report greeted", "report greeted twice");
        for text in texts.iter().chain([&newer]) {
            let greet = parse(text);
            let kept = greet.kept();
            assert_eq!(node.run(&kept.keep_command(), kept.script().as_bytes()).status, Some(0));
        }
        assert_eq!(node.sh("ls /run/orion | wc -l | tr -d ' '"), "2");
        assert_eq!(node.sh("grep -l 'greeted twice' /run/orion/greet-* | wc -l | tr -d ' '"), "1");
    }
}
