//! `brake`: whether migration is stopped, and letting it go on.

use crate::{
    client::Post,
    context::Context,
    error::CliError,
    output::{self, Format, note},
};
use orion_domain::Timestamp;
use serde_json::{Map, Value};

/// The arguments of `orion brake`.
#[derive(Debug, clap::Args)]
pub struct BrakeArgs {
    #[command(subcommand)]
    command: Option<BrakeCommand>,
}

/// The subcommands of `orion brake`; without one, the brake is shown.
#[derive(Debug, clap::Subcommand)]
pub enum BrakeCommand {
    /// Let migration go on: the nodes that are silent are given up
    Lift(LiftArgs),
}

/// The arguments of `orion brake lift`.
#[derive(Debug, clap::Args)]
pub struct LiftArgs {
    /// Reason, kept with the event
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Shows the brake, or lifts it.
pub async fn run(context: &Context, args: BrakeArgs) -> Result<(), CliError> {
    match args.command {
        None => show(context).await,
        Some(BrakeCommand::Lift(args)) => lift(context, args).await,
    }
}

async fn show(context: &Context) -> Result<(), CliError> {
    let brake = context.client()?.get("/api/admin/brake").await?;
    if context.format == Format::Json {
        return output::json(&brake);
    }
    output::data(&words(context.now(), &brake))?;
    if is_on(&brake) {
        note("look at the silent nodes first: orion nodes; then, if they really are gone: orion brake lift");
    }
    Ok(())
}

async fn lift(context: &Context, args: LiftArgs) -> Result<(), CliError> {
    let mut body = Map::new();
    body.extend(args.reason.map(|reason| ("reason".to_owned(), Value::from(reason))));
    let reply = context.client()?.post(Post::new("/api/admin/brake/lift", Value::Object(body))).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let message = reply.get("message").and_then(Value::as_str).unwrap_or("done");
    output::data(&output::printable(message))
}

fn is_on(brake: &Value) -> bool {
    brake.get("engaged").and_then(Value::as_bool).unwrap_or(false)
}

fn words(now: Timestamp, brake: &Value) -> String {
    let text = |key| brake.get(key).and_then(Value::as_str);
    let since = text("since").and_then(|at| at.parse::<Timestamp>().ok());
    let since = since.map(|at| format!(" since {}", output::moment(now, at))).unwrap_or_default();
    if !is_on(brake) {
        return format!("the brake is off{since}; dead nodes' leases move");
    }
    let reason = output::printable(text("reason").unwrap_or("no reason is known"));
    let by = text("by").map(|by| format!("; engaged by {}", output::printable(by))).unwrap_or_default();
    format!("the brake is on{since}: {reason}{by}; nothing moves")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_brake_is_told_in_words() {
        let now = "2026-11-21T14:50:00Z".parse().unwrap();
        let on = json!({ "engaged": true, "since": "2026-11-21T14:48:00Z", "reason": "3 of 9 nodes", "by": "s-1" });
        let told = words(now, &on);
        assert!(
            told.starts_with("the brake is on since ") && told.contains(": 3 of 9 nodes; engaged by s-1"),
            "{told}"
        );
        let told = words(now, &json!({ "engaged": false, "since": null }));
        assert_eq!(told, "the brake is off; dead nodes' leases move");
    }
}
