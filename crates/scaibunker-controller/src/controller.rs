//! The controller's life: open, serve, end.

use std::{future::Future, sync::Arc, time::Duration};

use jiff::Timestamp;
use scaibunker_storage::{Objects, SigningSecret, WorkerToken};
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Foundations},
    config::{ControllerConfig, ObjectsConfig},
    credentials::{Credentials, OidcError},
    data_dir::{DataDir, DataDirError},
    failure::chain,
    http,
    ledger::{LedgerError, MemoryLedger, RedisLedger, SharedLedger},
    quotas::fill_ledger,
    server::{self, Endings, TlsError, TlsFiles},
    snapshots::KeyRing,
    store::{Store, StoreError},
    tasks,
};

/// What the ledger's keys in Redis begin with.
const LEDGER_PREFIX: &str = "scaibunker";

/// What requests get to say good-bye once their time is over.
const FAREWELL_LIMIT: Duration = Duration::from_secs(2);

/// The controller cannot run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    #[error("the worker token is empty; set SCAIBUNKER_WORKER_TOKEN")]
    NoWorkerToken,
    /// What several controllers have in common was not given.
    #[error(
        "a controller with --advertise is one of several, which share a database server, a Redis \
         server and SCAIBUNKER_CAPABILITY_SECRET: {0} is not given"
    )]
    NotShared(&'static str),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Oidc(#[from] OidcError),
    #[error(transparent)]
    Objects(#[from] scaibunker_storage::OpenError),
    #[error("cannot serve TLS")]
    Tls(#[from] TlsError),
    /// A bug: what the task did is not done any more.
    #[error("a background task ended: {0}")]
    TaskEnded(String),
}

/// A controller that is ready to serve.
pub struct Controller {
    app: Arc<App>,
    storage: axum::Router,
    tls: Option<TlsAcceptor>,
    drain_limit: Duration,
    /// Held until everything else has ended.
    data_dir: DataDir,
}

impl Controller {
    /// Locks the data directory, migrates the database and makes sure that there is an admin key.
    pub async fn open(config: ControllerConfig) -> Result<Self, ControllerError> {
        if config.worker_token.is_empty() {
            return Err(ControllerError::NoWorkerToken);
        }
        if config.advertise_url.is_some() {
            let shared = [
                ("a database server", config.database.is_some()),
                ("a Redis server", config.redis.is_some()),
                ("SCAIBUNKER_CAPABILITY_SECRET", config.capability_secret.is_some()),
            ];
            if let Some((what, _)) = shared.iter().find(|(_, is_given)| !is_given) {
                return Err(ControllerError::NotShared(what));
            }
        }
        let tls = config.tls.map(TlsFiles::acceptor).transpose()?;
        let data_dir = DataDir::lock(&config.data_dir)?;
        let database = config.database.unwrap_or_else(|| data_dir.database());
        let store = Store::open(&database).await?;
        store.ensure_foundations(Timestamp::now()).await?;
        data_dir.ensure_admin_key(&store, config.advertise_url.is_some()).await?;
        let ledger: SharedLedger = match &config.redis {
            Some(url) => Arc::new(RedisLedger::new(url, LEDGER_PREFIX)?),
            None => Arc::new(MemoryLedger::default()),
        };
        if let Err(error) = fill_ledger(&store, &ledger).await {
            // Redis may come later than this process; then the first who needs it fills it.
            tracing::warn!(error = chain(&error), "the quota ledger is not filled yet");
        }
        let credentials = Credentials::new(store.clone(), config.platform_max, config.oidc)?;
        let worker_token = WorkerToken::new(&config.worker_token);
        let secret = match config.capability_secret {
            Some(secret) => secret,
            None => data_dir.capability_secret()?,
        };
        let mut secret = SigningSecret::new(&secret);
        if let Some(previous) = &config.capability_secret_previous {
            secret = secret.accepting(previous);
        }
        let objects = match config.objects {
            ObjectsConfig::S3(s3) => Objects::s3(s3, secret.clone())?,
            ObjectsConfig::Directory => Objects::directory(&data_dir.objects(), secret.clone())?,
        };
        let storage = scaibunker_storage::router(objects.clone(), worker_token.clone());
        let app = App::wire(Foundations {
            store,
            ledger,
            credentials,
            objects,
            secret,
            worker_token,
            stale_after: config.worker_stale_after,
            public_url: config.public_url,
            scheme: if tls.is_some() { "https" } else { "http" },
            advertise_url: config.advertise_url,
            rate_limits: config.rate_limits,
            trusted_proxies: config.trusted_proxies,
            require_egress_audit: config.require_egress_audit,
            audit_retention_days: config.audit_retention_days,
            snapshot_keys: KeyRing::new(config.snapshot_secret, config.snapshot_secret_previous),
            snapshot_retention_days: config.snapshot_retention_days,
            trivy: config.trivy,
            scan_dir: data_dir.scans(),
        })
        .await?;
        Ok(Self { app, storage, tls, drain_limit: config.drain_limit, data_dir })
    }

    /// Serves until `shutdown`, then lets requests end: those that have not after the drain limit
    /// are told so and cut. Returns once nothing of the controller runs any more.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ControllerError> {
        let Self { app, storage, tls, drain_limit, data_dir } = self;
        let router = http::router(Arc::clone(&app), storage);
        let endings = Endings { draining: app.draining.clone(), cut: CancellationToken::new() };
        let cut = endings.cut.clone();
        let mut background = tasks::spawn_all(&app, &app.stopped);

        let accepting = tokio::spawn(server::accept(listener, tls, router, endings));
        let result = tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = background.join_next() => Err(task_ended(ended)),
        };
        tracing::info!("shutting down: no new connections");
        app.draining.cancel();
        if let Ok(connections) = accepting.await
            && !ends_within(drain_limit, connections.wait()).await
        {
            tracing::warn!(left = connections.len(), "some requests did not end in time");
            app.drained.cancel();
            if !ends_within(FAREWELL_LIMIT, connections.wait()).await {
                cut.cancel();
                connections.wait().await;
            }
        }
        app.drained.cancel();
        app.tasks.close();
        app.stopped.cancel();
        // Links among them: what still waits for a worker ends when its link does.
        if !ends_within(FAREWELL_LIMIT, app.tasks.wait()).await {
            tracing::warn!(left = app.tasks.len(), "some work did not end in time");
        }
        drain(&mut background).await;
        app.replicas.leave().await;
        app.store.close().await;
        drop(data_dir);
        result
    }
}

async fn ends_within(limit: Duration, end: impl Future<Output = ()>) -> bool {
    timeout(limit, end).await.is_ok()
}

async fn drain(background: &mut JoinSet<&'static str>) {
    if !ends_within(FAREWELL_LIMIT, async { while background.join_next().await.is_some() {} }).await
    {
        background.abort_all();
    }
}

fn task_ended(ended: Option<Result<&'static str, tokio::task::JoinError>>) -> ControllerError {
    ControllerError::TaskEnded(match ended {
        Some(Ok(name)) => name.to_owned(),
        Some(Err(error)) => error.to_string(),
        None => "none was started".to_owned(),
    })
}
