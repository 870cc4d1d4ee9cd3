//! `users` and `invite`: accounts, for admins.

use crate::{
    client::{Post, escape},
    context::Context,
    duration::Length,
    error::CliError,
    model::shape,
    output::{self, Format, Table, note},
    password::{self, Ask},
};
use orion_domain::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The subcommands of `orion users`.
#[derive(Debug, clap::Subcommand)]
pub enum UsersCommand {
    /// List the accounts, with how many leases each has
    #[command(visible_alias = "ls")]
    List,
    /// Shut an account: it cannot log in, its tokens and streams end
    Disable(DisableArgs),
    /// Let a disabled account log in again
    Enable(WhichArgs),
    /// Make a user an admin
    Promote(WhichArgs),
    /// Make an admin a user
    Demote(WhichArgs),
    /// Give an account a new password
    Password(PasswordArgs),
    /// Set an account's own quotas; what is left out is as the settings say
    Quota(QuotaArgs),
}

/// An account.
#[derive(Debug, clap::Args)]
pub struct WhichArgs {
    /// User name or number of the account: orion users list
    #[arg(value_name = "USER")]
    user: String,
}

/// The arguments of `orion users disable`.
#[derive(Debug, clap::Args)]
pub struct DisableArgs {
    /// User name or number of the account: orion users list
    #[arg(value_name = "USER")]
    user: String,
    /// End its leases, too, and remove their logins; otherwise they go on until their end
    #[arg(long)]
    end_leases: bool,
}

/// The arguments of `orion users password`.
#[derive(Debug, clap::Args)]
pub struct PasswordArgs {
    /// User name or number of the account: orion users list
    #[arg(value_name = "USER")]
    user: String,
    /// Read the new password from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// The arguments of `orion users quota`.
#[derive(Debug, clap::Args)]
pub struct QuotaArgs {
    /// User name or number of the account: orion users list
    #[arg(value_name = "USER")]
    user: String,
    /// Nodes at once
    #[arg(long, value_name = "N")]
    nodes: Option<u32>,
    /// Length of a lease with its extensions, in hours
    #[arg(long, value_name = "HOURS")]
    lease_hours: Option<u32>,
    /// Event streams at once
    #[arg(long, value_name = "N")]
    streams: Option<u32>,
    /// Idempotency keys that are kept at once
    #[arg(long, value_name = "N")]
    keys: Option<u32>,
}

/// The subcommands of `orion invite`.
#[derive(Debug, clap::Subcommand)]
pub enum InviteCommand {
    /// Make an invitation to sign up; it is printed once
    Create(InviteArgs),
}

/// The arguments of `orion invite create`.
#[derive(Debug, clap::Args)]
pub struct InviteArgs {
    /// Person that the invitation is for
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Time for which the invitation may be used: 24h, 7d [default: 7d]
    #[arg(long, value_name = "TIME")]
    expires: Option<Length>,
    /// Number of accounts that the invitation may create [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    uses: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct Account {
    user_id: i64,
    username: String,
    role: String,
    #[serde(default)]
    disabled: bool,
    disabled_at: Option<Timestamp>,
    created_at: Option<Timestamp>,
    #[serde(default)]
    leases: u32,
}

#[derive(Debug, Deserialize)]
struct LeaseLeft {
    rental_id: i64,
    name: Option<String>,
    state: String,
    leased_until: Timestamp,
}

/// Runs a subcommand of `orion users`.
///
/// # Errors
/// What the API refuses.
pub async fn run(context: &Context, command: UsersCommand) -> Result<(), CliError> {
    match command {
        UsersCommand::List => list(context).await,
        UsersCommand::Disable(args) => disable(context, args).await,
        UsersCommand::Enable(args) => change(context, &args.user, "enable", "may log in again").await,
        UsersCommand::Promote(args) => change(context, &args.user, "promote", "is an admin").await,
        UsersCommand::Demote(args) => change(context, &args.user, "demote", "is a user").await,
        UsersCommand::Password(args) => {
            let password = password::account_password(args.password_stdin, Ask::Twice)?;
            let body = json!({ "password": password });
            let reply = post(context, &args.user, "password", body).await?;
            done(context, &reply, &args.user, "has a new password; its older logins are void")
        }
        UsersCommand::Quota(args) => {
            let mut body = Map::new();
            for (key, value) in [
                ("nodes", args.nodes),
                ("lease_hours", args.lease_hours),
                ("streams", args.streams),
                ("keys", args.keys),
            ] {
                body.extend(value.map(|value| (key.to_owned(), Value::from(value))));
            }
            let reply = post(context, &args.user, "quotas", Value::Object(body)).await?;
            done(context, &reply, &args.user, "has these quotas")
        }
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let list = context.client()?.list("/api/admin/users?limit=1000").await?;
    if context.format == Format::Json {
        return output::json(&Value::Array(list));
    }
    let accounts = list.iter().map(|value| shape(value, "account")).collect::<Result<Vec<Account>, _>>()?;
    output::data(&table(context.now(), &accounts))
}

fn table(now: Timestamp, accounts: &[Account]) -> String {
    let mut table = Table::new(&["ID", "NAME", "ROLE", "LEASES", "SINCE", "STATE"]);
    for account in accounts {
        let state = match account.disabled_at {
            Some(at) => format!("disabled {}", output::moment(now, at)),
            None if account.disabled => "disabled".to_owned(),
            None => "enabled".to_owned(),
        };
        table.row([
            account.user_id.to_string(),
            account.username.clone(),
            account.role.clone(),
            account.leases.to_string(),
            account.created_at.map(|at| output::moment(now, at)).unwrap_or_default(),
            state,
        ]);
    }
    table.text()
}

async fn post(context: &Context, user: &str, verb: &str, body: Value) -> Result<Value, CliError> {
    let path = format!("/api/admin/users/{}/{verb}", escape(user));
    context.client()?.post(Post::new(&path, body)).await
}

fn done(context: &Context, reply: &Value, user: &str, what: &str) -> Result<(), CliError> {
    if context.format == Format::Json {
        return output::json(reply);
    }
    let name = reply.get("user").and_then(|user| user.get("username")).and_then(Value::as_str);
    note(&format!("✔ {} {what}", output::printable(name.unwrap_or(user))));
    Ok(())
}

async fn change(context: &Context, user: &str, verb: &str, what: &str) -> Result<(), CliError> {
    let reply = post(context, user, verb, json!({})).await?;
    done(context, &reply, user, what)
}

async fn disable(context: &Context, args: DisableArgs) -> Result<(), CliError> {
    let then = if args.end_leases { "end" } else { "keep" };
    let reply = post(context, &args.user, "disable", json!({ "leases": then })).await?;
    done(context, &reply, &args.user, "is disabled")?;
    if context.format == Format::Json {
        return Ok(());
    }
    let leases = reply.get("leases").and_then(Value::as_array).cloned().unwrap_or_default();
    let leases = leases.iter().map(|value| shape(value, "lease")).collect::<Result<Vec<LeaseLeft>, _>>()?;
    for lease in &leases {
        let name = lease.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
        let until = output::moment(context.now(), lease.leased_until);
        let line = match lease.state.as_str() {
            "ended" => format!("  lease {}{name} is ended", lease.rental_id),
            "releasing" => format!("  lease {}{name} is being ended", lease.rental_id),
            state => format!("  lease {}{name} is {state} until {until}", lease.rental_id),
        };
        note(&output::printable(&line));
    }
    if !args.end_leases && !leases.is_empty() {
        note(&format!("  end them: orion users disable {} --end-leases", output::printable(&args.user)));
    }
    Ok(())
}

/// Runs a subcommand of `orion invite`.
///
/// # Errors
/// What the API refuses.
pub async fn invite(context: &Context, command: InviteCommand) -> Result<(), CliError> {
    let InviteCommand::Create(args) = command;
    let mut body = Map::new();
    body.extend(args.note.map(|note| ("note".to_owned(), Value::from(note))));
    body.extend(args.expires.map(|length| ("expires_hours".to_owned(), Value::from(length.hours()))));
    body.extend(args.uses.map(|uses| ("uses".to_owned(), Value::from(uses))));
    let reply = context.client()?.post(Post::new("/api/admin/invites", Value::Object(body))).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let Some(invite) = reply.get("invite").and_then(Value::as_str) else {
        return Err(CliError::failed("the API's reply holds no invitation"));
    };
    let expires = reply.get("expires_at").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    let expires =
        expires.map(|at| format!(", good until {}", output::moment(context.now(), at))).unwrap_or_default();
    note(&format!("✔ an invitation{expires}; it is shown only now"));
    note("  who has it signs up with: orion signup NAME --invite INVITATION");
    output::data(&output::printable(invite))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_listed_with_their_role_their_leases_and_whether_they_are_disabled() {
        let now = "2026-11-21T14:50:00Z".parse().unwrap();
        let account = |value: Value| shape::<Account>(&value, "account").unwrap();
        let text = table(
            now,
            &[
                account(json!({ "user_id": 1, "username": "admin", "role": "admin", "disabled": false,
                    "disabled_at": null, "created_at": "2026-11-21T14:00:00Z", "leases": 0 })),
                account(json!({ "user_id": 2, "username": "bob", "role": "user", "disabled": true,
                    "disabled_at": "2026-11-21T14:49:00Z", "created_at": "2026-11-21T14:00:00Z", "leases": 3 })),
            ],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].starts_with("1") && lines[1].contains("admin") && lines[1].ends_with("enabled"),
            "{text}"
        );
        assert!(
            lines[2].contains("bob") && lines[2].contains(" 3 ") && lines[2].contains("disabled "),
            "{text}"
        );
    }
}
