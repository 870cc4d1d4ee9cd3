//! Rows of `events`.

use super::Event;
use crate::engine::{Checked, StoreError, at, record};
use orion_domain::{EventId, LeaseId, NodeId, UserId};
use sqlx::AssertSqlSafe;

record! {
    pub(crate) struct EventRecord {
        id: i64,
        uid: String,
        at: i64,
        kind: String,
        lease_id: Option<i64>,
        node_id: Option<i64>,
        user_id: Option<i64>,
        data: String,
    }
}

/// A query for rows of `events`, which it calls `e`.
pub(crate) fn event_sql(rest: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(format!("SELECT {} FROM events e {rest}", EventRecord::columns("e")))
}

impl TryFrom<EventRecord> for Event {
    type Error = StoreError;

    fn try_from(row: EventRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "events", id: row.id };
        Ok(Self {
            id: EventId(row.id),
            uid: row.uid,
            at: at(row.at),
            kind: row.kind,
            lease: row.lease_id.map(LeaseId),
            node: row.node_id.map(NodeId),
            user: row.user_id.map(UserId),
            data: check.json("data", &row.data)?,
        })
    }
}
