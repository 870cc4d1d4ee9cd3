//! `token create`: what a worker joins with.

use crate::{
    client::Post,
    context::Context,
    duration::Length,
    error::CliError,
    output::{self, Format, note},
};
use orion_domain::Timestamp;
use serde_json::{Map, Value};

/// The subcommands of `orion token`.
#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token that workers register with; it is printed once
    Create(CreateArgs),
}

/// The arguments of `orion token create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// Purpose of the token
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Time for which the token may be used: 24h, 7d (7d by default)
    #[arg(long, value_name = "TIME")]
    expires: Option<Length>,
    /// Number of workers that may register with the token (100 by default)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// Sets no limit that was not given
    #[arg(long)]
    unlimited: bool,
}

/// Runs the subcommand.
pub async fn run(context: &Context, command: TokenCommand) -> Result<(), CliError> {
    let TokenCommand::Create(args) = command;
    let mut body = Map::new();
    body.extend(args.note.map(|note| ("note".to_owned(), Value::from(note))));
    body.extend(args.expires.map(|length| ("expires_hours".to_owned(), Value::from(length.hours()))));
    body.extend(args.uses.map(|uses| ("uses".to_owned(), Value::from(uses))));
    if args.unlimited {
        body.insert("unlimited".to_owned(), Value::from(true));
    }
    let key = crate::commands::new_key();
    let reply = context.client()?.post(Post::new("/api/tokens", Value::Object(body)).under_key(&key)).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let Some(token) = reply.get("token").and_then(Value::as_str) else {
        return Err(CliError::failed("the API's reply holds no token"));
    };
    let expires = reply.get("expires_at").and_then(Value::as_str).and_then(|at| at.parse::<Timestamp>().ok());
    let expires =
        expires.map(|at| format!(", until {}", output::moment(context.now(), at))).unwrap_or_default();
    let id = reply.get("id").map(Value::to_string).unwrap_or_default();
    note(&format!("✔ join token {id}{expires}; it is shown only now"));
    note("  give it to a worker: orion-agent --join-token-file FILE, or ORION_JOIN_TOKEN");
    output::data(&output::printable(token))
}
