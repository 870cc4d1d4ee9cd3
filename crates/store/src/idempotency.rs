//! Requests that carry an idempotency key: who was first, and what the reply was.
//!
//! Keys come hashed and replies sealed; this module sees neither.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::{Db, vals},
    error::{Cas, Fault, Result, StoreError},
    model::{IdemNew, IdemRow},
    rows::IdemRecord,
};
use orion_domain::Timestamp;

const SELECT: &str = "SELECT body_sha256, state, request_key, secrets_sealed, reply_status, reply_sealed, \
                      created_at, expires_at FROM idempotency WHERE scope = ? AND key_sha256 = ?";

/// What an attempt to be the first with a key gave.
pub(crate) enum First {
    /// It is; the row says `running` once the transaction commits.
    Yes,
    /// Somebody was faster.
    No(IdemRow),
}

impl Tx {
    /// Takes the key, in the transaction of what it stands for.
    pub(crate) async fn take_key(&mut self, new: &IdemNew, now: Timestamp) -> Result<First> {
        let sql = "INSERT INTO idempotency (scope, key_sha256, body_sha256, state, request_key, \
                   secrets_sealed, created_at, expires_at) VALUES (?, ?, ?, 'running', ?, ?, ?, ?)";
        let values = vals![
            &new.scope,
            &new.key_sha256,
            &new.body_sha256,
            new.request_key.as_deref(),
            new.secrets_sealed.as_deref(),
            now,
            new.expires_at
        ];
        match self.exec(sql, values).await {
            Ok(_) => return Ok(First::Yes),
            Err(Fault::Unique(_)) => {}
            Err(fault) => return Err(fault),
        }
        let row = self.one::<IdemRecord>(SELECT, vals![&new.scope, &new.key_sha256]).await?;
        let Some(row) = row else { return Err(Fault::Retry("the other request gave up".into())) };
        if row.expires_at > now.as_micros() {
            return Ok(First::No(row.try_into()?));
        }
        let sql = "DELETE FROM idempotency WHERE scope = ? AND key_sha256 = ? AND expires_at <= ?";
        self.exec(sql, vals![&new.scope, &new.key_sha256, now]).await?;
        Box::pin(self.take_key(new, now)).await
    }
}

async fn read(db: &Db, scope: &str, key_sha256: &str) -> Result<Option<IdemRow>> {
    let row = db.one::<IdemRecord>(SELECT, vals![scope, key_sha256]).await?;
    Ok(row.map(IdemRow::try_from).transpose()?)
}

impl Store {
    /// Takes a key for a request that no other function of the store takes it for. `Some`: it was taken
    /// before, and nothing was written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn idem_begin(&self, new: &IdemNew, now: Timestamp) -> Result<Option<IdemRow>, StoreError> {
        Ok(transaction!(&self.db, |tx| {
            match tx.take_key(new, now).await? {
                First::Yes => Ok(None),
                First::No(row) => {
                    tx.abandon();
                    Ok(Some(row))
                }
            }
        })?)
    }

    /// What is kept under a key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn idem_get(&self, scope: &str, key_sha256: &str) -> Result<Option<IdemRow>, StoreError> {
        Ok(read(&self.db, scope, key_sha256).await?)
    }

    /// Keeps the reply, and wipes what was needed to finish the request. `Stale`: the key does not wait for
    /// a reply, because another one is kept already, or because the request was ended
    /// ([`Store::end_request`]): then the leases do not stay, and the client must not get this reply.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn idem_finish(
        &self,
        scope: &str,
        key_sha256: &str,
        status: u16,
        reply_sealed: &[u8],
        expires_at: Timestamp,
    ) -> Result<Cas, StoreError> {
        let sql = "UPDATE idempotency SET state = 'done', secrets_sealed = NULL, reply_status = ?, \
                   reply_sealed = ?, expires_at = ? WHERE scope = ? AND key_sha256 = ? AND state = 'running'";
        Ok(transaction!(&self.db, |tx| {
            let values = vals![i64::from(status), reply_sealed, expires_at, scope, key_sha256];
            if tx.exec(sql, values).await? == 1 {
                return Ok(Cas::Done(()));
            }
            // A COMMIT without an answer, run again, finds what it wrote itself.
            let row = tx.one::<IdemRecord>(SELECT, vals![scope, key_sha256]).await?;
            let row = row.map(IdemRow::try_from).transpose()?;
            let same = row.is_some_and(|row| {
                row.reply_status == Some(status) && row.reply_sealed.as_deref() == Some(reply_sealed)
            });
            Ok(if same { Cas::Done(()) } else { Cas::Stale })
        })?)
    }

    /// Forgets a key (a refusal is not kept).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn idem_delete(&self, scope: &str, key_sha256: &str) -> Result<(), StoreError> {
        Ok(transaction!(&self.db, |tx| {
            let sql = "DELETE FROM idempotency WHERE scope = ? AND key_sha256 = ?";
            tx.exec(sql, vals![scope, key_sha256]).await.map(|_| ())
        })?)
    }

    /// Forgets keys whose time is up; says how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn idem_sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        Ok(transaction!(&self.db, |tx| {
            tx.exec("DELETE FROM idempotency WHERE expires_at <= ?", vals![now]).await
        })?)
    }
}
