//! Images: logins at registries, and who may have an image that lies on a node.

use crate::world::{World, at, on_both};
use orion_domain::{
    container::{Disk, ImageName},
    lease::Holding,
};
use orion_store::{Cas, LoginKept, NewRegistryLogin};

on_both!(
    a_user_has_one_login_for_a_registry_and_no_more_than_the_limit,
    images_that_orion_pulled_are_unused_in_the_order_of_their_last_use,
    a_full_disk_is_told_once_and_keeps_slices_away,
    an_image_of_a_private_repository_is_for_those_who_have_shown_their_right,
);

fn login(registry: &str, username: &str) -> NewRegistryLogin {
    let password_sealed = vec![1, 2];
    NewRegistryLogin { registry: registry.into(), username: username.into(), password_sealed, of_user_max: 2 }
}

async fn a_user_has_one_login_for_a_registry_and_no_more_than_the_limit(world: World) {
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let images = world.store.images();
    let keep = async |user, registry: &str, name: &str| {
        images.keep_login(user, &login(registry, name), at(1)).await.unwrap()
    };
    assert_eq!(keep(alice, "ghcr.io", "a").await, LoginKept::Kept);
    assert_eq!(keep(alice, "docker.io", "b").await, LoginKept::Kept);
    assert_eq!(keep(alice, "quay.io", "c").await, LoginKept::TooMany);
    assert_eq!(keep(alice, "ghcr.io", "d").await, LoginKept::Kept);
    let names = |logins: Vec<orion_store::RegistryLogin>| {
        logins.into_iter().map(|login| (login.registry, login.username)).collect::<Vec<_>>()
    };
    let expected = [("docker.io", "b"), ("ghcr.io", "d")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(names(images.logins(alice).await.unwrap()), expected);
    assert_eq!(images.logins(bob).await.unwrap(), []);
    assert_eq!(images.login(bob, "ghcr.io").await.unwrap(), None);
    assert_eq!(images.login(alice, "ghcr.io").await.unwrap().unwrap().password_sealed, [1, 2]);
    assert!(!images.remove_login(bob, "ghcr.io").await.unwrap());
    assert!(images.remove_login(alice, "ghcr.io").await.unwrap());
    assert_eq!(images.login(alice, "ghcr.io").await.unwrap(), None);
}

async fn an_image_of_a_private_repository_is_for_those_who_have_shown_their_right(world: World) {
    let (one, other) = (world.free_node(1).await, world.free_node(2).await);
    let (alice, bob) = (world.user("alice").await, world.user("bob").await);
    let of_alice = world.active_lease(&world.wish(alice, 1)).await.id;
    let of_bob = world.active_lease(&world.wish(bob, 1)).await.id;
    let images = world.store.images();
    let image = |name: &str| name.parse::<ImageName>().unwrap();
    let tagged = image("r.example/team/app:1");
    let by_digest = image(&format!("r.example/team/app@sha256:{}", "0".repeat(64)));
    let may_use = async |node, image, lease, hours: i64| {
        images.may_use(node, image, lease, at(hours * 3600)).await.unwrap()
    };
    assert!(may_use(one, &tagged, of_bob, 0).await && !images.is_private(&tagged).await.unwrap());
    for _ in 0..2 {
        images.make_private(&tagged, at(1)).await.unwrap();
    }
    assert!(images.is_private(&by_digest).await.unwrap());
    images.show_right(one, &tagged, alice, at(2)).await.unwrap();
    images.show_right(one, &tagged, alice, at(3)).await.unwrap();
    assert!(may_use(one, &tagged, of_alice, 1).await);
    for (node, image, lease, hours) in [
        (one, &tagged, of_bob, 1),
        (other, &tagged, of_alice, 1),
        (one, &by_digest, of_alice, 1),
        (one, &tagged, of_alice, 25),
    ] {
        assert!(!may_use(node, image, lease, hours).await, "{node} {image} {lease} {hours}");
    }
    assert!(may_use(one, &image("r.example/team/other:1"), of_bob, 1).await, "another repository");
}

async fn images_that_orion_pulled_are_unused_in_the_order_of_their_last_use(world: World) {
    let (one, other) = (world.free_node(1).await, world.free_node(2).await);
    let images = world.store.images();
    let [first, second, third] = ["a:1", "b:1", "c:1"].map(|name| name.parse::<ImageName>().unwrap());
    for (image, second) in [(&first, 10), (&second, 20), (&third, 30)] {
        images.pulled(one, image, at(second)).await.unwrap();
    }
    images.pulled(other, &first, at(1)).await.unwrap();
    assert_eq!(images.unused(one, at(20)).await.unwrap(), [first.clone(), second.clone()]);
    // A use is written once an hour; of what Orion did not pull never.
    let foreign = "d:1".parse().unwrap();
    images.used(one, &[first.clone(), foreign], at(11)).await.unwrap();
    assert_eq!(images.unused(one, at(10)).await.unwrap(), std::slice::from_ref(&first));
    images.used(one, std::slice::from_ref(&first), at(4_000)).await.unwrap();
    assert_eq!(images.unused(one, at(5_000)).await.unwrap(), [second.clone(), third, first.clone()]);
    assert!(images.removed(one, &second, at(5_001)).await.unwrap());
    assert!(!images.removed(one, &second, at(5_002)).await.unwrap());
    assert_eq!(world.count("SELECT COUNT(*) FROM events WHERE kind = 'node.image_removed'").await, 1);
    assert_eq!(images.unused(one, at(5_000)).await.unwrap().len(), 2);
}

async fn a_full_disk_is_told_once_and_keeps_slices_away(world: World) {
    let node = world.free_node(1).await;
    let images = world.store.images();
    assert_eq!(images.disks_due(at(0), at(0), 8).await.unwrap(), [], "it has no engine");
    world.store.containers().engine_seen(node, Some("docker 20.10 (API 1.41)")).await.unwrap();
    assert_eq!(images.disks_due(at(0), at(0), 8).await.unwrap(), [node]);
    let disk = Disk { free_mb: 5, total_mb: 1_000 };
    images.disk_looked_at(node, Some(disk), at(10)).await.unwrap();
    images.disk_looked_at(node, None, at(20)).await.unwrap();
    assert_eq!(world.count("SELECT free_mb FROM node_disks").await, 5);
    assert_eq!(images.disks_due(at(19), at(30), 8).await.unwrap(), []);
    assert_eq!(images.disks_due(at(20), at(0), 8).await.unwrap(), [node]);
    for (why, is_new) in
        [(Some("5 MiB are free"), true), (Some("4 MiB are free"), false), (None, true), (None, false)]
    {
        let written = images.set_disk_full(node, disk, why, at(30)).await.unwrap();
        assert_eq!(matches!(written, Cas::Done(_)), is_new, "{why:?}");
        assert_eq!(images.disks_due(at(0), at(20), 8).await.unwrap().len(), usize::from(why.is_some()));
    }
    assert_eq!(
        world.count("SELECT COUNT(*) FROM events WHERE kind IN ('node.disk_full', 'node.disk_free')").await,
        2
    );
    images.look_at_disk_soon(node).await.unwrap();
    assert_eq!(images.disks_due(at(0), at(0), 8).await.unwrap(), [node]);
    images.set_disk_full(node, disk, Some("5 MiB are free"), at(40)).await.unwrap();
    let room = Holding::Slice { cpu_milli: 0, memory_mb: 0, gpus: 0 };
    assert!(!world.store.nodes().has_free(&[], room).await.unwrap());
    assert!(world.store.nodes().has_free(&[], Holding::WholeNode).await.unwrap());
    images.set_disk_full(node, disk, None, at(41)).await.unwrap();
    assert!(world.store.nodes().has_free(&[], room).await.unwrap());
}
