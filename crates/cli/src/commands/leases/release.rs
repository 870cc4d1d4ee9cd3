//! `release`.

use crate::{
    client::{Client, LONG_TIMEOUT, Post, Repeat},
    context::Context,
    duration,
    error::CliError,
    model::{Rental, shape},
    output::{self, Format, note},
};
use serde_json::{Value, json};

/// The arguments of `orion release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// Names (or their beginnings) or numbers
    #[arg(required = true, value_name = "LEASE", value_parser = super::lease_argument)]
    leases: Vec<String>,
}

/// Ends leases, side by side; one that fails does not keep the others.
pub async fn release(context: &Context, args: ReleaseArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let outcomes =
        futures_util::future::join_all(args.leases.iter().map(|wanted| release_one(&client, wanted))).await;
    let mut released = Vec::new();
    let mut failures = Vec::new();
    for (wanted, outcome) in args.leases.iter().zip(outcomes) {
        match outcome {
            Ok(done) => {
                note(&format!("✔ {}", done.line(wanted)));
                released.push(json!({"rental_id": done.id, "name": done.name(), "message": done.message}));
            }
            Err(error) => failures.push((wanted, error)),
        }
    }
    super::ssh_config::renew_now(context, &client).await;
    if context.format == Format::Json {
        output::json(&Value::Array(released))?;
    }
    let several = args.leases.len() > 1;
    let kind = match failures.first() {
        Some((_, first)) => first.kind(),
        None => return Ok(()),
    };
    let count = failures.len();
    let mut last = None;
    for (wanted, error) in failures {
        if several {
            note(&format!("{wanted}: {}", error.to_string().replace('\n', " · ")));
        }
        last = Some(error);
    }
    match last {
        Some(error) if !several => Err(error),
        Some(_) | None => {
            Err(CliError::new(kind, format!("{count} of {} leases were not released", args.leases.len())))
        }
    }
}

struct Released {
    id: i64,
    message: String,
    /// The lease as it is now, where the API could still say.
    rental: Option<Rental>,
}

impl Released {
    fn name(&self) -> Option<&str> {
        self.rental.as_ref().and_then(|rental| rental.name.as_deref())
    }

    fn line(&self, wanted: &str) -> String {
        let mut line = format!("{} released", self.name().unwrap_or(wanted));
        if let Some(rental) = &self.rental {
            if let (Some(from), Some(ended)) = (rental.leased_from, rental.state_since) {
                line.push_str(&format!(" · used {}", duration::show(ended.since(from))));
            }
            if rental.state == "ended" {
                line.push_str(" · login gone, node cleaned");
            } else {
                let reason = rental.state_reason.as_deref().map(|reason| format!(" ({reason})"));
                line.push_str(&format!(" · {}{}", rental.state, reason.unwrap_or_default()));
            }
        }
        line
    }
}

async fn release_one(client: &Client, wanted: &str) -> Result<Released, CliError> {
    let id = super::find_id(client, wanted).await?;
    let path = format!("/api/release/{id}");
    // The second time gives the same reply, so it may be sent again.
    let post = Post { repeat: Repeat::Safe, timeout: LONG_TIMEOUT, ..Post::new(&path, json!({})) };
    let reply = client.post(post).await?;
    let message = reply.get("message").and_then(Value::as_str).unwrap_or("Lease released").to_owned();
    let rental = client.get(&format!("/api/rentals/{id}")).await.ok();
    Ok(Released { id, message, rental: rental.and_then(|value| shape(&value, "lease").ok()) })
}
