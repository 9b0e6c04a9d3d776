//! `/availability-groups`.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};
use scaibunker_api::{
    error::ErrorCode,
    ids::{AvailabilityGroupId, ImageId, WorkerId},
    image::{AddGroupImage, AddGroupWorker, AvailabilityGroup, CreateAvailabilityGroup},
    permission::Permission,
};

use super::{
    answer::{Answer, ListAnswer, Made},
    body::JsonBody,
    fault::Fault,
    idempotency::IdempotencyKey,
    page::{ListQuery, Page},
    path::{PathId, PathPair},
    query::{NoQuery, Query},
    route::{
        Access::{Needs, Platform, Reads},
        Content, Route,
    },
    routes::api,
};
use crate::{app::App, creation::Created, domain::actor::Actor};

/// The routes of availability groups.
pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get(
            api!("/availability-groups"),
            "list_availability_groups",
            "Which images are kept on which workers",
            Reads(Permission::Create),
            list,
        )
        .query::<ListQuery>()
        .lists::<AvailabilityGroup>(),
        Route::post(
            api!("/availability-groups"),
            "create_availability_group",
            "Make a group of workers and the images they keep",
            Platform(Permission::Admin),
            create,
        )
        .with_idempotency()
        .body::<CreateAvailabilityGroup>()
        .answers::<AvailabilityGroup>(201)
        .fails(&[ErrorCode::AlreadyExists]),
        group(Route::get(
            api!("/availability-groups/{id}"),
            "get_availability_group",
            "A group with its members",
            Reads(Permission::Create),
            show,
        ))
        .answers::<AvailabilityGroup>(200),
        group(Route::delete(
            api!("/availability-groups/{id}"),
            "delete_availability_group",
            "Delete a group; its images stay where they are",
            Platform(Permission::Admin),
            delete,
        ))
        .with_answer(204, Content::Nothing)
        .fails(&[ErrorCode::InUse]),
        group(Route::post(
            api!("/availability-groups/{id}/images"),
            "add_availability_group_image",
            "Have the group's workers keep an image",
            Needs(Permission::ImagesManage),
            add_image,
        ))
        .body::<AddGroupImage>()
        .answers::<AvailabilityGroup>(200)
        .fails(&[ErrorCode::ImageNotFound]),
        group(Route::delete(
            api!("/availability-groups/{id}/images/{image_id}"),
            "remove_availability_group_image",
            "No longer have the group's workers keep an image",
            Needs(Permission::ImagesManage),
            remove_image,
        ))
        .param::<ImageId>("image_id")
        .with_answer(204, Content::Nothing)
        .fails(&[ErrorCode::ImageNotFound]),
        group(Route::post(
            api!("/availability-groups/{id}/workers"),
            "add_availability_group_worker",
            "Have a worker keep the group's images",
            Platform(Permission::Admin),
            add_worker,
        ))
        .body::<AddGroupWorker>()
        .answers::<AvailabilityGroup>(200),
        group(Route::delete(
            api!("/availability-groups/{id}/workers/{worker_id}"),
            "remove_availability_group_worker",
            "No longer have a worker keep the group's images",
            Platform(Permission::Admin),
            remove_worker,
        ))
        .param::<WorkerId>("worker_id")
        .with_answer(204, Content::Nothing),
    ]
}

fn group(route: Route) -> Route {
    route.param::<AvailabilityGroupId>("id").fails(&[ErrorCode::NotFound])
}

async fn list(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(query): Query<ListQuery>,
) -> Result<ListAnswer<AvailabilityGroup>, Fault> {
    let page = Page::parse(query.limit, query.cursor.as_deref())?;
    let found = app.images.groups(&actor, page.after, page.limit + 1).await?;
    Ok(page.answer(found, |group| group.id))
}

async fn create(
    State(app): State<Arc<App>>,
    actor: Actor,
    Query(NoQuery {}): Query<NoQuery>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CreateAvailabilityGroup>,
) -> Result<Made<Created<AvailabilityGroup>>, Fault> {
    let created = app.images.create_group(&actor, request, key).await?;
    Ok(Made(created.id(|made| made.id.to_string()), created))
}

async fn show(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<AvailabilityGroupId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<Answer<AvailabilityGroup>, Fault> {
    Ok(Answer::ok(app.images.group(&actor, id).await?))
}

async fn delete(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<AvailabilityGroupId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.images.delete_group(&actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_image(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<AvailabilityGroupId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(body): JsonBody<AddGroupImage>,
) -> Result<Answer<AvailabilityGroup>, Fault> {
    Ok(Answer::ok(app.images.add_image(&actor, id, body.image_id).await?))
}

async fn remove_image(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathPair(id, image_id): PathPair<AvailabilityGroupId, ImageId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.images.remove_image(&actor, id, image_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn add_worker(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathId(id): PathId<AvailabilityGroupId>,
    Query(NoQuery {}): Query<NoQuery>,
    JsonBody(body): JsonBody<AddGroupWorker>,
) -> Result<Answer<AvailabilityGroup>, Fault> {
    Ok(Answer::ok(app.images.add_worker(&actor, id, body.worker_id).await?))
}

async fn remove_worker(
    State(app): State<Arc<App>>,
    actor: Actor,
    PathPair(id, worker_id): PathPair<AvailabilityGroupId, WorkerId>,
    Query(NoQuery {}): Query<NoQuery>,
) -> Result<StatusCode, Fault> {
    app.images.remove_worker(&actor, id, worker_id).await?;
    Ok(StatusCode::NO_CONTENT)
}
