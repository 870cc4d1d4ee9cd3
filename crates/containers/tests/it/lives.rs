//! Containers from the request to their removal, with their limits.

use std::time::Duration;

use orion_containers::{EngineError, EngineKind, GpuDevice};
use orion_domain::container::{ContainerRequest, EngineState, RestartPolicy};
use orion_domain::{LeaseId, Secret};
use orion_testkit::wait_until;

use crate::node::{Node, name_of, placement, port, shell, spec};

const LIMIT: Duration = Duration::from_secs(20);

/// Waits until a container has ended; its end in words.
async fn end_of(engine: &orion_containers::Engine, id: &str) -> String {
    wait_until("the container ends", LIMIT, async || {
        let found = engine.inspect(id).await.map_err(|error| error.to_string())?;
        match (found.state, found.exit) {
            (EngineState::Exited, Some(exit)) => Ok(exit.to_string()),
            (state, _) => Err(format!("{state:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_says_what_it_is() {
    let node = Node::shared();
    let info = node.engine().info().await.unwrap();
    assert_eq!((info.kind, info.is_forwarded), (EngineKind::Docker, true));
    assert!(info.version.starts_with("20.") || !info.version.is_empty(), "{info:?}");
    assert!(info.cpus >= 1 && info.memory_bytes > 0 && matches!(info.cgroup_version, 1 | 2), "{info:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_made_with_its_files_runs_with_its_limits_is_stopped_and_leaves_nothing() {
    let node = Node::shared();
    let (engine, placement) = (node.engine(), placement());
    let request = ContainerRequest {
        env: [("GREETING".to_owned(), Secret::new("hello $HOME \"x\""))].into(),
        files: [("/etc/app/app.conf".to_owned(), Secret::new("key=value\n"))].into(),
        name: Some("web".into()),
        ..shell(
            "echo \"$GREETING\"; cat /etc/app/app.conf; hostname; id -u; trap 'exit 3' TERM; while :; do sleep 0.1; done",
        )
    };
    let created = engine.create(&spec(request.clone()), &placement).await.unwrap();
    let made = engine.inspect(&created.id).await.unwrap();
    assert_eq!((made.state, made.name), (EngineState::Created, name_of(&placement)));
    assert_eq!((made.lease, made.epoch, made.exit), (Some(placement.lease_ulid.clone()), Some(1), None));

    // The reply to an earlier request was lost.
    assert_eq!(engine.create(&spec(request.clone()), &placement).await.unwrap().id, created.id);
    let later = orion_containers::ContainerPlacement { epoch: 2, ..placement.clone() };
    let refused = engine.create(&spec(request), &later).await.unwrap_err();
    assert!(matches!(refused, EngineError::Conflict(_)), "{refused}");

    node.run(&created.id);
    let limits = node.worker().sh(&format!(
        "docker inspect -f '{{{{.HostConfig.NanoCpus}}}} {{{{.HostConfig.Memory}}}} {{{{.HostConfig.MemorySwap}}}} \
         {{{{.HostConfig.PidsLimit}}}} {{{{.HostConfig.Privileged}}}} {{{{.HostConfig.SecurityOpt}}}}' {}",
        created.id
    ));
    assert_eq!(limits.trim(), "500000000 33554432 33554432 64 false [no-new-privileges]");
    wait_until("its log is there", LIMIT, async || {
        let chunks = engine.last_lines(&created.id, 10).await.map_err(|error| error.to_string())?;
        let text: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
        let text = String::from_utf8(text).unwrap();
        if text == "hello $HOME \"x\"\nkey=value\nweb\n0\n" { Ok(()) } else { Err(text) }
    })
    .await;
    let listed = engine.list_containers().await.unwrap();
    let mine = listed.iter().find(|found| found.id == created.id).expect("it is listed");
    assert_eq!(
        (mine.state, mine.container.as_ref()),
        (EngineState::Running, Some(&placement.container_ulid))
    );

    engine.stop(&created.id, Duration::from_secs(5)).await.unwrap();
    assert_eq!(end_of(&engine, &created.id).await, "exited with 3");
    engine.stop(&created.id, Duration::from_secs(5)).await.unwrap();
    engine.remove(&created.id).await.unwrap();
    engine.remove(&created.id).await.unwrap();
    assert!(matches!(engine.inspect(&created.id).await, Err(EngineError::NotFound(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_ignores_the_signal_is_killed_after_the_grace() {
    let node = Node::shared();
    let engine = node.engine();
    let created =
        engine.create(&spec(shell("trap '' TERM; while :; do sleep 0.1; done")), &placement()).await.unwrap();
    node.run(&created.id);
    engine.stop(&created.id, Duration::from_secs(1)).await.unwrap();
    assert_eq!(end_of(&engine, &created.id).await, "killed by signal 9");
    engine.remove(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_holds_and_its_breach_has_its_name() {
    let node = Node::shared();
    let engine = node.engine();
    let eater = shell("sleep 0.5; exec tail -c 200m /dev/zero");
    let forker = shell("n=0; while [ $n -lt 200 ]; do sleep 5 & n=$((n + 1)); done; exit 7");
    let burner = shell("while :; do :; done");
    let mut ids = Vec::new();
    for request in [eater, forker, burner] {
        let created = engine.create(&spec(request), &placement()).await.unwrap();
        node.run(&created.id);
        ids.push(created.id);
    }
    assert_eq!(end_of(&engine, &ids[0]).await, "out of memory (exit code 137)");
    let forked = end_of(&engine, &ids[1]).await;
    assert_ne!(forked, "exited with 7", "200 processes are more than 64");
    let mut stats = engine.follow_stats(&ids[2]).await.unwrap();
    stats.next().await.unwrap().unwrap();
    let (first, second) = (stats.next().await.unwrap().unwrap(), stats.next().await.unwrap().unwrap());
    let used = second.cpu_milli_since(&first);
    assert!((100..=700).contains(&used), "half a core is given, {used} thousandths were used");
    let once = engine.stats(&ids[2]).await.unwrap();
    assert!(once.memory_bytes > 0 && once.memory_max_bytes == 32 << 20 && once.pids >= 1, "{once:?}");
    for id in ids {
        engine.remove(&id).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_has_its_network_and_port_and_all_with_its_label_is_found_and_removed() {
    let node = Node::shared();
    let engine = node.engine();
    let mut placement = placement();
    let subnet = "10.201.7.16/28";
    let network = engine.create_network(placement.lease, &placement.lease_ulid, subnet).await.unwrap();
    let again = engine.create_network(placement.lease, &placement.lease_ulid, subnet).await;
    assert!(
        matches!(again, Err(EngineError::Conflict(_) | EngineError::Failed(_) | EngineError::Invalid(_))),
        "{again:?}"
    );
    placement.network = Some(orion_domain::container::network_name(placement.lease));
    placement.ports = vec![port(8080, 31_080)];
    let request = shell("mkdir /www; echo hello >/www/index.html; exec httpd -f -p 8080 -h /www");
    let created = engine.create(&spec(request), &placement).await.unwrap();
    node.run(&created.id);
    node.worker()
        .sh(&format!("docker volume create --label orion.lease={} orion-v >/dev/null", placement.lease_ulid));
    wait_until("the port answers", LIMIT, async || {
        let asked = node.worker().try_sh("curl -s --max-time 2 http://127.0.0.1:31080/");
        let text = String::from_utf8_lossy(&asked.stdout).into_owned();
        if text == "hello\n" { Ok(()) } else { Err(text) }
    })
    .await;
    let found = engine.inventory().await.unwrap();
    let lease = Some(placement.lease_ulid.clone());
    let mine = found.networks.iter().find(|network| network.lease == lease).expect("the network");
    assert_eq!((mine.subnet.as_deref(), mine.id.as_str()), (Some(subnet), network.as_str()));
    assert!(found.volumes.iter().any(|volume| volume.name == "orion-v" && volume.lease == lease));
    assert!(found.networks.iter().any(|network| network.name == "bridge" && network.lease.is_none()));

    let in_use = engine.remove_network(&network).await.unwrap_err();
    assert!(matches!(in_use, EngineError::Invalid(_)), "{in_use}");
    engine.remove(&created.id).await.unwrap();
    for _ in 0..2 {
        engine.remove_network(&network).await.unwrap();
        engine.remove_volume("orion-v").await.unwrap();
    }
    let found = engine.inventory().await.unwrap();
    assert!(found.networks.iter().all(|network| network.lease != lease));
    assert!(found.containers.iter().all(|container| container.lease != lease));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_not_given_is_out_of_reach() {
    let node = Node::shared();
    let engine = node.engine();
    node.worker()
        .sh("for n in 0 1; do [ -e /dev/gpu$n ] || mknod -m 666 /dev/gpu$n c 1 $((3 + 2 * n)); done");
    let placement = orion_containers::ContainerPlacement {
        gpus: vec![GpuDevice::Device("/dev/gpu0".into())],
        ..placement()
    };
    let script = "echo x >/dev/gpu0 || exit 4; [ ! -e /dev/gpu1 ] || exit 5; mknod /dev/other c 10 229 2>/dev/null; \
                  head -c 1 /dev/other >/dev/null 2>&1 && exit 6; exit 0";
    let created = engine.create(&spec(shell(script)), &placement).await.unwrap();
    node.run(&created.id);
    assert_eq!(end_of(&engine, &created.id).await, "exited with 0");
    engine.remove(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_made_is_said_with_its_meaning() {
    let node = Node::shared();
    let engine = node.engine();
    let absent = ContainerRequest { image: "no-such-image:1".into(), ..shell("true") };
    let error = engine.create(&spec(absent), &placement()).await.unwrap_err();
    assert!(matches!(error, EngineError::NotFound(_)), "{error}");
    let file_below_a_file =
        ContainerRequest { files: [("/etc/passwd/x".to_owned(), Secret::new("x"))].into(), ..shell("true") };
    let placement = placement();
    let error = engine.create(&spec(file_below_a_file), &placement).await.unwrap_err();
    assert!(!matches!(error, EngineError::Down(_) | EngineError::TimedOut(_)), "{error}");
    engine.remove(&name_of(&placement)).await.unwrap();
    let error = engine.stop("orion-0-0", Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, EngineError::NotFound(_)), "{error}");
    let subnet = engine.create_network(LeaseId(99_999), "01K", "10.201.0.0/99").await.unwrap_err();
    assert!(matches!(subnet, EngineError::Invalid(_) | EngineError::Failed(_)), "{subnet}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_in_the_image_ends_the_container_with_the_engines_words() {
    let node = Node::shared();
    let engine = node.engine();
    let request = ContainerRequest { command: vec!["/no/such".into()], args: Vec::new(), ..shell("") };
    let created = engine.create(&spec(request), &placement()).await.unwrap();
    let _ = node.worker().try_sh(&format!("docker start {}", created.id));
    let exit = engine.inspect(&created.id).await.unwrap().exit.expect("it could not be started");
    assert!(exit.to_string().starts_with("could not be started: "), "{exit}");
    engine.remove(&created.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_fails_at_once_is_started_again_as_often_as_was_said_and_its_last_lines_stay() {
    let node = Node::shared();
    let engine = node.engine();
    let request =
        ContainerRequest { restart: Some("on-failure:2".into()), ..shell("echo it broke >&2; exit 9") };
    let created = engine.create(&spec(request), &placement()).await.unwrap();
    node.run(&created.id);
    wait_until("it was given up", LIMIT, async || {
        let found = engine.inspect(&created.id).await.map_err(|error| error.to_string())?;
        if found.state == EngineState::Exited && found.restarts == 2 {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
    assert_eq!(end_of(&engine, &created.id).await, "exited with 9");
    let last = engine.last_lines(&created.id, 1).await.unwrap();
    assert_eq!(last[0].bytes.as_ref(), b"it broke\n");
    engine.set_restart(&created.id, RestartPolicy::No).await.unwrap();
    engine.remove(&created.id).await.unwrap();
}
