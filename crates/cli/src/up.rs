//! `orion up`: API, scheduler and status page in one process, on SQLite in one directory (or on MariaDB, if
//! told).

use crate::error::{CliError, Kind};
use orion_control_plane::{App, Config, app::accounts::FirstAdmin, serve::serve};
use orion_domain::Secret;
use orion_scheduler::{Scheduler, SchedulerConfig};
use orion_service::{
    assemble::{Settings, engine_lost_after},
    container_networks::container_networks,
    logging,
    process::{assemble_patiently, database_wait, raise_open_files, stop_on_signal},
    sealed::MasterKey,
    settings::Sources,
    traces,
};
use reqwest::Url;
use std::{
    collections::BTreeMap,
    fs::{self, TryLockError},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The arguments of `orion up`. Each is a setting: as ORION_… in the environment, or in the file.
#[derive(Debug, clap::Args)]
pub struct UpArgs {
    /// Address and port that the API listens on [default: 127.0.0.1:8080] [env: ORION_LISTEN].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,
    /// Location of the database, and the settings for opening it.
    #[command(flatten)]
    pub database: DatabaseArgs,
    /// Longest lease and longest extension, in hours [default: 720] [env: ORION_LEASE_HOURS_MAX].
    #[arg(long, value_name = "HOURS")]
    pub lease_hours_max: Option<String>,
    /// Most nodes in one rental [default: 100] [env: ORION_RENT_COUNT_MAX].
    #[arg(long, value_name = "COUNT")]
    pub rent_count_max: Option<String>,
    /// A proxy whose X-Forwarded-For is believed, as an address or a network; may be repeated [env:
    /// ORION_TRUSTED_PROXIES].
    #[arg(long, value_delimiter = ',', value_name = "NET")]
    pub trusted_proxy: Vec<String>,
    /// An origin that browsers may call from; may be repeated. None: CORS stays off [env: ORION_CORS_ORIGINS].
    #[arg(long, value_delimiter = ',', value_name = "ORIGIN")]
    pub cors_origin: Vec<String>,
    /// Lifetime of an access token, in hours [default: 24] [env: ORION_TOKEN_HOURS].
    #[arg(long, value_name = "HOURS")]
    pub token_hours: Option<String>,
    /// A directory with playbooks that replace built-in ones [env: ORION_PLAYBOOKS].
    #[arg(long, value_name = "DIR")]
    pub playbooks: Option<String>,
    /// `pretty` or `json` [default: pretty] [env: ORION_LOG_FORMAT].
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Location of the settings, the database and the master key.
#[derive(Debug, clap::Args)]
pub struct DatabaseArgs {
    /// A file of settings, the same as the services read [default: /etc/orion/orion.toml if it is there] [env:
    /// ORION_CONFIG].
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Directory of the SQLite database and of the master key [default: /var/lib/orion-server for root,
    /// ~/.local/share/orion for others] [env: ORION_DATA_DIR].
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// `mysql://user:password@host:port/database` in place of SQLite; several hosts of one cluster with commas.
    /// Better in the environment than on the command line, where everybody sees it [env: ORION_DATABASE_URL].
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub database_url: Vec<String>,
    /// Connections to each database host [default: 16] [env: ORION_DATABASE_CONNECTIONS].
    #[arg(long, value_name = "COUNT")]
    pub database_connections: Option<String>,
}

/// File in which `deploy/systemd` keeps the services' secrets, which only systemd reads by itself.
const SERVICES_ENVIRONMENT: &str = "/etc/orion/orion.env";

/// Settings, and what `orion` itself makes of them: with a directory of its own, SQLite and a key file.
pub struct OwnSettings {
    /// All settings that are given.
    pub sources: Sources,
    /// Settings for opening the database.
    pub settings: Settings,
    /// The directory of the SQLite database; none with MariaDB and a key from elsewhere.
    pub sqlite_dir: Option<PathBuf>,
}

impl UpArgs {
    fn own_settings(&self) -> Result<OwnSettings, CliError> {
        let mut given = BTreeMap::new();
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(","));
        for (key, value) in [
            ("listen", self.listen.clone()),
            ("lease_hours_max", self.lease_hours_max.clone()),
            ("rent_count_max", self.rent_count_max.clone()),
            ("trusted_proxies", list(&self.trusted_proxy)),
            ("cors_origins", list(&self.cors_origin)),
            ("token_hours", self.token_hours.clone()),
            ("playbooks", self.playbooks.clone()),
            ("log_format", self.log_format.clone()),
        ] {
            given.extend(value.map(|value| (key, value)));
        }
        self.database.own_settings(given)
    }
}

impl OwnSettings {
    /// The database as a person may read it: without a password.
    pub fn database(&self) -> String {
        let names: Vec<String> =
            self.settings.database_urls.iter().map(|url| without_password(url)).collect();
        names.join(", ")
    }
}

fn without_password(database_url: &str) -> String {
    if let Some(path) = database_url.strip_prefix("sqlite:") {
        return path.to_owned();
    }
    let Ok(mut url) = Url::parse(database_url) else { return "MariaDB".to_owned() };
    url.set_query(None);
    match url.set_password(None) {
        Ok(()) => url.to_string(),
        // A URL without a host has no place for a password.
        Err(()) => "MariaDB".to_owned(),
    }
}

impl DatabaseArgs {
    /// Reads all settings, and makes the directory and the master key if they are needed and not there.
    ///
    /// # Errors
    /// A setting that makes no sense; a directory or a master key that cannot be had.
    pub fn own_settings(&self, given: BTreeMap<&'static str, String>) -> Result<OwnSettings, CliError> {
        self.settings_of(given, Missing::IsMade)
    }

    /// The same where nothing is made: for those who work on what is there. What is missing is an error of this
    /// kind.
    ///
    /// # Errors
    /// A setting that makes no sense; a SQLite database or a master key that is not there.
    pub fn own_settings_of_existing(&self, kind: Kind) -> Result<OwnSettings, CliError> {
        self.settings_of(BTreeMap::new(), Missing::IsAnError(kind))
    }

    fn settings_of(
        &self,
        mut given: BTreeMap<&'static str, String>,
        missing: Missing,
    ) -> Result<OwnSettings, CliError> {
        given.extend(self.data_dir.clone().map(|dir| ("data_dir", dir)));
        given.extend(self.database_connections.clone().map(|count| ("database_connections", count)));
        given.extend((!self.database_url.is_empty()).then(|| ("database_url", self.database_url.join(","))));
        let sources = Sources::read(self.config.as_deref(), given).map_err(in_settings)?;
        let dir = sources.text("data_dir").map_err(in_settings)?.map_or_else(default_data_dir, PathBuf::from);
        let urls =
            sources.list("database_url", |url| Ok::<_, String>(url.to_owned())).map_err(in_settings)?;
        let sqlite_dir = urls.is_empty().then(|| dir.clone());
        let database_urls = match &sqlite_dir {
            Some(dir) => {
                missing.in_directory(dir)?;
                missing.database(&dir.join("orion.db"))?;
                vec![format!("sqlite:{}", dir.join("orion.db").display())]
            }
            None => urls,
        };
        let master_key = match sources.get("master_key", MasterKey::parse).map_err(in_settings)? {
            Some(key) => key,
            None => {
                missing.in_directory(&dir)?;
                missing.master_key(&dir)?
            }
        };
        let settings = Settings {
            database_urls,
            database_connections_max: sources
                .number("database_connections", 2)
                .map_err(in_settings)?
                .unwrap_or(16),
            master_key,
            playbooks_dir: sources.text("playbooks").map_err(in_settings)?.map(PathBuf::from),
            networks: container_networks(&sources).map_err(in_settings)?,
            engine_lost_after: engine_lost_after(&sources).map_err(in_settings)?,
        };
        Ok(OwnSettings { sources, settings, sqlite_dir })
    }
}

/// Handling of a missing directory or master key.
#[derive(Clone, Copy, Debug)]
enum Missing {
    IsMade,
    IsAnError(Kind),
}

impl Missing {
    fn in_directory(self, dir: &Path) -> Result<(), CliError> {
        match self {
            Self::IsMade => make_directory(dir),
            Self::IsAnError(_) => Ok(()),
        }
    }

    fn database(self, path: &Path) -> Result<(), CliError> {
        match self {
            Self::IsAnError(kind) if !path.exists() => {
                Err(not_there(kind, &format!("there is no database {}", path.display())))
            }
            Self::IsMade | Self::IsAnError(_) => Ok(()),
        }
    }

    fn master_key(self, dir: &Path) -> Result<MasterKey, CliError> {
        let path = dir.join("master.key");
        match self {
            Self::IsAnError(kind) if !path.exists() => Err(not_there(
                kind,
                &format!("there is no {}: Orion has not run with these settings", path.display()),
            )),
            Self::IsMade | Self::IsAnError(_) => master_key_file(dir),
        }
    }
}

fn not_there(kind: Kind, what: &str) -> CliError {
    let error = CliError::new(kind, what);
    if Path::new(SERVICES_ENVIRONMENT).exists() {
        return error.hint(format!(
            "the services' settings are needed: set -a; . {SERVICES_ENVIRONMENT}; set +a (or --data-dir DIR)"
        ));
    }
    error.hint(
        "where it is: --data-dir DIR, --config FILE, or ORION_DATABASE_URL and ORION_MASTER_KEY for MariaDB; \
         the first `orion up` makes it",
    )
}

fn in_settings(error: orion_service::settings::SettingsError) -> CliError {
    CliError::new(Kind::Usage, error.to_string())
}

/// The directory, made if it is not there, for its owner only.
fn make_directory(dir: &Path) -> Result<(), CliError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| {
        CliError::failed(format!("{}: {error}", dir.display())).hint("choose another with --data-dir")
    })
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

/// The key file in the data directory, which is made if it is not there.
fn master_key_file(dir: &Path) -> Result<MasterKey, CliError> {
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
    let OwnSettings { sources, settings, sqlite_dir } = args.own_settings()?;
    logging::start(&sources).map_err(in_settings)?;
    raise_open_files();
    let config = Config::from_sources(&sources, settings.master_key.clone()).map_err(in_settings)?;
    let mut scheduling = SchedulerConfig::from_sources(&sources).map_err(in_settings)?;
    scheduling.master_key = Some(settings.master_key.clone());
    let first_admin = sources.secret("admin_password").map_err(in_settings)?;
    // The address first: it is the likeliest to fail, and nothing has been touched yet.
    let listener = TcpListener::bind(config.listen).await.map_err(|error| {
        CliError::failed(format!("cannot listen on {}: {error}", config.listen))
            .hint("another process may have the port; choose another with --listen")
    })?;
    let address = listener.local_addr().map_err(|error| CliError::failed(error.to_string()))?;
    let _lock = sqlite_dir.as_deref().map(lock).transpose()?;
    let failed = |error: &dyn std::fmt::Display| CliError::failed(error.to_string());
    let patience = database_wait(&sources).map_err(in_settings)?;
    let shutdown = CancellationToken::new();
    stop_on_signal(shutdown.clone()).map_err(|error| failed(&error))?;
    let assembled = tokio::select! {
        assembled = assemble_patiently(&settings, patience) => assembled.map_err(|error| failed(&error))?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let app = App::new(config, assembled.fleet.clone(), &assembled.keys, shutdown.clone());
    make_first_admin(&app, first_admin).await?;
    let scheduler = Scheduler::new(assembled.fleet, scheduling, shutdown.clone());
    let scheduling = tokio::spawn(scheduler.run());
    eprintln!("orion is up at http://{address}");
    let served = serve(app, listener).await;
    shutdown.cancel();
    let _ = scheduling.await;
    traces::stop();
    served.map_err(|error| CliError::failed(format!("the API stopped: {error}")))
}

async fn make_first_admin(app: &App, password: Option<Secret>) -> Result<(), CliError> {
    match app.accounts().first_admin(password).await {
        Ok(FirstAdmin::Made) => eprintln!("made the first admin, 'admin', with ORION_ADMIN_PASSWORD"),
        Ok(FirstAdmin::None) => eprintln!("there is no admin yet; make one with `orion admin create NAME`"),
        Ok(FirstAdmin::Known) => {}
        Err(error) => return Err(CliError::failed(format!("ORION_ADMIN_PASSWORD: {error}"))),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn a_database_is_named_without_its_password() {
        for (url, name) in [
            ("sqlite:/var/lib/orion-server/orion.db", "/var/lib/orion-server/orion.db"),
            ("mysql://orion:s3cret@db.example:3306/orion", "mysql://orion@db.example:3306/orion"),
            ("mysql://orion:s3%40cret@[::1]/orion?password=s3cret", "mysql://orion@[::1]/orion"),
            ("mysql:s3cret", "MariaDB"),
            ("s3cret", "MariaDB"),
        ] {
            assert_eq!(without_password(url), name);
        }
    }
}
