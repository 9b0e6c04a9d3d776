//! What workers ask of the controller: to be known, to be heard, to be linked.

use std::{sync::Arc, time::Duration};

use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    ids::WorkerId,
    worker::{Heartbeat, RegisterWorker},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    domain::worker::{WorkerRecord, check_images, check_registration},
    failure::{Failure, chain},
    fleet::{Heard, Link},
};

/// How long an upgraded connection may take to become a link.
const UPGRADE_LIMIT: Duration = Duration::from_secs(10);

/// Takes a worker in, under its earlier id if it has one.
pub async fn register(app: &App, worker: RegisterWorker) -> Result<WorkerId, Failure> {
    check_registration(&worker)?;
    let record = WorkerRecord {
        id: worker.worker_id.unwrap_or_else(WorkerId::generate),
        name: worker.name,
        version: worker.version,
        engine: worker.engine,
        capacity: worker.capacity,
        images: worker.images,
        last_heartbeat: Timestamp::now(),
    };
    let id = record.id;
    let is_new = app.fleet.record(id).is_none();
    store_worker(app, record).await?;
    if is_new {
        app.store.welcome_worker(id).await?;
    }
    app.images.observe_all(id, &worker.image_cache).await;
    tracing::info!(worker_id = %id, "a worker registered");
    Ok(id)
}

/// Hears a worker; what it reports is settled by a task of its own.
pub async fn heartbeat(app: &Arc<App>, id: WorkerId, beat: Heartbeat) -> Result<(), Failure> {
    check_images(&beat.images)?;
    let now = Timestamp::now();
    match app.fleet.heard_from(id, &beat.images, now) {
        Heard::Unknown => return Err(unknown(id)),
        Heard::Known { images_changed: false } => app.store.note_heartbeat(id, now).await?,
        Heard::Known { images_changed: true } => {
            let Some(record) = app.fleet.record(id) else { return Err(unknown(id)) };
            let record = WorkerRecord { images: beat.images.clone(), ..record };
            store_worker(app, record).await?;
        }
    }
    if let Err(error) = app.ledger.note_alive(id, app.fleet.stale_after()).await {
        app.metrics.ledger_failures.inc();
        tracing::warn!(worker_id = %id, error = chain(&error), "other controllers did not hear of it");
    }
    let (app, Heartbeat { bunkers, image_cache, .. }) = (Arc::clone(app), beat);
    app.tasks.clone().spawn(async move {
        app.images.observe(id, &image_cache).await;
        app.reconciler.observe(id, &bunkers).await;
    });
    Ok(())
}

/// Makes a link of the connection that `upgrade` yields, once it does.
pub fn link(app: &Arc<App>, id: WorkerId, upgrade: OnUpgrade) -> Result<(), Failure> {
    if app.fleet.record(id).is_none() {
        return Err(unknown(id));
    }
    let app = Arc::clone(app);
    app.tasks.clone().spawn(async move { carry(&app, id, upgrade).await });
    Ok(())
}

async fn store_worker(app: &App, record: WorkerRecord) -> Result<(), Failure> {
    app.store.put_built_in_images(&record.images, Timestamp::now()).await?;
    app.store.put_worker(&record).await?;
    app.fleet.register(record);
    Ok(())
}

async fn carry(app: &Arc<App>, worker_id: WorkerId, upgrade: OnUpgrade) {
    let closed = CancellationToken::new();
    let opening = async {
        let connection = upgrade.await.map_err(|error| chain(&error))?;
        Link::open(worker_id, connection, closed.clone()).await.map_err(|error| chain(&error))
    };
    let opened = tokio::time::timeout(UPGRADE_LIMIT, opening).await;
    let (link, carrier) = match opened.unwrap_or_else(|_| Err("it took too long".to_owned())) {
        Ok(opened) => opened,
        Err(error) => return tracing::warn!(%worker_id, error, "a link could not be opened"),
    };
    if let Some(replaced) = app.fleet.attach(link.clone()) {
        replaced.close();
    }
    tracing::info!(%worker_id, "a worker is linked");
    let reconciled = Arc::clone(app);
    app.tasks.spawn(async move { reconciled.reconciler.reconcile(worker_id).await });
    tokio::select! {
        ended = carrier => match ended {
            Ok(()) => tracing::info!(%worker_id, "a link ended"),
            Err(error) => tracing::warn!(%worker_id, error = chain(&error), "a link broke"),
        },
        () = closed.cancelled() => tracing::info!(%worker_id, "a newer link took over"),
        () = app.stopped.cancelled() => {}
    }
    app.fleet.detach(&link);
}

fn unknown(id: WorkerId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no worker {id}; register first"))
}
