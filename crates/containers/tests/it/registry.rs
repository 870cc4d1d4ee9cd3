//! Images: a real registry on this machine, pulls, and what is not there.

use orion_containers::{EngineError, RegistryCredentials};
use orion_domain::Secret;
use orion_domain::container::ImageName;
use orion_testkit::Registry;

use crate::node::{IMAGE, Node};

fn registry_of(node: &Node) -> Registry {
    Registry::start(&format!("{}:5000", node.workers.gateway()))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_tested_pulled_with_progress_and_removed() {
    let node = Node::shared();
    let registry = registry_of(&node);
    let engine = node.engine();
    let name = format!("{}/team/bb:1", registry.address());
    node.worker().make_image(&name);
    node.worker().sh(&format!("docker push -q {name} >/dev/null && docker rmi {name} >/dev/null"));
    let image: ImageName = name.parse().unwrap();
    assert_eq!(engine.image(&image).await.unwrap(), None);
    let remote = engine.test_image(&image, None).await.unwrap();
    assert!(remote.digest.starts_with("sha256:"), "{remote:?}");

    let mut pull = engine.pull(&image, None).await.unwrap();
    let mut last = None;
    while let Some(progress) = pull.next().await {
        last = Some(progress.unwrap());
    }
    let last = last.expect("it said something");
    assert_eq!((last.layers, last.layers_done), (1, 1), "{last:?}");
    let there = engine.image(&image).await.unwrap().expect("it is there");
    assert!(there.size_bytes > 100_000 && there.tags.contains(&name), "{there:?}");

    let by_digest: ImageName = format!("{}/team/bb@{}", registry.address(), remote.digest).parse().unwrap();
    let credentials = RegistryCredentials { username: "u".into(), password: Secret::new("p") };
    engine.pull(&by_digest, Some(&credentials)).await.unwrap().finish().await.unwrap();
    for absent in [
        format!("{}/team/none:1", registry.address()),
        format!("{}/team/bb:2", registry.address()),
        format!("{}/team/bb@sha256:{}", registry.address(), "0".repeat(64)),
    ] {
        let image: ImageName = absent.parse().unwrap();
        let tested = engine.test_image(&image, None).await.expect_err(&absent);
        assert!(matches!(tested, EngineError::NotFound(_) | EngineError::Denied(_)), "{absent}: {tested}");
        let pulled = match engine.pull(&image, None).await {
            Ok(pull) => pull.finish().await.expect_err(&absent),
            Err(error) => error,
        };
        assert!(matches!(pulled, EngineError::NotFound(_) | EngineError::Denied(_)), "{absent}: {pulled}");
    }
    engine.remove_image(&name).await.unwrap();
    assert_eq!(engine.image(&image).await.unwrap(), None);
    assert!(engine.images().await.unwrap().iter().any(|image| image.tags.contains(&IMAGE.to_owned())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_during_a_pull_is_named_and_the_engine_goes_on() {
    let node = Node::start();
    let registry = registry_of(&node);
    let engine = node.engine();
    let name = format!("{}/team/big:1", registry.address());
    node.worker().sh(&format!(
        "d=$(mktemp -d) && head -c 40M /dev/urandom >$d/big && tar -C $d -c . | docker import - {name} >/dev/null && \
         rm -r $d && docker push -q {name} >/dev/null && docker rmi {name} >/dev/null && \
         head -c \"$(($(df --output=avail -B1 /var/lib/docker | tail -n 1) - 30000000))\" /dev/zero >/var/lib/docker/filled"
    ));
    let image: ImageName = name.parse().unwrap();
    let error = match engine.pull(&image, None).await {
        Ok(pull) => pull.finish().await.expect_err("the disk is full"),
        Err(error) => error,
    };
    assert!(matches!(error, EngineError::NoSpace(_)), "{error}");
    assert_eq!(engine.image(&image).await.unwrap(), None);
    node.worker().sh("rm /var/lib/docker/filled");
    engine.pull(&image, None).await.unwrap().finish().await.unwrap();
    assert!(engine.image(&image).await.unwrap().is_some_and(|found| found.size_bytes >= 40 << 20));
}
