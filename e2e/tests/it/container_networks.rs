//! What the containers of leases reach, as the whole system closes their networks.

use super::{
    PATIENCE,
    container_life::{rented, shell, system},
};
use orion_testkit::wait_until;
use reqwest::Method;
use serde_json::json;
use std::{
    net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

/// An address of this machine in no network of the workers.
fn outside() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
    socket.connect("192.0.2.1:9").expect("a route");
    socket.local_addr().expect("an address").ip()
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_a_lease_reach_each_other_and_the_internet_and_no_machine_of_orions() {
    let mut system = system(2).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let lease = ticket.rental_id;
    for name in ["web", "client"] {
        let made = ida.post(&path, shell(name, "exec httpd -f -p 8080 -h /etc")).await.expect(201);
        assert_eq!(made["state"], "running", "{made}");
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a free port");
    let open = listener.local_addr().expect("it is bound").port();
    let worker = system.worker_at(&ticket.host_ip);
    let reaches = |address: &str, port: u16| {
        let command = format!("docker exec orion-{lease}-2 nc -w 3 {address} {port} -e /bin/true");
        worker.try_sh(&command).status.success()
    };
    assert!(reaches("web", 8080), "the other container of its lease, by its name");
    assert!(reaches(&outside().to_string(), open), "what is neither a node nor Orion's");
    let other = system.workers().iter().find(|other| other.ip() != worker.ip()).expect("two workers");
    let [first, second, ..] = worker.ip().octets();
    let gateway = format!("{first}.{second}.0.1");
    let api = system.url().rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    for (what, address, port) in [
        ("another node's sshd", other.ip().to_string(), 22),
        ("its own node's sshd", worker.ip().to_string(), 22),
        ("its own node's sshd by the gateway", "10.201.0.1".to_owned(), 22),
        ("the control plane", gateway, api),
        ("the cloud's metadata", "169.254.169.254".to_owned(), 80),
    ] {
        assert!(!reaches(&address, port), "{what} at {address}:{port}");
    }

    // A node that joins later is out of reach, too.
    system.grow_to(3);
    system.until_offered(&system.workers()[2..]).await;
    let (worker, third) = (system.worker_at(&ticket.host_ip), system.workers()[2].ip());
    let command = format!("docker exec orion-{lease}-2 nc -w 3 {third} 22 -e /bin/true");
    wait_until("it is out of reach", PATIENCE * 3, async || {
        if worker.try_sh(&command).status.success() { Err("it is reached") } else { Ok(()) }
    })
    .await;

    ida.post(&format!("/api/release/{lease}"), json!({})).await.expect(200);
    assert!(!worker.sh("iptables -S").contains("ORION"), "nothing is left of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_port_stays_the_same_and_goes_to_nobody_else_at_once() {
    let system = system(2).await;
    let ida = system.user("ida").await;
    let (ticket, path) = rented(&system, &ida).await;
    let worker = system.worker_at(&ticket.host_ip);
    let other = system.workers().iter().find(|other| other.ip() != worker.ip()).expect("two workers");
    // Something of the operator's has the first one already.
    worker.sh("setsid busybox nc -ll -p 20000 -e /bin/true </dev/null >/dev/null 2>&1 &");
    let mut body = shell("web", "exec httpd -f -p 8080 -h /etc");
    body["ports"] = json!([8080]);
    ida.post(&path, body.clone()).await;
    let web = format!("{path}/web");
    let ports = wait_until("it has a port", PATIENCE, async || {
        let view = ida.get(&web).await.expect(200);
        if view["state"] == "running" { Ok(view["ports"].clone()) } else { Err(view.to_string()) }
    })
    .await;
    assert_eq!(ports[0]["port"], 8080, "{ports}");
    let port = ports[0]["node_port"].as_u64().expect("a port");
    assert!((20_001..=29_999).contains(&port), "{ports}");
    let answers = |from: &orion_testkit::Worker, address: &str| {
        let fetched = from.try_sh(&format!("curl -sf --noproxy '*' -m 3 http://{address}:{port}/image"));
        fetched.status.success()
    };
    let ip = worker.ip().to_string();
    assert!(answers(worker, "127.0.0.1"), "on the node, for a forwarded port");
    assert!(!answers(other, &ip), "without proxies nobody else");
    assert_eq!(ida.post(&format!("{web}/restart"), json!({})).await.expect(200)["ports"], ports);

    // With proxies these get there: those that begin to run from then on.
    system.up().kill();
    system.up().set("ORION_PROXY_ADDRESSES", &other.ip().to_string());
    system.up().start();
    system.up().answers().await;
    ida.try_send(Method::DELETE, &web, None, None).await.expect("a reply").expect(200);
    let second = ida.post(&path, body.clone()).await.expect(201);
    let next = second["ports"][0]["node_port"].as_u64().expect("a port");
    assert_ne!(next, port, "the port of one that is gone is nobody's for a while: {second}");
    let answers = |from: &orion_testkit::Worker| {
        let fetched = from.try_sh(&format!("curl -sf --noproxy '*' -m 3 http://{ip}:{next}/image"));
        fetched.status.success()
    };
    assert!(answers(other), "the proxy");
    let caddy = TcpStream::connect_timeout(
        &format!("{ip}:{next}").parse().expect("an address"),
        Duration::from_secs(2),
    );
    assert!(caddy.is_err(), "a stranger");
    body["name"] = json!("public");
    body["public"] = json!(true);
    body["ports"] = json!([8080, 9090]);
    let public = ida.post(&path, body).await.expect(201);
    let open = public["ports"][0]["node_port"].as_u64().expect("a port");
    TcpStream::connect((ip.as_str(), u16::try_from(open).expect("a port"))).expect("everybody reaches it");
    ida.post(&format!("/api/release/{}", ticket.rental_id), json!({})).await.expect(200);
    assert!(!worker.sh("iptables -S").contains("ORION"), "nothing is left of it");
}
