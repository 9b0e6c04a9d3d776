//! Streams of commands: starting one, and joining one.
//!
//! Both directions are frames (`scaibunker_guest_protocol::frame`). Nothing is kept here: input is
//! read only when the guest has room for it, and output when the controller has.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody as _},
    extract::{Path, Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::ExecMode,
    ids::{BunkerId, ExecId},
    worker::StartExec,
};
use scaibunker_guest_protocol::frame::{Frame, FrameKind};
use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    input::{InputReader, Piece},
    routes::{Failure, request_id},
};
use crate::{
    channel::GuestBody,
    execs::{Exec, Keeper, Reader, Run, guest_spec},
    storage::StorageClient,
    supervisor::Supervisor,
};

/// How long the controller may take to send the first frame.
const SPEC_LIMIT: Duration = Duration::from_secs(10);
/// The head of an answer waits this long for its first frames: together they are one write.
const HEAD_LIMIT: Duration = Duration::from_millis(50);

pub(super) async fn start(
    State(supervisor): State<Arc<Supervisor>>,
    State(storage): State<Arc<StorageClient>>,
    Path(bunker_id): Path<BunkerId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let (guest, execs) = (supervisor.guest(bunker_id)?, supervisor.execs(bunker_id)?);
    let (bunker, working) = (supervisor.watch(bunker_id)?, guest.activity.work());
    let mut input = InputReader::new(body);
    let start = read_start(&mut input).await?;
    let request_id = request_id(&headers);
    let spec = guest_spec(&start, &guest.claim, &request_id)?;
    let spec = Frame::json(FrameKind::Spec, &spec).map_err(|e| bad(e.to_string()))?;
    let mut wire = BytesMut::from(&spec.encode()[..]);
    let arrived = input.gather(&mut wire)?;

    let (exec, fed) = execs.begin(&start)?;
    let reader = Reader::new(&exec, None, true)?;
    let closes = match arrived {
        Some(Piece::End) => true,
        Some(Piece::Over) => start.mode == ExecMode::Attached,
        _ => false,
    };
    let request = if closes {
        exec.close_input();
        wire.extend_from_slice(&Frame::data(FrameKind::StdinEnd, Bytes::new()).encode());
        GuestBody::Whole(wire.freeze())
    } else {
        open_ended(wire.freeze(), fed)
    };
    let run = Run {
        bunker_id,
        bunker,
        working,
        execs,
        exec: Arc::clone(&exec),
        channel: guest.channel,
        request,
        request_id,
        keeper: start.keep_output.then(|| Keeper::new(&storage, bunker_id, exec.id)),
    };
    tokio::spawn(run.drive().instrument(tracing::Span::current()));
    if arrived.is_none() {
        tokio::spawn(feed(exec, input, reader.id(), reader.gone(), true));
    }
    Ok(answer(reader).await)
}

async fn read_start(input: &mut InputReader) -> Result<StartExec, ErrorBody> {
    let spec = timeout(SPEC_LIMIT, input.spec())
        .await
        .map_err(|_| bad("the exec request never said what to run"))??;
    spec.parse().map_err(|e| bad(e.to_string()))
}

/// A request that goes on with what is fed to the command.
fn open_ended(first: Bytes, fed: mpsc::Receiver<Bytes>) -> GuestBody {
    let pieces = stream::once(std::future::ready(first)).chain(ReceiverStream::new(fed));
    GuestBody::Stream(Body::from_stream(pieces.map(Ok::<_, Infallible>)))
}

/// Where a client joins.
#[derive(Debug, Deserialize)]
pub(super) struct Joining {
    /// The oldest output that is there, unless told.
    from_seq: Option<u64>,
}

pub(super) async fn attach(
    State(supervisor): State<Arc<Supervisor>>,
    Path((bunker_id, exec_id)): Path<(BunkerId, ExecId)>,
    joining: Result<Query<Joining>, QueryRejection>,
    body: Body,
) -> Result<Response, Failure> {
    let exec = supervisor.execs(bunker_id)?.get(exec_id)?;
    if !exec.has_ended() {
        supervisor.refuse_paused(bunker_id)?;
    }
    let Query(Joining { from_seq }) =
        joining.map_err(|_| ErrorBody::invalid("from_seq", "it is the number of an output"))?;
    let reader = Reader::new(&exec, from_seq, false)?;
    if !body.is_end_stream() {
        tokio::spawn(feed(exec, InputReader::new(body), reader.id(), reader.gone(), false));
    }
    Ok(answer(reader).await)
}

/// Feeds a command with what its client sends, until that goes. `is_first`: the client that
/// started it.
async fn feed(
    exec: Arc<Exec>,
    mut input: InputReader,
    reader_id: u64,
    gone: CancellationToken,
    is_first: bool,
) {
    let fed = tokio::select! {
        biased;
        () = gone.cancelled() => return,
        fed = input.feed(&exec) => fed,
    };
    let is_primary = is_first && exec.mode == ExecMode::Attached;
    match fed {
        Ok(true) => {}
        Ok(false) if is_primary => exec.end_input().await,
        Ok(false) => {}
        // The command's last words are on their way.
        Err(error) if error.code == ErrorCode::ExecEnded => {}
        Err(error) if error.code == ErrorCode::StdinClosed && is_primary => {}
        // Half an input must not look like a whole one.
        Err(error) if is_primary => exec.cancel(error),
        Err(error) => exec.expel(reader_id, error),
    }
}

async fn answer(mut reader: Reader) -> Response {
    let first = timeout(HEAD_LIMIT, reader.next()).await.ok().flatten();
    if reader.has_ended() {
        return Body::from(first.unwrap_or_default()).into_response();
    }
    let rest = stream::unfold(reader, async |mut reader| Some((reader.next().await?, reader)));
    let frames = stream::iter(first).chain(rest);
    Body::from_stream(frames.map(Ok::<_, Infallible>)).into_response()
}

fn bad(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, message)
}
