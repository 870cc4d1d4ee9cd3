//! Accounts of the API, and the tokens with which workers join.

pub(crate) mod change;
pub(crate) mod invites;
pub(crate) mod row;

use crate::idempotency::IdemRow;
pub use change::{AccountChange, AccountChanged, AccountRow, Standing};
pub use invites::NewInvite;
pub use orion_domain::account::{Quotas, Role};
use orion_domain::{
    Secret, Timestamp, TokenId, UserId, event::JoinTokenEvent, event::UserEvent, names::UnixName,
};

use crate::{
    Store,
    accounts::row::{TokenRecord, UserRecord},
    engine::{Cas, Fault, Result, StoreError, Tx, each, in_lists, transaction, vals},
    events::NewEvent,
    idempotency::{First, IdemNew},
};

/// API accounts, invitations and join tokens.
#[derive(Clone, Copy, Debug)]
pub struct Accounts<'a> {
    store: &'a Store,
}

impl Store {
    /// Gives the API accounts.
    pub const fn accounts(&self) -> Accounts<'_> {
        Accounts { store: self }
    }
}

/// An account of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Number of the account.
    pub id: UserId,
    /// Name of the account, also on the nodes.
    pub username: UnixName,
    /// The argon2id hash (PHC string).
    pub password_hash: Secret,
    /// Role that determines what the account may do.
    pub role: Role,
    /// Tokens of an earlier generation are void.
    pub token_generation: i64,
    /// Time of the sign-up.
    pub created_at: Timestamp,
    /// Time since which the account may do nothing; none if it is enabled.
    pub disabled_at: Option<Timestamp>,
    /// Individual quotas of the account.
    pub quotas: Quotas,
}

/// An account that is to be made.
#[derive(Clone, Copy, Debug)]
pub struct NewUser<'a> {
    /// Name of the account.
    pub username: &'a UnixName,
    /// The argon2id hash (PHC string).
    pub password_hash: &'a str,
    /// What it may do.
    pub role: Role,
    /// The idempotency key of the request.
    pub idem: Option<&'a IdemNew>,
    /// SHA-256 (hex) of the invitation that it uses.
    pub invite_sha256: Option<&'a str>,
}

impl<'a> NewUser<'a> {
    /// Describes a user's account that is made without a key and an invitation.
    pub const fn new(username: &'a UnixName, password_hash: &'a str) -> Self {
        Self { username, password_hash, role: Role::User, idem: None, invite_sha256: None }
    }
}

/// Outcome of a sign-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CreateUser {
    /// The user exists now.
    Created(UserId),
    /// The invitation is wrong, used up or expired.
    BadInvite,
    /// Name that another account has.
    Taken,
    /// The idempotency key was used before; nothing was written.
    Replayed(IdemRow),
}

/// A token with which workers join; the token itself is known to its maker only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// Number of the token.
    pub id: TokenId,
    /// Note by the token's maker.
    pub note: String,
    /// User who made the token; none if it was made on the command line.
    pub created_by: Option<UserId>,
    /// Creation time of the token.
    pub created_at: Timestamp,
    /// Expiry of the token; none if it never expires.
    pub expires_at: Option<Timestamp>,
    /// Number of nodes that the token may still create; none for any number.
    pub uses_left: Option<i64>,
    /// Whether it was taken back.
    pub revoked: bool,
}

pub(crate) const SELECT_USER: &str = "SELECT id, username, password_hash, role, token_generation, created_at, \
    disabled_at, quota_nodes, quota_lease_hours, quota_streams, quota_keys FROM users";

async fn insert_user(
    tx: &mut Tx,
    username: &UnixName,
    password_hash: &str,
    role: Role,
    now: Timestamp,
) -> Result<UserId> {
    let sql = "INSERT INTO users (username, password_hash, role, created_at) VALUES (?, ?, ?, ?)";
    let id = tx.insert(sql, vals![username.as_str(), password_hash, role.as_str(), now]).await?;
    let event = UserEvent::Created { username: username.to_string(), role };
    tx.append_events(&[NewEvent::new(event).of_user(UserId(id))], now).await?;
    Ok(UserId(id))
}

impl Accounts<'_> {
    /// Makes a user's account; with it the row of the idempotency key (`running`), and the use of the invitation.
    pub async fn create(self, new: &NewUser<'_>, now: Timestamp) -> Result<CreateUser, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            if let Some(key) = new.idem
                && let First::No(row) = tx.take_key(key, now).await?
            {
                tx.abandon();
                return Ok(CreateUser::Replayed(row));
            }
            if let Some(sha256) = new.invite_sha256
                && !tx.use_invite(sha256, now).await?
            {
                tx.abandon();
                return Ok(CreateUser::BadInvite);
            }
            match insert_user(tx, new.username, new.password_hash, new.role, now).await {
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
    pub async fn by_name(self, username: &str) -> Result<Option<User>, StoreError> {
        if username.parse::<UnixName>().is_err() {
            return Ok(None);
        }
        let sql = sqlx::AssertSqlSafe(format!("{SELECT_USER} WHERE username = ?"));
        self.store.db.one::<UserRecord>(sql, vals![username]).await?.map(User::try_from).transpose()
    }

    /// A user by number.
    pub async fn get(self, id: UserId) -> Result<Option<User>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{SELECT_USER} WHERE id = ?"));
        self.store.db.one::<UserRecord>(sql, vals![id]).await?.map(User::try_from).transpose()
    }

    /// These users, in no order; those that do not exist are left out.
    pub async fn by_ids(self, ids: &[UserId]) -> Result<Vec<User>, StoreError> {
        let mut users = Vec::with_capacity(ids.len());
        for (list, values) in in_lists(ids) {
            let sql = sqlx::AssertSqlSafe(format!("{SELECT_USER} WHERE id IN ({list})"));
            users.extend(each::<_, User>(self.store.db.all::<UserRecord>(sql, values).await?)?);
        }
        Ok(users)
    }

    /// Makes an admin, or makes a user one and gives them that password; their older tokens are void.
    pub async fn upsert_admin(
        self,
        username: &UnixName,
        password_hash: &str,
        now: Timestamp,
    ) -> Result<UserId, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            let sql = "SELECT id FROM users WHERE username = ?";
            let Some((id,)) = tx.one::<(i64,)>(sql, vals![username.as_str()]).await? else {
                return match insert_user(tx, username, password_hash, Role::Admin, now).await {
                    Err(Fault::Unique(text)) => Err(Fault::Retry(text)),
                    result => result,
                };
            };
            let sql = "UPDATE users SET password_hash = ?, role = 'admin', disabled_at = NULL, \
                       token_generation = token_generation + 1 WHERE id = ?";
            tx.exec(sql, vals![password_hash, id]).await?;
            let event = UserEvent::AdminSet { username: username.to_string() };
            tx.append_events(&[NewEvent::new(event).of_user(UserId(id))], now).await?;
            Ok(UserId(id))
        });
        Ok(outcome?)
    }

    /// Whether there is an admin.
    pub async fn any_admin(self) -> Result<bool, StoreError> {
        let sql = "SELECT id FROM users WHERE role = 'admin' AND disabled_at IS NULL LIMIT 1";
        Ok(self.store.db.one::<(i64,)>(sql, vec![]).await?.is_some())
    }

    /// Makes every token of a user void.
    pub async fn void_tokens(self, id: UserId, now: Timestamp) -> Result<Cas, StoreError> {
        Ok(transaction!(&self.store.db, |tx| {
            let sql = "UPDATE users SET token_generation = token_generation + 1 WHERE id = ?";
            if tx.exec(sql, vals![id]).await? == 0 {
                return Ok(Cas::Gone);
            }
            tx.append_events(&[NewEvent::new(UserEvent::LoggedOut {}).of_user(id)], now).await?;
            Ok(Cas::Done(()))
        })?)
    }

    /// Makes a join token known by its SHA-256 (hex), and gives it; if it is known already, gives that one.
    /// `uses`: how many nodes it may create.
    pub async fn create_join_token(
        self,
        sha256: &str,
        note: &str,
        created_by: Option<UserId>,
        expires_at: Option<Timestamp>,
        uses: Option<u32>,
        now: Timestamp,
    ) -> Result<JoinToken, StoreError> {
        let note: String = note.chars().take(255).collect();
        let outcome = transaction!(&self.store.db, |tx| {
            if let Some(known) = tx.token_by_sha256(sha256).await? {
                tx.abandon();
                return Ok(JoinToken::from(known));
            }
            let sql = "INSERT INTO join_tokens (token_sha256, note, created_by, created_at, expires_at, \
                       uses_left) VALUES (?, ?, ?, ?, ?, ?)";
            let id = tx.insert(sql, vals![sha256, &note, created_by, now, expires_at, uses]).await?;
            let event = JoinTokenEvent::Created { token_id: TokenId(id), note: note.clone() };
            tx.append_events(&[NewEvent::new(event).of_user(created_by)], now).await?;
            let made = tx.token_by_sha256(sha256).await?;
            made.map(JoinToken::from).ok_or_else(|| Fault::Retry("a new join token vanished".into()))
        });
        Ok(outcome?)
    }

    /// All join tokens, newest first.
    pub async fn join_tokens(self) -> Result<Vec<JoinToken>, StoreError> {
        let sql = "SELECT id, note, created_by, created_at, expires_at, uses_left, revoked \
                   FROM join_tokens ORDER BY id DESC LIMIT 1000";
        Ok(self.store.db.all::<TokenRecord>(sql, vec![]).await?.into_iter().map(JoinToken::from).collect())
    }

    /// Takes a join token back.
    pub async fn revoke_join_token(self, id: TokenId, now: Timestamp) -> Result<Cas, StoreError> {
        let outcome = transaction!(&self.store.db, |tx| {
            if tx.exec("UPDATE join_tokens SET revoked = 1 WHERE id = ?", vals![id.0]).await? == 0 {
                return Ok(Cas::Gone);
            }
            tx.append_events(&[NewEvent::new(JoinTokenEvent::Revoked { token_id: id })], now).await?;
            Ok(Cas::Done(()))
        });
        Ok(outcome?)
    }
}

/// Validity of a join token.
pub(crate) enum TokenVerdict {
    /// Token that may create a node.
    Good(i64),
    /// Used-up token, which only allows a check that its node exists.
    UsedUp,
    /// Token that allows nothing.
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
