//! Accounts of the API, and the tokens with which workers join.

use crate::{
    Store,
    attempts::{Tx, transaction},
    db::vals,
    error::{Cas, Fault, Result, StoreError},
    idempotency::First,
    model::{CreateUser, IdemNew, JoinToken, NewEvent, Role, User},
    rows::{TokenRecord, UserRecord},
};
use orion_domain::{Timestamp, TokenId, UserId, names::UnixName};
use serde_json::json;

const SELECT_USER: &str = "SELECT id, username, password_hash, role, token_generation, created_at FROM users";

fn told(kind: &'static str, user: UserId, data: serde_json::Value) -> NewEvent {
    NewEvent { kind, lease: None, node: None, user: Some(user), data }
}

async fn insert_user(
    tx: &mut Tx,
    username: &UnixName,
    password_hash: &str,
    role: Role,
    now: Timestamp,
) -> Result<UserId> {
    let sql = "INSERT INTO users (username, password_hash, role, created_at) VALUES (?, ?, ?, ?)";
    let id = tx.insert(sql, vals![username.as_str(), password_hash, role.as_str(), now]).await?;
    let data = json!({ "username": username.as_str(), "role": role.as_str() });
    tx.tell(&[told("user.created", UserId(id), data)], now).await?;
    Ok(UserId(id))
}

impl Store {
    /// Signs a user up. With an idempotency key the row of the key is made with it (`running`).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_user(
        &self,
        username: &UnixName,
        password_hash: &str,
        role: Role,
        now: Timestamp,
        idem: Option<&IdemNew>,
    ) -> Result<CreateUser, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            if let Some(new) = idem
                && let First::No(row) = tx.take_key(new, now).await?
            {
                tx.abandon();
                return Ok(CreateUser::Replayed(row));
            }
            match insert_user(tx, username, password_hash, role, now).await {
                Ok(id) => Ok(CreateUser::Created(id)),
                Err(Fault::Unique(_)) => {
                    tx.abandon();
                    Ok(CreateUser::Taken)
                }
                Err(fault) => Err(fault),
            }
        });
        Ok(outcome?)
    }

    /// A user by name; any text may be asked for.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user_by_name(&self, username: &str) -> Result<Option<User>, StoreError> {
        if username.parse::<UnixName>().is_err() {
            return Ok(None);
        }
        let sql = sqlx::AssertSqlSafe(format!("{SELECT_USER} WHERE username = ?"));
        self.db.one::<UserRecord>(sql, vals![username]).await?.map(User::try_from).transpose()
    }

    /// A user by number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn user_by_id(&self, id: UserId) -> Result<Option<User>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{SELECT_USER} WHERE id = ?"));
        self.db.one::<UserRecord>(sql, vals![id]).await?.map(User::try_from).transpose()
    }

    /// Makes an admin, or makes a user one and gives them that password; their older tokens are void.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn upsert_admin(
        &self,
        username: &UnixName,
        password_hash: &str,
        now: Timestamp,
    ) -> Result<UserId, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            let sql = "SELECT id FROM users WHERE username = ?";
            let Some((id,)) = tx.one::<(i64,)>(sql, vals![username.as_str()]).await? else {
                return match insert_user(tx, username, password_hash, Role::Admin, now).await {
                    Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                    result => result,
                };
            };
            let sql = "UPDATE users SET password_hash = ?, role = 'admin', \
                       token_generation = token_generation + 1 WHERE id = ?";
            tx.exec(sql, vals![password_hash, id]).await?;
            let data = json!({ "username": username.as_str() });
            tx.tell(&[told("user.admin_set", UserId(id), data)], now).await?;
            Ok(UserId(id))
        });
        Ok(outcome?)
    }

    /// Whether there is an admin.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn any_admin(&self) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM users WHERE role = 'admin' LIMIT 1";
        Ok(self.db.one::<(i64,)>(sql, vec![]).await?.is_some())
    }

    /// Makes every token of a user void.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn bump_token_generation(&self, id: UserId) -> Result<Cas, StoreError> {
        Ok(transaction!(&self.db, |tx| {
            let sql = "UPDATE users SET token_generation = token_generation + 1 WHERE id = ?";
            Ok(if tx.exec(sql, vals![id]).await? == 1 { Cas::Done(()) } else { Cas::Gone })
        })?)
    }

    /// Makes a join token known by its SHA-256 (hex), and gives it; if it is known already, gives that one.
    /// `uses`: how many nodes it may create.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn create_join_token(
        &self,
        sha256: &str,
        note: &str,
        created_by: Option<UserId>,
        expires_at: Option<Timestamp>,
        uses: Option<u32>,
        now: Timestamp,
    ) -> Result<JoinToken, StoreError> {
        let note: String = note.chars().take(255).collect();
        let outcome = transaction!(&self.db, |tx| {
            if let Some(known) = tx.token_by_sha256(sha256).await? {
                tx.abandon();
                return Ok(JoinToken::from(known));
            }
            let sql = "INSERT INTO join_tokens (token_sha256, note, created_by, created_at, expires_at, \
                       uses_left) VALUES (?, ?, ?, ?, ?, ?)";
            let id = tx.insert(sql, vals![sha256, &note, created_by, now, expires_at, uses]).await?;
            let data = json!({ "token_id": id, "note": note });
            let event =
                NewEvent { kind: "join_token.created", lease: None, node: None, user: created_by, data };
            tx.tell(&[event], now).await?;
            let made = tx.token_by_sha256(sha256).await?;
            made.map(JoinToken::from).ok_or_else(|| Fault::Retry("a new join token vanished".into()))
        });
        Ok(outcome?)
    }

    /// All join tokens, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        let sql = "SELECT id, note, created_by, created_at, expires_at, uses_left, revoked \
                   FROM join_tokens ORDER BY id DESC LIMIT 1000";
        Ok(self.db.all::<TokenRecord>(sql, vec![]).await?.into_iter().map(JoinToken::from).collect())
    }

    /// Takes a join token back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn revoke_join_token(&self, id: TokenId, now: Timestamp) -> Result<Cas, StoreError> {
        let outcome = transaction!(&self.db, |tx| {
            if tx.exec("UPDATE join_tokens SET revoked = 1 WHERE id = ?", vals![id.0]).await? == 0 {
                return Ok(Cas::Gone);
            }
            let data = json!({ "token_id": id });
            let event = NewEvent { kind: "join_token.revoked", lease: None, node: None, user: None, data };
            tx.tell(&[event], now).await?;
            Ok(Cas::Done(()))
        });
        Ok(outcome?)
    }
}

/// What a join token is good for.
pub(crate) enum TokenVerdict {
    /// It may create a node.
    Good(i64),
    /// It is used up: it may only see that its node is there.
    UsedUp,
    /// Nothing.
    Bad,
}

impl Tx {
    async fn token_by_sha256(&mut self, sha256: &str) -> Result<Option<TokenRecord>> {
        let sql = "SELECT id, note, created_by, created_at, expires_at, uses_left, revoked \
                   FROM join_tokens WHERE token_sha256 = ?";
        self.one::<TokenRecord>(sql, vals![sha256]).await
    }

    pub(crate) async fn judge_join_token(
        &mut self,
        sha256: Option<&str>,
        now: Timestamp,
    ) -> Result<TokenVerdict> {
        let Some(sha256) = sha256 else { return Ok(TokenVerdict::Bad) };
        Ok(match self.token_by_sha256(sha256).await? {
            None => TokenVerdict::Bad,
            Some(token) if token.revoked != 0 => TokenVerdict::Bad,
            Some(token) if token.expires_at.is_some_and(|at| at <= now.as_micros()) => TokenVerdict::Bad,
            Some(token) if token.uses_left == Some(0) => TokenVerdict::UsedUp,
            Some(token) => TokenVerdict::Good(token.id),
        })
    }

    /// Uses a join token once; false if somebody else used it up.
    pub(crate) async fn use_join_token(&mut self, id: i64) -> Result<bool> {
        let sql = "UPDATE join_tokens SET uses_left = CASE WHEN uses_left IS NULL THEN NULL \
                   ELSE uses_left - 1 END WHERE id = ? AND revoked = 0 AND (uses_left IS NULL OR uses_left > 0)";
        Ok(self.exec(sql, vals![id]).await? == 1)
    }
}
