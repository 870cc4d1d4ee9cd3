//! Small values of the whole system, and keys that were sealed by their owner.

pub(crate) mod brake;
pub(crate) mod peer_probe;
mod tasks;

pub use peer_probe::{PeerProbe, PeerProbeAnswer};
pub use tasks::{TaskState, TaskStatus};

use crate::{
    Store,
    engine::{Fault, StoreError, transaction, vals},
};
use orion_domain::Timestamp;
use std::time::Duration;

/// Operations on the data that the replicas share: heartbeats, settings, the brake, peer probes.
#[derive(Clone, Copy, Debug)]
pub struct Cluster<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives what the replicas share.
    pub const fn cluster(&self) -> Cluster<'_> {
        Cluster { store: self }
    }
}

/// A process of the control plane that beats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Name of the process; one process that is both kinds has a heartbeat under one name for each.
    pub name: String,
    /// What it is ([`Replica::API`], [`Replica::SCHEDULER`]).
    pub kind: String,
    /// Time of the last heartbeat.
    pub beat_at: Timestamp,
}

impl Replica {
    /// The kind of a process that serves the API.
    pub const API: &str = "api";
    /// The kind of a process that runs the background tasks.
    pub const SCHEDULER: &str = "scheduler";
}

/// The setting that says when the database was last settled after a restore, in microseconds.
pub(crate) const RESTORED_AT: &str = "restored_at";

/// Time for which a process without heartbeats stays listed.
const REPLICA_KEPT: Duration = Duration::from_secs(3600);

impl Cluster<'_> {
    /// A sealed value, as it was put.
    pub async fn get_sealed(self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let sql = "SELECT sealed FROM sealed_values WHERE name = ?";
        Ok(self.store.db.one::<(Vec<u8>,)>(sql, vals![name]).await?.map(|(sealed,)| sealed))
    }

    /// Puts a sealed value unless there is one of that name, and gives the one that is there now: of
    /// replicas that start at once, all get the same.
    pub async fn put_sealed_if_absent(self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, StoreError> {
        if let Some(known) = self.get_sealed(name).await? {
            return Ok(known);
        }
        let written = transaction!(&self.store.db, |tx| {
            tx.exec("INSERT INTO sealed_values (name, sealed) VALUES (?, ?)", vals![name, sealed]).await
        });
        match written {
            Ok(_) | Err(Fault::Unique(_)) => {}
            Err(fault) => return Err(fault.into()),
        }
        let winner = self.get_sealed(name).await?;
        winner.ok_or_else(|| StoreError::Unavailable(format!("{name} vanished while it was written")))
    }

    /// A setting.
    pub async fn get_setting(self, name: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT value FROM settings WHERE name = ?";
        Ok(self.store.db.one::<(String,)>(sql, vals![name]).await?.map(|(value,)| value))
    }

    /// Sets a setting.
    pub async fn put_setting(self, name: &str, value: &str) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO settings (name, value) VALUES (?, ?) ON DUPLICATE KEY UPDATE value = VALUES(value)",
            "INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        );
        Ok(transaction!(&self.store.db, |tx| { tx.exec(sql, vals![name, value]).await.map(|_| ()) })?)
    }

    /// A process of the control plane lives. Those that have not beaten for an hour are forgotten.
    pub async fn heartbeat(self, name: &str, kind: &str, now: Timestamp) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO replicas (name, kind, beat_at) VALUES (?, ?, ?) \
             ON DUPLICATE KEY UPDATE beat_at = VALUES(beat_at)",
            "INSERT INTO replicas (name, kind, beat_at) VALUES (?, ?, ?) \
             ON CONFLICT (name, kind) DO UPDATE SET beat_at = excluded.beat_at",
        );
        let mut silent_since = now.minus(REPLICA_KEPT);
        Ok(transaction!(&self.store.db, |tx| {
            tx.exec(sql, vals![name, kind, now]).await?;
            // Read first: a DELETE that looks at every row would wait for the others that beat just now.
            let gone = "SELECT name, kind FROM replicas WHERE beat_at < ?";
            let gone = tx.all::<(String, String)>(gone, vals![silent_since]).await?;
            if !gone.is_empty() {
                // Not by this machine's clock alone: if it is ahead, the others live.
                let theirs =
                    tx.one::<(i64,)>(self.store.clock_sql(), vec![]).await?.map_or(0, |(micros,)| micros);
                silent_since = silent_since.min(Timestamp::from_micros(theirs).minus(REPLICA_KEPT));
            }
            for (name, kind) in gone {
                let sql = "DELETE FROM replicas WHERE name = ? AND kind = ? AND beat_at < ?";
                tx.exec(sql, vals![name, kind, silent_since]).await?;
            }
            Ok(())
        })?)
    }

    /// All processes of the control plane that have sent a heartbeat and did not deregister.
    pub async fn replicas(self) -> Result<Vec<Replica>, StoreError> {
        let sql = "SELECT name, kind, beat_at FROM replicas ORDER BY name, kind";
        let rows = self.store.db.all::<(String, String, i64)>(sql, vec![]).await?;
        let replica =
            |(name, kind, beat_at)| Replica { name, kind, beat_at: Timestamp::from_micros(beat_at) };
        Ok(rows.into_iter().map(replica).collect())
    }

    /// A process of the control plane stops.
    pub async fn remove_replica(self, name: &str, kind: &str) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "DELETE FROM replicas WHERE name = ? AND kind = ?";
            tx.exec(sql, vals![name, kind]).await.map(|_| ())
        })?)
    }
}
