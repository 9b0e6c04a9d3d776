//! `/bridges`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    bridge::{Bridge, CreateBridge},
    error::ErrorCode,
    ids::BridgeId,
    permission::Permission,
};

use super::{
    answer::{ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    page::{ListQuery, Page},
    path::PathId,
    query::{NoQuery, Query},
    route::{Access::Platform, Content, Route},
    routes::api,
};
use crate::{app::App, domain::actor::Actor};

/// The routes of bridges.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            api!("/bridges"),
            "list_bridges",
            "Bridges of workers that `transit` bunkers may be attached to, newest first",
            Platform(Permission::Admin),
            list,
        )
        .query::<ListQuery>()
        .lists::<Bridge>(),
        Route::post(
            api!("/bridges"),
            "create_bridge",
            "Make a bridge on a worker, or take one that its host has",
            Platform(Permission::Admin),
            create,
        )
        .body::<CreateBridge>()
        .answers::<Bridge>(201)
        .fails(&[
            ErrorCode::AlreadyExists,
            ErrorCode::WorkerUnavailable,
            ErrorCode::NoSuitableWorker,
            ErrorCode::ProvisioningFailed,
        ]),
        Route::delete(
            api!("/bridges/{id}"),
            "delete_bridge",
            "Remove a bridge that no bunker is attached to",
            Platform(Permission::Admin),
            delete,
        )
        .param::<BridgeId>("id")
        .with_answer(204, Content::Nothing)
        .fails(&[
            ErrorCode::NotFound,
            ErrorCode::InUse,
            ErrorCode::WorkerUnavailable,
            ErrorCode::ProvisioningFailed,
        ]),
    ]
}

async fn list(
    State(app): State<Arc<App>>,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<Bridge>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.bridges.list(page.after, page.limit + 1).await?;
    Ok(page.answer(found, |bridge| bridge.id))
}

async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(request): JsonBody<CreateBridge>,
) -> Result<Made<Bridge>, Fault> {
    let bridge = app.bridges.create(&actor, request).await?;
    Ok(Made(bridge.id.to_string(), bridge))
}

async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<BridgeId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.bridges.delete(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
