//! `orion up`: API, scheduler and status page in one process, on SQLite in one directory (or on MariaDB, if
//! told).

use crate::error::CliError;
use ipnet::IpNet;
use orion_control_plane::{
    App, Config,
    assemble::{Settings, assemble},
    crypto::sealed::MasterKey,
    serve::serve,
};
use orion_domain::Secret;
use orion_scheduler::{Scheduler, SchedulerConfig};
use std::{
    fs::{self, TryLockError},
    io::{ErrorKind, IsTerminal, Write},
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use tokio::{net::TcpListener, signal::unix::SignalKind};
use tokio_util::sync::CancellationToken;

/// The arguments of `orion up`.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Address and port that the API listens on.
    #[arg(long, env = "ORION_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Where the database is, and how it is opened.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Longest lease and longest extension, in hours.
    #[arg(long, env = "ORION_LEASE_HOURS_MAX", default_value_t = 720.0)]
    pub lease_hours_max: f64,
    /// Most nodes in one rental.
    #[arg(long, env = "ORION_RENT_COUNT_MAX", default_value_t = 100)]
    pub rent_count_max: u32,
    /// A proxy whose X-Forwarded-For is believed, as an address or a network; may be repeated.
    #[arg(long, env = "ORION_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NET")]
    pub trusted_proxy: Vec<String>,
    /// An origin that browsers may call from; may be repeated. None: CORS stays off.
    #[arg(long, env = "ORION_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// How long an access token lives, in hours.
    #[arg(long, env = "ORION_TOKEN_HOURS", default_value_t = 24)]
    pub token_hours: u32,
    /// A directory with playbooks that replace built-in ones.
    #[arg(long, env = "ORION_PLAYBOOKS", value_name = "DIR")]
    pub playbooks: Option<PathBuf>,
}

/// Where the database and the master key are.
#[derive(Debug, clap::Args)]
pub struct DatabaseArgs {
    /// Directory of the SQLite database and of the master key [default: /var/lib/orion-server for root,
    /// ~/.local/share/orion for others].
    #[arg(long, env = "ORION_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// `mysql://user:password@host:port/database` in place of SQLite; several hosts of one cluster with commas.
    /// Better in the environment than on the command line, where everybody sees it.
    #[arg(
        long,
        env = "ORION_DATABASE_URL",
        value_name = "URL",
        hide_env_values = true,
        value_delimiter = ','
    )]
    pub database_url: Vec<String>,
    /// Connections to each database host.
    #[arg(long, env = "ORION_DATABASE_CONNECTIONS", default_value_t = 16)]
    pub database_connections: u32,
}

impl DatabaseArgs {
    /// The directory, made if it is not there, for its owner only.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn data_dir(&self) -> Result<PathBuf, CliError> {
        let dir = self.data_dir.clone().unwrap_or_else(default_data_dir);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|error| {
            CliError::failed(format!("{}: {error}", dir.display())).hint("choose another with --data-dir")
        })?;
        Ok(dir)
    }

    /// Settings to open the database with.
    ///
    /// # Errors
    /// When the directory or the master key cannot be had.
    pub fn settings(&self, playbooks_dir: Option<PathBuf>) -> Result<Settings, CliError> {
        let dir = self.data_dir()?;
        let database_urls = if self.database_url.is_empty() {
            vec![format!("sqlite:{}", dir.join("orion.db").display())]
        } else {
            self.database_url.clone()
        };
        Ok(Settings {
            database_urls,
            database_connections_max: self.database_connections,
            master_key: master_key(&dir)?,
            playbooks_dir,
        })
    }
}

/// Takes the data directory for this process alone: SQLite is for one. The lock goes with the process, however
/// it ends.
fn lock(dir: &Path) -> Result<fs::File, CliError> {
    let path = dir.join("orion.lock");
    let named = |error: &dyn std::fmt::Display| CliError::failed(format!("{}: {error}", path.display()));
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| named(&error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(CliError::failed(format!("another orion is running on {}", dir.display()))
                .hint("stop it, choose another --data-dir, or use MariaDB (ORION_DATABASE_URL) for several"))
        }
        Err(TryLockError::Error(error)) => Err(named(&error)),
    }
}

fn default_data_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let is_root = home.as_deref() == Some(Path::new("/root"));
    match home {
        Some(home) if !is_root => home.join(".local/share/orion"),
        Some(_) | None => PathBuf::from("/var/lib/orion-server"),
    }
}

/// `ORION_MASTER_KEY`, or the key file in the data directory, which is made if it is not there.
fn master_key(dir: &Path) -> Result<MasterKey, CliError> {
    if let Ok(text) = std::env::var("ORION_MASTER_KEY") {
        return MasterKey::parse(&text).map_err(CliError::failed);
    }
    let path = dir.join("master.key");
    let named = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
    // `create_new` so that two processes that start at once do not each have their own.
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Ok(mut file) => {
            let key = MasterKey::generate();
            file.write_all(key.to_base64().expose().as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(named)?;
            Ok(key)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let text = Secret::new(fs::read_to_string(&path).map_err(named)?);
            MasterKey::parse(text.expose())
                .map_err(|error| CliError::failed(format!("{}: {error}", path.display())))
        }
        Err(error) => Err(named(error)),
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When a part cannot start: the address is taken, the database is of a newer schema, the key is wrong.
pub async fn run(args: UpArgs) -> Result<(), CliError> {
    start_logging();
    let settings = args.database.settings(args.playbooks.clone())?;
    let mut config = Config::new(args.listen, settings.master_key.clone());
    config.lease_hours_max = args.lease_hours_max;
    config.rent_count_max = args.rent_count_max;
    config.token_lifetime = std::time::Duration::from_secs(u64::from(args.token_hours) * 3600);
    config.trusted_proxies = args.trusted_proxy.iter().map(|net| network(net)).collect::<Result<_, _>>()?;
    config.cors_origins = args.cors_origin.clone();
    // The address first: it is the likeliest to fail, and nothing has been touched yet.
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        CliError::failed(format!("cannot listen on {}: {error}", args.listen))
            .hint("another process may have the port; choose another with --listen")
    })?;
    let address = listener.local_addr().map_err(|error| CliError::failed(error.to_string()))?;
    let _lock = match args.database.database_url.is_empty() {
        true => Some(lock(&args.database.data_dir()?)?),
        false => None,
    };
    let assembled = assemble(&settings).await.map_err(|error| CliError::failed(error.to_string()))?;
    let shutdown = CancellationToken::new();
    let app = App::new(config, assembled.fleet.clone(), &assembled.keys, shutdown.clone());
    first_admin(&app).await?;
    let scheduler = Scheduler::new(assembled.fleet, SchedulerConfig::default(), shutdown.clone());
    let scheduling = tokio::spawn(scheduler.run());
    stop_on_signal(shutdown.clone())?;
    eprintln!("orion is up at http://{address}");
    let served = serve(app, listener).await;
    shutdown.cancel();
    let _ = scheduling.await;
    served.map_err(|error| CliError::failed(format!("the API stopped: {error}")))
}

fn network(text: &str) -> Result<IpNet, CliError> {
    let parsed = text.parse::<IpNet>().ok();
    parsed.or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from)).ok_or_else(|| {
        CliError::failed(format!("ORION_TRUSTED_PROXIES: '{text}' is neither an address nor a network"))
            .hint("such as 10.0.0.5 or 10.0.0.0/24")
    })
}

/// The first admin, from `ORION_ADMIN_PASSWORD`: made once, never changed by a restart.
async fn first_admin(app: &App) -> Result<(), CliError> {
    let known = app.store.any_admin().await.map_err(|error| CliError::failed(error.to_string()))?;
    if known {
        return Ok(());
    }
    match std::env::var("ORION_ADMIN_PASSWORD") {
        Ok(password) => {
            app.make_admin("admin", Secret::new(password))
                .await
                .map_err(|error| CliError::failed(format!("ORION_ADMIN_PASSWORD: {error}")))?;
            eprintln!("made the first admin, 'admin', with ORION_ADMIN_PASSWORD");
        }
        Err(_) => eprintln!("there is no admin yet; make one with `orion admin create NAME`"),
    }
    Ok(())
}

fn stop_on_signal(shutdown: CancellationToken) -> Result<(), CliError> {
    let listen =
        |kind| tokio::signal::unix::signal(kind).map_err(|error| CliError::failed(error.to_string()));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        shutdown.cancel();
    });
    Ok(())
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,russh=warn,sqlx=warn"));
    // A second call in one process (tests) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}
