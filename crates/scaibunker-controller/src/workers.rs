//! Workers: what they ask of the controller (to be known, to be heard, to be linked), and what
//! operators do with them.

use std::{sync::Arc, time::Duration};

use hyper::upgrade::OnUpgrade;
use jiff::Timestamp;
use scaibunker_api::{
    error::ErrorCode,
    ids::WorkerId,
    worker::{Heartbeat, RegisterWorker, Worker, WorkerStatus},
};
use tokio_util::sync::CancellationToken;

use crate::{
    app::App,
    domain::worker::{WorkerRecord, check_images, check_registration},
    failure::{Failure, chain},
    fleet::{Heard, Link},
    store::{Removed, Updated},
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
        cpu_class: worker.cpu_class,
        capacity: worker.capacity,
        gpu_type: worker.gpu_type,
        network_profiles: worker.network_profiles,
        images: worker.images,
        last_heartbeat: Timestamp::now(),
        drained_at: None,
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
    if app.inbox.put(id, beat) {
        let app = Arc::clone(app);
        app.tasks.clone().spawn(async move {
            while let Some(Heartbeat { bunkers, image_cache, .. }) = app.inbox.next(id) {
                app.images.observe(id, &image_cache).await;
                app.reconciler.observe(id, &bunkers).await;
            }
        });
    }
    Ok(())
}

/// Has a worker take no new bunkers; those that it has go on. Or has it take them again.
pub async fn set_drained(app: &App, id: WorkerId, drained: bool) -> Result<Worker, Failure> {
    let at = drained.then(Timestamp::now);
    if app.store.set_drained(id, at).await? != Updated::Done {
        return Err(no_worker(id));
    }
    let is_drained = app.fleet.worker(id).is_some_and(|worker| worker.drained_at.is_some());
    if is_drained != drained {
        app.fleet.set_drained(id, at);
        tracing::info!(worker_id = %id, drained, "an operator changed what a worker takes");
    }
    app.bunkers.look_for_room(&[id]).await?;
    app.fleet.worker(id).ok_or_else(|| no_worker(id))
}

/// Forgets a worker that is offline and has no bunkers.
pub async fn remove(app: &App, id: WorkerId) -> Result<(), Failure> {
    let Some(worker) = app.fleet.worker(id) else { return Err(no_worker(id)) };
    let is_alive = worker.status != WorkerStatus::Offline
        || app.fleet.link(id).is_some()
        || app.ledger.alive().await?.contains(&id);
    if is_alive {
        let message = "the worker is online; stop it first, and wait until it counts as offline";
        return Err(Failure::new(ErrorCode::InUse, message));
    }
    match app.store.remove_worker(id, Timestamp::now()).await? {
        Removed::Done => {
            app.fleet.remove(id);
            tracing::info!(worker_id = %id, "a worker is removed");
            Ok(())
        }
        Removed::InUse(_) => {
            let message = "bunkers are still on the worker; they fail within seconds of its going \
                           offline: try again then";
            Err(Failure::new(ErrorCode::InUse, message))
        }
        _ => Err(no_worker(id)),
    }
}

/// Takes over what other controllers did with workers, and what bunkers take of them.
pub async fn follow(app: &App) -> Result<(), Failure> {
    app.fleet.follow(&app.store.drains().await?);
    app.bunkers.look_for_room(&app.fleet.ids()).await
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
    let drained_at = app.store.put_worker(&record).await?;
    app.fleet.register(WorkerRecord { drained_at, ..record });
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

fn no_worker(id: WorkerId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no worker {id}"))
}

fn unknown(id: WorkerId) -> Failure {
    Failure::new(ErrorCode::NotFound, format!("there is no worker {id}; register first"))
}
