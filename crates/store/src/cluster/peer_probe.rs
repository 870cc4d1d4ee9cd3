//! Peer probes: before a scheduler gives a node up, it asks another one to dial it. The question and its answer go
//! through the database, which both reach anyway (table `second_looks`).
//!
//! A row is one scheduler's question about one node; a new question replaces the old one. Nothing is lost when
//! rows are: a question without an answer is asked of the next, or not at all.

use super::Cluster;
use crate::engine::{StoreError, clip, transaction, vals};
use orion_domain::{NodeId, Timestamp};

/// One scheduler's question to another: does this node answer you?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProbe {
    /// The node to dial.
    pub node: NodeId,
    /// Name of the scheduler that asks.
    pub asked_by: String,
    /// Time of the question; distinguishes it from the next one.
    pub asked_at: Timestamp,
}

/// Outcome of a [`PeerProbe`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerProbeAnswer {
    /// Whether the node answered; none if who was asked cannot say.
    pub answers: Option<bool>,
    /// Result of the dial, for people.
    pub detail: String,
}

impl Cluster<'_> {
    /// The scheduler `by` asks `of` to dial `node`, and forgets what it asked about this node before. The
    /// question is known by `now`: give a later time for each.
    pub async fn ask_peer_probe(
        self,
        node: NodeId,
        by: &str,
        of: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = self.store.db.sql(
            "INSERT INTO second_looks (node_id, asked_by, asked_of, asked_at) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE asked_of = VALUES(asked_of), asked_at = VALUES(asked_at), \
             answered_at = NULL, answers = NULL, detail = NULL",
            "INSERT INTO second_looks (node_id, asked_by, asked_of, asked_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (node_id, asked_by) DO UPDATE SET asked_of = excluded.asked_of, \
             asked_at = excluded.asked_at, answered_at = NULL, answers = NULL, detail = NULL",
        );
        let values = vals![node, by, of, now];
        Ok(transaction!(&self.store.db, |tx| { tx.exec(sql, values.clone()).await.map(|_| ()) })?)
    }

    /// Returns the probes that `of` is asked for and has not answered, oldest first.
    pub async fn peer_probes_for(self, of: &str, limit: u32) -> Result<Vec<PeerProbe>, StoreError> {
        let sql = "SELECT node_id, asked_by, asked_at FROM second_looks \
                   WHERE asked_of = ? AND answered_at IS NULL ORDER BY asked_at LIMIT ?";
        let rows = self.store.db.all::<(i64, String, i64)>(sql, vals![of, limit]).await?;
        let question = |(node, asked_by, at)| PeerProbe {
            node: NodeId(node),
            asked_by,
            asked_at: Timestamp::from_micros(at),
        };
        Ok(rows.into_iter().map(question).collect())
    }

    /// Answers a question; one that is no longer asked, or was answered, stays as it is.
    pub async fn answer_peer_probe(
        self,
        question: &PeerProbe,
        answer: &PeerProbeAnswer,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE second_looks SET answered_at = ?, answers = ?, detail = ? \
                   WHERE node_id = ? AND asked_by = ? AND asked_at = ? AND answered_at IS NULL";
        let PeerProbe { node, asked_by, asked_at } = question;
        let values = vals![now, answer.answers, clip(&answer.detail), *node, asked_by, *asked_at];
        Ok(transaction!(&self.store.db, |tx| { tx.exec(sql, values.clone()).await.map(|_| ()) })?)
    }

    /// The answer to a question, if it came.
    pub async fn peer_probe_answer(
        self,
        question: &PeerProbe,
    ) -> Result<Option<PeerProbeAnswer>, StoreError> {
        let sql = "SELECT answers, detail FROM second_looks \
                   WHERE node_id = ? AND asked_by = ? AND asked_at = ? AND answered_at IS NOT NULL";
        let PeerProbe { node, asked_by, asked_at } = question;
        let row = self
            .store
            .db
            .one::<(Option<i64>, Option<String>)>(sql, vals![*node, asked_by, *asked_at])
            .await?;
        Ok(row.map(|(answers, detail)| PeerProbeAnswer {
            answers: answers.map(|answers| answers != 0),
            detail: detail.unwrap_or_default(),
        }))
    }

    /// `by` asks about `node` no more.
    pub async fn end_peer_probe(self, node: NodeId, by: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM second_looks WHERE node_id = ? AND asked_by = ?";
        Ok(transaction!(&self.store.db, |tx| { tx.exec(sql, vals![node, by]).await.map(|_| ()) })?)
    }

    /// Forgets questions from before `before`, whose askers are gone.
    pub async fn sweep_peer_probes(self, before: Timestamp) -> Result<(), StoreError> {
        let sql = "SELECT node_id, asked_by FROM second_looks WHERE asked_at < ?";
        // Read first: a DELETE that looks at every row would wait for those that are being asked now.
        for (node, by) in self.store.db.all::<(i64, String)>(sql, vals![before]).await? {
            let sql = "DELETE FROM second_looks WHERE node_id = ? AND asked_by = ? AND asked_at < ?";
            transaction!(&self.store.db, |tx| { tx.exec(sql, vals![node, &by, before]).await.map(|_| ()) })?;
        }
        Ok(())
    }
}
