//! The store alone: how many free nodes 32 tasks claim in a second, beside a claim by hand; and how many slices, beside
//! whole nodes.

use crate::{
    bare::claims::{check_then_write, make_naive_table, skip_locked},
    broken::{Broken, Context as _},
    figure::{Figure, Goal, Samples},
    ground::{Ground, open_sql, open_store, place, place_slice},
    plan::Plan,
    progress::Progress,
};
use orion_domain::{Clock as _, SystemClock, UserId};
use orion_store::Store;
use sqlx::MySqlPool;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};
use tokio::task::JoinSet;

/// Tasks that claim at once.
const TASKS: usize = 32;
/// Nodes that there are.
const NODES: usize = 1_024;
/// Claims in one round: half of the nodes.
const CLAIMS: usize = 512;
/// Nodes that more than one lease of a table has.
const DOUBLED: &str = "SELECT COUNT(*) FROM (SELECT occupies_node FROM TABLE WHERE occupies_node IS NOT NULL \
                       GROUP BY occupies_node HAVING COUNT(*) > 1) doubled";
/// Nodes that say another lease than the leases say.
const TORN: &str = "SELECT COUNT(*) FROM nodes n LEFT JOIN leases l ON l.occupies_node = n.id \
                    WHERE NOT (n.whole_lease <=> l.id)";

/// Nodes whose slices are more than they have, or not what they say.
const OVERFULL: &str = "SELECT COUNT(*) FROM nodes n WHERE n.cpu_held > n.cpu_milli \
                        OR n.memory_held_mb > n.memory_capacity_mb OR n.cpu_held <> \
                        (SELECT COALESCE(SUM(h.cpu_milli), 0) FROM holds h WHERE h.node_id = n.id)";

/// `store_claim_per_s` and `store_slice_per_s`.
///
/// # Errors
/// When anything fails, a node was claimed twice, or the check would not have seen it.
pub async fn measure(plan: &Plan) -> Result<Vec<Figure>, Broken> {
    let ground = Ground::start().await?;
    ground.register(NODES, 22).await?;
    ground.make_offerable().await?;
    let mut users = Vec::with_capacity(TASKS);
    for number in 0..TASKS {
        users.push(ground.user(&format!("benchmark-{number}")).await?);
    }
    let (url, rounds) = (ground.url.clone(), plan.claim_rounds);
    // Threads of its own: both sides are to be bounded by the database and not by this one thread.
    let work = move || {
        let runtime = tokio::runtime::Runtime::new().context("a runtime")?;
        runtime.block_on(measure_rounds(&url, users, rounds))
    };
    tokio::task::spawn_blocking(work).await.context("the claims")?
}

struct Bench {
    store: Store,
    sql: MySqlPool,
    /// One for each task: the placements of one user come one after the other, because of the quota.
    users: Vec<UserId>,
    next_uid: AtomicI64,
}

#[derive(Clone, Copy)]
enum How {
    Store,
    Slice,
    ByHand,
    Naively,
}

async fn measure_rounds(url: &str, users: Vec<UserId>, rounds: usize) -> Result<Vec<Figure>, Broken> {
    let (store, sql) = (open_store(url).await?, open_sql(url).await?);
    let bench = Arc::new(Bench { store, sql, users, next_uid: AtomicI64::new(100_000_000) });
    let (mut by_store, mut slices, mut by_hand) = <(Samples, Samples, Samples)>::default();
    let all = [How::Store, How::Slice, How::ByHand];
    for how in all {
        round(&bench, how).await?;
    }
    let mut progress = Progress::start("claims of free nodes, and of slices", rounds);
    for number in 0..rounds {
        let mut order = all;
        order.rotate_left(number % all.len());
        for how in order {
            let per_s = round(&bench, how).await?;
            match how {
                How::Store => by_store.push(per_s),
                How::Slice => slices.push(per_s),
                How::ByHand | How::Naively => by_hand.push(per_s),
            }
        }
        let medians = (by_store.median(), slices.median(), by_hand.median());
        progress.step(&format!(
            "store {:.0}/s, slices {:.0}/s, by hand {:.0}/s",
            medians.0, medians.1, medians.2
        ));
    }
    make_naive_table(&bench.sql).await.context("the table of the control")?;
    claim_all(&bench, How::Naively).await?;
    let doubled = count(&bench.sql, &DOUBLED.replace("TABLE", "naive")).await?;
    if doubled == 0 {
        return Err(Broken::new("the check for double leases found none among check-then-write claims"));
    }
    let whole = Figure {
        name: "store_claim_per_s",
        unit: "/s",
        samples: by_store.clone(),
        floor: Some(by_hand),
        goal: Goal::RatioAtLeast(0.9),
        note: format!(
            "Store::place by {TASKS} tasks, each a user of its own, {CLAIMS} of {NODES} nodes, MariaDB; floor: SELECT … FOR UPDATE SKIP \
             LOCKED and the same rows written by hand; double leases: 0 (SQL), of check-then-write {doubled} nodes \
             had several"
        ),
    };
    let slice = Figure {
        name: "store_slice_per_s",
        unit: "/s",
        samples: slices,
        floor: Some(by_store),
        goal: Goal::RatioAtLeast(0.8),
        note: format!(
            "the same tasks, {CLAIMS} slices of a core and 4 GiB on {NODES} nodes with room for 16 each; in place of a \
             floor: the store's claims of whole nodes; nodes above their capacity: 0 (SQL)"
        ),
    };
    Ok(vec![whole, slice])
}

/// Frees all nodes, claims, checks; claims a second.
async fn round(bench: &Arc<Bench>, how: How) -> Result<f64, Broken> {
    for sql in [
        "DELETE FROM leases",
        "DELETE FROM lease_nodes",
        "DELETE FROM holds",
        "DELETE FROM events",
        "UPDATE nodes SET whole_lease = NULL, applied_version = desired_version, claimed_by = NULL, \
         claim_token = NULL, claimed_until = NULL, cpu_held = 0, memory_held_mb = 0",
    ] {
        sqlx::query(sql).execute(&bench.sql).await.context("freeing the nodes")?;
    }
    let (nodes, per_s) = claim_all(bench, how).await?;
    let told: HashSet<i64> = nodes.iter().copied().collect();
    let leases = count(&bench.sql, "SELECT COUNT(*) FROM leases").await?;
    let doubled = count(&bench.sql, &DOUBLED.replace("TABLE", "leases")).await?;
    let (torn, overfull) = (count(&bench.sql, TORN).await?, count(&bench.sql, OVERFULL).await?);
    let is_right = match how {
        How::Slice => overfull == 0,
        How::Store | How::ByHand | How::Naively => told.len() == CLAIMS && doubled == 0 && torn == 0,
    };
    if is_right && nodes.len() == CLAIMS && leases == CLAIMS {
        return Ok(per_s);
    }
    Err(Broken::new(format!(
        "{CLAIMS} claims gave {} nodes ({} different), {leases} leases, {doubled} doubled, {torn} torn, \
         {overfull} nodes above their capacity",
        nodes.len(),
        told.len()
    )))
}

async fn claim_all(bench: &Arc<Bench>, how: How) -> Result<(Vec<i64>, f64), Broken> {
    let taken = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let started = Instant::now();
    for user in bench.users.clone() {
        let (bench, taken) = (bench.clone(), taken.clone());
        tasks.spawn(async move {
            let mut nodes = Vec::new();
            while taken.fetch_add(1, Relaxed) < CLAIMS {
                nodes.push(bench.claim(how, user).await?);
            }
            Ok::<_, Broken>(nodes)
        });
    }
    let mut nodes = Vec::with_capacity(CLAIMS);
    while let Some(joined) = tasks.join_next().await {
        nodes.extend(joined.context("a task")??);
    }
    let per_s = nodes.len() as f64 / started.elapsed().as_secs_f64();
    Ok((nodes, per_s))
}

impl Bench {
    /// Claims one node for `user`.
    async fn claim(&self, how: How, user: UserId) -> Result<i64, Broken> {
        match how {
            How::Store => {
                let placed = place(&self.store, user, 1).await?;
                let node = placed.first().map(|placement| placement.node().0);
                node.ok_or_else(|| Broken::new("a placement without a node"))
            }
            How::Slice => {
                let placed = place_slice(&self.store, user).await?;
                let node = placed.first().map(|placement| placement.node().0);
                node.ok_or_else(|| Broken::new("a placement without a node"))
            }
            How::ByHand => {
                let now_us = SystemClock.now().as_micros();
                skip_locked(&self.sql, user.0, &self.next_uid, now_us).await.context("a claim by hand")
            }
            How::Naively => check_then_write(&self.sql).await.context("a naive claim"),
        }
    }
}

async fn count(sql: &MySqlPool, query: &str) -> Result<usize, Broken> {
    let query = sqlx::query_as::<_, (i64,)>(sqlx::AssertSqlSafe(query.to_owned()));
    let (count,) = query.fetch_one(sql).await.context("a check")?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}
