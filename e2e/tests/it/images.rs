//! Images of private registries on real engines: whose they are, and pulls that hold up nobody else.

use super::{
    PATIENCE,
    system::{Database, System},
    user::{Ticket, User},
};
use orion_testkit::{Registry, Worker, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::net::TcpListener;

/// A system of one worker with an engine.
async fn system() -> System {
    let mut system = System::start(Database::Sqlite, 0).await;
    system.add_with_engine(1);
    system.workers()[0].wait_for_engine();
    system.until_offered(system.workers()).await;
    system
}

/// The address at which engines take a registry without TLS.
fn registry_address(worker: &Worker) -> String {
    let config = worker.sh("tr '\\0' '\\n' </proc/$(pgrep -o -x dockerd)/cmdline");
    let mut words = config.lines().skip_while(|word| *word != "--insecure-registry");
    words.nth(1).expect("an address").to_owned()
}

/// A private registry that has an image, which is not on the worker.
fn private_registry(worker: &Worker) -> (Registry, String) {
    let registry = Registry::start_private(&registry_address(worker));
    let image = format!("{}/team/bb:1", registry.address());
    worker.make_image(&image);
    let (user, password) = (Registry::USER, Registry::PASSWORD);
    worker.sh(&format!(
        "echo {password} | docker login -u {user} --password-stdin {0} 2>/dev/null && docker push -q {image} && \
         docker logout {0} && docker rmi {image}",
        registry.address()
    ));
    (registry, image)
}

async fn log_in(user: &User, registry: &Registry, password: &str) {
    let path = format!("/api/account/registries/{}", registry.address());
    let body = json!({ "username": Registry::USER, "password": password });
    user.try_send(Method::PUT, &path, Some(&body), None).await.expect("a reply").expect(200);
}

async fn rented(user: &User) -> (Ticket, String) {
    let ticket = user.rent(json!({ "duration_hours": 1 })).await.remove(0);
    let path = format!("/api/rentals/{}/containers", ticket.rental_id);
    (ticket, path)
}

fn sleeper(image: &str, name: &str) -> Value {
    json!({ "image": image, "name": name, "command": ["sleep", "1000"] })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_was_pulled_with_a_login_is_for_those_whom_the_registry_gives_it() {
    let system = system().await;
    let worker = &system.workers()[0];
    let (registry, image) = private_registry(worker);
    let (ida, eve) = (system.user("ida").await, system.user("eve").await);

    let (ticket, path) = rented(&ida).await;
    let denied = ida.post(&path, sleeper(&image, "early")).await.expect(201);
    assert_eq!(denied["state"], "failed", "{denied}");
    log_in(&ida, &registry, Registry::PASSWORD).await;
    let test = format!("/api/images/test?image={image}&rental={}", ticket.rental_id);
    // The node's engine asks: the control plane does not dial a private address that no operator named.
    let tested = ida.get(&test).await.expect(200);
    assert_eq!((&tested["exists"], &tested["on_node"]), (&json!(true), &json!(false)), "{tested}");
    assert_eq!(ida.post(&path, sleeper(&image, "web")).await.expect(201)["state"], "running");
    assert_eq!(ida.get(&test).await.expect(200)["on_node"], true);
    let kept = worker.sh(&format!(
        "cat /root/.docker/config.json 2>/dev/null; grep -r {} /var/lib/orion || true",
        Registry::PASSWORD
    ));
    assert!(!kept.contains("auth\":") && !kept.contains(Registry::PASSWORD), "{kept}");
    assert!(!system.up().log().contains(Registry::PASSWORD));
    ida.release(ticket.rental_id).await;
    system.until_offered(system.workers()).await;

    // The image is on the node still, and the next tenant of the node may not have it.
    assert!(worker.sh("docker image ls --format '{{.Repository}}:{{.Tag}}'").contains(&image));
    let digest = worker.sh(&format!("docker image inspect -f '{{{{index .RepoDigests 0}}}}' {image}"));
    let (ticket, path) = rented(&eve).await;
    let test = format!("/api/images/test?image={image}&rental={}", ticket.rental_id);
    let tested = eve.get(&test).await.expect(200);
    assert_eq!((&tested["exists"], &tested["on_node"]), (&json!(false), &json!(false)), "{tested}");
    for (name, image) in [("a", image.as_str()), ("b", digest.trim())] {
        let refused = eve.post(&path, sleeper(image, name)).await.expect(201);
        assert_eq!(refused["state"], "failed", "{refused}");
        assert!(refused["state_reason"].as_str().expect("a reason").contains("access denied"), "{refused}");
    }
    log_in(&eve, &registry, "wrong").await;
    assert_eq!(eve.post(&path, sleeper(&image, "c")).await.expect(201)["state"], "failed");
    log_in(&eve, &registry, Registry::PASSWORD).await;
    for (name, image) in [("d", image.as_str()), ("e", digest.trim())] {
        let made = eve.post(&path, sleeper(image, name)).await.expect(201);
        assert_eq!(made["state"], "running", "{made}");
    }
    // Who has shown it need not ask again, also while the registry is away.
    drop(registry);
    assert_eq!(eve.post(&path, sleeper(&image, "f")).await.expect(201)["state"], "running");
    eve.release(ticket.rental_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_pulls_do_not_end_waits_for_them_alone() {
    let system = system().await;
    let worker = &system.workers()[0];
    let ida = system.user("ida").await;
    // It takes connections, and says nothing.
    let silent = TcpListener::bind(registry_address(worker)).expect("a port");
    let stuck = format!("{}/team/stuck:1", silent.local_addr().expect("an address"));
    let (ticket, path) = rented(&ida).await;
    let asked: Vec<_> = (0..6)
        .map(|number| {
            let (ida, path, body) = (ida.clone(), path.clone(), sleeper(&stuck, &format!("s{number}")));
            tokio::spawn(async move { ida.try_send(Method::POST, &path, Some(&body), None).await })
        })
        .collect();
    wait_until("four are pulled, and two wait", PATIENCE, async || {
        let listed = ida.get(&path).await.expect(200);
        let steps: Vec<&str> =
            listed.as_array().expect("a list").iter().filter_map(|one| one["step"].as_str()).collect();
        let waits = steps.iter().filter(|step| step.starts_with("waits: 4 of your images")).count();
        if (steps.len(), waits) == (6, 2) { Ok(()) } else { Err(listed.to_string()) }
    })
    .await;
    // What is on the node begins at once.
    worker.make_image("bb:1");
    assert_eq!(ida.post(&path, sleeper("bb:1", "web")).await.expect(201)["state"], "running");
    for request in asked {
        request.abort();
    }
    ida.release(ticket.rental_id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_is_full_loses_what_orion_pulled_and_nobody_uses_and_is_not_offered_for_containers()
{
    let system = system().await;
    let worker = &system.workers()[0];
    system.up().kill();
    system.up().set("ORION_IMAGES_KEPT_DAYS", "0");
    system.up().start();
    system.up().answers().await;
    system.until_offered(system.workers()).await;
    let ida = system.user("ida").await;
    let registry = Registry::start(&registry_address(worker));
    worker.make_image("mine:1");
    for tag in ["used", "unused"] {
        let image = format!("{}/team/bb:{tag}", registry.address());
        worker.make_image(&image);
        worker.sh(&format!("docker push -q {image} && docker rmi {image}"));
    }
    let (ticket, path) = rented(&ida).await;
    for tag in ["used", "unused"] {
        let body = sleeper(&format!("{}/team/bb:{tag}", registry.address()), tag);
        assert_eq!(ida.post(&path, body).await.expect(201)["state"], "running", "{tag}");
    }
    let gone = ida.try_send(Method::DELETE, &format!("{path}/unused"), None, None).await.expect("a reply");
    gone.expect(200);
    worker.sh("head -c \"$(($(df --output=avail -B1 /var/lib/docker | tail -n 1) - 8000000))\" /dev/zero >/var/lib/docker/filled");
    // A pull that finds no space has the disk looked at at once.
    let big = format!("{}/team/big:1", registry.address());
    registry.put_image("team/big", "1", &[64 << 20]);
    let failed = ida.post(&path, sleeper(&big, "big")).await.expect(201);
    assert_eq!(failed["state"], "failed", "{failed}");
    let node = system.until_node(worker, "it is not offered for containers", |node| {
        node["status_reason"].as_str().is_some_and(|why| why.contains("not offered for containers: "))
    });
    assert_eq!(node.await["status"], "alive");
    let images = worker.sh("docker image ls --format '{{.Repository}}:{{.Tag}}'");
    let is_there = |name: &str| images.lines().any(|line| line.ends_with(name));
    assert!(is_there("mine:1") && is_there("/team/bb:used") && !is_there("/team/bb:unused"), "{images}");
    let removed: Vec<_> =
        system.events().await.into_iter().filter(|event| event["kind"] == "node.image_removed").collect();
    assert!(
        removed.len() == 1
            && removed[0]["data"]["image"].as_str().expect("a name").ends_with("/team/bb:unused"),
        "{removed:?}"
    );
    worker.sh("rm /var/lib/docker/filled");
    system
        .until_node(worker, "it is offered for containers again", |node| {
            node["status_reason"].as_str().is_some_and(|why| !why.contains("not offered for containers"))
        })
        .await;
    ida.release(ticket.rental_id).await;
}
