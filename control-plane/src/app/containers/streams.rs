//! Open streams to containers: logs, use, commands, connections.
//!
//! Lives here: how many there may be, and the end of each with the right of its user, its lease and its container. Does
//! not live here: what goes over them.

use super::Containers;
use crate::{
    App,
    app::{accounts::rights::HeldRight, events::streams::Place},
    auth::Caller,
    error::ApiError,
};
use orion_domain::{ContainerId, LeaseId, NodeId, UserId};
use orion_store::{ContainerRow, ContainerStanding, StoreError};
use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Interval at which it is checked whether the containers are still there: three checks fit into the 15 s within which
/// the end of a right takes effect.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Largest number of streams to one node: each is a process of sshd there, and `PoolConfig::own_streams_per_node_max`
/// leaves some for Orion's own calls.
const OF_NODE_MAX: usize = 256;
/// Largest number of streams of one user to one node, so that nobody takes all places of a node.
const OF_USER_AND_NODE_MAX: usize = 96;

/// Kind of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// A log that is read.
    Log,
    /// The use of a container.
    Stats,
    /// A command.
    Exec,
    /// A connection to a port.
    Forward,
}

impl StreamKind {
    /// Largest number of streams of this kind that a lease may have open.
    const fn of_lease_max(self) -> usize {
        match self {
            Self::Log => 32,
            Self::Stats => 16,
            Self::Exec => 8,
            Self::Forward => 64,
        }
    }

    const fn plural(self) -> &'static str {
        match self {
            Self::Log => "streams of logs",
            Self::Stats => "streams of stats",
            Self::Exec => "commands",
            Self::Forward => "connections",
        }
    }

    /// Returns whether the container has to run: an ended one has a log.
    const fn needs_running(self) -> bool {
        match self {
            Self::Log => false,
            Self::Stats | Self::Exec | Self::Forward => true,
        }
    }
}

/// The open streams.
#[derive(Debug, Default)]
pub struct ContainerStreams(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last_number: u64,
    streams: HashMap<u64, Held>,
}

#[derive(Clone, Debug)]
struct Held {
    kind: StreamKind,
    user: UserId,
    lease: LeaseId,
    container: ContainerId,
    node: Option<NodeId>,
    engine_id: Option<String>,
    lost: CancellationToken,
}

impl Held {
    fn stands(&self, standing: Option<&ContainerStanding>) -> bool {
        standing.is_some_and(|standing| {
            standing.node == self.node
                && standing.engine_id == self.engine_id
                && (standing.runs || !self.kind.needs_running())
        })
    }
}

impl ContainerStreams {
    fn locked(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, held: Held) -> Result<u64, ApiError> {
        let mut open = self.locked();
        let of_node = open.streams.values().filter(|other| other.node == held.node).count();
        if of_node >= OF_NODE_MAX {
            return Err(ApiError::unavailable(format!(
                "{of_node} streams to the container's node are open, the most there may be; try again later"
            )));
        }
        let is_alike = |other: &&Held| other.lease == held.lease && other.kind == held.kind;
        let of_lease = open.streams.values().filter(is_alike).count();
        if of_lease >= held.kind.of_lease_max() {
            let what = held.kind.plural();
            let detail = format!("the lease has {of_lease} {what} open, the most there may be; close some");
            return Err(ApiError::too_many(detail, 2));
        }
        let is_theirs = |other: &&Held| other.user == held.user && other.node == held.node;
        let of_user = open.streams.values().filter(is_theirs).count();
        if of_user >= OF_USER_AND_NODE_MAX {
            let detail = format!(
                "you have {of_user} streams to the container's node open, the most there may be; close some"
            );
            return Err(ApiError::too_many(detail, 2));
        }
        open.last_number += 1;
        let number = open.last_number;
        open.streams.insert(number, held);
        Ok(number)
    }
}

/// One open stream's place, with the right that it rests on; free again when dropped.
pub struct OpenStream {
    app: App,
    number: u64,
    /// Set when the right, the lease or the container has ended.
    pub lost: CancellationToken,
    _right: HeldRight,
    _place: Option<Place>,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.app.container_streams.locked().streams.remove(&self.number);
    }
}

impl Containers<'_> {
    /// Takes a place for one more stream to a container.
    ///
    /// # Errors
    /// 429 where the lease, or the user (in all, or to the node), has as many as it may have, 503 where the node has.
    pub fn open_stream(
        self,
        who: &Caller,
        row: &ContainerRow,
        kind: StreamKind,
    ) -> Result<OpenStream, ApiError> {
        let place = match kind {
            StreamKind::Log | StreamKind::Stats => {
                let most = self.app.accounts().streams_of(who);
                Some(self.app.events().take_stream(who.user, most)?)
            }
            StreamKind::Exec | StreamKind::Forward => None,
        };
        let lost = CancellationToken::new();
        let number = self.app.container_streams.take(Held {
            kind,
            user: who.user,
            lease: row.lease,
            container: row.id,
            node: row.node,
            engine_id: row.engine_id.clone(),
            lost: lost.clone(),
        })?;
        let right = self.app.accounts().hold_right(who.right, lost.clone());
        Ok(OpenStream { app: self.app.clone(), number, lost, _right: right, _place: place })
    }

    /// Ends the streams whose lease or container has ended, until shutdown.
    pub async fn tend_streams(self) {
        loop {
            tokio::select! {
                () = self.app.shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if let Err(error) = self.look_at_streams().await {
                tracing::debug!(%error, "whether containers are still there could not be read");
            }
        }
    }

    async fn look_at_streams(self) -> Result<(), StoreError> {
        let held: Vec<Held> = self.app.container_streams.locked().streams.values().cloned().collect();
        if held.is_empty() {
            return Ok(());
        }
        let ids: HashSet<ContainerId> = held.iter().map(|held| held.container).collect();
        let ids: Vec<ContainerId> = ids.into_iter().collect();
        let standings = self.app.store.containers().standings(&ids).await?;
        for held in held {
            if !held.stands(standings.get(&held.container)) {
                held.lost.cancel();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(kind: StreamKind, lease: i64) -> Held {
        Held {
            kind,
            // A user has ten leases.
            user: UserId(lease / 10),
            lease: LeaseId(lease),
            container: ContainerId(1),
            node: Some(NodeId(1)),
            engine_id: Some("e".into()),
            lost: CancellationToken::new(),
        }
    }

    #[test]
    fn a_lease_and_a_node_have_as_many_streams_as_they_may() {
        let streams = ContainerStreams::default();
        let taken = |kind, lease| streams.take(held(kind, lease)).map_err(|error| error.status().as_u16());
        for number in 1..=32 {
            assert_eq!(taken(StreamKind::Log, 1), Ok(number));
        }
        assert_eq!(taken(StreamKind::Log, 1), Err(429));
        assert_eq!(taken(StreamKind::Stats, 1), Ok(33), "another kind");
        for number in 34..=96 {
            assert_eq!(taken(StreamKind::Forward, 2), Ok(number));
        }
        assert_eq!(taken(StreamKind::Exec, 3), Err(429), "of the user, with another lease");
        let mut lease = 10;
        while let Ok(number) = taken(StreamKind::Stats, lease) {
            assert!(number <= 256);
            lease += 10;
        }
        assert_eq!(taken(StreamKind::Stats, lease), Err(503), "of the node");
    }

    #[test]
    fn a_stream_ends_when_its_container_is_elsewhere_or_does_not_run() {
        let here = ContainerStanding { node: Some(NodeId(1)), engine_id: Some("e".into()), runs: true };
        let ended = ContainerStanding { runs: false, ..here.clone() };
        let moved = ContainerStanding { node: Some(NodeId(2)), ..here.clone() };
        let made_anew = ContainerStanding { engine_id: Some("f".into()), ..here.clone() };
        for (kind, of_ended) in
            [(StreamKind::Log, true), (StreamKind::Stats, false), (StreamKind::Exec, false)]
        {
            let held = held(kind, 1);
            assert!(held.stands(Some(&here)));
            assert_eq!(held.stands(Some(&ended)), of_ended);
            assert!(!held.stands(Some(&moved)) && !held.stands(Some(&made_anew)) && !held.stands(None));
        }
    }
}
