//! The end of a lease's containers by the node alone, on a machine with a real engine.

use std::path::Path;
use std::time::Duration;

use orion_testkit::{Agent, Workers, wait_until_blocking};

const ULID: &str = "01K0000000000000000000000A";

#[test]
fn a_container_that_starts_again_with_the_machine_is_ended_at_its_deadline_without_a_control_plane() {
    let mut workers = Workers::start(0);
    // Nobody listens there.
    workers.set_agent(Agent::new(Path::new(env!("CARGO_BIN_EXE_orion-agent")), 9, "no-token"));
    workers.set_engines();
    workers.grow_to(1);
    let worker = &workers[0];
    worker.wait_for_engine();
    worker.make_image("bb:1");
    worker.sh(&format!(
        "docker run -d --restart always --name orion-7-1 --label orion.lease={ULID} bb:1 sleep 600 >/dev/null && \
         docker run -d --restart always --name operators-own bb:1 sleep 600 >/dev/null"
    ));
    // As start_container.yml writes it, for a lease without an account.
    worker.sh(&format!(
        "mkdir -p /var/lib/orion/containers && read -r boot </proc/sys/kernel/random/boot_id && now=$(date +%s) && \
         up=$(cut -d . -f 1 /proc/uptime) && printf 'lease=7\\nboot_id=%s\\ndeadline_boot_s=%s\\ndeadline_unix_s=%s\\n\
         remaining_s=12\\n' $boot $((up + 12)) $((now + 12)) >/var/lib/orion/containers/{ULID}"
    ));
    // In place of what lib/firewall_rules.sh writes.
    worker.sh(
        "true >/var/lib/orion/firewall && echo 'iptables -C INPUT -i orion-+ -j DROP || iptables -A INPUT -i orion-+ -j DROP' \
         >/var/lib/orion/firewall.sh",
    );
    worker.kill();
    worker.start();
    worker.wait_for_engine();
    let running = || worker.sh("docker ps --format '{{.Names}}' | sort");
    wait_until_blocking("the engine started both again", Duration::from_secs(10), || {
        let names = running();
        if names == "operators-own\norion-7-1\n" { Ok(()) } else { Err(names) }
    });
    wait_until_blocking("the node ended the one that is over", Duration::from_secs(30), || {
        let names = worker.sh("docker ps --all --format '{{.Names}}'");
        if names == "operators-own\n" { Ok(()) } else { Err(names) }
    });
    wait_until_blocking("the networks are closed again", Duration::from_secs(20), || {
        let rules = worker.sh("iptables -S INPUT");
        if rules.contains("-i orion-+ -j DROP") { Ok(()) } else { Err(rules) }
    });
    let file = worker.sh(&format!("cat /var/lib/orion/containers/{ULID}"));
    assert!(file.contains("lease=7\n"), "the control plane removes it: {file}");
}
