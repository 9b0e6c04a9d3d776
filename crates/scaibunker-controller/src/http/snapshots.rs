//! `/snapshots`, and a bunker's `/snapshot`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    error::ErrorCode,
    ids::{BunkerId, SnapshotId},
    permission::Permission,
    snapshot::{CreateSnapshot, PatchSnapshot, Snapshot, SnapshotCheck},
};

use super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    bunkers::{CreateQuery, note},
    fault::Fault,
    idempotency::IdempotencyKey,
    page::{ListQuery, Page},
    path::PathId,
    query::{NoQuery, Query},
    route::{
        Access::{Authenticated, Needs},
        Content, Route,
    },
    routes::api,
};
use crate::{app::App, creation::Created, domain::actor::Actor};

/// The routes of snapshots.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post(
            api!("/bunkers/{id}/snapshot"),
            "create_snapshot",
            "Keep what a bunker's disk holds at this moment; the bunker goes on",
            Needs(Permission::Create),
            create,
        )
        .with_idempotency()
        .param::<BunkerId>("id")
        .query::<CreateQuery>()
        .body::<CreateSnapshot>()
        .answers::<Snapshot>(201)
        .fails(&[ErrorCode::BunkerNotRunning, ErrorCode::ImageNotFound]),
        Route::get(
            api!("/snapshots"),
            "list_snapshots",
            "Snapshots, newest first: your own, or your tenant's for an admin of it",
            Authenticated,
            list,
        )
        .query::<ListQuery>()
        .lists::<Snapshot>(),
        Route::get(
            api!("/snapshots/{id}"),
            "get_snapshot",
            "A snapshot's record",
            Authenticated,
            show,
        )
        .param::<SnapshotId>("id")
        .answers::<Snapshot>(200),
        Route::patch(
            api!("/snapshots/{id}"),
            "update_snapshot",
            "Change a snapshot's name or expiry",
            Needs(Permission::Create),
            patch,
        )
        .param::<SnapshotId>("id")
        .body::<PatchSnapshot>()
        .answers::<Snapshot>(200),
        Route::delete(
            api!("/snapshots/{id}"),
            "delete_snapshot",
            "Delete a snapshot; what no other has of it is freed within two hours",
            Needs(Permission::Create),
            delete,
        )
        .param::<SnapshotId>("id")
        .with_answer(204, Content::Nothing),
        Route::post(
            api!("/snapshots/{id}/verify"),
            "verify_snapshot",
            "Read everything of a snapshot and compare it with what was written",
            Needs(Permission::Create),
            verify,
        )
        .param::<SnapshotId>("id")
        .answers::<SnapshotCheck>(200)
        .fails(&[ErrorCode::SnapshotNotReady, ErrorCode::SnapshotDamaged]),
    ]
}

async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BunkerId>,
    Query(query): Query<CreateQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateSnapshot>,
) -> Result<Made<Created<Snapshot>>, Fault> {
    note(id);
    let created = app.snapshots.create(&actor, id, request, key, query.wait()?).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Snapshot>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.snapshots.list(&actor, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |snapshot| snapshot.id))
}

async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<SnapshotId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<Snapshot>, Fault> {
    Ok(Answer::ok(app.snapshots.get(&actor, id).await?))
}

async fn patch(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<SnapshotId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(patch): JsonBody<PatchSnapshot>,
) -> Result<Answer<Snapshot>, Fault> {
    Ok(Answer::ok(app.snapshots.patch(&actor, id, patch).await?))
}

async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<SnapshotId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.snapshots.delete(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn verify(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<SnapshotId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<SnapshotCheck>, Fault> {
    Ok(Answer::ok(app.snapshots.verify(&actor, id).await?))
}
