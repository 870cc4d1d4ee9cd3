//! The doctor's part in the database: each promise is broken by hand, and exactly that is found.

use crate::world::{World, at, on_both};
use orion_domain::{
    NodeId, Timestamp,
    doctor::{Check, Finding},
};
use orion_store::Scope;

on_both!(
    what_containers_leave_behind_is_found,
    a_database_in_use_has_no_findings,
    a_node_and_a_lease_that_disagree_are_found,
    two_leases_on_a_node_are_found_where_the_schema_no_longer_refuses_them,
    a_lease_whose_history_or_node_is_wrong_is_found,
    a_lease_past_its_end_is_found,
    a_state_without_its_event_is_found,
    a_node_without_its_event_is_found_however_many_there_are,
    a_secret_that_should_be_gone_or_sealed_is_found,
    an_offered_node_that_must_not_be_is_found,
    versions_and_uids_that_went_backwards_are_found,
    work_that_does_not_go_on_is_found,
    what_the_schema_lacks_is_found,
    warnings_tell_of_the_brake_and_of_missing_processes,
);

/// A world with a node that is free, one with an active lease, and one whose lease is over.
async fn used(world: &World) -> (NodeId, i64, i64) {
    let nodes = world.free_nodes(2).await;
    let user = world.user("alice").await;
    let over = world.active_lease(&world.wish(user, 1)).await;
    let reason = orion_domain::lease::EndReason::Released;
    world.store.leases().end(&[over.id], &reason, None, at(5)).await.unwrap();
    let on = over.state.occupies().unwrap();
    world.clean(on, at(6)).await;
    let active = world.active_lease(&world.wish(user, 1)).await;
    for kind in ["api", "scheduler"] {
        world.store.cluster().heartbeat("one", kind, world.store.now().await.unwrap()).await.unwrap();
    }
    let free = nodes.into_iter().find(|node| Some(*node) != active.state.occupies()).unwrap();
    (free, active.id.0, over.id.0)
}

async fn found_at(world: &World, now: Timestamp) -> Vec<Finding> {
    let all = world.store.admin().audit(Scope::All, now).await.unwrap();
    let recent = world.store.admin().audit(Scope::Recent, now).await.unwrap();
    assert_eq!(all, recent, "what ended within the hour is looked at every time");
    all
}

/// The checks that have findings.
async fn broken(world: &World) -> Vec<Check> {
    let mut checks: Vec<Check> =
        found_at(world, at(10)).await.into_iter().map(|finding| finding.check).collect();
    checks.dedup();
    checks
}

/// Statements that the schema refuses, too, on one connection.
async fn force(world: &World, sql: &str) {
    let (before, after) = if world.is_maria() {
        ("SET SESSION check_constraint_checks = 0", "SET SESSION check_constraint_checks = 1")
    } else {
        ("PRAGMA ignore_check_constraints = ON", "PRAGMA ignore_check_constraints = OFF")
    };
    world.sql(&format!("{before}; {sql}; {after}")).await.unwrap();
}

async fn a_database_in_use_has_no_findings(world: World) {
    used(&world).await;
    assert_eq!(found_at(&world, at(10)).await, []);
}

async fn a_node_and_a_lease_that_disagree_are_found(world: World) {
    let (free, active, over) = used(&world).await;
    world.sql(&format!("UPDATE nodes SET whole_lease = {over} WHERE id = {free}")).await.unwrap();
    let found = found_at(&world, at(10)).await;
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!(
        (finding.check, finding.node, finding.lease.map(|id| id.0)),
        (Check::I1, Some(free), Some(over))
    );
    world
        .sql(&format!("UPDATE nodes SET whole_lease = NULL WHERE whole_lease IN ({over}, {active})"))
        .await
        .unwrap();
    // Its node looks free and would be given away.
    assert_eq!(broken(&world).await, [Check::I1, Check::I7]);
}

async fn two_leases_on_a_node_are_found_where_the_schema_no_longer_refuses_them(world: World) {
    let (_, active, over) = used(&world).await;
    let twice = format!(
        "UPDATE leases SET state = 'active', ended_at = NULL, password_hash = '$6$a$b', occupies_node = \
         (SELECT n FROM (SELECT occupies_node AS n FROM leases WHERE id = {active}) x) WHERE id = {over}"
    );
    world.sql(&twice).await.expect_err("the schema has the last word");
    let drop = if world.is_maria() { "ALTER TABLE leases DROP INDEX" } else { "DROP INDEX" };
    world.sql(&format!("{drop} leases_whole_node")).await.unwrap();
    world.sql(&twice).await.unwrap();
    let found = found_at(&world, at(10)).await;
    assert!(found.iter().any(|f| f.check == Check::I1 && f.what == "2 leases have it"), "{found:?}");
    assert!(
        found.iter().any(|f| f.check == Check::Schema && f.what.contains("leases_whole_node")),
        "{found:?}"
    );
}

async fn a_lease_whose_history_or_node_is_wrong_is_found(world: World) {
    let (_, active, _) = used(&world).await;
    world.sql(&format!("UPDATE lease_nodes SET left_at = 1 WHERE lease_id = {active}")).await.unwrap();
    assert_eq!(broken(&world).await, [Check::I2]);
    world.sql(&format!("UPDATE lease_nodes SET left_at = NULL WHERE lease_id = {active}")).await.unwrap();
    world.sql(&format!("UPDATE nodes SET health = 'dead' WHERE whole_lease = {active}")).await.unwrap();
    assert_eq!(broken(&world).await, [Check::I2, Check::I4]);
}

async fn a_lease_past_its_end_is_found(world: World) {
    let (_, active, _) = used(&world).await;
    assert_eq!(found_at(&world, at(3600 + 69)).await, [], "the scheduler has a minute after the grace");
    let found = world.store.admin().audit(Scope::All, at(3600 + 71)).await.unwrap();
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.check, finding.lease.map(|id| id.0)), (Check::I3, Some(active)));
}

async fn a_state_without_its_event_is_found(world: World) {
    let (free, active, over) = used(&world).await;
    for (kind, id, column) in
        [("lease.active", active, "lease"), ("lease.ended", over, "lease"), ("node.alive", free.0, "node")]
    {
        let sql = format!("UPDATE events SET kind = 'x.{kind}' WHERE {column}_id = {id} AND kind = '{kind}'");
        world.sql(&sql).await.unwrap();
        let found = found_at(&world, at(10)).await;
        let [finding] = &found[..] else { panic!("{kind}: {found:?}") };
        let about = finding.lease.map(|id| id.0).or(finding.node.map(|id| id.0));
        assert_eq!((finding.check, about), (Check::I4, Some(id)), "{kind}");
        world.sql(&format!("UPDATE events SET kind = '{kind}' WHERE kind = 'x.{kind}'")).await.unwrap();
    }
}

async fn a_node_without_its_event_is_found_however_many_there_are(world: World) {
    world.join_token().await;
    let first = world.register(&world.registration(1)).await.id.0;
    // 1199 like it; the doctor looks at 500 with one statement.
    let columns = "admission, health, health_reason, health_since, link, link_since, host_keys, gpus, tags, \
                   subordinate_uids, registration_sha256, desired_version, applied_version, epoch, registered_at, \
                   changed_at";
    world
        .sql(&format!(
            "INSERT INTO nodes (id, hostname, addr, ssh_port, {columns}) \
             WITH RECURSIVE ten AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM ten WHERE n < 9) \
             SELECT {first} + a.n + 10 * b.n + 100 * c.n, CONCAT('n', a.n + 10 * b.n + 100 * c.n), \
             CONCAT('n', a.n + 10 * b.n + 100 * c.n), 22, {columns} \
             FROM nodes, ten a, ten b, (SELECT n FROM ten UNION SELECT 10 UNION SELECT 11) c \
             WHERE nodes.id = {first} AND a.n + 10 * b.n + 100 * c.n > 0"
        ))
        .await
        .unwrap();
    assert_eq!(world.count("SELECT COUNT(*) FROM nodes").await, 1200);
    let of_nodes = async || -> Vec<i64> {
        let found = found_at(&world, at(10)).await;
        found.into_iter().filter(|f| f.check == Check::I4).filter_map(|f| Some(f.node?.0)).collect()
    };
    assert_eq!(of_nodes().await, [0_i64; 0]);
    let broken = [first, first + 499, first + 500, first + 999, first + 1000, first + 1199];
    let list = broken.map(|id| id.to_string()).join(", ");
    world.sql(&format!("UPDATE nodes SET health = 'suspect' WHERE id IN ({list})")).await.unwrap();
    assert_eq!(of_nodes().await, broken);
    world.sql(&format!("UPDATE nodes SET health = 'suspect' WHERE id >= {first} + 460")).await.unwrap();
    assert_eq!(of_nodes().await.len(), 100, "no more are shown");
}

async fn a_secret_that_should_be_gone_or_sealed_is_found(world: World) {
    let (_, active, over) = used(&world).await;
    for (breaks, heals) in [
        (
            format!("UPDATE leases SET password_hash = '$6$a$b' WHERE id = {over}"),
            format!("UPDATE leases SET password_hash = '' WHERE id = {over}"),
        ),
        (
            format!("UPDATE leases SET password_hash = 'hunter2' WHERE id = {active}"),
            format!("UPDATE leases SET password_hash = '$6$a$b' WHERE id = {active}"),
        ),
        (
            "UPDATE users SET password_hash = 'hunter2'".to_owned(),
            "UPDATE users SET password_hash = '$argon2id$x'".to_owned(),
        ),
        (
            format!(
                "INSERT INTO sealed_values (name, sealed) VALUES ('k', X'{}')",
                "-----BEGIN OPENSSH PRIVATE KEY-----b3BlbnNz"
                    .bytes()
                    .map(|b| format!("{b:02X}"))
                    .collect::<String>()
            ),
            "DELETE FROM sealed_values".to_owned(),
        ),
    ] {
        force(&world, &breaks).await;
        let found = found_at(&world, at(10)).await;
        let [finding] = &found[..] else { panic!("{breaks}: {found:?}") };
        assert_eq!(finding.check, Check::I5, "{breaks}");
        assert!(!finding.what.contains("hunter2"), "the secret itself is not shown");
        force(&world, &heals).await;
    }
    let random: Vec<u8> = (0..64_u8).map(|byte| byte.wrapping_mul(151).wrapping_add(7)).collect();
    world.store.cluster().put_sealed_if_absent("k", &random).await.unwrap();
    assert_eq!(found_at(&world, at(10)).await, []);
}

async fn an_offered_node_that_must_not_be_is_found(world: World) {
    let (free, _, _) = used(&world).await;
    world.sql(&format!("UPDATE nodes SET host_keys = '[]' WHERE id = {free}")).await.unwrap();
    let found = found_at(&world, at(10)).await;
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert_eq!((finding.check, finding.node), (Check::I7, Some(free)));
}

async fn versions_and_uids_that_went_backwards_are_found(world: World) {
    let (free, active, _) = used(&world).await;
    force(&world, &format!("UPDATE nodes SET applied_version = desired_version + 1 WHERE id = {free}")).await;
    assert_eq!(broken(&world).await, [Check::Versions]);
    force(&world, &format!("UPDATE nodes SET applied_version = desired_version WHERE id = {free}")).await;
    let uid = world.count(&format!("SELECT account_uid FROM leases WHERE id = {active}")).await;
    for value in [uid.to_string(), "many".to_owned()] {
        world.store.cluster().put_setting("next_uid", &value).await.unwrap();
        assert_eq!(broken(&world).await, [Check::Uids], "{value}");
    }
    world.store.cluster().put_setting("next_uid", &(uid + 1).to_string()).await.unwrap();
    assert_eq!(found_at(&world, at(10)).await, []);
}

async fn work_that_does_not_go_on_is_found(world: World) {
    let (free, active, _) = used(&world).await;
    let clean = format!(
        "UPDATE nodes SET applied_version = desired_version, reconcile_failures = 0, \
                         claim_token = NULL, claimed_until = NULL WHERE id = {free}"
    );
    world
        .sql(&format!("UPDATE nodes SET desired_version = desired_version + 1 WHERE id = {free}"))
        .await
        .unwrap();
    assert_eq!(broken(&world).await, [], "it has just become dirty");
    let later: Vec<Check> =
        found_at(&world, at(200)).await.into_iter().map(|finding| finding.check).collect();
    assert_eq!(later, [Check::Stuck]);
    world.sql(&clean).await.unwrap();
    world.sql(&format!("UPDATE nodes SET reconcile_failures = 10 WHERE id = {free}")).await.unwrap();
    assert_eq!(broken(&world).await, [Check::Stuck]);
    world.sql(&clean).await.unwrap();
    let claim = format!(
        "UPDATE nodes SET claim_token = 'x', claimed_until = {} WHERE id = {free}",
        at(20).as_micros()
    );
    world.sql(&claim).await.unwrap();
    assert_eq!(broken(&world).await, [], "somebody works on it");
    let later: Vec<Check> =
        found_at(&world, at(200)).await.into_iter().map(|finding| finding.check).collect();
    assert_eq!(later, [Check::Claims]);
    world.sql(&clean).await.unwrap();
    let releasing = "{\"why\":\"released\"}";
    world
        .sql(&format!(
            "UPDATE leases SET state = 'releasing', state_reason = '{releasing}' WHERE id = {active}"
        ))
        .await
        .unwrap();
    world
        .sql(&format!("UPDATE events SET kind = 'lease.releasing' WHERE lease_id = {active}"))
        .await
        .unwrap();
    assert_eq!(broken(&world).await, [], "it takes its time");
    let later: Vec<Check> =
        found_at(&world, at(700)).await.into_iter().map(|finding| finding.check).collect();
    assert_eq!(later, [Check::Stuck]);
}

async fn what_the_schema_lacks_is_found(world: World) {
    used(&world).await;
    let drop =
        if world.is_maria() { "ALTER TABLE events DROP INDEX events_at" } else { "DROP INDEX events_at" };
    world.sql(drop).await.unwrap();
    let found = found_at(&world, at(10)).await;
    let [finding] = &found[..] else { panic!("{found:?}") };
    assert!(finding.check == Check::Schema && finding.what.contains("events_at"), "{finding:?}");
}

async fn warnings_tell_of_the_brake_and_of_missing_processes(world: World) {
    used(&world).await;
    let known = world.store.cluster().brake().await.unwrap();
    world
        .store
        .cluster()
        .engage_brake(&known, "one", "many are silent", at(9))
        .await
        .unwrap()
        .done()
        .unwrap();
    world.store.cluster().remove_replica("one", "scheduler").await.unwrap();
    let found = found_at(&world, at(10)).await;
    let checks: Vec<Check> = found.iter().map(|finding| finding.check).collect();
    assert_eq!(checks, [Check::Brake, Check::Processes], "{found:?}");
    assert!(checks.into_iter().all(Check::is_warning));
    let now = world.store.now().await.unwrap();
    assert_eq!(world.store.admin().clock_finding(|| now).await.unwrap(), None);
    let ahead = now.plus(std::time::Duration::from_secs(60));
    let finding = world.store.admin().clock_finding(|| ahead).await.unwrap().expect("a minute is too much");
    assert_eq!(finding.check, Check::Clock);
}

async fn what_containers_leave_behind_is_found(world: World) {
    let (free, active, _) = used(&world).await;
    let sql = async |sql: &str| world.sql(sql).await.unwrap();
    sql(&format!(
        "INSERT INTO networks (node_id, subnet, lease_id) VALUES ({free}, '10.201.0.0/28', {active})"
    ))
    .await;
    assert_eq!(broken(&world).await, [Check::I1]);
    sql("DELETE FROM networks").await;
    let sealed = if world.is_maria() { "REPEAT(CHAR(1), 64)" } else { "zeroblob(64)" };
    let container = |state: &str, lease: i64| {
        format!(
            "INSERT INTO containers (uid, lease_id, number, name, live_name, spec, spec_sealed, wanted, state, state_since, \
             created_at) VALUES ('u', {lease}, 1, 'web', 'web', '{{}}', {sealed}, 'started', '{state}', {}, 0)",
            at(5).as_micros()
        )
    };
    sql(&container("pulling", active)).await;
    assert_eq!(broken(&world).await, []);
    let later: Vec<Check> =
        found_at(&world, at(4 * 3600)).await.into_iter().map(|finding| finding.check).collect();
    assert!(later.contains(&Check::Stuck), "{later:?}");
    let cast = if world.is_maria() { "BINARY" } else { "BLOB" };
    sql(&format!("UPDATE containers SET spec_sealed = CAST('in the clear, and long enough to be a sealed value' AS {cast})")).await;
    assert_eq!(broken(&world).await, [Check::I5]);
    sql("DELETE FROM containers").await;
    assert_eq!(broken(&world).await, []);
}
