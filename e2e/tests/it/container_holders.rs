//! A replica of the API that stands still between the creation and the start of a container, while its lease ends or moves.

use super::{
    PATIENCE,
    container_crashes::{SCRIPT, Site, nothing_left},
    container_life::{on_engine, shell, until},
    user::{Reply, User},
};
use orion_testkit::{Worker, wait_until};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Instant;
use tokio::task::JoinHandle;

/// Stands between sshd and the engine, and lets nothing of the creation of a container through before `/run/go` is there: the
/// request with the argument `request`, the reply with `reply`. That it holds one is shown by `/run/held`.
const GATE: &str = r#"
use IO::Socket::UNIX; use IO::Select;
my $held = shift;
$SIG{CHLD} = "IGNORE"; $SIG{PIPE} = "IGNORE";
rename "/run/docker.sock", "/run/engine.sock";
my $gate = IO::Socket::UNIX->new(Local => "/run/docker.sock", Listen => 64) or die $!;
while (my $client = $gate->accept) {
  if (fork) { close $client; next }
  my $engine = IO::Socket::UNIX->new(Peer => "/run/engine.sock") or exit;
  my ($both, $creates) = (IO::Select->new($client, $engine), 0);
  while (1) {
    for my $from ($both->can_read) {
      sysread($from, my $bytes, 65536) or exit;
      if ($from == $client) { $creates = 1 if $bytes =~ m{^POST \S*/containers/create}; }
      if ($creates && $from == ($held eq "request" ? $client : $engine)) {
        open my $file, ">", "/run/held";
        select undef, undef, undef, 0.02 until -e "/run/go";
        $creates = 0;
      }
      my $to = $from == $client ? $engine : $client;
      while (length $bytes) { substr($bytes, 0, syswrite($to, $bytes) || exit, ""); }
    }
  }
}
"#;

fn hold_creations(worker: &Worker, what: &str) {
    worker.sh(&format!(
        "cat >/run/gate <<'END'\n{GATE}\nEND\n\
         setsid perl /run/gate {what} </dev/null >/run/gate.log 2>&1 &\n\
         until [ -S /run/engine.sock ] && [ -S /run/docker.sock ]; do sleep 0.01; done"
    ));
}

fn is_held(worker: &Worker) -> bool {
    worker.try_sh("[ -e /run/held ]").status.success()
}

/// Asks for containers until one is held: the scheduler may be first, over a connection from before the gate. Returns its number
/// in the lease, and what waits for the reply.
async fn held_container(
    user: &User,
    worker: &Worker,
    lease: i64,
) -> (u32, JoinHandle<Result<Reply, String>>) {
    let path = format!("/api/rentals/{lease}/containers");
    for number in 1..20 {
        let asked = tokio::spawn({
            let (user, path) = (user.clone(), path.clone());
            let body = shell(&format!("web-{number}"), SCRIPT);
            async move { user.try_send(Method::POST, &path, Some(&body), None).await }
        });
        wait_until("it is held, or made", PATIENCE, async || {
            if asked.is_finished() || is_held(worker) { Ok(()) } else { Err(worker.sh("cat /run/gate.log")) }
        })
        .await;
        if is_held(worker) {
            return (number, asked);
        }
        let made = format!("{path}/web-{number}");
        user.try_send(Method::DELETE, &made, None, None).await.expect("a reply").expect(200);
    }
    panic!("the scheduler is always first");
}

/// Names of Orion's containers to which this has happened on the engine since the worker's boot, one for each time.
fn events(worker: &Worker, event: &str) -> Vec<String> {
    let told = worker.sh(&format!(
        "docker events --since 1h --until $(($(date +%s) + 1)) --filter type=container --filter event={event} \
         --format '{{{{.Actor.Attributes.name}}}}'"
    ));
    told.lines().filter(|name| name.starts_with("orion-")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_stood_still_before_the_start_of_a_container_starts_none_when_the_lease_has_ended_or_moved()
 {
    let site = Site::start(2, 1, 3).await;
    let (holder, other) = (&site.apis[0], &site.apis[1]);
    let ida = User::sign_up(&other.url(), "ida").await;
    let by_holder = User::anyone(&holder.url()).with_token(&ida.token);
    let (ends, moves) = (ida.rent_one().await, ida.rent_one().await);
    let at = |ip: &str| site.worker_at(ip);
    let (ended_on, moved_off) = (at(&ends.host_ip), at(&moves.host_ip));
    let is_free = |worker: &&Worker| ![ended_on.ip(), moved_off.ip()].contains(&worker.ip());
    let slice_on = site.workers.all().iter().find(is_free).expect("three");
    hold_creations(ended_on, "reply");
    hold_creations(moved_off, "reply");
    hold_creations(slice_on, "request");

    let (_, ends_asked) = held_container(&by_holder, ended_on, ends.rental_id).await;
    let (number, moves_asked) = held_container(&by_holder, moved_off, moves.rental_id).await;
    let slice = tokio::spawn({
        let user = by_holder.clone();
        let body = json!({
            "duration_hours": 1, "name": "slice", "cpus": 0.05, "memory_mb": 32,
            "container": shell("web", SCRIPT),
        });
        async move { user.try_rent(&body, Some("once")).await }
    });
    wait_until("the slice's container is held", PATIENCE, async || {
        if is_held(slice_on) { Ok(()) } else { Err(slice_on.sh("cat /run/gate.log")) }
    })
    .await;
    holder.signal("STOP");

    // Two leases end, one moves to the node that the first one leaves.
    let leases = ida.leases().await;
    let sliced = leases.iter().find(|lease| lease["name"] == "slice").expect("it is known");
    let slice_id = sliced["rental_id"].as_i64().expect("a number");
    for lease in [ends.rental_id, slice_id] {
        ida.release(lease).await;
        ida.until(lease, "over", |lease| lease["state"] == "ended").await;
    }
    let nodes = site.admin.get("/api/nodes").await.expect(200);
    let is_left = |node: &&Value| node["hostname"] == moved_off.name();
    let node =
        nodes.as_array().expect("a list").iter().find(is_left).expect("it is known")["node_id"].clone();
    // The gates stay shut for whoever makes the container on the next node: that one is let through.
    for worker in [ended_on, slice_on] {
        worker.sh(": >/run/go");
    }
    site.admin.post(&format!("/api/admin/nodes/{node}/drain"), json!({})).await.expect(200);
    let moved = ida.until_moved(moves.rental_id, &moves.host_ip).await;
    until(&ida, &format!("/api/rentals/{}/containers/web-{number}", moves.rental_id), "running").await;
    let new = at(moved["host_ip"].as_str().expect("an address"));

    moved_off.sh(": >/run/go");
    let starts =
        || -> Vec<String> { site.workers.all().iter().flat_map(|worker| events(worker, "start")).collect() };
    let before = starts();
    let resumed = Instant::now();
    holder.signal("CONT");
    for asked in [ends_asked, moves_asked, slice] {
        // Each is answered: the holder has gone on.
        asked.await.expect("no panic").expect("a reply");
    }
    let of_moved =
        [format!("orion-{}-{number} running", moves.rental_id), format!("orion-{}", moves.rental_id)];
    wait_until("no container of an earlier holder is there", PATIENCE, async || {
        for worker in site.workers.all().iter().filter(|worker| worker.ip() != new.ip()) {
            nothing_left(worker)?;
        }
        let there = on_engine(new);
        if there == of_moved { Ok(()) } else { Err(format!("{there:?}")) }
    })
    .await;
    eprintln!("right {:?} after it went on", resumed.elapsed());
    assert_eq!(starts(), before, "none was started any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_an_engine_makes_after_the_end_of_its_lease_for_a_replica_that_died_is_removed() {
    let site = Site::start(1, 1, 1).await;
    let (api, worker) = (&site.apis[0], &site.workers[0]);
    let ida = User::sign_up(&api.url(), "ida").await;
    let lease = ida.rent_one().await.rental_id;
    hold_creations(worker, "request");
    let (_, asked) = held_container(&ida, worker, lease).await;
    api.kill();
    asked.await.expect("no panic").expect_err("the connection broke");
    api.start();
    api.answers().await;
    ida.release(lease).await;
    ida.until(lease, "over", |lease| lease["state"] == "ended").await;
    let before = (events(worker, "create").len(), events(worker, "start"));
    worker.sh(": >/run/go");
    wait_until("the engine has made it", PATIENCE, async || {
        let made = events(worker, "create").len();
        if made > before.0 { Ok(()) } else { Err(made) }
    })
    .await;
    let made = Instant::now();
    wait_until("it is gone", PATIENCE, async || nothing_left(worker)).await;
    eprintln!("gone {:?} after it was made", made.elapsed());
    assert_eq!(events(worker, "start"), before.1, "it was never started");
}
