//! Calls on commands that run or are remembered.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    ids::{BunkerId, ExecId},
    worker::{ExecReport, ResizeTerminal, SendSignal},
};
use scaibunker_guest_protocol::{GuestErrorKind, exec};
use serde::Serialize;
use tokio::time::timeout;

use super::{
    guest_call,
    input::InputReader,
    routes::{Failure, read_json, request_id},
};
use crate::{
    channel::ChannelError,
    execs::{ended, terminal_size},
    supervisor::Supervisor,
};

/// A guest takes a signal in a millisecond; one that takes this long does not answer any more.
const GUEST_LIMIT: Duration = Duration::from_secs(5);

type Supervised = State<Arc<Supervisor>>;
type Named = Path<(BunkerId, ExecId)>;

pub(super) async fn list(
    State(supervisor): Supervised,
    Path(id): Path<BunkerId>,
) -> Result<Json<Vec<ExecReport>>, Failure> {
    Ok(Json(supervisor.execs(id)?.reports()))
}

pub(super) async fn show(
    State(supervisor): Supervised,
    Path((id, exec_id)): Named,
) -> Result<Json<ExecReport>, Failure> {
    Ok(Json(supervisor.execs(id)?.get(exec_id)?.report()))
}

pub(super) async fn remove(
    State(supervisor): Supervised,
    Path((id, exec_id)): Named,
) -> Result<StatusCode, Failure> {
    supervisor.execs(id)?.remove(exec_id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Answered once everything is on its way into the command.
pub(super) async fn input(
    State(supervisor): Supervised,
    Path((id, exec_id)): Named,
    body: Body,
) -> Result<StatusCode, Failure> {
    let exec = supervisor.execs(id)?.get(exec_id)?;
    exec.takes_input()?;
    supervisor.refuse_paused(id)?;
    InputReader::new(body).feed(&exec).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn signal(
    State(supervisor): Supervised,
    Path(named): Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Failure> {
    let SendSignal { signal } = read_json(&body)?;
    if !(1..=64).contains(&signal) {
        let message = "it is a signal's number, 1 to 64";
        return Err(ErrorBody::invalid("signal", message).into());
    }
    tell(&supervisor, named, "signal", &exec::SendSignal { signal }, &headers).await
}

pub(super) async fn resize(
    State(supervisor): Supervised,
    Path(named): Named,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Failure> {
    let size = terminal_size(read_json::<ResizeTerminal>(&body)?)?;
    tell(&supervisor, named, "resize", &size, &headers).await
}

/// Tells the guest something about a running command.
async fn tell<T: Serialize>(
    supervisor: &Supervisor,
    (id, exec_id): (BunkerId, ExecId),
    what: &str,
    value: &T,
    headers: &HeaderMap,
) -> Result<StatusCode, Failure> {
    let exec = supervisor.execs(id)?.get(exec_id)?;
    // The guest does not know a command before it runs.
    let begun = timeout(GUEST_LIMIT, exec.begun()).await;
    begun.map_err(|_| ErrorBody::new(ErrorCode::ExecFailed, "the command does not start"))?;
    if exec.has_ended() {
        return Err(ended(exec_id).into());
    }
    let channel = supervisor.guest(id)?.channel;
    let path = format!("/execs/{exec_id}/{what}");
    match channel.post(&path, value, &request_id(headers), GUEST_LIMIT).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(ChannelError::Refused(error)) => Err(Failure(match error.kind {
            GuestErrorKind::NotFound => ended(exec_id),
            GuestErrorKind::Invalid => ErrorBody::new(ErrorCode::ValidationError, error.message),
            _ => ErrorBody::new(ErrorCode::ExecFailed, error.message),
        })),
        Err(error @ ChannelError::Timeout { .. }) => {
            Err(Failure(ErrorBody::new(ErrorCode::ExecFailed, error.to_string())))
        }
        Err(error) => {
            Err(Failure(guest_call::broken(supervisor, id, &error, ErrorCode::ExecFailed).await))
        }
    }
}
