//! The facade over two concrete sqlx pools: one SQL text a query, run on either database.
//!
//! Lives here: connections, their session settings, time limits, the change of host, binding and reading.
//! Does not live here: SQL of Orion, and when a transaction is run again (`attempts`).

use crate::{
    engine::StoreConfig,
    engine::error::{Fault, Result, StoreError},
    engine::retries::Retries,
};
use futures_util::{TryStreamExt as _, stream::BoxStream};
use sqlx::{
    Connection, Encode, Executor, FromRow, MySql, SqlSafeStr, SqlStr, Sqlite, Type,
    mysql::{MySqlConnectOptions, MySqlConnection, MySqlPool, MySqlPoolOptions, MySqlRow},
    pool::PoolConnection,
    query::Query,
    sqlite::{
        SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
    },
};
use std::{
    future::Future,
    path::Path,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Time limit of a single operation. sqlx has no limit of its own: a query to a stopped server hangs.
pub(super) const OPERATION_MAX: Duration = Duration::from_secs(5);
/// Longest wait for a free connection where another host may have one; also the time for which a dead
/// host is tried.
const ACQUIRE_MAX_OF_SEVERAL: Duration = Duration::from_secs(1);
/// The same for the only host: a busy one is waited for longer, there is nowhere else to go.
pub(super) const ACQUIRE_MAX_OF_ONE: Duration = Duration::from_secs(2);
/// Readers of SQLite; there is one writer.
const SQLITE_READERS: u32 = 4;

use super::value::Val;

/// A row type that reads from both databases.
pub(crate) trait Record:
    Send + Unpin + for<'r> FromRow<'r, MySqlRow> + for<'r> FromRow<'r, SqliteRow>
{
}
impl<T: Send + Unpin + for<'r> FromRow<'r, MySqlRow> + for<'r> FromRow<'r, SqliteRow>> Record for T {}

fn bound<DB: sqlx::Database>(sql: SqlStr, values: Vec<Val>) -> Query<'static, DB, DB::Arguments>
where
    i64: for<'q> Encode<'q, DB> + Type<DB>,
    String: for<'q> Encode<'q, DB> + Type<DB>,
    Vec<u8>: for<'q> Encode<'q, DB> + Type<DB>,
    Option<String>: for<'q> Encode<'q, DB> + Type<DB>,
{
    values.into_iter().fold(sqlx::query(sql), |query, value| match value {
        Val::Null => query.bind(None::<String>),
        Val::Int(value) => query.bind(value),
        Val::Text(value) => query.bind(value),
        Val::Bytes(value) => query.bind(value),
    })
}

/// Reads rows while the server still sends others. All are taken off the connection, also behind one that cannot be
/// read.
async fn decoded<T: for<'r> FromRow<'r, R>, R: sqlx::Row, U>(
    mut rows: BoxStream<'_, std::result::Result<R, sqlx::Error>>,
    make: impl Fn(T) -> U,
) -> std::result::Result<std::result::Result<Vec<U>, sqlx::Error>, sqlx::Error> {
    let mut records = Ok(Vec::new());
    while let Some(row) = rows.try_next().await? {
        if let Ok(read) = &mut records {
            match T::from_row(&row) {
                Ok(record) => read.push(make(record)),
                Err(error) => records = Err(error),
            }
        }
    }
    Ok(records)
}

/// On the heap: the futures of all who ask the database would be as large as sqlx's otherwise, and each that asks twice
/// has room for it twice on the stack.
async fn limited<T>(work: impl Future<Output = std::result::Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(OPERATION_MAX, Box::pin(work)).await {
        Ok(result) => result.map_err(Fault::from),
        Err(_) => Err(Fault::Gone(format!("no answer within {} s", OPERATION_MAX.as_secs()))),
    }
}

/// A connection that is thrown away unless it was left in a known state: a query that timed out, or a
/// transaction that was dropped, must not come back to the pool (the server then rolls back).
pub(crate) struct Held<DB: sqlx::Database> {
    connection: Option<PoolConnection<DB>>,
    known: bool,
}

impl<DB: sqlx::Database> Held<DB> {
    fn get(&mut self) -> Result<&mut DB::Connection> {
        self.known = false;
        match &mut self.connection {
            Some(connection) => Ok(&mut **connection),
            None => Err(Fault::Gone("the connection is closed".into())),
        }
    }
}

impl<DB: sqlx::Database> Drop for Held<DB> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.known
        {
            drop(connection.detach());
        }
    }
}

async fn held<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) -> Result<Held<DB>> {
    Ok(Held { connection: Some(limited(pool.acquire()).await?), known: true })
}

/// Hosts of one MariaDB cluster; all work goes to the current one.
pub(crate) struct Hosts {
    pools: Vec<MySqlPool>,
    current: AtomicUsize,
    retries: Retries,
}

/// The database.
#[derive(Clone)]
pub(crate) enum Db {
    Maria(Arc<Hosts>),
    Lite { writer: SqlitePool, readers: SqlitePool, retries: Arc<Retries> },
}

/// A connection in a transaction.
pub(crate) enum Open {
    Maria(Held<MySql>),
    Lite(Held<Sqlite>),
}

impl Db {
    /// `make`: a SQLite file that is not there is made, and one that is there set up as Orion uses it.
    pub(crate) async fn open(config: &StoreConfig, make: bool) -> std::result::Result<Self, StoreError> {
        let Some(first) = config.urls.first() else {
            return Err(StoreError::Config("no database URL is given".into()));
        };
        if let Some(path) = first.strip_prefix("sqlite:") {
            if config.urls.len() > 1 {
                return Err(StoreError::Config("SQLite is one file; several URLs need MariaDB".into()));
            }
            return open_sqlite(Path::new(path.strip_prefix("//").unwrap_or(path)), make).await;
        }
        open_maria(config).await
    }

    pub(crate) const fn is_maria(&self) -> bool {
        matches!(self, Self::Maria(_))
    }

    /// The text for the database at hand, where they differ.
    pub(crate) const fn sql(&self, maria: &'static str, lite: &'static str) -> &'static str {
        if self.is_maria() { maria } else { lite }
    }

    /// Returns the counters of retries.
    pub(crate) fn retries(&self) -> &Retries {
        match self {
            Self::Maria(hosts) => &hosts.retries,
            Self::Lite { retries, .. } => retries,
        }
    }

    pub(crate) fn host(&self) -> usize {
        match self {
            Self::Maria(hosts) => hosts.current.load(Relaxed),
            Self::Lite { .. } => 0,
        }
    }

    /// `host` failed: the next one is used from now on, unless somebody switched already.
    pub(crate) fn leave(&self, host: usize) {
        if let Self::Maria(hosts) = self
            && hosts.pools.len() > 1
            && hosts.current.compare_exchange(host, host + 1, Relaxed, Relaxed).is_ok()
        {
            tracing::warn!(host = (host + 1) % hosts.pools.len(), "changed to another database host");
        }
    }

    /// Returns the time for which a lost host is worked around before the caller gets the error: a Galera
    /// cluster needs about two seconds to go on without a member; a single server is either there or not.
    pub(crate) fn patience(&self) -> Duration {
        match self {
            Self::Maria(hosts) if hosts.pools.len() > 1 => Duration::from_secs(6),
            Self::Maria(_) | Self::Lite { .. } => Duration::from_secs(1),
        }
    }

    pub(crate) async fn begin(&self) -> Result<Open> {
        match self {
            Self::Lite { writer, .. } => {
                let mut held = held(writer).await?;
                limited(held.get()?.execute("BEGIN IMMEDIATE")).await?;
                Ok(Open::Lite(held))
            }
            Self::Maria(hosts) => {
                let mut held = held(hosts.pool()).await?;
                // A node that is not primary refuses BEGIN itself (1047).
                limited(held.get()?.execute("BEGIN")).await?;
                Ok(Open::Maria(held))
            }
        }
    }

    /// All rows of a query outside a transaction; a lost host is worked around.
    pub(crate) async fn all<T: Record>(&self, sql: impl SqlSafeStr, values: Vec<Val>) -> Result<Vec<T>> {
        self.all_as(sql, values, |record: T| record).await
    }

    /// As [`Db::all`], but makes something of each row while the server still sends others.
    pub(crate) async fn all_as<T: Record, U: Send>(
        &self,
        sql: impl SqlSafeStr,
        values: Vec<Val>,
        make: impl Fn(T) -> U + Send + Sync,
    ) -> Result<Vec<U>> {
        let sql = sql.into_sql_str();
        let started = Instant::now();
        loop {
            let host = self.host();
            match Box::pin(self.read(sql.clone(), values.clone(), &make)).await {
                Err(Fault::Gone(text)) => {
                    self.leave(host);
                    if started.elapsed() >= self.patience() {
                        return Err(Fault::Gone(text));
                    }
                    self.retries().count(&Fault::Gone(text));
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(Fault::Retry(text)) if started.elapsed() < OPERATION_MAX => {
                    self.retries().count(&Fault::Retry(text));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                result => return result,
            }
        }
    }

    async fn read<T: Record, U: Send>(
        &self,
        sql: SqlStr,
        values: Vec<Val>,
        make: impl Fn(T) -> U + Send + Sync,
    ) -> Result<Vec<U>> {
        match self {
            Self::Lite { readers, .. } => {
                let mut held = held(readers).await?;
                let rows = limited(decoded(bound::<Sqlite>(sql, values).fetch(held.get()?), make)).await;
                settled(rows, &mut held)?.map_err(Fault::from)
            }
            Self::Maria(hosts) => {
                let mut held = held(hosts.pool()).await?;
                let rows = limited(decoded(bound::<MySql>(sql, values).fetch(held.get()?), make)).await;
                settled(rows, &mut held)?.map_err(Fault::from)
            }
        }
    }

    /// Runs a statement outside a transaction: how many rows it matched, and its number (`LAST_INSERT_ID`). It may
    /// happen more than once: when its answer is lost, it is run again.
    pub(crate) async fn alone(&self, sql: impl SqlSafeStr, values: Vec<Val>) -> Result<(u64, i64)> {
        let sql = sql.into_sql_str();
        let started = Instant::now();
        loop {
            let host = self.host();
            let fault = match Box::pin(self.write(sql.clone(), values.clone())).await {
                Err(fault) => fault,
                Ok(done) => return Ok(done),
            };
            match &fault {
                Fault::Gone(_) if started.elapsed() < self.patience() => self.leave(host),
                Fault::Retry(_) if started.elapsed() < OPERATION_MAX => {}
                Fault::Gone(_)
                | Fault::Retry(_)
                | Fault::CommitUnknown(_)
                | Fault::Unique(_)
                | Fault::Store(_) => {
                    return Err(fault);
                }
            }
            self.retries().count(&fault);
            tokio::time::sleep(Duration::from_millis(rand::random_range(5..50))).await;
        }
    }

    async fn write(&self, sql: SqlStr, values: Vec<Val>) -> Result<(u64, i64)> {
        match self {
            Self::Lite { writer, .. } => {
                let mut held = held(writer).await?;
                let done =
                    settled(limited(bound::<Sqlite>(sql, values).execute(held.get()?)).await, &mut held)?;
                Ok((done.rows_affected(), done.last_insert_rowid()))
            }
            Self::Maria(hosts) => {
                let mut held = held(hosts.pool()).await?;
                let done =
                    settled(limited(bound::<MySql>(sql, values).execute(held.get()?)).await, &mut held)?;
                Ok((done.rows_affected(), i64::try_from(done.last_insert_id()).unwrap_or(i64::MAX)))
            }
        }
    }

    /// The first row, if there is one.
    pub(crate) async fn one<T: Record>(&self, sql: impl SqlSafeStr, values: Vec<Val>) -> Result<Option<T>> {
        Ok(self.all(sql, values).await?.into_iter().next())
    }
}

/// Outside a transaction the connection is in a known state again when the server answered, whatever it said.
fn settled<T, DB: sqlx::Database>(result: Result<T>, held: &mut Held<DB>) -> Result<T> {
    held.known = !matches!(result, Err(Fault::Gone(_)));
    result
}

impl Hosts {
    fn pool(&self) -> &MySqlPool {
        &self.pools[self.current.load(Relaxed) % self.pools.len()]
    }

    pub(crate) fn pools(&self) -> &[MySqlPool] {
        &self.pools
    }
}

impl Open {
    /// Runs a statement: how many rows it matched (on both databases), and the number of the row that it
    /// inserted.
    pub(crate) async fn execute(&mut self, sql: SqlStr, values: Vec<Val>) -> Result<(u64, i64)> {
        match self {
            Self::Maria(held) => {
                let done = limited(bound::<MySql>(sql, values).execute(held.get()?)).await?;
                Ok((done.rows_affected(), i64::try_from(done.last_insert_id()).unwrap_or(i64::MAX)))
            }
            Self::Lite(held) => {
                let done = limited(bound::<Sqlite>(sql, values).execute(held.get()?)).await?;
                Ok((done.rows_affected(), done.last_insert_rowid()))
            }
        }
    }

    pub(crate) async fn fetch<T: Record>(&mut self, sql: SqlStr, values: Vec<Val>) -> Result<Vec<T>> {
        let rows = match self {
            Self::Maria(held) => {
                limited(decoded(bound::<MySql>(sql, values).fetch(held.get()?), |row| row)).await?
            }
            Self::Lite(held) => {
                limited(decoded(bound::<Sqlite>(sql, values).fetch(held.get()?), |row| row)).await?
            }
        };
        rows.map_err(Fault::from)
    }

    /// `COMMIT` or `ROLLBACK`; after it the connection may be used again.
    pub(crate) async fn close(mut self, word: &'static str) -> Result<()> {
        match &mut self {
            Self::Maria(held) => {
                limited(held.get()?.execute(word)).await?;
                held.known = true;
            }
            Self::Lite(held) => {
                limited(held.get()?.execute(word)).await?;
                held.known = true;
            }
        }
        Ok(())
    }
}

/// Every session: READ COMMITTED; limits below [`OPERATION_MAX`], so that the server gives up first.
async fn prepare_session(connection: &mut MySqlConnection) -> std::result::Result<(), sqlx::Error> {
    connection.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await?;
    connection.execute("SET SESSION innodb_lock_wait_timeout = 3").await?;
    // These two are MariaDB's (Galera: reads see what was committed on any node before); MySQL has neither.
    for optional in ["SET SESSION wsrep_sync_wait = 1", "SET SESSION max_statement_time = 4"] {
        if let Err(error) = connection.execute(optional).await
            && !matches!(error, sqlx::Error::Database(_))
        {
            return Err(error);
        }
    }
    Ok(())
}

async fn open_maria(config: &StoreConfig) -> std::result::Result<Db, StoreError> {
    let mut pools = Vec::new();
    let mut reached = false;
    let mut problem = String::new();
    let acquire_max = if config.urls.len() > 1 { ACQUIRE_MAX_OF_SEVERAL } else { ACQUIRE_MAX_OF_ONE };
    for url in &config.urls {
        if !url.starts_with("mysql://") && !url.starts_with("mariadb://") {
            return Err(StoreError::Config("a database URL starts with sqlite: or mysql://".into()));
        }
        let options = MySqlConnectOptions::from_str(url)
            .map_err(|error| StoreError::Config(error.to_string()))?
            .statement_cache_capacity(256);
        // An error of `after_connect` would only show as a timed-out pool: try it on a bare connection.
        match limited(check_host(&options)).await {
            Ok(()) => reached = true,
            Err(Fault::Gone(text) | Fault::Retry(text)) => problem = text,
            Err(other) => return Err(other.into()),
        }
        pools.push(
            MySqlPoolOptions::new()
                .max_connections(config.connections_max.max(2))
                .acquire_timeout(acquire_max)
                .after_connect(|connection, _| Box::pin(prepare_session(connection)))
                .connect_lazy_with(options),
        );
    }
    if !reached {
        return Err(StoreError::Unavailable(problem));
    }
    Ok(Db::Maria(Arc::new(Hosts { pools, current: AtomicUsize::new(0), retries: Retries::default() })))
}

async fn check_host(options: &MySqlConnectOptions) -> std::result::Result<(), sqlx::Error> {
    let mut connection = MySqlConnection::connect_with(options).await?;
    prepare_session(&mut connection).await?;
    connection.close().await
}

async fn open_sqlite(path: &Path, make: bool) -> std::result::Result<Db, StoreError> {
    let ready = if make { keep_private(path) } else { std::fs::metadata(path).map(drop) };
    ready.map_err(|error| StoreError::Config(format!("{}: {error}", path.display())))?;
    let mut options = SqliteConnectOptions::new()
        .filename(path)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(OPERATION_MAX)
        .foreign_keys(true);
    if make {
        // It stays in the file.
        options = options.journal_mode(SqliteJournalMode::Wal);
    }
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(OPERATION_MAX)
        .connect_with(options.clone())
        .await
        .map_err(Fault::from)?;
    let readers = SqlitePoolOptions::new()
        .max_connections(SQLITE_READERS)
        .acquire_timeout(OPERATION_MAX)
        .connect_lazy_with(options.read_only(true));
    Ok(Db::Lite { writer, readers, retries: Arc::default() })
}

/// The file holds crypt hashes: for its owner only, from its first moment (its WAL takes the same mode).
fn keep_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}
