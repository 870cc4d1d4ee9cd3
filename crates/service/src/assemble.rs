//! From settings to a running whole: opens the database and the keys, and puts the parts together. Shared by
//! every binary.

use crate::{
    keys::{CA_KEY, Keys, KeysError, TOKEN_KEY},
    sealed::MasterKey,
    settings::{SettingsError, Sources},
};
use orion_containers::Engines;
use orion_domain::{Secret, SystemClock, UserId};
use orion_fleet::{
    ContainerNetworks, ENGINE_LOST_AFTER, Firewalls, Fleet, FleetConfig, Metrics, Nudge, OpenSpec, Parts,
    Pulls, Turns, login_context,
    playbook::{PlaybookError, Playbooks},
};
use orion_ssh::{Pool, PoolConfig};
use orion_store::{Store, StoreConfig, StoreError};
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

const ENGINE_LOST_MIN: Duration = Duration::from_secs(2);
const ENGINE_LOST_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Settings for reaching the database and the nodes.
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
    /// Networks and ports of containers.
    pub networks: ContainerNetworks,
    /// Silence of a container engine after which its containers count as lost.
    pub engine_lost_after: Duration,
}

impl Settings {
    /// Settings with the defaults for all that an operator need not say.
    pub fn new(database_urls: Vec<String>, database_connections_max: u32, master_key: MasterKey) -> Self {
        Self {
            database_urls,
            database_connections_max,
            master_key,
            playbooks_dir: None,
            networks: ContainerNetworks::default(),
            engine_lost_after: ENGINE_LOST_AFTER,
        }
    }
}

/// Reads how long a container engine may be silent.
///
/// # Errors
/// A time outside of its limits.
pub fn engine_lost_after(sources: &Sources) -> Result<Duration, SettingsError> {
    let limits = (ENGINE_LOST_MIN, ENGINE_LOST_MAX);
    Ok(sources.seconds_within("engine_lost_s", limits)?.unwrap_or(ENGINE_LOST_AFTER))
}

/// Reason why the parts could not be assembled.
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

/// Purpose of the key that seals container specifications.
const CONTAINER_SPEC: &str = "container-spec";
/// Purpose of the key that seals the passwords of users at registries.
const REGISTRY_LOGIN: &str = "registry-login";

/// A name for this process that no other has: it stands in row claims and beside links.
pub fn holder_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}-{}", host.trim(), std::process::id(), ulid::Ulid::generate())
}

/// Opens everything; what is missing in the database is made.
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
    let store = Store::open_existing(&store_config(settings)).await?;
    for name in [TOKEN_KEY, CA_KEY] {
        if store.cluster().get_sealed(name).await?.is_none() {
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
    let pool = Pool::new(PoolConfig::default(), keys.control_ca.clone());
    let fleet = Fleet::new(Parts {
        store,
        engines: Engines::new(pool.clone()),
        open_spec: opener(&settings.master_key, CONTAINER_SPEC),
        open_login: opener(&settings.master_key, REGISTRY_LOGIN),
        pulls: Pulls::default(),
        pool,
        playbooks,
        clock: Arc::new(SystemClock),
        config: FleetConfig {
            networks: settings.networks.clone(),
            engine_lost_after: settings.engine_lost_after,
            ..FleetConfig::new(holder_name())
        },
        nudge: Nudge::default(),
        clock_is_off: AtomicBool::new(true),
        metrics: Metrics::default(),
        firewalls: Firewalls::default(),
        turns: Turns::default(),
    });
    Ok(Assembled { fleet, keys })
}

/// Opens what was sealed for a purpose.
fn opener(master: &MasterKey, purpose: &str) -> OpenSpec {
    let key = master.derive(purpose, b"");
    Arc::new(move |context, sealed| {
        let plain = key.open(context, sealed).map_err(|error| error.to_string())?;
        std::str::from_utf8(&plain).map(Secret::new).map_err(|error| error.to_string())
    })
}

/// Seals the part of a container's specification that may hold secrets, bound to the container's ULID.
pub fn seal_spec(master: &MasterKey, uid: &str, plain: &Secret) -> Vec<u8> {
    master.derive(CONTAINER_SPEC, b"").seal(uid, plain.expose().as_bytes())
}

/// Seals the password of a user at a registry, bound to both.
pub fn seal_login(master: &MasterKey, user: UserId, registry: &str, password: &Secret) -> Vec<u8> {
    master.derive(REGISTRY_LOGIN, b"").seal(&login_context(user, registry), password.expose().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_it_is_neither_schema_nor_keys_are_made() {
        let directory = tempfile::tempdir().unwrap();
        let settings_of = |file: &str| {
            Settings::new(
                vec![format!("sqlite:{}", directory.path().join(file).display())],
                2,
                MasterKey::generate(),
            )
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
            assert_eq!(store.cluster().get_sealed(missing).await.unwrap(), None);
            store.cluster().put_sealed_if_absent(missing, b"x").await.unwrap();
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
