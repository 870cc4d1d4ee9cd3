//! Two leases on one node, placed through the store's own interface: no route places slices yet.

use super::{
    system::{Database, System},
    user::{is_clean, is_refused},
};
use orion_domain::{
    LeaseId, Secret, Timestamp, UserId,
    clock::{Clock as _, SystemClock},
    lease::{EndReason, Holding, Phase},
};
use orion_store::{NewAccount, PlaceOutcome, PlaceRequest, Store, StoreConfig};
use orion_testkit::{KeyPair, SshClient, wait_until};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);
/// A hash that no password has: the login is by key.
const NO_PASSWORD: &str = "*";

fn now() -> Timestamp {
    SystemClock.now()
}

/// Places a slice for a user whose login is by `key`.
async fn slice(store: &Store, user: UserId, name: &str, key: &KeyPair) -> LeaseId {
    let (from, public_key) = (now(), Some(key.public_line().to_owned()));
    let request = PlaceRequest {
        user,
        username: name.parse().expect("a name"),
        count: 1,
        from,
        until: from.plus(Duration::from_secs(3600)),
        name: None,
        accounts: vec![NewAccount { password_hash: Secret::new(NO_PASSWORD), public_key }],
        tags: Vec::new(),
        holding: Holding::Slice { cpu_milli: 100, memory_mb: 64, gpus: 0 },
        containers: Vec::new(),
        on_node_loss: orion_domain::lease::OnNodeLoss::Wait,
        nodes_max: None,
        request_key: format!("slice of {name}"),
        // Finished by the scheduler, not undone: no client waits for it.
        idem: Some(orion_store::IdemNew {
            scope: "test".into(),
            key_sha256: name.into(),
            body_sha256: String::new(),
            request_key: Some(format!("slice of {name}")),
            secrets_sealed: None,
            expires_at: from.plus(Duration::from_secs(3600)),
        }),
        first_turn: Duration::ZERO,
        first_uid: 200_000,
        last_uid: 229_999,
        now: from,
    };
    let outcome = store.leases().place(&request).await.expect("the database answers");
    let PlaceOutcome::Placed(placements) = outcome else { panic!("{outcome:?}") };
    placements[0].lease.id
}

async fn until(store: &Store, lease: LeaseId, phase: Phase) {
    wait_until(&format!("lease {lease} is {}", phase.as_str()), PATIENCE, async || {
        let state = store.leases().get(lease).await.expect("readable").expect("there").state;
        if state.phase() == phase { Ok(()) } else { Err(state) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_leases_on_one_node_never_remove_each_other() {
    let system = System::start(Database::MariaDb, 1).await;
    let worker = &system.workers()[0];
    system.until_offered(system.workers()).await;
    let url = system.up().database_url().expect("MariaDB").to_owned();
    let store =
        Store::open_existing(&StoreConfig { urls: vec![url], connections_max: 2 }).await.expect("open");
    let keys = [KeyPair::generate(), KeyPair::generate()];
    let mut leases = Vec::new();
    for (name, key) in ["alice", "bob"].into_iter().zip(&keys) {
        system.user(name).await;
        let user = store.accounts().by_name(name).await.expect("readable").expect("signed up").id;
        leases.push(slice(&store, user, name, key).await);
    }
    let login = |name: &str, key: &KeyPair| {
        SshClient::with_private_key(worker.ssh_address(), name, &key.private_path())
    };
    let [alice, bob] = [login("alice", &keys[0]), login("bob", &keys[1])];
    for lease in &leases {
        until(&store, *lease, Phase::Active).await;
    }
    let runs = "nohup sleep 345678 >/dev/null 2>&1 </dev/null & echo $(id -un) $!";
    let mut pids = Vec::new();
    for (login, name) in [(&alice, "alice"), (&bob, "bob")] {
        let said = login.run(runs).await.expect("the login works");
        let (who, pid) = said.trim().split_once(' ').expect("a name and a number");
        assert_eq!(who, name);
        pids.push(pid.to_owned());
    }

    // One is released: its account and its process go, the other's stay.
    store.leases().end(&leases[..1], &EndReason::Released, None, now()).await.expect("ended");
    until(&store, leases[0], Phase::Ended).await;
    is_refused(&alice).await;
    assert_eq!(bob.run(&format!("kill -0 {} && id -un", pids[1])).await.as_deref(), Ok("bob\n"));
    assert_eq!(worker.sh("getent passwd alice || true"), "");
    assert_eq!(worker.sh(&format!("kill -0 {} 2>/dev/null && echo alive || echo gone", pids[0])), "gone\n");

    // A full look at the node, as after a reboot, leaves the other alone, too.
    let node = store.leases().get(leases[1]).await.expect("readable").expect("there").state.occupies();
    let node = node.expect("it has its node");
    store
        .agents()
        .doubt_account(node, leases[1], "a test", now())
        .await
        .expect("written")
        .done()
        .expect("clean");
    wait_until("the node is clean again", PATIENCE, async || {
        let node = store.nodes().get(node).await.expect("readable").expect("there");
        if node.is_dirty() { Err(node.desired_version) } else { Ok(()) }
    })
    .await;
    assert_eq!(bob.run(&format!("kill -0 {} && id -un", pids[1])).await.as_deref(), Ok("bob\n"));

    store.leases().end(&leases[1..], &EndReason::Released, None, now()).await.expect("ended");
    until(&store, leases[1], Phase::Ended).await;
    is_refused(&bob).await;
    system.until_offered(system.workers()).await;
    is_clean(worker);
}
