//! Requests that carry an idempotency key: who was first, and what the reply was.
//!
//! Keys come hashed and replies sealed; this module sees neither.

use crate::engine::Checked;
use crate::engine::at;
use crate::{
    Store,
    admin::retention::{Kept, Prunable},
    engine::{Cas, Db, Fault, Result, StoreError, Tx, transaction, vals},
};
use orion_domain::Timestamp;
use sqlx::FromRow;
use std::time::Duration;

/// How long a reply is kept under its `Idempotency-Key` where no lease says otherwise, and how long after the end of
/// its lease.
pub const REPLY_KEPT: Duration = Duration::from_secs(24 * 3600);

/// Kept replies of requests with an idempotency key.
#[derive(Clone, Copy, Debug)]
pub struct Idempotency<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the idempotency keys.
    pub const fn idempotency(&self) -> Idempotency<'_> {
        Idempotency { store: self }
    }
}

/// A request that carries an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdemNew {
    /// Caller and route.
    pub scope: String,
    /// SHA-256 (hex) of the key.
    pub key_sha256: String,
    /// SHA-256 (hex) of the body.
    pub body_sha256: String,
    /// The key of the leases it makes.
    pub request_key: Option<String>,
    /// Data needed to finish the request after a crash, sealed by the caller.
    pub secrets_sealed: Option<Vec<u8>>,
    /// Time after which the key may be forgotten.
    pub expires_at: Timestamp,
}

/// Whether a request with an idempotency key has its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdemState {
    /// Request without a reply yet.
    Running,
    /// The reply is kept.
    Done,
}

/// Record of a request that carried an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdemRow {
    /// SHA-256 (hex) of the body: another one under the same key is refused.
    pub body_sha256: String,
    /// Progress of the request.
    pub state: IdemState,
    /// The key of the leases it made.
    pub request_key: Option<String>,
    /// Data needed to finish the request.
    pub secrets_sealed: Option<Vec<u8>>,
    /// The HTTP status of the reply.
    pub reply_status: Option<u16>,
    /// The reply, sealed by the caller.
    pub reply_sealed: Option<Vec<u8>>,
    /// Time of the first request.
    pub created_at: Timestamp,
}

#[derive(FromRow)]
pub(crate) struct IdemRecord {
    body_sha256: String,
    state: String,
    request_key: Option<String>,
    secrets_sealed: Option<Vec<u8>>,
    reply_status: Option<i64>,
    reply_sealed: Option<Vec<u8>>,
    created_at: i64,
    pub expires_at: i64,
}

impl TryFrom<IdemRecord> for IdemRow {
    type Error = StoreError;

    fn try_from(row: IdemRecord) -> Result<Self, StoreError> {
        let check = Checked { table: "idempotency", id: 0 };
        let states = [IdemState::Running, IdemState::Done];
        Ok(Self {
            body_sha256: row.body_sha256,
            state: check.word("state", &row.state, &states, |state| match state {
                IdemState::Running => "running",
                IdemState::Done => "done",
            })?,
            request_key: row.request_key,
            secrets_sealed: row.secrets_sealed,
            reply_status: row.reply_status.map(|status| check.number("reply_status", status)).transpose()?,
            reply_sealed: row.reply_sealed,
            created_at: at(row.created_at),
        })
    }
}

const SELECT: &str = "SELECT body_sha256, state, request_key, secrets_sealed, reply_status, reply_sealed, \
                      created_at, expires_at FROM idempotency WHERE scope = ? AND key_sha256 = ?";

/// Outcome of an attempt to be the first with a key.
pub(crate) enum First {
    /// First request with the key; the row says `running` once the transaction commits.
    Yes,
    /// Row of another request that was first.
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

impl Idempotency<'_> {
    /// Takes a key for a request that no other function of the store takes it for. `Some`: it was taken
    /// before, and nothing was written.
    pub async fn begin(self, new: &IdemNew, now: Timestamp) -> Result<Option<IdemRow>, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            match tx.take_key(new, now).await? {
                First::Yes => Ok(None),
                First::No(row) => {
                    tx.abandon();
                    Ok(Some(row))
                }
            }
        })?)
    }

    /// Returns the record that is kept under a key.
    pub async fn get(self, scope: &str, key_sha256: &str) -> Result<Option<IdemRow>, StoreError> {
        Ok(read(&self.store.db, scope, key_sha256).await?)
    }

    /// Keeps the reply, and wipes what was needed to finish the request. `Stale`: the key does not wait for
    /// a reply, because another one is kept already, or because the request was ended
    /// ([`crate::Leases::end_request`]): then the leases do not stay, and the client must not get this reply.
    pub async fn finish(
        self,
        scope: &str,
        key_sha256: &str,
        status: u16,
        reply_sealed: &[u8],
        expires_at: Timestamp,
    ) -> Result<Cas, StoreError> {
        let sql = "UPDATE idempotency SET state = 'done', secrets_sealed = NULL, reply_status = ?, \
                   reply_sealed = ?, expires_at = ? WHERE scope = ? AND key_sha256 = ? AND state = 'running'";
        Ok(transaction!(&self.store.db, |tx| {
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
    pub async fn delete(self, scope: &str, key_sha256: &str) -> Result<(), StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "DELETE FROM idempotency WHERE scope = ? AND key_sha256 = ?";
            tx.exec(sql, vals![scope, key_sha256]).await.map(|_| ())
        })?)
    }

    /// Forgets keys whose time is up; says how many.
    pub async fn sweep(self, now: Timestamp) -> Result<u64, StoreError> {
        let (mut swept, zero) = (0, Timestamp::from_micros(0));
        loop {
            let pruned = self.store.admin().prune(Prunable::Keys, &Kept::default(), zero, now).await?;
            swept += pruned.deleted;
            if pruned.next.is_none() {
                return Ok(swept);
            }
        }
    }
}
