//! The second look: before a node is given up, another scheduler dials it, too. If it answers there, the fault is
//! more likely here.

use super::Lanes;
use crate::Scheduler;
use orion_domain::{
    NodeId, Timestamp,
    node::{Admission, Node},
};
use orion_fleet::target_of;
use orion_ssh::{Kind, PoolConfig, SshError, scan_host_key};
use orion_store::{SecondLook, SecondLookAnswer, StoreError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Questions answered side by side: half of the dials that the pool makes at once stay free for this scheduler's
/// own nodes.
const SIDE_BY_SIDE_MAX: usize = 32;
/// Questions read at one look.
const AT_ONCE: u32 = 64;
/// Pause between two looks whether the answer has come.
const ANSWER_EVERY: Duration = Duration::from_millis(100);
/// Pause between two looks whether there are other schedulers at all.
const ALONE_EVERY: Duration = Duration::from_secs(1);
/// Questions that are older than this have nobody left who waits for them.
const KEPT: Duration = Duration::from_secs(60);

/// What the other schedulers say of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It answers one of them.
    Answers {
        /// Which.
        peer: String,
    },
    /// It does not answer one of them either.
    Gone {
        /// Which.
        peer: String,
    },
    /// There is no other scheduler that can say.
    Nobody,
}

/// Asks the other schedulers about a node, one after another, until one can say. Ends early, with
/// [`Word::Nobody`], at `stop`.
///
/// # Errors
/// The database's.
pub async fn ask(scheduler: &Scheduler, node: NodeId, stop: &CancellationToken) -> Result<Word, StoreError> {
    let peers = scheduler.fleetwide.share().map(|share| share.peers_for(node)).unwrap_or_default();
    if peers.is_empty() {
        return Ok(Word::Nobody);
    }
    let mut word = Word::Nobody;
    for peer in peers {
        let Some(answer) = ask_one(scheduler, node, &peer, stop).await? else { continue };
        match answer.answers {
            Some(true) => word = Word::Answers { peer },
            Some(false) => word = Word::Gone { peer },
            None => {
                tracing::debug!(%node, peer, detail = answer.detail, "another scheduler cannot say");
                continue;
            }
        }
        tracing::info!(%node, ?word, detail = answer.detail, "another scheduler looked at the node");
        break;
    }
    scheduler.fleet.store.end_second_look(node, scheduler.fleetwide.name()).await?;
    Ok(word)
}

/// The answer of one scheduler; none if it does not come in time.
async fn ask_one(
    scheduler: &Scheduler,
    node: NodeId,
    peer: &str,
    stop: &CancellationToken,
) -> Result<Option<SecondLookAnswer>, StoreError> {
    let (store, fleetwide) = (&scheduler.fleet.store, &scheduler.fleetwide);
    let question =
        SecondLook { node, asked_by: fleetwide.name().to_owned(), asked_at: scheduler.fleet.now() };
    store.ask_second_look(node, &question.asked_by, peer, question.asked_at).await?;
    let asked = Instant::now();
    let lives = || fleetwide.share().is_some_and(|share| share.others().iter().any(|other| other == peer));
    while asked.elapsed() < scheduler.config.second_look_within && lives() && !stop.is_cancelled() {
        sleep(ANSWER_EVERY).await;
        if let Some(answer) = store.second_look_answer(&question).await? {
            return Ok(Some(answer));
        }
    }
    tracing::warn!(%node, peer, "another scheduler was asked to look at a node and did not answer in time");
    Ok(None)
}

/// Answers what others ask, until shutdown. Costs the database nothing as long as there are no others.
pub async fn run(scheduler: Scheduler) {
    let lanes: Lanes<(NodeId, Timestamp)> = Lanes::new(SIDE_BY_SIDE_MAX);
    let mut swept = Instant::now();
    loop {
        let alone = scheduler.fleetwide.share().is_none_or(|share| share.is_alone());
        if !alone && let Err(error) = look(&scheduler, &lanes, &mut swept).await {
            tracing::warn!(%error, "the other schedulers' questions could not be read");
        }
        let pause = if alone { ALONE_EVERY } else { scheduler.config.second_look_every };
        if timeout(pause, scheduler.shutdown.cancelled()).await.is_ok() {
            return;
        }
    }
}

async fn look(
    scheduler: &Scheduler,
    lanes: &Lanes<(NodeId, Timestamp)>,
    swept: &mut Instant,
) -> Result<(), StoreError> {
    let store = &scheduler.fleet.store;
    if swept.elapsed() >= KEPT {
        *swept = Instant::now();
        store.sweep_second_looks(scheduler.fleet.now().minus(KEPT)).await?;
    }
    for question in store.second_looks_of(scheduler.fleetwide.name(), AT_ONCE).await? {
        let worker = scheduler.clone();
        lanes.start(scheduler, (question.node, question.asked_at), async move {
            if let Err(error) = answer(&worker, &question).await {
                tracing::warn!(node = %question.node, %error, "a second look could not be answered");
            }
        });
    }
    Ok(())
}

async fn answer(scheduler: &Scheduler, question: &SecondLook) -> Result<(), StoreError> {
    let store = &scheduler.fleet.store;
    let node = store.node(question.node).await?;
    let mut answer = match &node {
        Some(node) => dial(scheduler, node).await,
        None => SecondLookAnswer { answers: None, detail: "there is no such node".into() },
    };
    let (hold, now) = (scheduler.config.hold_after_start, scheduler.fleet.now());
    // Only "it does not answer me" may be this scheduler's own fault.
    if answer.answers == Some(false)
        && let Some(why) = scheduler.fleetwide.cannot_vouch(hold, now)
    {
        answer = SecondLookAnswer { answers: None, detail: format!("{why}; {}", answer.detail) };
    }
    store.answer_second_look(question, &answer, scheduler.fleet.now()).await
}

/// A dial of its own, beside any session that there may be.
async fn dial(scheduler: &Scheduler, node: &Node) -> SecondLookAnswer {
    let dialled = if node.admission == Admission::Pending {
        scan_host_key(node.addr.as_str(), node.ssh_port.get(), &PoolConfig::default()).await.map(drop)
    } else {
        match target_of(node) {
            Ok(target) => scheduler.fleet.pool.fresh_handshake(&target).await,
            Err(detail) => return SecondLookAnswer { answers: None, detail },
        }
    };
    match dialled {
        Ok(()) => SecondLookAnswer { answers: Some(true), detail: "it answers".into() },
        Err(error) => SecondLookAnswer { answers: meaning(&error), detail: error.to_string() },
    }
}

/// What a failed dial says about the node; none if it says nothing.
fn meaning(error: &SshError) -> Option<bool> {
    match &error.kind {
        Kind::Throttled
        | Kind::ChannelRefused(_)
        | Kind::AuthRejected
        | Kind::Protocol(_)
        | Kind::NoPinnedKey => Some(true),
        Kind::Refused
        | Kind::Closed
        | Kind::Unreachable
        | Kind::TimedOut
        | Kind::NotResolved
        | Kind::OutcomeUnknown
        | Kind::HostKeyMismatch { .. } => Some(false),
        Kind::Busy | Kind::Dropped | Kind::NoSession | Kind::Local(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orion_ssh::Stage;

    #[test]
    fn only_a_dial_that_the_node_left_unanswered_says_that_it_is_gone() {
        let says = |kind| meaning(&SshError::new(Stage::Connect, kind));
        for kind in [Kind::Refused, Kind::TimedOut, Kind::Unreachable, Kind::Closed] {
            assert_eq!(says(kind.clone()), Some(false), "{kind:?}");
        }
        for kind in [Kind::Throttled, Kind::AuthRejected, Kind::Protocol("x".into())] {
            assert_eq!(says(kind.clone()), Some(true), "{kind:?}");
        }
        for kind in [Kind::Busy, Kind::Local("no descriptors".into()), Kind::Dropped] {
            assert_eq!(says(kind.clone()), None, "{kind:?}");
        }
    }
}
