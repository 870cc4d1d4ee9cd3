//! What a container reaches, and who reaches it, on a machine with a real engine and a real firewall.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};

use orion_containers::{ContainerPlacement, Engine};
use orion_domain::container::network_name;
use orion_fleet::playbook::Reply;

use crate::node::{Node, name_of, placement, port, shell, spec};
use crate::node_alone::{Rules, done, remove, start_with};

/// A listener at all addresses of this machine, the control plane's in the eyes of the workers.
fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    (listener, port)
}

/// An address of this machine in no network of the workers.
fn outside() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket.connect("192.0.2.1:9").expect("a route");
    socket.local_addr().expect("an address").ip()
}

/// Makes and starts a container of a lease with a network of its own.
async fn run(node: &Node, engine: &Engine, placement: &ContainerPlacement, rules: &Rules<'_>) -> String {
    let made = engine.create(&spec(shell("exec httpd -f -p 8080 -h /etc")), placement).await.expect("made");
    let Reply::Done(report) = start_with(node, 1, placement, &made.id, "3600", rules).await else {
        panic!("it starts");
    };
    assert_eq!(report.get("started"), Some("yes"), "{report:?}");
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    node.worker().sh(&format!("docker inspect -f '{format}' {}", made.id)).trim().to_owned()
}

async fn with_network(engine: &Engine, subnet: &str) -> ContainerPlacement {
    let placement = placement();
    engine.create_network(placement.lease, &placement.lease_ulid, subnet).await.expect("a network");
    ContainerPlacement { network: Some(network_name(placement.lease)), ..placement }
}

fn reaches(node: &Node, from: &ContainerPlacement, address: &str, port: u16) -> bool {
    let name = name_of(from);
    let tried = node.worker().try_sh(&format!("docker exec {name} nc -w 3 {address} {port} -e /bin/true"));
    tried.status.success()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_reaches_the_internet_and_its_own_lease_and_nothing_of_orion_or_of_others() {
    let node = Node::start_beside(1);
    let engine = node.engine();
    let other = node.workers[1].ip().to_string();
    let denied = format!("169.254.0.0/16,{other},{}", node.worker().ip());
    let rules = Rules { denied: &denied, ..Rules::default() };
    let first = with_network(&engine, "10.201.0.16/28").await;
    let second = ContainerPlacement {
        number: 2,
        container_ulid: "01K22222222222222222000001".into(),
        ..first.clone()
    };
    let neighbour = with_network(&engine, "10.201.0.32/28").await;
    run(&node, &engine, &first, &rules).await;
    let own = run(&node, &engine, &second, &rules).await;
    let neighbours = run(&node, &engine, &neighbour, &rules).await;
    let (_held, api) = listener();

    assert!(reaches(&node, &first, &own, 8080), "the other container of its lease");
    assert!(reaches(&node, &first, &outside().to_string(), api), "what is neither a node nor Orion's");
    let gateway = node.workers.gateway().to_string();
    for (what, address, port) in [
        ("a neighbour's container", neighbours.as_str(), 8080),
        ("another node's sshd", &other, 22),
        ("its own node's sshd by the gateway", "10.201.0.17", 22),
        ("its own node's sshd by a neighbour's gateway", "10.201.0.33", 22),
        ("its own node's sshd by the node's address", &node.worker().ip().to_string(), 22),
        ("the control plane", &gateway, api),
        ("the control plane's sshd", &gateway, 22),
        ("the cloud's metadata", "169.254.169.254", 80),
    ] {
        assert!(!reaches(&node, &first, address, port), "{what} at {address}:{port}");
    }
    let link_local =
        node.worker().sh(&format!("cat /proc/net/if_inet6 | grep {} || :", network_name(first.lease)));
    assert_eq!(link_local, "", "nor anything by IPv6");
    // The same address is reached from the node itself.
    node.worker()
        .sh(&format!("nc -w 3 {gateway} {api} </dev/null || busybox nc -w 3 {gateway} {api} -e /bin/true"));
    // Other machines do not come in, even with a route to it.
    node.workers[1].sh(&format!("ip route add 10.201.0.0/16 via {}", node.worker().ip()));
    let tried = node.workers[1].try_sh(&format!("busybox nc -w 2 {own} 8080 -e /bin/true"));
    assert!(!tried.status.success(), "another machine reaches a container");
    for lease in [&first, &neighbour] {
        done(remove(&node, lease).await);
    }
    assert!(!node.worker().sh("iptables -S").contains("ORION"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_port_answers_the_proxies_alone_unless_it_is_public() {
    let node = Node::start_beside(2);
    let engine = node.engine();
    let (proxy, stranger) = (&node.workers[1], &node.workers[2]);
    let ip = node.worker().ip();
    let proxies = proxy.ip().to_string();
    let rules = Rules { proxies: &proxies, ports: "20001,20002", public_ports: "20002", ..Rules::default() };
    let base = with_network(&engine, "10.201.0.16/28").await;
    let any = |container, node| orion_containers::PublishedPort {
        address: IpAddr::from([0, 0, 0, 0]),
        ..port(container, node)
    };
    let placement = ContainerPlacement { ports: vec![any(8080, 20001)], ..base.clone() };
    run(&node, &engine, &placement, &rules).await;
    let public = ContainerPlacement {
        number: 2,
        container_ulid: "01K22222222222222222000002".into(),
        ports: vec![any(8080, 20002)],
        ..base
    };
    run(&node, &engine, &public, &rules).await;
    let answers = |from: &orion_testkit::Worker, port: u16| {
        let tried = from.try_sh(&format!("curl -sf --noproxy '*' -m 3 http://{ip}:{port}/image"));
        tried.status.success()
    };
    assert!(answers(proxy, 20001) && answers(proxy, 20002));
    assert!(!answers(stranger, 20001) && answers(stranger, 20002));
    assert!(answers(node.worker(), 20001), "the node itself, for a forwarded port");
    // Without the engine's own rules its own process answers: also that one the proxies alone.
    node.worker().sh("iptables -t nat -F");
    assert!(answers(proxy, 20001) && !answers(stranger, 20001));
    assert!(!reaches(&node, &public, &ip.to_string(), 20001), "nor a container");
}
