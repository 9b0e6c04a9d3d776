//! What a controller asks of a worker's bridges.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    worker::MakeBridge,
};

use super::routes::{Failure, read_json};
use crate::{network::Bridges, supervisor::Supervisor};

pub(super) async fn ensure(
    State(supervisor): State<Arc<Supervisor>>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<StatusCode, Failure> {
    let bridge: MakeBridge = read_json(&body)?;
    change(supervisor, move |bridges| bridges.ensure(&name, bridge)).await
}

pub(super) async fn remove(
    State(supervisor): State<Arc<Supervisor>>,
    Path(name): Path<String>,
) -> Result<StatusCode, Failure> {
    change(supervisor, move |bridges| bridges.remove(&name)).await
}

async fn change(
    supervisor: Arc<Supervisor>,
    work: impl FnOnce(&Bridges) -> Result<(), ErrorBody> + Send + 'static,
) -> Result<StatusCode, Failure> {
    let Some(networks) = supervisor.networks() else {
        let message = "this worker cannot make networks; its log says why";
        return Err(ErrorBody::new(ErrorCode::NoSuitableWorker, message).into());
    };
    let done = tokio::task::spawn_blocking(move || work(&networks.bridges)).await;
    let lost = |lost| ErrorBody::new(ErrorCode::Internal, format!("the work was lost: {lost}"));
    done.map_err(lost)??;
    Ok(StatusCode::NO_CONTENT)
}
