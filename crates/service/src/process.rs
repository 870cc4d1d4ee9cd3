//! A service as a process: its arguments, its limits, its start and its stop.

use crate::{
    assemble::{AssembleError, Assembled, Settings, assemble, engine_lost_after},
    container_networks::container_networks,
    sealed::MasterKey,
    settings::{KEYS, SettingsError, Sources, variable},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Time for which a start waits for a database that is not reachable yet.
const DATABASE_WAIT: Duration = Duration::from_secs(60);
/// Pause between two tries to reach the database at a start.
const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// Interval at which a start that waits for the database logs so.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Stack of each thread of a service. Work on a node with containers is deep: optimised, its futures took 2 MiB, the default.
pub const STACK_BYTES: usize = 8 * 1024 * 1024;

/// Reason why a service does not run, with the exit status of its process.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// A setting is wrong: starting again helps nobody.
    #[error("{0}")]
    Settings(#[from] SettingsError),
    /// The database or the keys in it cannot be used.
    #[error("{0}")]
    Assemble(#[from] AssembleError),
    /// Fault of the machine: an address that is taken, a signal that cannot be caught.
    #[error("{0}")]
    Machine(String),
}

impl ServiceError {
    /// `EX_CONFIG` (78, sysexits.h) where a person has to change something, 1 where a restart may help.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Settings(_) => ExitCode::from(78),
            Self::Assemble(error) if !error.may_pass() => ExitCode::from(78),
            Self::Assemble(_) | Self::Machine(_) => ExitCode::FAILURE,
        }
    }
}

/// Action that is requested of a service.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// Run with this file of settings.
    Run(Option<PathBuf>),
    /// Check of the settings and the database, without a run.
    Check(Option<PathBuf>),
    /// Output of this text, without a run.
    Print(String),
}

/// The `main` of a service: reads the arguments and the settings, starts logging, and runs `run` with the
/// settings and whether only a check was asked for. What goes wrong is said in one line on standard error.
pub fn main<Running>(name: &str, run: impl FnOnce(Sources, bool) -> Running) -> ExitCode
where
    Running: Future<Output = Result<(), ServiceError>>,
{
    let words = std::env::args().skip(1);
    let outcome = arguments(name, words).map_err(ServiceError::from).and_then(|asked| {
        let (file, check) = match asked {
            Asked::Print(text) => {
                print!("{text}");
                return Ok(());
            }
            Asked::Run(file) => (file, false),
            Asked::Check(file) => (file, true),
        };
        let sources = Sources::read(file.as_deref(), BTreeMap::new())?;
        crate::logging::start(&sources)?;
        raise_open_files();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_stack_size(STACK_BYTES)
            .build()
            .map_err(|error| ServiceError::Machine(format!("no runtime: {error}")))?;
        let outcome = runtime.block_on(run(sources, check));
        crate::traces::stop();
        outcome
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            error.exit_code()
        }
    }
}

/// Binds an address of the settings.
///
/// # Errors
/// When it is taken, or not one of this machine's; `key` is its setting.
pub async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, ServiceError> {
    let named =
        |error| ServiceError::Machine(format!("{}: cannot listen on {address}: {error}", variable(key)));
    TcpListener::bind(address).await.map_err(named)
}

/// Reads the arguments of a service: `--config FILE`, `--check`, `--settings`, `--version`, `--help`.
///
/// # Errors
/// An argument that is none of these.
pub fn arguments(name: &str, words: impl IntoIterator<Item = String>) -> Result<Asked, SettingsError> {
    let usage = format!(
        "usage: {name} [--config FILE] [--check]\n\n  \
         --config FILE   settings (else ORION_CONFIG, else /etc/orion/orion.toml if it is there)\n  \
         --check         check settings, database and keys (makes or updates the schema and the keys), and end\n  \
         --settings      list all settings\n  \
         --version       print the version\n"
    );
    let (mut config, mut check) = (None, false);
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--help" | "-h" => return Ok(Asked::Print(usage)),
            "--version" | "-V" => return Ok(Asked::Print(format!("{name} {}\n", env!("CARGO_PKG_VERSION")))),
            "--settings" => return Ok(Asked::Print(list_of_settings())),
            "--check" => check = true,
            "--config" => {
                let path = words.next().ok_or_else(|| SettingsError::new("--config needs a file"))?;
                config = Some(PathBuf::from(path));
            }
            other => match other.strip_prefix("--config=") {
                Some(path) => config = Some(PathBuf::from(path)),
                None => return Err(SettingsError::new(format!("there is no argument '{other}'\n\n{usage}"))),
            },
        }
    }
    Ok(if check { Asked::Check(config) } else { Asked::Run(config) })
}

fn list_of_settings() -> String {
    KEYS.iter().fold(String::new(), |text, (key, what)| text + &format!("{:<28} {what}\n", variable(key)))
}

/// Settings of the database, as all services need them.
///
/// # Errors
/// No database, no master key, or one that is wrong.
pub fn database_settings(sources: &Sources) -> Result<Settings, SettingsError> {
    let database_urls = sources.list("database_url", |url| Ok::<_, String>(url.to_owned()))?;
    if database_urls.is_empty() {
        let what = "is not set; give mysql://user:password@host:3306/database (`orion up` runs on SQLite)";
        return Err(SettingsError::about("database_url", what));
    }
    if database_urls.iter().any(|url| url.starts_with("sqlite:")) {
        let what = "SQLite is for one process, and `orion up` is that; services need mysql://…";
        return Err(SettingsError::about("database_url", what));
    }
    let master_key = sources.get("master_key", MasterKey::parse)?.ok_or_else(|| {
        let what = "is not set; make one with `openssl rand -base64 32` and give all services the same";
        SettingsError::about("master_key", what)
    })?;
    Ok(Settings {
        database_urls,
        database_connections_max: sources.number("database_connections", 2)?.unwrap_or(16),
        master_key,
        playbooks_dir: sources.text("playbooks")?.map(PathBuf::from),
        networks: container_networks(sources)?,
        engine_lost_after: engine_lost_after(sources)?,
    })
}

/// Opens everything, waiting a while for a database that is not there yet.
pub async fn assemble_patiently(settings: &Settings, patience: Duration) -> Result<Assembled, AssembleError> {
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        match assemble(settings).await {
            Err(error) if error.may_pass() && begun.elapsed() < patience => {
                if told.is_none_or(|at| at.elapsed() >= TOLD_AGAIN_AFTER) {
                    told = Some(Instant::now());
                    tracing::warn!(%error, "the database is not there yet; it is tried again for {patience:?}");
                }
                tokio::time::sleep(DATABASE_RETRY).await;
            }
            done => return done,
        }
    }
}

/// Returns the time for which a start waits for the database.
///
/// # Errors
/// A setting that is no number of seconds.
pub fn database_wait(sources: &Sources) -> Result<Duration, SettingsError> {
    Ok(sources.seconds("database_wait_s")?.unwrap_or(DATABASE_WAIT))
}

/// Asks `shutdown` to stop at the first SIGTERM or SIGINT; the second ends the process at once.
///
/// # Errors
/// When signals cannot be caught.
pub fn stop_on_signal(shutdown: CancellationToken) -> Result<(), ServiceError> {
    let catch = |kind| signal(kind).map_err(|error| ServiceError::Machine(format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!(
                    "stopping; what is under way is finished first (a second signal ends it at once)"
                );
                shutdown.cancel();
            }
        }
        std::process::exit(130);
    });
    Ok(())
}

/// Raises the limit of open files to what the system allows: each node is a connection.
pub fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Result<Asked, SettingsError> {
        arguments("orion-test", line.split_whitespace().map(str::to_owned))
    }

    fn sources(environment: &[(&str, &str)]) -> Sources {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sources::from_parts(None, BTreeMap::new(), environment).unwrap()
    }

    #[test]
    fn arguments_are_understood_or_refused() {
        assert_eq!(asked("").unwrap(), Asked::Run(None));
        assert_eq!(asked("--config /x").unwrap(), Asked::Run(Some("/x".into())));
        assert_eq!(asked("--check --config=/x").unwrap(), Asked::Check(Some("/x".into())));
        assert!(matches!(asked("--settings").unwrap(), Asked::Print(text) if text.contains("ORION_LISTEN")));
        assert!(asked("--config").is_err());
        assert!(asked("--lsiten 1").unwrap_err().to_string().contains("'--lsiten'"));
    }

    #[test]
    fn a_database_and_a_master_key_are_asked_for_by_name() {
        let error =
            |environment: &[(&str, &str)]| database_settings(&sources(environment)).unwrap_err().to_string();
        assert!(error(&[]).starts_with("ORION_DATABASE_URL: is not set"));
        assert!(error(&[("ORION_DATABASE_URL", "sqlite:x")]).contains("one process"));
        let mysql = ("ORION_DATABASE_URL", "mysql://o@h/o");
        assert!(error(&[mysql]).starts_with("ORION_MASTER_KEY: is not set"));
        let short = error(&[mysql, ("ORION_MASTER_KEY", "c2hvcnQ=")]);
        assert!(short.contains("ORION_MASTER_KEY has 5 bytes, not 32"), "{short}");
    }
}
