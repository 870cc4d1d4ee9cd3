//! `image`: what a registry has, without a pull, and the logins with which images are pulled.

use super::leases::{find_id, lease_argument};
use crate::{
    client::escape,
    context::Context,
    error::CliError,
    model::shape,
    output::{self, Format, Table, note},
    password,
};
use orion_domain::Timestamp;
use serde::Deserialize;
use serde_json::json;

/// The subcommands of `orion image`.
#[derive(Debug, clap::Subcommand)]
pub enum ImageCommand {
    /// Ask the registry whether it has an image, for what platforms, and how large it is; nothing is pulled
    Test(TestArgs),
    /// Log in at a registry: its images are pulled for your containers with this login
    Login(LoginArgs),
    /// Forget the login at a registry
    Logout {
        /// The registry, such as ghcr.io
        registry: String,
    },
    /// List your logins at registries
    Logins,
}

/// The arguments of `orion image login`.
#[derive(Debug, clap::Args)]
pub struct LoginArgs {
    /// The registry, such as docker.io, ghcr.io or registry.example:5000
    registry: String,
    /// Name of the user there
    #[arg(short, long, value_name = "NAME")]
    username: String,
    /// Read the password or token from standard input, not from the terminal
    #[arg(long)]
    password_stdin: bool,
}

/// A login of `GET /api/account/registries`.
#[derive(Debug, Deserialize)]
struct Login {
    registry: String,
    username: String,
    changed_at: Option<Timestamp>,
}

/// The arguments of `orion image test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// The image, such as debian:12
    image: String,
    /// Look whether it is on the node of this lease, too
    #[arg(long, value_name = "LEASE", value_parser = lease_argument)]
    lease: Option<String>,
    /// Platform whose size is wanted [default: linux/amd64 where there is one]
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    platform: Option<String>,
}

/// The reply of `GET /api/images/test`.
#[derive(Debug, Deserialize)]
struct Tested {
    image: String,
    exists: Option<bool>,
    reason: Option<String>,
    digest: Option<String>,
    #[serde(default)]
    platforms: Vec<String>,
    platform: Option<String>,
    size_bytes: Option<u64>,
    on_node: Option<bool>,
}

/// Runs the subcommand.
///
/// # Errors
/// Those of the API; exit status 1 where there is no such image.
pub async fn run(context: &Context, command: ImageCommand) -> Result<(), CliError> {
    match command {
        ImageCommand::Test(args) => test(context, args).await,
        ImageCommand::Login(args) => login(context, args).await,
        ImageCommand::Logout { registry } => logout(context, &registry).await,
        ImageCommand::Logins => logins(context).await,
    }
}

fn path_of(registry: &str) -> String {
    format!("/api/account/registries/{}", escape(registry))
}

async fn login(context: &Context, args: LoginArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let password = if args.password_stdin {
        password::from_stdin()?
    } else {
        password::typed(&format!("Password or token of {} at {}: ", args.username, args.registry))?
    };
    let body = json!({ "username": args.username, "password": password });
    let reply = client.put(&path_of(&args.registry), &body).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let Login { registry, username, .. } = shape(&reply, "login")?;
    note(&format!("✔ images of {registry} are pulled as {username}; try one: orion image test {registry}/…"));
    Ok(())
}

async fn logout(context: &Context, registry: &str) -> Result<(), CliError> {
    let reply = context.client()?.delete(&path_of(registry)).await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    note(&format!("✔ the login at {registry} is forgotten"));
    Ok(())
}

async fn logins(context: &Context) -> Result<(), CliError> {
    let reply = context.client()?.get("/api/account/registries").await?;
    if context.format == Format::Json {
        return output::json(&reply);
    }
    let logins: Vec<Login> = shape(&reply, "logins")?;
    if logins.is_empty() {
        note("no logins; for a private registry: orion image login REGISTRY --username NAME");
        return Ok(());
    }
    let mut table = Table::new(&["REGISTRY", "USER", "AGE"]);
    for login in logins {
        table.row([login.registry, login.username, output::age(context.now(), login.changed_at)]);
    }
    output::data(&table.text())
}

async fn test(context: &Context, args: TestArgs) -> Result<(), CliError> {
    let client = context.client()?;
    let mut path = format!("/api/images/test?image={}", escape(&args.image));
    if let Some(lease) = &args.lease {
        path = format!("{path}&rental={}", find_id(&client, lease).await?);
    }
    if let Some(platform) = &args.platform {
        path = format!("{path}&platform={}", escape(platform));
    }
    let reply = client.get_patiently(&path).await?;
    let tested: Tested = shape(&reply, "image")?;
    if context.format == Format::Json {
        output::json(&reply)?;
    } else if tested.exists == Some(true) {
        output::data(&table(&tested))?;
    }
    if tested.exists == Some(true) {
        return Ok(());
    }
    let reason = tested.reason.unwrap_or_default();
    let error = match tested.exists {
        Some(_) => CliError::failed(format!("there is no image {}: {reason}", tested.image)),
        None => {
            CliError::failed(format!("whether there is an image {} is not known: {reason}", tested.image))
        }
    };
    Err(if tested.on_node == Some(true) {
        error.hint("it is on the lease's node, and can be run there")
    } else {
        error
    })
}

fn table(tested: &Tested) -> String {
    let mut table = Table::without_heads();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            table.row([name.to_owned(), value]);
        }
    };
    row("image", Some(tested.image.clone()));
    row("digest", tested.digest.clone());
    let of = tested.platform.as_ref().map(|platform| format!(" ({platform})")).unwrap_or_default();
    row("to pull", tested.size_bytes.map(|bytes| format!("{}{of}", output::bytes(bytes))));
    row("platforms", (!tested.platforms.is_empty()).then(|| tested.platforms.join(", ")));
    row("on the node", tested.on_node.map(|is_there| if is_there { "yes" } else { "no" }.to_owned()));
    table.text()
}
