//! Settings, from flags, the environment and a file; every error names the variable and where it stood.
//!
//! One flat TOML file serves all services: the key `listen` is the variable `ORION_LISTEN`. A flag wins over
//! the environment, the environment over the file. Of a secret the variable `ORION_X_FILE` (or the key
//! `x_file`) names a file that holds it. Not here: what a value means; each service asks for its own.

use orion_domain::Secret;
use std::{
    collections::BTreeMap,
    fmt, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// The file that is read if no other is named and it is there.
pub const DEFAULT_FILE: &str = "/etc/orion/orion.toml";
/// The variable that names the file.
pub const FILE_VARIABLE: &str = "ORION_CONFIG";
/// Sources of a value that may stand in a file of its own.
const SECRETS: &[&str] = &["admin_password", "database_url", "master_key"];

/// Every setting of every service, so that all can share one file: the key, and what it is.
pub const KEYS: &[(&str, &str)] = &[
    ("admin_password", "makes the first admin, `admin`, if there is no admin yet"),
    (
        "apps_auth",
        "the API's replicas as the Caddies of `caddy_admin` reach them, with commas (127.0.0.1:8080)",
    ),
    ("apps_domain", "domain below which the ports of containers have names, as apps.example.org (none)"),
    (
        "body_bytes_max",
        "largest request body, in bytes (65536); one that describes containers may have 3 MiB",
    ),
    ("caddy_admin", "sockets of the Caddies that lead to the ports of containers, with commas (none)"),
    (
        "container_nets",
        "networks, with commas, out of which each lease with containers gets a /28 on its node (10.201.0.0/16)",
    ),
    ("container_ports", "ports of nodes that are given to containers (20000-29999)"),
    ("cors_origins", "origins that browsers may call from, with commas (none)"),
    ("data_dir", "`orion up`: directory of the SQLite database and of the master key"),
    ("database_connections", "connections to each database host (16)"),
    ("database_url", "`mysql://user:password@host:3306/database`; several hosts of one cluster with commas"),
    ("database_wait_s", "how long a start waits for the database, in seconds (60)"),
    (
        "disk_free_mb_min",
        "MiB that must be free on the disk of a node's container engine for containers (2048)",
    ),
    ("disk_free_percent_min", "percent that must be free there (5)"),
    (
        "egress_deny",
        "networks, with commas, that containers do not reach, besides link-local ones and all nodes (none)",
    ),
    (
        "engine_lost_s",
        "how long a container engine may be silent before its containers count as lost, in seconds (120)",
    ),
    ("events_kept_days", "how long events are kept, in days (365)"),
    ("forgotten_kept_days", "how long forgotten nodes may register again with what they had, in days (365)"),
    (
        "image_registries",
        "registries that images may come from, as `docker.io,ghcr.io/owner,http://10.0.0.5:5000` (all)",
    ),
    ("images_kept_days", "days after its last use that an image stays on a node whose disk is too full (7)"),
    ("lease_hours_max", "longest lease, and longest single extension, in hours (720)"),
    ("leases_kept_days", "how long leases are kept after their end, in days (365)"),
    ("listen", "address and port of the API (127.0.0.1:8080)"),
    ("log", "what is logged, as `info` or `info,orion_scheduler=debug` (info)"),
    ("log_format", "`pretty` or `json` (pretty)"),
    ("master_key", "32 bytes in base64 that seal what is secret in the database"),
    ("metrics_listen", "the scheduler's /metrics, /api/health and /api/live (127.0.0.1:9464)"),
    (
        "node_reserved",
        "cores and MiB of each node that are kept for the node itself, such as `0.5,512` (none)",
    ),
    ("otlp_endpoint", "where traces go, as http://host:4318 (nowhere)"),
    ("playbooks", "a directory with playbooks that replace built-in ones"),
    ("probe_every_s", "pause between two looks at a healthy node, in seconds (3)"),
    (
        "proxy_addresses",
        "addresses or networks, with commas, that alone reach the ports of containers (none)",
    ),
    ("rent_count_max", "most nodes in one rental (100)"),
    ("request_timeout_s", "longest a request may take, in seconds (90)"),
    (
        "requests_of_address_per_minute",
        "most requests a minute from one address without a good token; 0: any (600)",
    ),
    ("requests_of_user_per_minute", "most requests a minute of one account; 0: any (1200)"),
    ("requests_of_worker_per_minute", "most requests a minute of one worker; 0: any (120)"),
    ("sick_for_s", "how long an sshd that lets nobody in is waited for, in seconds (600)"),
    ("signup", "who may sign up: `open`, `invite` or `closed` (open)"),
    ("signups_per_hour", "most sign-ups an hour from one IPv4 /24 or IPv6 /48; 0: any (5)"),
    ("signups_per_minute", "most sign-ups a minute in all; 0: any (30)"),
    ("site", "names of the API as browsers know them, with commas; compared with `apps_domain` (none)"),
    ("streams_max", "most agents' links, and most event streams, of one process (20000)"),
    ("streams_of_user_max", "most event streams of one user in one process (100)"),
    ("token_hours", "how long an access token lives, in hours (24)"),
    ("trusted_proxies", "addresses or networks whose X-Forwarded-For is believed, with commas (none)"),
    ("user_keys_max", "most idempotency keys of one user that are kept at once (10000)"),
    ("user_lease_hours_max", "longest lease of a user with its extensions, in hours (2160)"),
    ("user_nodes_max", "most nodes of one user at once (100)"),
    (
        "worker_networks",
        "networks, besides private ones, in which a registration may name any address (none)",
    ),
];

/// Reason why the settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl SettingsError {
    /// An error that says `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// An error about one setting, whose value came from nowhere.
    pub fn about(key: &str, what: impl fmt::Display) -> Self {
        Self(format!("{}: {what}", variable(key)))
    }
}

/// The variable of a key.
pub fn variable(key: &str) -> String {
    format!("ORION_{}", key.to_uppercase())
}

/// A value, and where it stood.
struct Found {
    text: String,
    origin: String,
}

/// Origins of setting values.
#[derive(Debug, Default)]
pub struct Sources {
    given: BTreeMap<&'static str, String>,
    environment: BTreeMap<String, String>,
    file: Option<(PathBuf, BTreeMap<String, String>)>,
}

impl Sources {
    /// Reads the file (that of `file`, else of [`FILE_VARIABLE`], else [`DEFAULT_FILE`] if it is there) and takes
    /// the process's environment. `given` are the values of flags, by key.
    ///
    /// # Errors
    /// A file that cannot be read or is no TOML, and keys that no service knows.
    pub fn read(file: Option<&Path>, given: BTreeMap<&'static str, String>) -> Result<Self, SettingsError> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| {
                let name = name.into_string().ok().filter(|name| name.starts_with("ORION_"))?;
                Some((name, value.to_string_lossy().into_owned()))
            })
            .collect::<BTreeMap<_, _>>();
        Self::from_parts(file, given, environment)
    }

    /// Does the same as [`Sources::read`], with the environment passed in.
    ///
    /// # Errors
    /// As there.
    pub fn from_parts(
        file: Option<&Path>,
        given: BTreeMap<&'static str, String>,
        environment: BTreeMap<String, String>,
    ) -> Result<Self, SettingsError> {
        let named = file
            .map(Path::to_owned)
            .or_else(|| environment.get(FILE_VARIABLE).filter(|text| !text.is_empty()).map(PathBuf::from));
        let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        let file = match named.or_else(default) {
            Some(path) => {
                let values = read_file(&path)?;
                Some((path, values))
            }
            None => None,
        };
        Ok(Self { given, environment, file })
    }

    /// Variables that look like misspelt settings, each with the one that may be meant.
    pub fn doubtful_variables(&self) -> Vec<String> {
        let known: Vec<String> = KEYS.iter().map(|(key, _)| variable(key)).collect();
        let is_known = |name: &str| {
            name == FILE_VARIABLE || known.iter().any(|k| k == name.strip_suffix("_FILE").unwrap_or(name))
        };
        let near = |name: &str| known.iter().find(|k| strsim::damerau_levenshtein(name, k) <= 2);
        self.environment
            .keys()
            .filter(|name| !is_known(name))
            .filter_map(|name| Some(format!("{name} is no setting; is {} meant?", near(name)?)))
            .collect()
    }

    /// Whether a value stands anywhere.
    pub fn has(&self, key: &'static str) -> bool {
        matches!(self.find(key), Ok(Some(_)) | Err(_))
    }

    fn find(&self, key: &'static str) -> Result<Option<Found>, SettingsError> {
        debug_assert!(KEYS.iter().any(|(known, _)| *known == key), "{key} is not in KEYS");
        if let Some(text) = self.given.get(key) {
            let origin = format!("--{}", key.replace('_', "-"));
            return Ok(Some(Found { text: text.clone(), origin }));
        }
        let name = variable(key);
        // An empty variable is as good as none: `docker-compose.yml` passes those on.
        let set = |name: &str| self.environment.get(name).filter(|text| !text.is_empty()).cloned();
        if let Some(text) = set(&name) {
            return Ok(Some(Found { text, origin: name }));
        }
        let is_secret = SECRETS.contains(&key);
        if is_secret && let Some(path) = set(&format!("{name}_FILE")) {
            return secret_file(&name, &format!("{name}_FILE"), Path::new(&path)).map(Some);
        }
        let Some((path, values)) = &self.file else { return Ok(None) };
        if let Some(text) = values.get(key) {
            let origin = format!("{name} (`{key}` in {})", path.display());
            return Ok(Some(Found { text: text.clone(), origin }));
        }
        match values.get(&format!("{key}_file")).filter(|_| is_secret) {
            Some(named) => {
                let origin = format!("{name}_FILE (`{key}_file` in {})", path.display());
                secret_file(&name, &origin, Path::new(named)).map(Some)
            }
            None => Ok(None),
        }
    }

    /// The value of `key`, read by `parse`; none if it stands nowhere.
    ///
    /// # Errors
    /// What `parse` finds wrong, with the variable's name and where the value stood.
    pub fn get<T, E: fmt::Display>(
        &self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, SettingsError> {
        let Some(found) = self.find(key)? else { return Ok(None) };
        let named = |error: E| SettingsError(format!("{}: {error}", found.origin));
        parse(found.text.trim()).map(Some).map_err(named)
    }

    /// A text.
    ///
    /// # Errors
    /// See [`Sources::get`].
    pub fn text(&self, key: &'static str) -> Result<Option<String>, SettingsError> {
        self.get(key, |text| Ok::<_, String>(text.to_owned()))
    }

    /// A secret text.
    ///
    /// # Errors
    /// See [`Sources::get`].
    pub fn secret(&self, key: &'static str) -> Result<Option<Secret>, SettingsError> {
        self.get(key, |text| Ok::<_, String>(Secret::new(text.to_owned())))
    }

    /// A whole number of at least `least`.
    ///
    /// # Errors
    /// See [`Sources::get`].
    pub fn number<T>(&self, key: &'static str, least: T) -> Result<Option<T>, SettingsError>
    where
        T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
    {
        self.get(key, |text| {
            let number = text.parse::<T>().ok().filter(|number| *number >= least);
            number.ok_or_else(|| format!("'{text}' is not a number of at least {least}"))
        })
    }

    /// A number of seconds above 0, which may be fractional.
    ///
    /// # Errors
    /// See [`Sources::get`].
    pub fn seconds(&self, key: &'static str) -> Result<Option<Duration>, SettingsError> {
        self.get(key, |text| {
            let seconds = text.parse::<f64>().ok().filter(|seconds| *seconds > 0.0);
            let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            duration.ok_or_else(|| format!("'{text}' is not a number of seconds above 0"))
        })
    }

    /// A number of seconds that has a least and a most.
    ///
    /// # Errors
    /// See [`Sources::get`].
    pub fn seconds_within(
        &self,
        key: &'static str,
        (shortest, longest): (Duration, Duration),
    ) -> Result<Option<Duration>, SettingsError> {
        match self.seconds(key)? {
            Some(value) if value < shortest || value > longest => Err(SettingsError::about(
                key,
                format!("must lie between {} and {} seconds", shortest.as_secs_f32(), longest.as_secs_f32()),
            )),
            value => Ok(value),
        }
    }

    /// An address and a port.
    ///
    /// # Errors
    /// See [`Sources::get`].
    pub fn address(&self, key: &'static str) -> Result<Option<std::net::SocketAddr>, SettingsError> {
        self.get(key, |text| {
            text.parse().map_err(|_| {
                format!("'{text}' is not an address with a port, such as 127.0.0.1:8080 or [::]:8080")
            })
        })
    }

    /// A list, separated by commas; empty if it stands nowhere.
    ///
    /// # Errors
    /// What `parse` finds wrong with an entry.
    pub fn list<T, E: fmt::Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, SettingsError> {
        let list = self.get(key, |text| {
            text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(parse).collect()
        })?;
        Ok(list.unwrap_or_default())
    }
}

/// An address or a network.
///
/// # Errors
/// What is wrong with the text.
pub fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let parsed = text.parse::<ipnet::IpNet>().ok();
    parsed.or_else(|| text.parse::<IpAddr>().ok().map(ipnet::IpNet::from)).ok_or_else(|| {
        format!("'{text}' is neither an address nor a network, such as 10.0.0.5 or 10.0.0.0/24")
    })
}

fn secret_file(name: &str, origin: &str, path: &Path) -> Result<Found, SettingsError> {
    let text = fs::read_to_string(path)
        .map_err(|error| SettingsError(format!("{origin}: cannot read {}: {error}", path.display())))?;
    Ok(Found { text, origin: format!("{name} (from {})", path.display()) })
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>, SettingsError> {
    let named = |what: String| SettingsError(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| named(format!("cannot be read: {error}")))?;
    // Without the text around the place: it may hold a secret.
    let table = text.parse::<toml::Table>().map_err(|error| {
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
        named(format!("{place}{}", error.message()))
    })?;
    let mut values = BTreeMap::new();
    for (key, value) in table {
        check_key(&key).map_err(named)?;
        let text = text_of(&value).ok_or_else(|| {
            named(format!("{} (`{key}`) must be a text, a number or a list", variable(&key)))
        })?;
        values.insert(key, text);
    }
    Ok(values)
}

fn check_key(key: &str) -> Result<(), String> {
    let plain = match key.strip_suffix("_file") {
        Some(plain) if SECRETS.contains(&plain) => plain,
        Some(_) | None => key,
    };
    if KEYS.iter().any(|(known, _)| *known == plain) {
        return Ok(());
    }
    let near =
        KEYS.iter().map(|(known, _)| *known).min_by_key(|known| strsim::damerau_levenshtein(key, known));
    let near = near.filter(|near| strsim::damerau_levenshtein(key, near) <= 3);
    Err(match near {
        Some(near) => format!("there is no setting `{key}`; is `{near}` ({}) meant?", variable(near)),
        None => format!("there is no setting `{key}`; `--settings` lists them all"),
    })
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(yes) => Some(yes.to_string()),
        toml::Value::Array(entries) => {
            let entries: Option<Vec<String>> = entries.iter().map(text_of).collect();
            entries.map(|entries| entries.join(","))
        }
        toml::Value::Datetime(_) | toml::Value::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn sources(text: &str, environment: &[(&str, &str)]) -> Result<Sources, SettingsError> {
        let file = file(text);
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Sources::from_parts(Some(file.path()), BTreeMap::new(), environment)
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_the_environment_over_the_file() {
        let file = file("listen = '1.1.1.1:1'\nlog = 'warn'\ntoken_hours = 7");
        let environment = BTreeMap::from([
            ("ORION_LISTEN".to_owned(), "2.2.2.2:2".to_owned()),
            ("ORION_LOG".to_owned(), "debug".to_owned()),
            ("ORION_TOKEN_HOURS".to_owned(), String::new()),
        ]);
        let given = BTreeMap::from([("listen", "3.3.3.3:3".to_owned())]);
        let sources = Sources::from_parts(Some(file.path()), given, environment).unwrap();
        assert_eq!(sources.text("listen").unwrap().unwrap(), "3.3.3.3:3");
        assert_eq!(sources.text("log").unwrap().unwrap(), "debug");
        assert_eq!(sources.number("token_hours", 1u32).unwrap(), Some(7), "an empty variable is none");
        assert_eq!(sources.text("playbooks").unwrap(), None);
    }

    #[test]
    fn an_unknown_key_is_refused_and_the_nearest_is_named() {
        let error = sources("databse_url = 'x'", &[]).unwrap_err().to_string();
        assert!(error.contains("there is no setting `databse_url`"), "{error}");
        assert!(error.contains("is `database_url` (ORION_DATABASE_URL) meant?"), "{error}");
        let error = sources("[scheduler]\nx = 1", &[]).unwrap_err().to_string();
        assert!(error.contains("there is no setting `scheduler`"), "{error}");
        let error = sources("listen_file = 'x'", &[]).unwrap_err().to_string();
        assert!(error.contains("`listen_file`"), "only secrets come from files: {error}");
    }

    #[test]
    fn every_error_names_the_variable_and_where_the_value_stood() {
        let error = sources("listen = 'nowhere'", &[]).unwrap().address("listen").unwrap_err().to_string();
        assert!(error.starts_with("ORION_LISTEN (`listen` in /"), "{error}");
        assert!(error.contains("'nowhere' is not an address with a port"), "{error}");
        let sources = sources("", &[("ORION_TOKEN_HOURS", "0")]).unwrap();
        let error = sources.number("token_hours", 1u32).unwrap_err().to_string();
        assert_eq!(error, "ORION_TOKEN_HOURS: '0' is not a number of at least 1");
    }

    #[test]
    fn a_secret_may_stand_in_a_file_of_its_own_and_never_in_an_error() {
        let key = file("c2VjcmV0\n");
        let sources = sources("", &[("ORION_MASTER_KEY_FILE", key.path().to_str().unwrap())]).unwrap();
        assert_eq!(sources.secret("master_key").unwrap().unwrap().expose(), "c2VjcmV0");
        let gone = super::tests::sources("master_key_file = '/does/not/exist'", &[]).unwrap();
        let error = gone.secret("master_key").unwrap_err().to_string();
        assert!(error.starts_with("ORION_MASTER_KEY_FILE (`master_key_file` in "), "{error}");
        assert!(error.contains("cannot read /does/not/exist"), "{error}");
        let error = super::tests::sources("master_key = 'hunter2", &[]).unwrap_err().to_string();
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_list_is_a_list_in_both_worlds() {
        let file = sources("trusted_proxies = ['10.0.0.0/8', '::1']", &[]).unwrap();
        let environment = sources("", &[("ORION_TRUSTED_PROXIES", "10.0.0.0/8, ::1")]).unwrap();
        let expected = vec![network("10.0.0.0/8").unwrap(), network("::1").unwrap()];
        assert_eq!(file.list("trusted_proxies", network).unwrap(), expected);
        assert_eq!(environment.list("trusted_proxies", network).unwrap(), expected);
        let wrong = sources("", &[("ORION_TRUSTED_PROXIES", "10.0.0.0/8,proxy")]).unwrap();
        let error = wrong.list("trusted_proxies", network).unwrap_err().to_string();
        assert!(error.starts_with("ORION_TRUSTED_PROXIES: 'proxy' is neither"), "{error}");
    }

    #[test]
    fn a_misspelt_variable_is_noticed() {
        let environment =
            [("ORION_DATABSE_URL", "x"), ("ORION_JOIN_TOKEN", "x"), ("ORION_MASTER_KEY_FILE", "x")];
        let doubtful = sources("", &environment).unwrap().doubtful_variables();
        assert_eq!(doubtful, ["ORION_DATABSE_URL is no setting; is ORION_DATABASE_URL meant?"]);
    }

    #[test]
    fn the_settings_are_listed_once_and_in_order() {
        assert!(KEYS.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(SECRETS.iter().all(|secret| KEYS.iter().any(|(key, _)| key == secret)));
    }
}
