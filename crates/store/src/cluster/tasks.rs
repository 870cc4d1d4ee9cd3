//! The states of the schedulers' background tasks, as each writes them beside its heartbeat.

use super::Cluster;
use crate::engine::{StoreError, transaction, vals};
use orion_domain::Timestamp;
use serde::{Deserialize, Serialize};

/// The state of a background task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Success of the last run, or no run yet.
    Ok,
    /// Failure of the last run.
    Failing,
    /// Present run that takes much longer than it should.
    Hanging,
}

impl TaskState {
    /// Returns the state's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failing => "failing",
            Self::Hanging => "hanging",
        }
    }
}

/// A background task of a scheduler, with its last run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// The task's name.
    pub name: String,
    /// State of the task.
    pub state: TaskState,
    /// The beginning of the last run that ended.
    pub last_run: Option<Timestamp>,
    /// The time that run took, in milliseconds.
    pub took_ms: Option<u64>,
    /// The beginning of the run that goes on.
    pub running_since: Option<Timestamp>,
    /// Runs that failed in a row.
    pub failures: u32,
    /// Pieces of work that the last run found, if it succeeded.
    pub found: Option<usize>,
    /// Pieces of work that it did or started.
    pub started: Option<usize>,
    /// The error of the last run, if it failed.
    pub error: Option<String>,
}

impl Cluster<'_> {
    /// Writes how the background tasks of a process are, beside its heartbeat.
    pub async fn put_task_statuses(
        self,
        name: &str,
        kind: &str,
        statuses: &[TaskStatus],
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(statuses)
            .map_err(|error| StoreError::Unavailable(format!("task statuses are no JSON: {error}")))?;
        let sql = "UPDATE replicas SET tasks = ? WHERE name = ? AND kind = ?";
        Ok(transaction!(&self.store.db, |tx| { tx.exec(sql, vals![&json, name, kind]).await.map(|_| ()) })?)
    }

    /// Returns the background tasks of the processes that beat at `since` or later. A process of another version may
    /// have written none, or others than this one can read: those are left out.
    pub async fn task_statuses(self, since: Timestamp) -> Result<Vec<TaskStatus>, StoreError> {
        let sql = "SELECT tasks FROM replicas WHERE beat_at >= ? AND tasks IS NOT NULL ORDER BY name, kind";
        let rows = self.store.db.all::<(String,)>(sql, vals![since]).await?;
        let read = |(json,): (String,)| serde_json::from_str::<Vec<TaskStatus>>(&json).unwrap_or_default();
        Ok(rows.into_iter().flat_map(read).collect())
    }
}
