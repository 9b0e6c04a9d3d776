//! Opening a database: what SQLite and PostgreSQL do not have in common.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use sqlx::{
    AnyPool, Connection as _, Executor as _,
    any::{AnyConnectOptions, AnyPoolOptions, install_default_drivers},
    migrate::Migrator,
};

use super::{Store, StoreError};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!();

/// Connections to SQLite that read; each is a thread of its own.
const SQLITE_READERS: u32 = 4;

/// There is one connection to write over.
const SQLITE_LANES: usize = 1;

/// Connections to PostgreSQL; each is a process of the server.
const POSTGRES_CONNECTIONS: u32 = 16;

/// Of those, how many write bunkers' changes at once: while one waits for the server's disk,
/// another works.
const POSTGRES_LANES: usize = 2;

/// A connection to PostgreSQL that was idle for longer is tested before it is used. No server
/// restarts faster than this, so whatever a restart has broken is found, and a busy server's
/// connections are never tested.
const UNTESTED_LIMIT: Duration = Duration::from_millis(100);

/// How long a request waits for a connection before it fails.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// With a write-ahead log and NORMAL, a commit is in the kernel's hands before it is acknowledged:
/// it outlives a killed process. Only a power cut can undo the last few commits, and takes the
/// bunkers they speak of with it.
const SQLITE_PRAGMAS: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; \
     PRAGMA foreign_keys = ON; PRAGMA busy_timeout = 5000; PRAGMA cache_size = -16000; \
     PRAGMA temp_store = MEMORY";

/// A statement that waits for somebody else's lock, or runs away, fails its request and no other.
const POSTGRES_LIMITS: &str = "SET lock_timeout = '10s'; SET statement_timeout = '30s'; \
     SET idle_in_transaction_session_timeout = '60s'";

/// Where the database is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A file, made if it is missing.
    Sqlite(PathBuf),
    /// A `postgres://` URL, which may hold a password.
    Postgres(url::Url),
}

/// The text names no database that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is neither a `postgres://` URL nor `sqlite:` and a file")]
pub struct InvalidDatabaseUrl;

impl FromStr for DatabaseUrl {
    type Err = InvalidDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidDatabaseUrl> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(InvalidDatabaseUrl)
            } else {
                Ok(Self::Sqlite(path.into()))
            };
        }
        let url: url::Url = text.parse().map_err(|_| InvalidDatabaseUrl)?;
        match url.scheme() {
            "postgres" | "postgresql" => Ok(Self::Postgres(url)),
            _ => Err(InvalidDatabaseUrl),
        }
    }
}

/// Without a password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "{}", path.display()),
            Self::Postgres(url) => {
                let (host, port) = (url.host_str().unwrap_or_default(), url.port().unwrap_or(5432));
                write!(f, "postgres://{host}:{port}{}", url.path())
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl Store {
    /// Opens the database and brings it to this version's schema.
    pub async fn open(database: &DatabaseUrl) -> Result<Self, StoreError> {
        install_default_drivers();
        let failed = |source| StoreError::Open { database: database.to_string(), source };
        match database {
            DatabaseUrl::Sqlite(path) => {
                let options = sqlite_options(path).map_err(failed)?;
                let writer = sqlite(&options, 1).await.map_err(failed)?;
                MIGRATIONS.run(&writer).await.map_err(StoreError::Migrate)?;
                // Not before: sqlx would go on counting a table's columns as they were then.
                let readers = sqlite(&options, SQLITE_READERS).await.map_err(failed)?;
                Ok(Self::new(writer, readers, SQLITE_LANES))
            }
            DatabaseUrl::Postgres(url) => {
                let pool = postgres(url).await.map_err(failed)?;
                MIGRATIONS.run(&pool).await.map_err(StoreError::Migrate)?;
                Ok(Self::new(pool.clone(), pool, POSTGRES_LANES))
            }
        }
    }
}

fn sqlite_options(path: &Path) -> Result<AnyConnectOptions, sqlx::Error> {
    let path = std::path::absolute(path)?;
    let mut url = url::Url::from_file_path(&path)
        .map_err(|()| sqlx::Error::Configuration("the path has no URL".into()))?;
    url.set_query(Some("mode=rwc"));
    // `file:///a/b` is `sqlite:///a/b` here; a file's URL cannot be given another scheme in place.
    AnyConnectOptions::from_str(&url.as_str().replacen("file", "sqlite", 1))
}

/// SQLite takes one writer at a time: with one connection writers queue here, in order, instead of
/// polling a lock.
async fn sqlite(options: &AnyConnectOptions, connections: u32) -> Result<AnyPool, sqlx::Error> {
    let prepared = pool_options(connections).after_connect(|connection, _| {
        Box::pin(async move { connection.execute(SQLITE_PRAGMAS).await.map(drop) })
    });
    prepared.connect_with(options.clone()).await
}

async fn postgres(url: &url::Url) -> Result<AnyPool, sqlx::Error> {
    let options = AnyConnectOptions::from_str(url.as_str())?;
    let tested = pool_options(POSTGRES_CONNECTIONS).before_acquire(|connection, of| {
        Box::pin(async move {
            if of.idle_for >= UNTESTED_LIMIT {
                connection.ping().await?;
            }
            Ok(true)
        })
    });
    let bounded = tested.after_connect(|connection, _| {
        Box::pin(async move { connection.execute(POSTGRES_LIMITS).await.map(drop) })
    });
    bounded.connect_with(options).await
}

fn pool_options(connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .min_connections(connections.min(4))
        .max_connections(connections)
        .acquire_timeout(CONNECTION_LIMIT)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_apart_and_hide_their_password() {
        assert_eq!("sqlite:/a/b.db".parse(), Ok(DatabaseUrl::Sqlite("/a/b.db".into())));
        assert_eq!("sqlite:///a/b.db".parse(), Ok(DatabaseUrl::Sqlite("/a/b.db".into())));
        let url: DatabaseUrl = "postgres://me:secret@db.example/bunkers".parse().unwrap();
        assert_eq!(format!("{url} {url:?}").matches("secret").count(), 0);
        assert_eq!(url.to_string(), "postgres://db.example:5432/bunkers");
        for wrong in ["", "sqlite:", "mysql://a/b", "/a/b.db"] {
            assert_eq!(wrong.parse::<DatabaseUrl>(), Err(InvalidDatabaseUrl), "{wrong}");
        }
    }
}
