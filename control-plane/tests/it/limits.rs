//! Nobody takes the service: sign-up, rates, quotas, and what is done for a request of anybody.

use crate::{
    api::{Api, Database, PASSWORD, Reply},
    on_both_databases,
};
use futures_util::future::join_all;
use orion_control_plane::{Config, config::SignUp, limit::Attempt};
use orion_testkit::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

on_both_databases!(
    a_user_has_no_more_nodes_at_once_than_the_quota_says_also_when_many_are_asked_for_at_once,
    an_invitation_is_good_for_as_many_accounts_as_it_says,
    sign_ups_in_all_are_limited_over_all_replicas,
);

/// Believes the tests' own word about where a request comes from.
fn behind_a_proxy(config: &mut Config) {
    config.trusted_proxies = vec!["127.0.0.1/32".parse().expect("a network")];
}

async fn sign_up_from(api: &Api, name: &str, address: &str) -> Reply {
    let body = json!({ "username": name, "password": PASSWORD });
    Reply::of(api.request(Method::POST, "/auth/signup").header("x-forwarded-for", address).json(&body)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_signs_up_five_times_an_hour_whatever_address_of_it_is_used() {
    let api = Api::start_with(Database::Sqlite, |config| {
        behind_a_proxy(config);
        config.signups_per_hour = 5;
    })
    .await;
    for (family, address) in [
        ("four", Box::new(|n: usize| format!("192.0.2.{n}")) as Box<dyn Fn(usize) -> String + Send + Sync>),
        ("six", Box::new(|n: usize| format!("2001:db8:7:{n:x}::1"))),
    ] {
        for n in 1..=5 {
            sign_up_from(&api, &format!("{family}{n}"), &address(n)).await.expect(201);
        }
        let refused = sign_up_from(&api, &format!("{family}6"), &address(6)).await;
        let seconds: u64 = refused.header("retry-after").parse().expect("seconds");
        assert!((1..=3600).contains(&seconds), "{seconds}");
        refused.problem(429);
    }
    sign_up_from(&api, "elsewhere", "198.51.100.1").await.expect(201);
    // A name that is taken, or is none, uses up nothing.
    for _ in 0..10 {
        sign_up_from(&api, "elsewhere", "203.0.113.1").await.problem(409);
        sign_up_from(&api, "root", "203.0.113.1").await.problem(400);
    }
    sign_up_from(&api, "another", "203.0.113.1").await.expect(201);
}

async fn sign_ups_in_all_are_limited_over_all_replicas(api: Api) {
    let other = Api::start_on_the_same(&api, |config| config.signups_per_minute = 3).await;
    for name in ["a1", "a2", "a3"] {
        api.user(name).await;
    }
    let body = json!({ "username": "a4", "password": PASSWORD });
    let refused = other.post("/auth/signup", "", &body).await;
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|wait| wait <= 61), "{refused:?}");
    refused.problem(429);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sign_up_can_be_closed_and_admins_still_make_accounts() {
    let api = Api::start_with(Database::Sqlite, |config| config.signup = SignUp::Closed).await;
    let body = json!({ "username": "alice", "password": PASSWORD });
    assert_eq!(api.post("/auth/signup", "", &body).await.problem(403)["kind"], "signup_refused");
    api.admin("boss").await;
}

async fn an_invitation_is_good_for_as_many_accounts_as_it_says(api: Api) {
    let closed = Api::start_on_the_same(&api, |config| {
        (config.signup, config.signups_per_minute) = (SignUp::Invite, 1);
    })
    .await;
    let (boss, user) = (api.admin("boss").await, api.user("early").await);
    let sign_up = async |name: &str, invite: Option<&str>| {
        closed
            .post("/auth/signup", "", &json!({ "username": name, "password": PASSWORD, "invite": invite }))
            .await
    };
    api.post("/api/admin/invites", &user, &json!({})).await.problem(403);
    let made = api.post("/api/admin/invites", &boss, &json!({ "uses": 2 })).await.expect(201);
    let invite = made["invite"].as_str().expect("an invitation");
    assert_eq!(sign_up("bob", None).await.problem(403)["field"], "invite");
    assert_eq!(sign_up("bob", Some("orion-invite_guessed")).await.problem(403)["field"], "invite");
    sign_up("early", Some(invite)).await.problem(409); // uses up nothing
    // Neither strangers' sign-ups nor a full minute hold up who is invited: this one's limit is reached.
    let outcomes = join_all((0..6).map(|n| {
        let name = format!("guest{n}");
        async move { sign_up(&name, Some(invite)).await.status }
    }))
    .await;
    assert_eq!(outcomes.iter().filter(|status| **status == 201).count(), 2, "{outcomes:?}");
    assert_eq!(outcomes.iter().filter(|status| **status == 403).count(), 4, "{outcomes:?}");
    for wrong in [json!({ "uses": 0 }), json!({ "expires_hours": 0 }), json!({ "expires_hours": 1e9 })] {
        api.post("/api/admin/invites", &boss, &wrong).await.problem(400);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_but_the_supervisors_is_limited_by_address_and_by_account() {
    let api = Api::start_with(Database::Sqlite, |config| {
        behind_a_proxy(config);
        (config.requests_of_address, config.requests_of_user) = (20, 30);
    })
    .await;
    let alice = api.user("alice").await;
    let get = async |path: &str, address: &str, token: &str| {
        let request = api.request(Method::GET, path).header("x-forwarded-for", address);
        Reply::of(if token.is_empty() { request } else { request.bearer_auth(token) }).await
    };
    // A token that is no good counts as none, whatever it is.
    for n in 0..20 {
        assert_ne!(get("/auth/me", "192.0.2.1", &format!("guess{n}")).await.status, 429, "{n}");
    }
    for route in orion_control_plane::router::routes().into_iter().filter(|route| route.method == "GET") {
        let path = route.path.replace("{id}", "1").replace("{user}", "x").replace("{file}", "x");
        let reply = get(&path, "192.0.2.1", "").await;
        // What monitoring and workers ask is counted apart.
        let apart = ["/api/live", "/api/health", "/metrics", "/api/workers/link"];
        assert_eq!(reply.status == 429, !apart.contains(&path.as_str()), "{path}: {reply:?}");
        if reply.status == 429 {
            assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|wait| wait >= 1), "{reply:?}");
        }
    }
    assert_ne!(get("/auth/login", "192.0.2.1", "").await.status, 429, "and logins");
    let mut checks = 0;
    while get("/metrics", "192.0.2.1", "").await.status == 200 {
        checks += 1;
        assert!(checks <= 40, "there is no limit");
    }
    // Whoever shares that address and has a good token is not held up, and has a limit of their own.
    let mut taken = 0;
    while get("/auth/me", "192.0.2.1", &alice).await.status == 200 {
        taken += 1;
        assert!(taken <= 60, "there is no limit");
    }
    assert!(taken >= 30, "{taken}");
    get("/api/live", "192.0.2.1", &alice).await.expect(200);
    get("/api/health", "198.51.100.9", "").await.expect(503); // there is no scheduler: it was looked
}

/// A room of workers behind one address, and somebody there who guesses tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_behind_one_address_hold_up_neither_each_other_nor_their_users() {
    let api = Api::start_with(Database::Sqlite, |config| {
        (config.requests_of_address, config.requests_of_worker) = (5, 8);
    })
    .await;
    let join = api.join_token().await;
    let mut workers = Vec::new();
    for n in 0..12 {
        let body = api.worker(&format!("w{n}"), &KeyPair::generate());
        let made = api.post("/api/workers/register", &join, &body).await.expect(201);
        workers.push((made["node_token"].as_str().expect("a token").to_owned(), body));
    }
    let again = async |n: usize| {
        let (token, body) = &workers[n];
        api.post("/api/workers/register", token, body).await.status
    };
    for n in 0..12 {
        assert_eq!(again(n).await, 200, "{n}");
    }
    let mut guesses = 0;
    while api.post("/api/workers/register", "orion-node_guess", &workers[0].1).await.status == 401 {
        guesses += 1;
        assert!(guesses <= 10, "guesses have no limit");
    }
    assert_eq!(again(3).await, 200, "nor does one who guesses");
    assert_eq!(api.get("/docs", "").await.status, 200);
    let mut taken = 0;
    while again(4).await == 200 {
        taken += 1;
        assert!(taken <= 20, "a worker has no limit");
    }
    assert_eq!(again(5).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_do_not_shut_an_owner_out() {
    let api = Api::start_with(Database::Sqlite, behind_a_proxy).await;
    api.user("alice").await;
    let log_in = async |address: &str, password: &str, token: &str| {
        let request = api.request(Method::POST, "/auth/login").header("x-forwarded-for", address);
        let request = if token.is_empty() { request } else { request.bearer_auth(token) };
        Reply::of(request.json(&json!({ "username": "alice", "password": password }))).await
    };
    let first = log_in("192.0.2.1", PASSWORD, "").await.expect(200);
    let token = first["token"].as_str().expect("a token").to_owned();
    let mut refused = 0;
    for n in 0..80 {
        refused += usize::from(log_in(&format!("2001:db8:{n:x}::1"), "wrong wrong", "").await.status == 429);
    }
    let bob = api.user("bob").await;
    // On a slow machine some are free again by now: all at once, without the work on passwords.
    for n in 0..80_u16 {
        let address = std::net::Ipv6Addr::from([0x2001, 0xdb8, 0x1000 + n, 0, 0, 0, 0, 1]).into();
        let attempt = Attempt { account: Some("alice"), address, has_token: false };
        let _ = api.app.limiter.start(attempt, api.app.now());
    }
    assert!(refused >= 1, "strangers together have a limit");
    log_in("198.51.100.7", PASSWORD, "").await.problem(429); // nobody knows this address
    log_in("203.0.113.9", PASSWORD, &bob).await.problem(429); // a token of somebody else's
    log_in("192.0.2.1", PASSWORD, "").await.expect(200);
    log_in("198.51.100.7", PASSWORD, &token).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_go_on_while_newcomers_wait_for_their_turn() {
    let api = Api::start(Database::Sqlite).await;
    api.user("alice").await;
    // Has not logged in from here yet.
    api.post("/auth/signup", "", &json!({ "username": "bob", "password": PASSWORD })).await.expect(201);
    let newcomers = (0..60).map(|n| {
        let body = json!({ "username": format!("new{n}"), "password": PASSWORD });
        let api = &api;
        async move { api.post("/auth/signup", "", &body).await.status }
    });
    let finished_before = std::sync::atomic::AtomicUsize::new(0);
    let counted = newcomers.map(|one| async {
        let status = one.await;
        finished_before.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        status
    });
    let logins = async {
        // Behind all of them in one queue they would be the last.
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::join!(api.log_in("alice"), api.log_in("bob"));
        finished_before.load(std::sync::atomic::Ordering::Relaxed)
    };
    let (_, before) = tokio::join!(join_all(counted), logins);
    assert!(before < 40, "{before} newcomers came first");
}

async fn a_user_has_no_more_nodes_at_once_than_the_quota_says_also_when_many_are_asked_for_at_once(api: Api) {
    let boss = api.admin("boss").await;
    let alice = api.user("alice").await;
    for n in 0..3 {
        api.offered_node(&format!("w{n}")).await;
    }
    let held = api.active_lease("alice").await;
    let quotas = json!({ "nodes": 2, "lease_hours": 3 });
    let set = api.post("/api/admin/users/alice/quotas", &boss, &quotas).await.expect(200);
    assert_eq!(set["user"]["quotas"]["nodes"], 2);
    let me = api.get("/auth/me", &alice).await.expect(200);
    assert_eq!(me["quotas"]["nodes"], json!({ "limit": 2, "used": 1 }));
    assert_eq!(me["quotas"]["lease_hours"]["limit"], 3);

    let problem =
        api.post("/api/rent", &alice, &json!({ "duration_hours": 1, "count": 2 })).await.problem(403);
    assert_eq!((&problem["quota"], &problem["limit"]), (&json!("nodes"), &json!(2)), "{problem}");
    assert!(problem["hint"].as_str().is_some_and(|hint| hint.contains("admin")), "{problem}");
    let problem = api.post("/api/rent", &alice, &json!({ "duration_hours": 4 })).await.problem(403);
    assert_eq!(problem["quota"], "lease_hours");
    // 1 hour and 2 more is all; each extension counts from the lease's beginning.
    let path = format!("/api/extend/{held}");
    api.post(&path, &alice, &json!({ "additional_hours": 2 })).await.expect(200);
    assert_eq!(
        api.post(&path, &alice, &json!({ "additional_hours": 0.1 })).await.problem(403)["quota"],
        "lease_hours"
    );
    api.post(&path, &boss, &json!({ "additional_hours": 1 })).await.expect(200);

    // Straight at the store, where there is no node that has to answer: of many at once one fits.
    let store = &api.app.store;
    let before = store.accounts().live_leases(api.user_id("alice").await).await.expect("a count");
    assert_eq!(before, 1);
    let asked = Instant::now();
    let placed = join_all((0..6).map(|_| api.place("alice", Some(2)))).await;
    assert_eq!(placed.iter().filter(|placed| **placed).count(), 1, "{placed:?} in {:?}", asked.elapsed());
    assert_eq!(store.accounts().live_leases(api.user_id("alice").await).await.expect("a count"), 2);
    let all: Value = api.get("/api/rentals", &alice).await.expect(200);
    assert_eq!(all.as_array().map(Vec::len), Some(2));

    // An account that is disabled gets nothing that was still on its way.
    api.post("/api/admin/users/alice/disable", &boss, &json!({})).await.expect(200);
    assert!(!api.place("alice", None).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_keys_of_one_user_are_limited() {
    let api = Api::start_with(Database::Sqlite, |config| config.user_keys_max = 2).await;
    let alice = api.user("alice").await;
    let user = api.user_id("alice").await;
    for n in 0..2_u32 {
        let kept = orion_store::IdemNew {
            scope: format!("rent user {user}"),
            key_sha256: format!("{n:064x}"),
            body_sha256: format!("{n:064x}"),
            request_key: None,
            secrets_sealed: None,
            expires_at: api.app.now().plus(Duration::from_secs(3600)),
        };
        api.app.store.idempotency().begin(&kept, api.app.now()).await.expect("kept");
    }
    let request = api.request(Method::POST, "/api/rent").header("Idempotency-Key", "third");
    let reply = Reply::of(request.bearer_auth(&alice).json(&json!({ "duration_hours": 1 }))).await;
    assert_eq!(reply.problem(403)["quota"], "keys");
    api.post("/api/rent", &alice, &json!({ "duration_hours": 1 })).await.problem(503); // without a key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_anybody_may_ask_opens_no_transaction() {
    let api = Api::start(Database::Sqlite).await;
    // The one writer of SQLite is taken: a transaction would wait for it.
    let pool = sqlx::SqlitePool::connect(api.database()).await.expect("the same file");
    let mut writer = pool.acquire().await.expect("a connection");
    sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut *writer).await.expect("the writer");
    let asked = Instant::now();
    let health = api.get("/api/health", "").await;
    assert_eq!(health.expect(503)["parts"]["database"]["status"], "up", "{health:?}");
    api.get("/metrics", "").await;
    api.post(
        "/api/workers/register",
        "orion-join_guessed",
        &json!({ "hostname": "w", "ip": "127.9.9.9", "ssh_port": 1 }),
    )
    .await
    .problem(401);
    let login = json!({ "username": "nobody", "password": PASSWORD });
    api.post("/auth/login", "", &login).await.problem(401);
    assert!(asked.elapsed() < Duration::from_secs(5), "it waited for {:?}", asked.elapsed());
    sqlx::raw_sql("ROLLBACK").execute(&mut *writer).await.expect("given back");
}
