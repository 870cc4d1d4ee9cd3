//! A peer probe (SWIM's `ping-req`) is a dial of a node by another scheduler, before this one gives the node up. If the
//! node answers there, the fault is more likely here.
//!
//! Lives here: asking ([`ask`]), and the task that answers what the others ask.

use crate::{
    context::Scheduler,
    driver::{Lanes, Report, Task},
};
use orion_domain::{
    NodeId, Timestamp,
    node::{Admission, Node, watch::PeerVerdict},
};
use orion_fleet::target_of;
use orion_ssh::{PoolConfig, scan_host_key};
use orion_store::{PeerProbe, PeerProbeAnswer, StoreError};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Questions answered side by side: half of the dials that the pool makes at once stay free for this scheduler's
/// own nodes.
const SIDE_BY_SIDE_MAX: usize = 32;
/// Questions read in one run.
const BATCH_MAX: u32 = 64;
/// Pause between two queries for the answer.
const ANSWER_PERIOD: Duration = Duration::from_millis(100);
/// Pause between two runs while there are no other schedulers.
const ALONE_PERIOD: Duration = Duration::from_secs(1);
/// Questions that are older than this have nobody left who waits for them.
const RETENTION: Duration = Duration::from_secs(60);

/// Asks the other schedulers about a node, one after another, until one can say. Ends early, with
/// [`PeerVerdict::NoPeer`], at `stop`.
///
/// # Errors
/// The database's.
pub async fn ask(
    scheduler: &Scheduler,
    node: NodeId,
    stop: &CancellationToken,
) -> Result<PeerVerdict, StoreError> {
    let peers = scheduler.fleetwide.share().map(|share| share.peers_for(node)).unwrap_or_default();
    if peers.is_empty() {
        return Ok(PeerVerdict::NoPeer);
    }
    let mut verdict = PeerVerdict::NoPeer;
    for peer in peers {
        let Some(answer) = ask_one(scheduler, node, &peer, stop).await? else { continue };
        match answer.answers {
            Some(true) => verdict = PeerVerdict::Reachable { peer },
            Some(false) => verdict = PeerVerdict::Unreachable { peer },
            None => {
                tracing::debug!(%node, peer, detail = answer.detail, "another scheduler cannot say");
                continue;
            }
        }
        tracing::info!(%node, ?verdict, detail = answer.detail, "another scheduler probed the node");
        break;
    }
    scheduler.fleet.store.cluster().end_peer_probe(node, scheduler.fleetwide.name()).await?;
    Ok(verdict)
}

/// The answer of one scheduler; none if it does not come in time.
async fn ask_one(
    scheduler: &Scheduler,
    node: NodeId,
    peer: &str,
    stop: &CancellationToken,
) -> Result<Option<PeerProbeAnswer>, StoreError> {
    let (store, fleetwide) = (&scheduler.fleet.store, &scheduler.fleetwide);
    let question = PeerProbe { node, asked_by: fleetwide.name().to_owned(), asked_at: scheduler.fleet.now() };
    store.cluster().ask_peer_probe(node, &question.asked_by, peer, question.asked_at).await?;
    let asked = Instant::now();
    let lives = || fleetwide.share().is_some_and(|share| share.others().iter().any(|other| other == peer));
    while asked.elapsed() < scheduler.config.peer_probe_timeout && lives() && !stop.is_cancelled() {
        sleep(ANSWER_PERIOD).await;
        if let Some(answer) = store.cluster().peer_probe_answer(&question).await? {
            return Ok(Some(answer));
        }
    }
    tracing::warn!(%node, peer, "another scheduler was asked to probe a node and did not answer in time");
    Ok(None)
}

/// The task that answers what the others ask. Costs the database nothing as long as there are no others.
pub struct PeerProbes {
    lanes: Lanes<(NodeId, Timestamp)>,
    swept: Instant,
}

impl Default for PeerProbes {
    fn default() -> Self {
        Self { lanes: Lanes::new(Self::NAME, SIDE_BY_SIDE_MAX), swept: Instant::now() }
    }
}

impl Task for PeerProbes {
    const NAME: &'static str = "peer_probe";
    const NUDGED: bool = false;
    const TAKES_CLAIMS: bool = false;

    fn period(&self, scheduler: &Scheduler) -> Duration {
        let alone = scheduler.fleetwide.share().is_none_or(|share| share.is_alone());
        if alone { ALONE_PERIOD } else { scheduler.config.peer_probe_period }
    }

    async fn run(&mut self, scheduler: &Scheduler) -> Result<Report, StoreError> {
        if scheduler.fleetwide.share().is_none_or(|share| share.is_alone()) {
            return Ok(Report::default());
        }
        let store = &scheduler.fleet.store;
        if self.swept.elapsed() >= RETENTION {
            self.swept = Instant::now();
            store.cluster().sweep_peer_probes(scheduler.fleet.now().minus(RETENTION)).await?;
        }
        let questions = store.cluster().peer_probes_for(scheduler.fleetwide.name(), BATCH_MAX).await?;
        let found = questions.len();
        let key = |question: &PeerProbe| (question.node, question.asked_at);
        let started = self.lanes.start_all(scheduler, questions, key, |scheduler, question| async move {
            answer(&scheduler, &question).await
        });
        Ok(Report::new(found, started))
    }
}

async fn answer(scheduler: &Scheduler, question: &PeerProbe) -> Result<(), StoreError> {
    let store = &scheduler.fleet.store;
    let node = store.nodes().get(question.node).await?;
    let mut answer = match &node {
        Some(node) => dial(scheduler, node).await,
        None => PeerProbeAnswer { answers: None, detail: "there is no such node".into() },
    };
    let (hold, now) = (scheduler.config.hold_after_start, scheduler.fleet.now());
    // Only "it does not answer me" may be this scheduler's own fault.
    if answer.answers == Some(false)
        && let Some(why) = scheduler.fleetwide.cannot_vouch(hold, now)
    {
        answer = PeerProbeAnswer { answers: None, detail: format!("{why}; {}", answer.detail) };
    }
    store.cluster().answer_peer_probe(question, &answer, scheduler.fleet.now()).await
}

/// A dial of its own, beside any session that there may be.
async fn dial(scheduler: &Scheduler, node: &Node) -> PeerProbeAnswer {
    let Some(sshd) = node.sshd() else {
        return PeerProbeAnswer { answers: None, detail: "it is not dialled".into() };
    };
    let dialled = if node.admission == Admission::Pending {
        scan_host_key(sshd.addr.as_str(), sshd.port.get(), &PoolConfig::default()).await.map(drop)
    } else {
        match target_of(node) {
            Ok(target) => scheduler.fleet.pool.fresh_handshake(&target).await,
            Err(detail) => return PeerProbeAnswer { answers: None, detail },
        }
    };
    match dialled {
        Ok(()) => PeerProbeAnswer { answers: Some(true), detail: "it answers".into() },
        Err(error) => PeerProbeAnswer { answers: error.meaning().node_answers(), detail: error.to_string() },
    }
}
