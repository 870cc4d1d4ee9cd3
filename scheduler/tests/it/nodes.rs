//! A machine is one machine: which host key admits a node, and a machine that registered twice.

use crate::world::{World, sha};
use orion_domain::node::{Admission, Health};
use orion_store::{RegisterNode, RegisterOutcome};

const ECDSA: &str = "/etc/ssh/ssh_host_ecdsa_key";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_admitted_by_its_pinned_key_alone_and_a_machine_is_one_node() {
    let world = World::start(2, 1).await;
    let [first, second] = [world.nodes()[0], world.nodes()[1]];
    let (here, there) = (world.worker(first), world.worker(second));

    // A further key is accepted once sshd has proved it, and only then.
    here.sh(&format!("ssh-keygen -q -t ecdsa -N '' -f {ECDSA}"));
    let ecdsa = here.sh(&format!("cut -d ' ' -f 1,2 {ECDSA}.pub")).trim().to_owned();
    let registered = world.registration(here, 0);
    let again = RegisterNode {
        host_keys: vec![registered.host_keys[0].clone(), ecdsa.parse().expect("a key")],
        join_token_sha256: None,
        node_token_sha256_presented: Some(registered.new_node_token_sha256.clone()),
        body_sha256: sha(5_000),
        ..registered.clone()
    };
    let told = world.store().nodes().register(&again).await.expect("stored");
    assert!(matches!(told, RegisterOutcome::Updated(_)), "{told:?}");
    assert_eq!(
        world.node(first).await.sshd().expect("it is dialled").host_keys.len(),
        1,
        "a report adds no key"
    );
    here.sh(&format!(
        "printf 'HostKey {ECDSA}\\nPort 22\\nPort 2222\\n' >/etc/ssh/sshd_config.d/90-second.conf"
    ));
    here.reload_sshd();
    // As after any cut; the next session tells of all keys.
    here.sh("pkill -KILL -f '^sshd: root' || true");
    world
        .until_node(first, "its second key is accepted", |node| {
            node.sshd().is_some_and(|sshd| sshd.host_keys.contains(&ecdsa))
        })
        .await;

    // The same machine with another address and a key that no registration named.
    let rsa = "/etc/ssh/ssh_host_third_key";
    here.sh(&format!(
        "ssh-keygen -q -t ecdsa -b 384 -N '' -f {rsa} && echo 'HostKey {rsa}' >>/etc/ssh/sshd_config.d/90-second.conf"
    ));
    here.reload_sshd();
    let third = here.sh(&format!("cut -d ' ' -f 1,2 {rsa}.pub")).trim().to_owned();
    let twice = RegisterNode {
        hostname: "the-same-machine".parse().expect("a name"),
        port: 2222.try_into().expect("a port"),
        host_keys: vec![third.parse().expect("a key")],
        body_sha256: sha(5_001),
        new_node_token_sha256: sha(5_002),
        ..world.registration(here, 0)
    };
    let RegisterOutcome::Created(twin) = world.store().nodes().register(&twice).await.expect("stored") else {
        panic!("its keys are not known")
    };
    let seen = world.until_node(twin.id, "recognized", |node| node.quarantine.is_some()).await;
    let reason = seen.quarantine.unwrap_or_default();
    assert!(reason.starts_with(&format!("it is the same machine as node {first} ")), "{reason}");
    assert_eq!((seen.admission, world.node(first).await.quarantine), (Admission::Reported, None));

    // Whoever has the node's token names an address where another key answers.
    let moved = RegisterNode {
        addr: there.ip().to_string().parse().expect("an address"),
        port: 2222.try_into().expect("a port"),
        body_sha256: sha(5_003),
        ..again.clone()
    };
    there.sh(&format!(
        "ssh-keygen -q -t ecdsa -N '' -f {ECDSA}; printf 'Port 22\\nPort 2222\\n' >/etc/ssh/sshd_config.d/90-second.conf"
    ));
    let named = there.sh(&format!("cut -d ' ' -f 1,2 {ECDSA}.pub")).trim().to_owned();
    there.sh(&format!("sed -i 's#^HostKey.*#HostKey {ECDSA}#' /etc/ssh/sshd_config"));
    there.reload_sshd();
    let moved =
        RegisterNode { host_keys: vec![moved.host_keys[0].clone(), named.parse().expect("a key")], ..moved };
    let told = world.store().nodes().register(&moved).await.expect("stored");
    assert!(matches!(told, RegisterOutcome::Updated(_)), "{told:?}");
    let seen = world
        .until_node(first, "not taken for itself", |node| {
            node.quarantine.is_some() || node.health == Health::Dead
        })
        .await;
    assert_eq!(
        (seen.admission, seen.sshd().map_or(0, |sshd| sshd.host_keys.len())),
        (Admission::Reported, 1),
        "{seen:?}"
    );
    let admitted = world.kinds_of(first).await.iter().filter(|kind| *kind == "node.admitted").count();
    assert_eq!(admitted, 1, "only at its own address");
}
