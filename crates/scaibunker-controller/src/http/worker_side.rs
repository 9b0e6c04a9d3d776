//! `/workers`, as workers use it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::WorkerId,
    worker::{Heard, Heartbeat, LINK_PROTOCOL, RegisterWorker, Registered},
};

use super::{answer::Answer, body::JsonBody, fault::Fault, path::PathId};
use crate::{app::App, workers};

pub(super) async fn register(
    State(app): State<Arc<App>>,
    JsonBody(worker): JsonBody<RegisterWorker>,
) -> Result<Answer<Registered>, Fault> {
    let worker_id = workers::register(&app, worker).await?;
    let (controller_id, controllers) = (Some(app.replicas.id()), app.replicas.addresses());
    Ok(Answer::ok(Registered { worker_id, controller_id, controllers }))
}

pub(super) async fn heartbeat(
    State(app): State<Arc<App>>,
    PathId(id): PathId<WorkerId>,
    JsonBody(beat): JsonBody<Heartbeat>,
) -> Result<Answer<Heard>, Fault> {
    workers::heartbeat(&app, id, beat).await?;
    Ok(Answer::ok(Heard { controllers: app.replicas.addresses() }))
}

pub(super) async fn link(
    State(app): State<Arc<App>>,
    PathId(id): PathId<WorkerId>,
    mut request: Request,
) -> Result<Response, Fault> {
    let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    if !asked.is_some_and(|asked| asked.eq_ignore_ascii_case(LINK_PROTOCOL)) {
        let message = format!("a link is asked for with HTTP/1.1 and `Upgrade: {LINK_PROTOCOL}`");
        return Err(ErrorBody::new(ErrorCode::BadRequest, message).into());
    }
    workers::link(&app, id, hyper::upgrade::on(&mut request))?;
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(LINK_PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}
