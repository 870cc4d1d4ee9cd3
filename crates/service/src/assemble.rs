//! From settings to a running whole: opens the database and the keys, and puts the parts together. Shared by
//! every binary.

use crate::{
    keys::{Keys, KeysError},
    sealed::MasterKey,
};
use orion_domain::SystemClock;
use orion_fleet::{
    Fleet, FleetConfig, Metrics, Nudge, Parts,
    playbook::{PlaybookError, Playbooks},
};
use orion_ssh::{Pool, PoolConfig};
use orion_store::{Store, StoreConfig, StoreError};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

/// What is needed to reach database and nodes.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `sqlite:PATH` or `mysql://…`; several hosts of one cluster in the same order everywhere.
    pub database_urls: Vec<String>,
    /// Connections to each database host.
    pub database_connections_max: u32,
    /// Seals what is secret in the database.
    pub master_key: MasterKey,
    /// A directory with playbooks that replace built-in ones.
    pub playbooks_dir: Option<PathBuf>,
}

/// Why the parts could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    /// The database.
    #[error("database: {0}")]
    Store(#[from] StoreError),
    /// The keys in it.
    #[error("keys: {0}")]
    Keys(#[from] KeysError),
    /// A playbook of the operator.
    #[error("playbooks: {0}")]
    Playbooks(#[from] PlaybookError),
}

impl AssembleError {
    /// Whether it may pass by itself: the database is not there (yet).
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) | Self::Keys(KeysError::Store(error)) => error.is_unavailable(),
            Self::Keys(KeysError::WrongKey(..) | KeysError::Damaged(..)) | Self::Playbooks(_) => false,
        }
    }
}

/// The parts that all services share.
pub struct Assembled {
    /// Database, SSH and playbooks.
    pub fleet: Fleet,
    /// The opened keys.
    pub keys: Keys,
}

/// A name for this process that no other has: it stands in row claims and beside links.
pub fn holder_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}-{}", host.trim(), std::process::id(), ulid::Ulid::generate())
}

/// Opens everything.
///
/// # Errors
/// [`AssembleError`]
pub async fn assemble(settings: &Settings) -> Result<Assembled, AssembleError> {
    let playbooks = match &settings.playbooks_dir {
        Some(dir) => Playbooks::from_dir_over_builtin(dir)?,
        None => Playbooks::builtin()?,
    };
    let store = Store::open(&StoreConfig {
        urls: settings.database_urls.clone(),
        connections_max: settings.database_connections_max,
    })
    .await?;
    let keys = Keys::open(&store, &settings.master_key).await?;
    let fleet = Fleet::new(Parts {
        store,
        pool: Pool::new(PoolConfig::default(), keys.control_ca.clone()),
        playbooks,
        clock: Arc::new(SystemClock),
        config: FleetConfig::new(holder_name()),
        nudge: Nudge::default(),
        clock_is_off: AtomicBool::new(false),
        metrics: Metrics::default(),
    });
    Ok(Assembled { fleet, keys })
}
