//! From settings to a running whole: opens the database and the keys, and puts the parts together. Shared by
//! every binary.

use crate::{
    keys::{CA_KEY, Keys, KeysError, TOKEN_KEY},
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
    /// One of them is not there, and was not to be made.
    #[error(
        "keys: there is no '{0}' in the database; orion-control-plane and orion up make it when they start"
    )]
    NoKey(&'static str),
    /// A playbook of the operator.
    #[error("playbooks: {0}")]
    Playbooks(#[from] PlaybookError),
}

impl AssembleError {
    /// Whether it may pass by itself: the database is not there (yet).
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) | Self::Keys(KeysError::Store(error)) => error.is_unavailable(),
            Self::Keys(KeysError::WrongKey(..) | KeysError::Damaged(..))
            | Self::NoKey(_)
            | Self::Playbooks(_) => false,
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

/// Opens everything; what is missing in the database is made.
///
/// # Errors
/// [`AssembleError`]
pub async fn assemble(settings: &Settings) -> Result<Assembled, AssembleError> {
    let playbooks = playbooks(settings)?;
    let store = Store::open(&store_config(settings)).await?;
    put_together(store, playbooks, settings).await
}

/// Opens everything as it is: neither the schema nor the keys are made or changed.
///
/// # Errors
/// [`AssembleError`], also where [`assemble`] would make or change something.
pub async fn assemble_as_it_is(settings: &Settings) -> Result<Assembled, AssembleError> {
    let playbooks = playbooks(settings)?;
    let store = Store::open_as_it_is(&store_config(settings)).await?;
    for name in [TOKEN_KEY, CA_KEY] {
        if store.get_sealed(name).await?.is_none() {
            return Err(AssembleError::NoKey(name));
        }
    }
    put_together(store, playbooks, settings).await
}

fn playbooks(settings: &Settings) -> Result<Playbooks, PlaybookError> {
    match &settings.playbooks_dir {
        Some(dir) => Playbooks::from_dir_over_builtin(dir),
        None => Playbooks::builtin(),
    }
}

fn store_config(settings: &Settings) -> StoreConfig {
    StoreConfig { urls: settings.database_urls.clone(), connections_max: settings.database_connections_max }
}

async fn put_together(
    store: Store,
    playbooks: Playbooks,
    settings: &Settings,
) -> Result<Assembled, AssembleError> {
    let keys = Keys::open(&store, &settings.master_key).await?;
    let fleet = Fleet::new(Parts {
        store,
        pool: Pool::new(PoolConfig::default(), keys.control_ca.clone()),
        playbooks,
        clock: Arc::new(SystemClock),
        config: FleetConfig::new(holder_name()),
        nudge: Nudge::default(),
        clock_is_off: AtomicBool::new(true),
        metrics: Metrics::default(),
    });
    Ok(Assembled { fleet, keys })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_it_is_neither_schema_nor_keys_are_made() {
        let directory = tempfile::tempdir().unwrap();
        let settings_of = |file: &str| Settings {
            database_urls: vec![format!("sqlite:{}", directory.path().join(file).display())],
            database_connections_max: 2,
            master_key: MasterKey::generate(),
            playbooks_dir: None,
        };
        let settings = settings_of("orion.db");
        let refusal = async || match assemble_as_it_is(&settings).await {
            Err(error) if !error.may_pass() => error.to_string(),
            Err(error) => panic!("it may pass: {error}"),
            Ok(_) => panic!("something was made"),
        };
        refusal().await;
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let store = Store::open(&store_config(&settings)).await.unwrap();
        for missing in [TOKEN_KEY, CA_KEY] {
            assert!(refusal().await.contains(&format!("there is no '{missing}'")));
            assert_eq!(store.get_sealed(missing).await.unwrap(), None);
            store.put_sealed_if_absent(missing, b"x").await.unwrap();
        }
        let wrong = refusal().await;
        assert!(wrong.contains("jwt-key"), "what is no key of this master key stays as it is: {wrong}");
        let settings = settings_of("whole.db");
        let made = assemble(&settings).await.unwrap().keys;
        let found = assemble_as_it_is(&settings).await.unwrap().keys;
        assert_eq!(made.jwt, found.jwt);
        assert_eq!(made.control_ca.public_line(), found.control_ca.public_line());
    }
}
