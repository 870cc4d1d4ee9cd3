//! `webhooks`: where events are sent to.

use crate::{
    client::Post,
    context::Context,
    error::CliError,
    model::shape,
    output::{self, Format, Table, note},
};
use orion_domain::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The subcommands of `orion webhooks`.
#[derive(Debug, clap::Subcommand)]
pub enum WebhooksCommand {
    /// Send events to an address; the signing secret is printed once
    Create(CreateArgs),
    /// List the webhooks, and how it goes with each
    #[command(visible_alias = "list")]
    Ls,
    /// Send a webhook a test event, and say what came of it
    Test(WhichArgs),
    /// Delete a webhook; what was still to be sent to it is not sent
    Delete(WhichArgs),
}

/// The arguments of `orion webhooks create`.
#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// An http:// or https:// address
    #[arg(value_name = "URL")]
    url: String,
    /// Kinds of events: node.dead, lease.* for a group; may be repeated [default: all]
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<String>,
    /// Sign with the secret in this file (whsec_ and base64) in place of a new one
    #[arg(long, value_name = "FILE")]
    secret_file: Option<std::path::PathBuf>,
}

/// A webhook.
#[derive(Debug, clap::Args)]
pub struct WhichArgs {
    /// Number of the webhook: orion webhooks ls
    #[arg(value_name = "ID")]
    id: i64,
}

#[derive(Debug, Deserialize)]
struct Webhook {
    id: i64,
    url: String,
    #[serde(default)]
    kinds: Vec<String>,
    #[serde(default)]
    pending: i64,
    #[serde(default)]
    failing: i64,
    #[serde(default)]
    given_up: i64,
    last_delivery: Option<Delivery>,
}

#[derive(Debug, Deserialize)]
struct Delivery {
    #[serde(default)]
    state: String,
    #[serde(default)]
    attempts: u32,
    last_try_at: Option<Timestamp>,
    next_try_at: Option<Timestamp>,
    status: Option<u16>,
    error: Option<String>,
}

/// Runs the subcommand.
pub async fn run(context: &Context, command: WebhooksCommand) -> Result<(), CliError> {
    match command {
        WebhooksCommand::Create(args) => create(context, args).await,
        WebhooksCommand::Ls => list(context).await,
        WebhooksCommand::Test(args) => test(context, args).await,
        WebhooksCommand::Delete(args) => delete(context, args).await,
    }
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let mut body = Map::from_iter([("url".to_owned(), Value::from(args.url))]);
    if !args.kind.is_empty() {
        body.insert("kinds".to_owned(), args.kind.into());
    }
    if let Some(path) = args.secret_file {
        let text =
            std::fs::read_to_string(&path).map_err(|error| CliError::file("cannot read", &path, &error))?;
        body.insert("secret".to_owned(), text.trim().into());
    }
    let key = super::new_key();
    let post = Post::new("/api/admin/webhooks", Value::Object(body)).under_key(&key);
    let reply = context.client()?.post(post).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let text = |key| reply.get(key).and_then(Value::as_str).map(output::printable);
    let Some(secret) = text("secret") else {
        return Err(CliError::failed("the API's reply holds no secret"));
    };
    let id = reply.get("id").map(Value::to_string).unwrap_or_default();
    note(&format!("✔ webhook {id} to {}; its secret is shown only now", text("url").unwrap_or_default()));
    note(&format!("  see whether it works: orion webhooks test {id}"));
    output::data(&secret)
}

async fn list(context: &Context) -> Result<(), CliError> {
    let list = context.client()?.list("/api/admin/webhooks").await?;
    if context.format == Format::Json {
        return output::json(&Value::Array(list));
    }
    if list.is_empty() {
        note("there are no webhooks; make one: orion webhooks create URL");
        return Ok(());
    }
    let webhooks = list.iter().map(|value| shape(value, "webhook")).collect::<Result<Vec<Webhook>, _>>()?;
    output::data(&table(context.now(), &webhooks))
}

fn table(now: Timestamp, webhooks: &[Webhook]) -> String {
    let mut table =
        Table::new(&["ID", "URL", "KINDS", "PENDING", "FAILING", "GIVEN UP", "LAST TRY", "RESULT"]);
    for webhook in webhooks {
        let last = webhook.last_delivery.as_ref();
        table.row([
            webhook.id.to_string(),
            webhook.url.clone(),
            webhook.kinds.join(","),
            webhook.pending.to_string(),
            webhook.failing.to_string(),
            webhook.given_up.to_string(),
            last.and_then(|last| last.last_try_at).map(|at| output::moment(now, at)).unwrap_or_default(),
            last.map(|last| last.words(now)).unwrap_or_default(),
        ]);
    }
    table.text()
}

impl Delivery {
    fn words(&self, now: Timestamp) -> String {
        let why = self.error.clone().unwrap_or_default();
        match (self.state.as_str(), self.next_try_at) {
            ("delivered", _) => {
                self.status.map_or_else(|| "delivered".to_owned(), |status| format!("delivered ({status})"))
            }
            ("given_up", _) => format!("given up after {} tries: {why}", self.attempts),
            (_, Some(at)) if self.error.is_some() => {
                format!("try {} failed: {why}; again {}", self.attempts, output::moment(now, at))
            }
            (_, _) => "under way".to_owned(),
        }
    }
}

async fn test(context: &Context, args: WhichArgs) -> Result<(), CliError> {
    let path = format!("/api/admin/webhooks/{}/test", args.id);
    let reply = context.client()?.post(Post::new(&path, json!({}))).await?;
    let delivery: Delivery = shape(reply.get("delivery").unwrap_or(&Value::Null), "delivery")?;
    let delivered = delivery.state == "delivered";
    if context.format == Format::Json {
        output::json(&reply)?;
    } else if delivered {
        output::data(&delivery.words(context.now()))?;
    }
    if delivered {
        return Ok(());
    }
    let message = reply.get("message").and_then(Value::as_str).map(output::printable).unwrap_or_default();
    let why = delivery.error.map(|why| format!(": {}", output::printable(&why))).unwrap_or_default();
    Err(CliError::failed(format!("{message}{why}")).hint("see how it goes on: orion webhooks ls"))
}

async fn delete(context: &Context, args: WhichArgs) -> Result<(), CliError> {
    let path = format!("/api/admin/webhooks/{}/delete", args.id);
    let reply = context.client()?.post(Post::new(&path, json!({}))).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    note(&format!("✔ webhook {} is deleted", args.id));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_are_listed_with_what_became_of_the_last_try() {
        let now = "2026-11-21T14:50:00Z".parse().unwrap();
        let hook = |id: i64, last: Value| {
            let hook = json!({ "id": id, "url": "https://h.example/x", "kinds": ["lease.*", "node.dead"], "pending": 2,
                "failing": 1, "given_up": 0, "last_delivery": last });
            shape::<Webhook>(&hook, "webhook").unwrap()
        };
        let at = "2026-11-21T14:49:00Z";
        let text = table(
            now,
            &[
                hook(1, json!({ "state": "delivered", "attempts": 1, "last_try_at": at, "status": 204 })),
                hook(
                    2,
                    json!({ "state": "pending", "attempts": 3, "last_try_at": at, "next_try_at": "2026-11-21T14:52:00Z",
                    "error": "it answered 500" }),
                ),
                hook(
                    3,
                    json!({ "state": "given_up", "attempts": 10, "last_try_at": at, "error": "no reply within 10 s" }),
                ),
                hook(4, Value::Null),
            ],
        );
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].contains("lease.*,node.dead") && lines[1].ends_with("delivered (204)"), "{text}");
        assert!(lines[2].contains("try 3 failed: it answered 500; again "), "{text}");
        assert!(lines[3].ends_with("given up after 10 tries: no reply within 10 s"), "{text}");
        assert!(lines[4].starts_with('4'), "{text}");
    }
}
