//! Accounts of the API, sealed values and settings.

use crate::world::{World, at, on_both, sha};
use orion_domain::UserId;
use orion_store::{Cas, CreateUser, IdemNew, NewUser, Role};

on_both!(
    a_name_is_taken_once,
    an_admin_is_made_or_made_of_a_user,
    tokens_of_an_older_generation_are_void,
    replicas_that_start_at_once_share_one_sealed_key,
    settings_are_replaced,
    the_databases_clock_is_read,
);

async fn a_name_is_taken_once(world: World) {
    let alice = "alice".parse().unwrap();
    let signup = |idem| async move { idem };
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, name) = (world.store.clone(), "alice".parse().unwrap());
        racers.spawn(async move {
            store.accounts().create(&NewUser::new(&name, "$argon2id$x"), at(0)).await.unwrap()
        });
    }
    let outcomes = racers.join_all().await;
    let created = outcomes.iter().filter(|outcome| matches!(outcome, CreateUser::Created(_))).count();
    assert_eq!((created, outcomes.len()), (1, 8));
    assert_eq!(world.count("SELECT COUNT(*) FROM users").await, 1);
    let user = world.store.accounts().by_name("alice").await.unwrap().unwrap();
    assert_eq!((user.role, user.token_generation, user.created_at), (Role::User, 0, at(0)));
    assert_eq!(user.password_hash.expose(), "$argon2id$x");
    assert_eq!(world.store.accounts().get(user.id).await.unwrap(), Some(user));
    for unknown in ["bob", "Alice", "", "alice' OR '1'='1", "été", "alice "] {
        assert_eq!(world.store.accounts().by_name(unknown).await.unwrap(), None, "{unknown:?}");
    }
    let key = signup(IdemNew {
        scope: "signup".into(),
        key_sha256: sha(1),
        body_sha256: sha(2),
        request_key: None,
        secrets_sealed: None,
        expires_at: at(99),
    })
    .await;
    let keyed = |name| NewUser { idem: Some(&key), ..NewUser::new(name, "x") };
    let taken = world.store.accounts().create(&keyed(&alice), at(1)).await.unwrap();
    assert_eq!(taken, CreateUser::Taken);
    assert_eq!(
        world.store.idempotency().get("signup", &sha(1)).await.unwrap(),
        None,
        "a refusal keeps no key"
    );
    let bob = "bob".parse().unwrap();
    let made = world.store.accounts().create(&keyed(&bob), at(1)).await.unwrap();
    assert!(matches!(made, CreateUser::Created(_)));
    let again = world.store.accounts().create(&keyed(&bob), at(2)).await.unwrap();
    assert!(matches!(again, CreateUser::Replayed(row) if row.body_sha256 == sha(2)));
}

async fn an_admin_is_made_or_made_of_a_user(world: World) {
    let alice = world.user("alice").await;
    assert!(!world.store.accounts().any_admin().await.unwrap());
    let name = "alice".parse().unwrap();
    assert_eq!(world.store.accounts().upsert_admin(&name, "$new", at(1)).await.unwrap(), alice);
    let user = world.store.accounts().get(alice).await.unwrap().unwrap();
    assert_eq!((user.role, user.token_generation, user.password_hash.expose()), (Role::Admin, 1, "$new"));
    let other = world.store.accounts().upsert_admin(&"boss".parse().unwrap(), "$x", at(1)).await.unwrap();
    assert_ne!(other, alice);
    assert!(world.store.accounts().any_admin().await.unwrap());
}

async fn tokens_of_an_older_generation_are_void(world: World) {
    let alice = world.user("alice").await;
    assert_eq!(world.store.accounts().void_tokens(alice, at(1)).await.unwrap(), Cas::Done(()));
    assert_eq!(world.store.accounts().get(alice).await.unwrap().unwrap().token_generation, 1);
    assert_eq!(world.store.accounts().void_tokens(UserId(99), at(1)).await.unwrap(), Cas::Gone);
}

async fn replicas_that_start_at_once_share_one_sealed_key(world: World) {
    assert_eq!(world.store.cluster().get_sealed("ca").await.unwrap(), None);
    let mut replicas = tokio::task::JoinSet::new();
    for number in 0_u8..8 {
        let store = world.store.clone();
        replicas.spawn(async move {
            store.cluster().put_sealed_if_absent("ca", &[number, 0, 255]).await.unwrap()
        });
    }
    let keys = replicas.join_all().await;
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(world.store.cluster().get_sealed("ca").await.unwrap().as_ref(), Some(&keys[0]));
}

async fn settings_are_replaced(world: World) {
    assert_eq!(world.store.cluster().get_setting("motd").await.unwrap(), None);
    for value in ["{}", "{\"reason\":\"né\"}"] {
        world.store.cluster().put_setting("motd", value).await.unwrap();
        assert_eq!(world.store.cluster().get_setting("motd").await.unwrap().as_deref(), Some(value));
    }
}

async fn the_databases_clock_is_read(world: World) {
    let ours = orion_domain::Clock::now(&orion_domain::SystemClock);
    let theirs = world.store.now().await.unwrap();
    let apart = theirs.since(ours).max(ours.since(theirs));
    assert!(apart.as_secs() < 2, "{ours} and {theirs} are {apart:?} apart");
    assert!(world.store.is_healthy().await);
}
