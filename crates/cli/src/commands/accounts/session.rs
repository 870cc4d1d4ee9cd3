//! `signup`, `login`, `logout`, `whoami`.

use crate::{
    client::{Client, Post, is_local},
    config::Session,
    context::Context,
    error::{CliError, Kind},
    output::{self, Format, note},
    password::{self, Ask},
};
use serde_json::{Value, json};

/// The arguments of `orion signup`.
#[derive(Debug, clap::Args)]
pub struct SignupArgs {
    /// Your user name, which is also your account's name on the nodes
    name: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// An invitation, where sign-up wants one
    #[arg(long, value_name = "INVITATION")]
    invite: Option<String>,
    /// Make the account, but do not log in
    #[arg(long)]
    no_login: bool,
}

/// The arguments of `orion login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// Your user name
    name: String,
    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

/// Makes an account and logs in.
pub async fn signup(context: &Context, args: SignupArgs) -> Result<(), CliError> {
    warn_of_plain_http(context);
    let password = password::account_password(args.password_stdin, Ask::Twice)?;
    let client = context.anonymous()?;
    let mut body = json!({"username": args.name, "password": password});
    if let Some(invite) = &args.invite {
        body["invite"] = json!(invite);
    }
    let reply = client.post(Post::new("/auth/signup", body)).await?;
    note(&format!("✔ account {} made at {}", args.name, context.api));
    if args.no_login {
        note(&format!("  next: orion login {}", args.name));
    } else {
        log_in(context, &client, &args.name, &password).await?;
        note("  logged in; next: orion rent --hours 1 --name first");
    }
    match context.format {
        Format::Json => output::json(&reply),
        Format::Table => Ok(()),
    }
}

/// Logs in and keeps the session.
pub async fn login(context: &Context, args: LoginArgs) -> Result<(), CliError> {
    warn_of_plain_http(context);
    let password = password::account_password(args.password_stdin, Ask::Once)?;
    let session = log_in(context, &context.anonymous()?, &args.name, &password).await?;
    let until = session.expires_at();
    let until_text = until.map(|until| format!(" until {}", output::moment(context.now(), until)));
    note(&format!("✔ logged in as {} at {}{}", session.user, session.api, until_text.unwrap_or_default()));
    match context.format {
        Format::Json => output::json(&json!({"user": session.user, "api": session.api, "expires_at": until})),
        Format::Table => Ok(()),
    }
}

async fn log_in(context: &Context, client: &Client, name: &str, password: &str) -> Result<Session, CliError> {
    // A login changes nothing that a second one would change again.
    let body = json!({"username": name, "password": password});
    let post = Post { repeat: crate::client::Repeat::Safe, ..Post::new("/auth/login", body) };
    let reply = client.post(post).await.map_err(|error| match error.kind() {
        Kind::NotLoggedIn => error.hint(format!("no account yet? orion signup {name}")),
        Kind::Failed
        | Kind::Usage
        | Kind::NotFound
        | Kind::Unavailable
        | Kind::NotChecked
        | Kind::Interrupted
        | Kind::Command(_)
        | Kind::ReaderGone => error,
    })?;
    let Some(token) = reply.get("token").and_then(Value::as_str) else {
        return Err(CliError::failed("the API's reply to the login holds no token"));
    };
    // Kept as an absolute path: the next command may run elsewhere.
    let api_ca = match &context.api_ca {
        Some(path) => {
            Some(std::path::absolute(path).map_err(|error| CliError::file("cannot resolve", path, &error))?)
        }
        None => None,
    };
    let session =
        Session { api: context.api.clone(), user: name.to_owned(), token: token.to_owned(), api_ca };
    context.paths.keep_session(&session)?;
    Ok(session)
}

/// The arguments of `orion password`.
#[derive(Debug, clap::Args)]
pub struct ChangePasswordArgs {
    /// Read two lines from standard input: the present password and the new one
    #[arg(long)]
    password_stdin: bool,
}

/// Changes the password of the account that is logged in, and keeps the new token.
///
/// # Errors
/// When the present password is wrong, or the new one breaks a rule.
pub async fn change_password(context: &Context, args: ChangePasswordArgs) -> Result<(), CliError> {
    warn_of_plain_http(context);
    let client = context.client()?;
    let (old, new) = password::present_and_new(args.password_stdin)?;
    let body = json!({"old_password": old, "new_password": new});
    let reply = client.post(Post::new("/api/auth/password", body)).await?;
    let Some(token) = reply.get("token").and_then(Value::as_str) else {
        return Err(CliError::failed("the API's reply holds no token"));
    };
    // A token from ORION_TOKEN is not kept anywhere: the new one is for whoever gave it.
    match context.paths.session()? {
        Some(session) if context.session.as_ref().is_some_and(|used| used.token == session.token) => {
            context.paths.keep_session(&Session { token: token.to_owned(), ..session })?;
        }
        Some(_) | None => note("  ORION_TOKEN is void now; log in again: orion login NAME"),
    }
    note("✔ the password is changed; older logins are void");
    match context.format {
        Format::Json => output::json(&json!({"message": "Password changed"})),
        Format::Table => Ok(()),
    }
}

/// Ends the session at the API, where it can, and forgets it here in any case.
pub async fn logout(context: &Context) -> Result<(), CliError> {
    let Some(session) = context.paths.session()? else {
        note("no session to end");
        return Ok(());
    };
    let ended = match Client::new(&session.api, Some(&session), context.api_ca.as_deref()) {
        Ok(client) => client.post(Post::new("/api/auth/logout", json!({}))).await.map(|_| ()),
        Err(error) => Err(error),
    };
    context.paths.forget_session()?;
    note(&format!("✔ {} is logged out of {}", session.user, session.api));
    let still_valid_until = session.expires_at().filter(|until| *until > context.now());
    match (ended, still_valid_until) {
        (Err(error), Some(until)) if error.kind() != Kind::NotLoggedIn => {
            let until = output::moment(context.now(), until);
            note(&format!(
                "  the API did not take the token back: whoever has a copy can use it until {until}"
            ));
        }
        (_, _) => {}
    }
    Ok(())
}

/// Says who is logged in, and asks the API whether it still agrees.
pub async fn whoami(context: &Context) -> Result<(), CliError> {
    let client = context.client()?;
    let Some(session) = &context.session else { return Ok(()) };
    client.get("/api/rentals?limit=1").await?;
    match context.format {
        Format::Json => output::json(
            &json!({"user": session.user, "api": client.api(), "expires_at": session.expires_at()}),
        ),
        Format::Table => {
            let until = session.expires_at().map(|until| output::moment(context.now(), until));
            let until = until.map(|until| format!(", logged in until {until}")).unwrap_or_default();
            output::data(&output::printable(&format!("{} at {}{until}", session.user, client.api())))
        }
    }
}

fn warn_of_plain_http(context: &Context) {
    if context.api.starts_with("http:") && !is_local(&context.api) {
        note(&format!("warning: {} is not encrypted; others on the way can read the password", context.api));
    }
}
