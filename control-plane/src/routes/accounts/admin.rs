//! `/api/admin/users`: accounts, for admins.

use crate::{
    App,
    app::{accounts::tokens::InviteRequest, leases::phases::shown},
    auth::Admin,
    error::ApiError,
    openapi::schemas,
    routes::{Body, PageQuery, Query, pages},
};
use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::IntoResponse,
};
use orion_domain::{LeaseId, Secret, Timestamp, UserId, lease::Phase};
use orion_store::{AccountChange, AccountRow, LeaseRow, Quotas, Role};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use utoipa::ToSchema;

/// An account, for admins.
#[derive(Serialize, ToSchema)]
#[schema(as = UserAccount)]
pub struct AccountView {
    #[schema(value_type = i64)]
    user_id: UserId,
    username: String,
    #[schema(value_type = schemas::Role)]
    role: Role,
    /// Whether it may do nothing: not log in, and no token of it is good.
    disabled: bool,
    #[schema(value_type = Option<String>, format = DateTime, required)]
    disabled_at: Option<Timestamp>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Number of the account's leases that have not ended.
    leases: u32,
    /// Quotas of its own; `null`: as the settings say.
    quotas: OwnQuotas,
}

/// Quotas of one account. What is left out or `null` is as the settings say.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
pub struct OwnQuotas {
    /// Nodes at once.
    nodes: Option<u32>,
    /// Length of a lease with its extensions, in hours.
    lease_hours: Option<u32>,
    /// Event streams at once, in one process.
    streams: Option<u32>,
    /// Idempotency keys that are kept at once.
    keys: Option<u32>,
}

impl From<AccountRow> for AccountView {
    fn from(row: AccountRow) -> Self {
        let AccountRow { user, leases } = row;
        Self {
            user_id: user.id,
            username: user.username.to_string(),
            role: user.role,
            disabled: user.disabled_at.is_some(),
            disabled_at: user.disabled_at,
            created_at: user.created_at,
            leases,
            quotas: own(user.quotas),
        }
    }
}

const fn own(quotas: Quotas) -> OwnQuotas {
    let Quotas { nodes, lease_hours, streams, keys } = quotas;
    OwnQuotas { nodes, lease_hours, streams, keys }
}

/// An account after it was changed.
#[derive(Serialize, ToSchema)]
pub struct AccountReply {
    message: &'static str,
    user: AccountView,
}

fn reply(message: &'static str, row: AccountRow) -> Json<AccountReply> {
    Json(AccountReply { message, user: row.into() })
}

/// The accounts
#[utoipa::path(
    get, path = "/api/admin/users", operation_id = "listUsers", tag = "admin",
    params(PageQuery),
    responses((status = 200, description = "The accounts, by number", body = Vec<AccountView>,
        headers(("Link" = Option<String>, description = "The next page, after a full one (RFC 8288): \
            `</api/admin/users?limit=100&cursor=17>; rel=\"next\"`"))))
)]
pub async fn list(
    State(app): State<App>,
    Admin(_): Admin,
    Query(page): Query<PageQuery>,
) -> Result<impl IntoResponse, ApiError> {
    let limit = page.limit()?;
    let rows = app.accounts().list(UserId(page.cursor()?), limit).await?;
    let last = rows.last().map(|row| row.user.id.0);
    let next = pages::next_link("/api/admin/users", rows.len() == limit as usize, last, limit, false);
    let views: Vec<AccountView> = rows.into_iter().map(AccountView::from).collect();
    pages::reply(&views, next)
}

/// One account
#[utoipa::path(
    get, path = "/api/admin/users/{user}", operation_id = "showUser", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    responses(
        (status = 200, description = "The account", body = AccountView),
        (status = 404, description = "There is no such account"),
    )
)]
pub async fn show(
    State(app): State<App>,
    Admin(_): Admin,
    Path(which): Path<String>,
) -> Result<Json<AccountView>, ApiError> {
    app.accounts().find_row(&which).await.map(|row| Json(row.into()))
}

/// Treatment of the leases of an account that is disabled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum LeasesThen {
    /// Keeps the leases until their end; their logins work.
    #[default]
    Keep,
    /// Ends the leases and removes their accounts on the nodes.
    End,
}

/// Options for disabling an account. The whole body may be left out.
#[derive(Default, Deserialize, ToSchema)]
pub struct DisableBody {
    #[serde(default)]
    #[schema(inline)]
    leases: LeasesThen,
}

/// A lease of an account that is disabled.
#[derive(Serialize, ToSchema)]
pub struct LeaseLeft {
    #[schema(value_type = i64)]
    rental_id: LeaseId,
    #[schema(required)]
    name: Option<String>,
    #[schema(value_type = schemas::LeaseState)]
    state: Phase,
    #[schema(value_type = String, format = DateTime)]
    leased_until: Timestamp,
}

impl From<LeaseRow> for LeaseLeft {
    fn from(row: LeaseRow) -> Self {
        Self {
            rental_id: row.lease.id,
            name: row.lease.name.as_ref().map(ToString::to_string),
            state: shown(row.lease.state.phase()),
            leased_until: row.lease.until,
        }
    }
}

/// A disabled account, with the leases that it had.
#[derive(Serialize, ToSchema)]
pub struct Disabled {
    message: &'static str,
    user: AccountView,
    /// Leases of the account, as they are now.
    leases: Vec<LeaseLeft>,
}

/// Disable an account
///
/// It cannot log in, every token of it is void, its streams and waiting requests end within 15 s. Its leases go on
/// until their end (`keep`), or are ended (`end`); the reply lists them either way. The last admin cannot be disabled.
#[utoipa::path(
    post, path = "/api/admin/users/{user}/disable", operation_id = "disableUser", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    request_body(content = Option<DisableBody>),
    responses(
        (status = 200, description = "The account is disabled", body = Disabled),
        (status = 404, description = "There is no such account"),
        (status = 409, description = "`last_admin`: it is the last admin"),
    )
)]
pub async fn disable(
    State(app): State<App>,
    Admin(who): Admin,
    Path(which): Path<String>,
    body: Option<Body<DisableBody>>,
) -> Result<Json<Disabled>, ApiError> {
    let DisableBody { leases } = body.map(|body| body.parsed).unwrap_or_default();
    let (row, leases) = app.accounts().disable(&who, &which, leases == LeasesThen::End).await?;
    let leases = leases.into_iter().map(LeaseLeft::from).collect();
    Ok(Json(Disabled { message: "Account disabled", user: row.into(), leases }))
}

/// Enable an account
///
/// It may log in again, with the password that it had.
#[utoipa::path(
    post, path = "/api/admin/users/{user}/enable", operation_id = "enableUser", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    responses(
        (status = 200, description = "The account is enabled", body = AccountReply),
        (status = 404, description = "There is no such account"),
    )
)]
pub async fn enable(
    State(app): State<App>,
    Admin(who): Admin,
    Path(which): Path<String>,
) -> Result<Json<AccountReply>, ApiError> {
    let row = app.accounts().change(&who, &which, &AccountChange::Enable).await?;
    Ok(reply("Account enabled", row))
}

/// Make a user an admin
#[utoipa::path(
    post, path = "/api/admin/users/{user}/promote", operation_id = "promoteUser", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    responses(
        (status = 200, description = "The account is an admin's", body = AccountReply),
        (status = 404, description = "There is no such account"),
    )
)]
pub async fn promote(
    State(app): State<App>,
    Admin(who): Admin,
    Path(which): Path<String>,
) -> Result<Json<AccountReply>, ApiError> {
    let row = app.accounts().change(&who, &which, &AccountChange::Promote).await?;
    Ok(reply("Account promoted", row))
}

/// Make an admin a user
///
/// With the next request; streams of everything end within 15 s. The last admin cannot be demoted.
#[utoipa::path(
    post, path = "/api/admin/users/{user}/demote", operation_id = "demoteUser", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    responses(
        (status = 200, description = "The account is a user's", body = AccountReply),
        (status = 404, description = "There is no such account"),
        (status = 409, description = "`last_admin`: it is the last admin"),
    )
)]
pub async fn demote(
    State(app): State<App>,
    Admin(who): Admin,
    Path(which): Path<String>,
) -> Result<Json<AccountReply>, ApiError> {
    let row = app.accounts().change(&who, &which, &AccountChange::Demote).await?;
    Ok(reply("Account demoted", row))
}

/// A new password.
#[derive(Deserialize, ToSchema)]
pub struct NewPasswordBody {
    /// 8 characters to 128 bytes, no control characters.
    #[schema(value_type = String, format = Password, min_length = 8, max_length = 128)]
    password: Secret,
}

/// Give an account a new password
///
/// For somebody who has forgotten theirs. Every token of the account is void.
#[utoipa::path(
    post, path = "/api/admin/users/{user}/password", operation_id = "setUserPassword", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    request_body = NewPasswordBody,
    responses(
        (status = 200, description = "The account has it", body = AccountReply),
        (status = 404, description = "There is no such account"),
    )
)]
pub async fn set_password(
    State(app): State<App>,
    Admin(who): Admin,
    Path(which): Path<String>,
    body: Body<NewPasswordBody>,
) -> Result<Json<AccountReply>, ApiError> {
    let row = app.accounts().set_password(&who, &which, body.parsed.password).await?;
    Ok(reply("Password set", row))
}

/// Set an account's own quotas
///
/// All of them: what is left out is as the settings say again. An admin's account has no quotas but its own.
#[utoipa::path(
    post, path = "/api/admin/users/{user}/quotas", operation_id = "setUserQuotas", tag = "admin",
    params(("user" = String, Path, description = "The account's number, or its user name", example = "bob")),
    request_body = OwnQuotas,
    responses(
        (status = 200, description = "The account has them", body = AccountReply),
        (status = 404, description = "There is no such account"),
    )
)]
pub async fn set_quotas(
    State(app): State<App>,
    Admin(who): Admin,
    Path(which): Path<String>,
    body: Body<OwnQuotas>,
) -> Result<Json<AccountReply>, ApiError> {
    let OwnQuotas { nodes, lease_hours, streams, keys } = body.parsed;
    let quotas = Quotas { nodes, lease_hours, streams, keys };
    let row = app.accounts().change(&who, &which, &AccountChange::Quotas(quotas)).await?;
    Ok(reply("Quotas set", row))
}

/// Longest time that an invitation is good for, in hours: a year.
const INVITE_HOURS_MAX: f64 = 8760.0;
/// Hours for which an invitation is valid by default.
const INVITE_HOURS: f64 = 168.0;
/// Most accounts that one invitation is good for.
const INVITE_USES_MAX: u32 = 1_000;

/// Properties of the invitation to be made. All of them may be left out.
#[derive(Deserialize, ToSchema)]
pub struct InviteBody {
    /// Text for the admin's own use, at most 200 characters.
    #[schema(max_length = 200)]
    note: Option<String>,
    /// Hours for which the invitation is valid; a week if left out.
    #[schema(exclusive_minimum = 0, maximum = 8760)]
    expires_hours: Option<f64>,
    /// Number of accounts for which the invitation is valid; one if left out.
    #[schema(minimum = 1, maximum = 1000)]
    uses: Option<u32>,
}

impl InviteBody {
    fn check(self) -> Result<InviteRequest, ApiError> {
        let Self { note, expires_hours, uses } = self;
        let note = note.unwrap_or_default();
        if note.chars().count() > 200 {
            return Err(ApiError::field("note", "must have at most 200 characters"));
        }
        let hours = expires_hours.unwrap_or(INVITE_HOURS);
        if !(hours > 0.0 && hours <= INVITE_HOURS_MAX) {
            let rule = format!("must be more than 0 and at most {INVITE_HOURS_MAX}, not {hours}");
            return Err(ApiError::field("expires_hours", rule));
        }
        let uses = uses.unwrap_or(1);
        if !(1..=INVITE_USES_MAX).contains(&uses) {
            let rule = format!("must lie between 1 and {INVITE_USES_MAX}, not {uses}");
            return Err(ApiError::field("uses", rule));
        }
        Ok(InviteRequest { note, lasts: Duration::from_secs_f64(hours * 3600.0), uses })
    }
}

/// An invitation.
#[derive(Serialize, ToSchema)]
pub struct Invite {
    id: i64,
    /// Value for `invite` of a sign-up; it is shown here only.
    invite: String,
    #[schema(value_type = String, format = DateTime)]
    expires_at: Timestamp,
    uses: u32,
}

/// Invite somebody to sign up
///
/// Who has the invitation may make an account, also where sign-up is by invitation only, and however many signed up
/// from
/// the same network.
#[utoipa::path(
    post, path = "/api/admin/invites", operation_id = "createInvite", tag = "admin",
    request_body = InviteBody,
    responses((status = 201, description = "The invitation", body = Invite))
)]
pub async fn invite(
    State(app): State<App>,
    Admin(who): Admin,
    body: Body<InviteBody>,
) -> Result<(StatusCode, Json<Invite>), ApiError> {
    let (token, id, made) = app.accounts().invite(who.user, body.parsed.check()?).await?;
    let reply =
        Invite { id, invite: token.expose().to_owned(), expires_at: made.expires_at, uses: made.uses };
    Ok((StatusCode::CREATED, Json(reply)))
}
