//! Accounts as admins change them, and rights that end: streams and waiting requests end with them.

use crate::{
    api::{Api, Database, PASSWORD, Reply},
    on_both_databases,
};
use futures_util::{StreamExt as _, future::join_all};
use orion_domain::{LeaseId, Secret, lease::EndReason, node::QuarantineCause};
use orion_store::{AccountChange, AccountChanged};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A right outlives itself by no more than this.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

on_both_databases!(
    a_stream_ends_with_the_logout_and_tells_nothing_of_what_comes_after_it,
    accounts_are_listed_disabled_enabled_promoted_and_demoted,
    two_admins_who_demote_each_other_at_once_leave_one,
    many_who_ask_at_once_are_told_apart_and_a_right_that_has_ended_counts_no_more,
    disabling_an_account_says_which_leases_it_has_and_ends_them_if_asked,
);

async fn stream(api: &Api, token: &str) -> Response {
    let request = api.request(Method::GET, "/api/events").bearer_auth(token);
    let reply = request.timeout(ENDS_WITHIN * 2).send().await.expect("a stream");
    assert_eq!(reply.status(), 200);
    reply
}

/// All that a stream tells until it ends, which it does in time.
async fn run_detached(stream: Response) -> String {
    let (asked, mut text, mut pieces) = (Instant::now(), String::new(), stream.bytes_stream());
    while let Some(piece) = pieces.next().await {
        text.push_str(&String::from_utf8_lossy(&piece.expect("it ends, and is not cut off")));
    }
    assert!(asked.elapsed() < ENDS_WITHIN, "it went on for {:?}", asked.elapsed());
    text
}

async fn a_stream_ends_with_the_logout_and_tells_nothing_of_what_comes_after_it(api: Api) {
    let token = api.user("alice").await;
    let other = api.user("bob").await;
    let (hers, his) = (stream(&api, &token).await, stream(&api, &other).await);
    api.post("/api/auth/logout", &token, &json!({})).await.expect(200);
    let lease = api.active_lease("alice").await;
    api.app.store.leases().end(&[lease], &EndReason::Released, None, api.app.now()).await.expect("ended");
    api.app.fleet.nudge.all();
    let told = run_detached(hers).await;
    assert!(!told.contains("event: lease."), "{told}");
    // The control: a right that stands is not ended.
    let mut pieces = his.bytes_stream();
    let first = pieces.next().await.expect("a frame").expect("bytes");
    assert!(first.starts_with(b"id:"), "{first:?}");
    assert!(tokio::time::timeout(Duration::from_secs(1), pieces.next()).await.is_err(), "it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_token_and_with_its_role() {
    let api =
        Api::start_with(Database::Sqlite, |config| config.token_lifetime = Duration::from_secs(4)).await;
    let token = api.user("alice").await;
    run_detached(stream(&api, &token).await).await;
    api.get("/auth/me", &token).await.problem(401);

    let api = Api::start(Database::Sqlite).await;
    let (boss, second) = (api.admin("boss").await, api.admin("second").await);
    let feed = stream(&api, &second).await;
    api.post("/api/admin/users/second/demote", &boss, &json!({})).await.expect(200);
    run_detached(feed).await;
    api.get("/api/admin/users", &second).await.problem(403);
}

/// Checks that `ending` ends what depends on a right: a stream, and a rental that waits for its turn. (A
/// worker's link rests on its node token alone.)
async fn both_end(api: &Api, token: &str, ending: impl Future<Output = ()>) {
    let turns = u32::try_from(api.app.placing.available_permits()).expect("a few");
    let busy = api.app.placing.acquire_many(turns).await.expect("every turn");
    let (feed, body) = (stream(api, token).await, json!({ "duration_hours": 1 }));
    let asked = Instant::now();
    let (reply, ()) = tokio::join!(api.post("/api/rent", token, &body), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        ending.await;
    });
    reply.problem(401);
    assert!(asked.elapsed() < ENDS_WITHIN, "{:?}", asked.elapsed());
    run_detached(feed).await;
    drop(busy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_a_right_ends_a_stream_and_a_waiting_request_end_with_it() {
    let lasting = Api::start(Database::Sqlite).await;
    let boss = lasting.admin("boss").await;
    for (name, path) in [
        ("lea", "/api/auth/logout"),
        ("dis", "/api/admin/users/dis/disable"),
        ("dem", "/api/admin/users/dem/demote"),
    ] {
        let token = lasting.admin(name).await;
        let by = if name == "lea" { &token } else { &boss };
        both_end(&lasting, &token, async {
            lasting.post(path, by, &json!({})).await.expect(200);
        })
        .await;
    }
    let brief =
        Api::start_with(Database::Sqlite, |config| config.token_lifetime = Duration::from_secs(4)).await;
    let token = brief.user("exp").await;
    both_end(&brief, &token, async {}).await;
}

async fn accounts_are_listed_disabled_enabled_promoted_and_demoted(api: Api) {
    let (boss, bob) = (api.admin("boss").await, api.user("bob").await);
    let names = |list: Value| -> Vec<String> {
        let list = list.as_array().expect("a list").clone();
        list.iter().map(|user| user["username"].as_str().expect("a name").to_owned()).collect()
    };
    assert_eq!(names(api.get("/api/admin/users", &boss).await.expect(200)), ["boss", "bob"]);
    let page = api.get("/api/admin/users?limit=1", &boss).await;
    assert!(page.header("link").contains("cursor=1"), "{page:?}");

    let login = json!({ "username": "bob", "password": PASSWORD });
    api.post("/api/admin/users/bob/disable", &boss, &json!({})).await.expect(200);
    api.get("/auth/me", &bob).await.problem(401);
    assert_eq!(api.post("/auth/login", "", &login).await.problem(403)["kind"], "account_disabled");
    let wrong = json!({ "username": "bob", "password": "not the right one" });
    api.post("/auth/login", "", &wrong).await.problem(401);
    let again = api.post("/api/admin/users/bob/disable", &boss, &json!({})).await.expect(200);
    assert_eq!(again["user"]["disabled"], true, "the second time the same");
    api.post("/api/admin/users/bob/enable", &boss, &json!({})).await.expect(200);
    api.get("/auth/me", &bob).await.problem(401); // a token from before stays void
    let bob = api.log_in("bob").await;

    api.get("/api/admin/users", &bob).await.problem(403);
    let id = api.user_id("bob").await;
    api.post(&format!("/api/admin/users/{id}/promote"), &boss, &json!({})).await.expect(200);
    api.get("/api/admin/users/bob", &bob).await.expect(200);
    api.post("/api/admin/users/bob/demote", &boss, &json!({})).await.expect(200);
    api.get("/api/admin/users/bob", &bob).await.problem(403);

    for verb in ["demote", "disable"] {
        let problem =
            api.post(&format!("/api/admin/users/boss/{verb}"), &boss, &json!({})).await.problem(409);
        assert_eq!(problem["kind"], "last_admin", "{verb}");
    }
    api.get("/api/admin/users", &boss).await.expect(200);
    api.post("/api/admin/users/nobody/disable", &boss, &json!({})).await.problem(404);

    let told =
        api.app.store.events().visible_to(Some(id), orion_domain::EventId(0), 100).await.expect("events");
    let kinds: Vec<&str> = told.iter().map(|event| event.kind.as_str()).collect();
    let expected = ["user.created", "user.disabled", "user.enabled", "user.promoted", "user.demoted"];
    assert_eq!(kinds, expected);
    assert!(told[1].data["actor"].is_i64(), "{told:?}");
}

async fn two_admins_who_demote_each_other_at_once_leave_one(api: Api) {
    for round in 0..5 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        api.app.accounts().make_admin(&a, Secret::new(PASSWORD)).await.expect("an admin");
        api.app.accounts().make_admin(&b, Secret::new(PASSWORD)).await.expect("an admin");
        // Of the round before one is left.
        for known in api.app.store.accounts().list(orion_domain::UserId(0), 100).await.expect("accounts") {
            if ![&a, &b].contains(&&known.user.username.to_string()) {
                let change = AccountChange::Demote;
                api.app
                    .store
                    .accounts()
                    .change(known.user.id, &change, None, api.app.now())
                    .await
                    .expect("done");
            }
        }
        let (a, b) = (api.user_id(&a).await, api.user_id(&b).await);
        let change = async |id, change: AccountChange| {
            api.app.store.accounts().change(id, &change, None, api.app.now()).await.expect("an outcome")
        };
        let (first, second) =
            tokio::join!(change(a, AccountChange::Demote), change(b, AccountChange::Disable));
        let refused = [&first, &second].into_iter().filter(|one| **one == AccountChanged::LastAdmin).count();
        assert_eq!(refused, 1, "{first:?} {second:?}");
        assert!(api.app.store.accounts().any_admin().await.expect("an answer"));
    }
}

async fn many_who_ask_at_once_are_told_apart_and_a_right_that_has_ended_counts_no_more(api: Api) {
    let names: Vec<String> = (0..6).map(|number| format!("user{number}")).collect();
    let mut tokens = Vec::new();
    for name in &names {
        tokens.push(api.user(name).await);
    }
    // Whose right has ended by the replies to these requests; the other three have theirs.
    let ended = [1, 3, 4];
    for round in 0..2 {
        let asked = (0..120).map(|n| (n % names.len(), api.get("/auth/me", &tokens[n % names.len()])));
        let replies = join_all(asked.map(|(user, reply)| async move { (user, reply.await) })).await;
        for (user, reply) in replies {
            if round == 1 && ended.contains(&user) {
                reply.problem(401);
            } else {
                assert_eq!(reply.expect(200)["username"], names[user]);
            }
        }
        if round == 0 {
            api.post("/api/auth/logout", &tokens[1], &json!({})).await.expect(200);
            // By another process on the same database.
            for user in [3, 4] {
                let (id, change) = (api.user_id(&names[user]).await, AccountChange::Disable);
                let changed = api.app.store.accounts().change(id, &change, None, api.app.now()).await;
                assert!(matches!(changed, Ok(AccountChanged::Done(_))), "{changed:?}");
            }
        }
    }
}

async fn disabling_an_account_says_which_leases_it_has_and_ends_them_if_asked(api: Api) {
    let boss = api.admin("boss").await;
    for name in ["keeper", "ender"] {
        api.user(name).await;
    }
    let (kept, ended) = (api.active_lease("keeper").await, api.active_lease("ender").await);
    let state = async |id: LeaseId| {
        api.app
            .store
            .leases()
            .get(id)
            .await
            .expect("a lease")
            .expect("there")
            .state
            .phase()
            .as_str()
            .to_owned()
    };
    let reply = api.post("/api/admin/users/keeper/disable", &boss, &json!({})).await.expect(200);
    assert_eq!(reply["leases"][0]["rental_id"], kept.0, "{reply}");
    assert_eq!(state(kept).await, "active");
    let body = json!({ "leases": "end" });
    let reply = api.post("/api/admin/users/ender/disable", &boss, &body).await.expect(200);
    assert_eq!(reply["leases"][0]["rental_id"], ended.0, "{reply}");
    assert_ne!(state(ended).await, "active", "{reply}");
    api.post("/api/admin/users/ender/disable", &boss, &json!({ "leases": "sell" })).await.problem(400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_changed_by_its_owner_and_set_by_an_admin() {
    let api = Api::start(Database::Sqlite).await;
    let (boss, old) = (api.admin("boss").await, api.user("alice").await);
    let change = async |token: &str, from: &str, to: &str| -> Reply {
        let body = json!({ "old_password": from, "new_password": to });
        api.post("/api/auth/password", token, &body).await
    };
    change(&old, "not the right one", "another long one").await.problem(403);
    assert_eq!(change(&old, PASSWORD, "short").await.problem(400)["field"], "new_password");
    let reply = change(&old, PASSWORD, "another long one").await.expect(200);
    let new = reply["token"].as_str().expect("a token").to_owned();
    api.get("/auth/me", &old).await.problem(401);
    assert_eq!(api.get("/auth/me", &new).await.expect(200)["username"], "alice");
    let login = |password: &str| json!({ "username": "alice", "password": password });
    api.post("/auth/login", "", &login(PASSWORD)).await.problem(401);
    api.post("/auth/login", "", &login("another long one")).await.expect(200);

    let body = json!({ "password": "of the admin's choice" });
    api.post("/api/admin/users/alice/password", &new, &body).await.problem(403);
    api.post("/api/admin/users/alice/password", &boss, &body).await.expect(200);
    api.get("/auth/me", &new).await.problem(401);
    api.post("/auth/login", "", &login("of the admin's choice")).await.expect(200);
    let login = api.post("/auth/login", "", &login("of the admin's choice")).await.expect(200);
    let token = login["token"].as_str().expect("a token");
    for guess in 0..10 {
        let reply = change(token, &format!("a wrong guess {guess}"), "another long one").await;
        if reply.status == 429 {
            return;
        }
        reply.problem(403);
    }
    panic!("ten guesses in a row were looked at");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_read_a_general_sentence_where_admins_read_reasons_and_the_output_of_tools() {
    let api = Api::start(Database::Sqlite).await;
    let (boss, alice) = (api.admin("boss").await, api.user("alice").await);
    let node = api.offered_node("w1").await;
    let secret = "files of uid 200017 are still there: /tmp/acme-merger.xlsx";
    let (store, now) = (&api.app.store, api.app.now());
    let claim = store.nodes().claim(node, "test", Duration::from_secs(10), now).await.expect("asked");
    let claim = claim.expect("it is free");
    store
        .nodes()
        .fail_reconcile(&claim, secret, now, Some(QuarantineCause::Operator), now)
        .await
        .expect("quarantined");
    let lease = api.active_lease("alice").await;
    let reason = EndReason::Failed { detail: secret.into() };
    store.leases().end(&[lease], &reason, None, now).await.expect("ended");
    let mut to_admin = 0;
    for path in [
        "/api/nodes".to_owned(),
        format!("/api/nodes/{node}"),
        format!("/api/rentals/{lease}"),
        "/api/rentals?all=true".to_owned(),
        "/api/events?after=0&follow=false".to_owned(),
    ] {
        let shown = api.get(&path, &alice).await;
        assert_eq!(shown.status, 200, "{path}");
        assert!(!shown.text.contains("acme-merger"), "{path}: {}", shown.text);
        to_admin += usize::from(api.get(&path, &boss).await.text.contains("acme-merger"));
    }
    assert_eq!(to_admin, 5, "admins read it everywhere");
    let shown = api.get(&format!("/api/nodes/{node}"), &alice).await.expect(200);
    assert_eq!(shown["status_reason"], "it is out of use until it is clean, or an admin has looked at it");
}
