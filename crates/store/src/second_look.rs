//! Second looks: before a scheduler gives a node up, it asks another one to dial it. The question and its answer
//! go through the database, which both reach anyway.
//!
//! A row is one scheduler's question about one node; a new question replaces the old one. Nothing is lost when
//! rows are: a question without an answer is asked of the next, or not at all.

use crate::{
    Store,
    attempts::transaction,
    db::vals,
    error::StoreError,
    model::{SecondLook, SecondLookAnswer},
    rows::clip,
};
use orion_domain::{NodeId, Timestamp};

impl Store {
    /// The scheduler `by` asks `of` to dial `node`, and forgets what it asked about this node before. The
    /// question is known by `now`: give a later time for each.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ask_second_look(
        &self,
        node: NodeId,
        by: &str,
        of: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = self.db.sql(
            "INSERT INTO second_looks (node_id, asked_by, asked_of, asked_at) VALUES (?, ?, ?, ?) \
             ON DUPLICATE KEY UPDATE asked_of = VALUES(asked_of), asked_at = VALUES(asked_at), \
             answered_at = NULL, answers = NULL, detail = NULL",
            "INSERT INTO second_looks (node_id, asked_by, asked_of, asked_at) VALUES (?, ?, ?, ?) \
             ON CONFLICT (node_id, asked_by) DO UPDATE SET asked_of = excluded.asked_of, \
             asked_at = excluded.asked_at, answered_at = NULL, answers = NULL, detail = NULL",
        );
        let values = vals![node, by, of, now];
        Ok(transaction!(&self.db, |tx| { tx.exec(sql, values.clone()).await.map(|_| ()) })?)
    }

    /// What `of` is asked and has not answered, the oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn second_looks_of(&self, of: &str, limit: u32) -> Result<Vec<SecondLook>, StoreError> {
        let sql = "SELECT node_id, asked_by, asked_at FROM second_looks \
                   WHERE asked_of = ? AND answered_at IS NULL ORDER BY asked_at LIMIT ?";
        let rows = self.db.all::<(i64, String, i64)>(sql, vals![of, limit]).await?;
        let question = |(node, asked_by, at)| SecondLook {
            node: NodeId(node),
            asked_by,
            asked_at: Timestamp::from_micros(at),
        };
        Ok(rows.into_iter().map(question).collect())
    }

    /// Answers a question; one that is no longer asked, or was answered, stays as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn answer_second_look(
        &self,
        question: &SecondLook,
        answer: &SecondLookAnswer,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = "UPDATE second_looks SET answered_at = ?, answers = ?, detail = ? \
                   WHERE node_id = ? AND asked_by = ? AND asked_at = ? AND answered_at IS NULL";
        let SecondLook { node, asked_by, asked_at } = question;
        let values = vals![now, answer.answers, clip(&answer.detail), *node, asked_by, *asked_at];
        Ok(transaction!(&self.db, |tx| { tx.exec(sql, values.clone()).await.map(|_| ()) })?)
    }

    /// The answer to a question, if it came.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn second_look_answer(
        &self,
        question: &SecondLook,
    ) -> Result<Option<SecondLookAnswer>, StoreError> {
        let sql = "SELECT answers, detail FROM second_looks \
                   WHERE node_id = ? AND asked_by = ? AND asked_at = ? AND answered_at IS NOT NULL";
        let SecondLook { node, asked_by, asked_at } = question;
        let row =
            self.db.one::<(Option<i64>, Option<String>)>(sql, vals![*node, asked_by, *asked_at]).await?;
        Ok(row.map(|(answers, detail)| SecondLookAnswer {
            answers: answers.map(|answers| answers != 0),
            detail: detail.unwrap_or_default(),
        }))
    }

    /// `by` asks about `node` no more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_second_look(&self, node: NodeId, by: &str) -> Result<(), StoreError> {
        let sql = "DELETE FROM second_looks WHERE node_id = ? AND asked_by = ?";
        Ok(transaction!(&self.db, |tx| { tx.exec(sql, vals![node, by]).await.map(|_| ()) })?)
    }

    /// Forgets questions from before `before`, whose askers are gone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sweep_second_looks(&self, before: Timestamp) -> Result<(), StoreError> {
        let sql = "SELECT node_id, asked_by FROM second_looks WHERE asked_at < ?";
        // Read first: a DELETE that looks at every row would wait for those that are being asked now.
        for (node, by) in self.db.all::<(i64, String)>(sql, vals![before]).await? {
            let sql = "DELETE FROM second_looks WHERE node_id = ? AND asked_by = ? AND asked_at < ?";
            transaction!(&self.db, |tx| { tx.exec(sql, vals![node, &by, before]).await.map(|_| ()) })?;
        }
        Ok(())
    }
}
