//! `extend`.

use crate::{
    client::Post,
    commands::new_key,
    context::Context,
    duration::{self, Length},
    error::CliError,
    model::{Extended, shape},
    output::{self, Format, note},
};
use serde_json::json;

/// The arguments of `orion extend`.
#[derive(Debug, clap::Args)]
pub struct ExtendArgs {
    /// Name (or its beginning) or number
    #[arg(value_parser = super::lease_argument)]
    lease: String,
    /// Additional time: a number of hours, or 90m, 2h, 1d
    #[arg(value_name = "TIME", allow_negative_numbers = true)]
    by: Length,
}

/// Gives a lease more time.
pub async fn extend(context: &Context, args: ExtendArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let id = super::find_id(&client, &args.lease).await?;
    let key = new_key();
    let path = format!("/api/extend/{id}");
    // The key protects against a second extension where the API keeps it; a lost reply is not repeated
    // all the same, for an end that moves twice is worse than a question.
    let post = Post { key: Some(&key), ..Post::new(&path, json!({"additional_hours": args.by.hours()})) };
    let reply = client.post(post).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let extended: Extended = shape(&reply, "extension")?;
    note(&format!("✔ {} extended by {}", args.lease, duration::show(args.by.duration())));
    if !extended.applied {
        note("  the node does not know the new end yet; it is told as soon as it can be reached");
    }
    output::data(&format!("until {}", output::moment(context.now(), extended.new_end_at)))
}
