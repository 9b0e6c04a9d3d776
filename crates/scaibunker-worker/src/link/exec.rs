//! One command, from the link to the guest agent and back.
//!
//! Both directions are frames (`scaibunker_guest_protocol::frame`). Nothing is kept: a frame is
//! read from one side only when the other has room, so a flood stalls at its source. What the
//! guest sends is taken apart and checked before it goes on.

use std::{
    convert::Infallible,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::Incoming;
use scaibunker_api::{
    error::{ErrorBody, ErrorCode},
    exec::Command,
    ids::BunkerId,
    worker::StartExec,
};
use scaibunker_guest_protocol::{
    GuestError, GuestErrorKind, MAX_JSON_BYTES,
    exec::{ExecSpec, Exit, Started},
    frame::{Frame, FrameDecoder, FrameKind},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument as _;

use super::routes::{Failure, request_id};
use crate::{
    channel::{GuestBody, printable},
    supervisor::{Guest, Supervisor},
    vm_home::Claim,
};

/// How long the controller may take to send the first frame.
const SPEC_LIMIT: Duration = Duration::from_secs(10);
/// How long after the session with a guest breaks its VM's end may take to be noticed.
const END_LIMIT: Duration = Duration::from_secs(2);
/// Frames on their way in each direction, at most 64 KiB each.
const FRAMES_IN_FLIGHT: usize = 4;

pub(super) async fn exec(
    State(supervisor): State<Arc<Supervisor>>,
    Path(id): Path<BunkerId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let guest = supervisor.guest(id)?;
    let request_id = request_id(&headers);
    let mut input = FrameReader::new(body);
    let start = read_start(&mut input).await?;
    let spec = guest_spec(start, &guest.claim, &request_id);
    let (output, answer) = mpsc::channel(FRAMES_IN_FLIGHT);
    let run = run(supervisor, id, guest, spec, input, output);
    tokio::spawn(run.instrument(tracing::Span::current()));
    let answer = ReceiverStream::new(answer);
    let frames = tokio_stream::StreamExt::map(answer, |frame: Frame| {
        Ok::<_, Infallible>(BodyFrame::data(frame.encode()))
    });
    Ok((StatusCode::OK, Body::new(StreamBody::new(frames))).into_response())
}

async fn read_start(input: &mut FrameReader<Body>) -> Result<StartExec, ErrorBody> {
    let bad = |message: String| ErrorBody::new(ErrorCode::BadRequest, message);
    let first = timeout(SPEC_LIMIT, input.next())
        .await
        .map_err(|_| bad("the exec request never said what to run".to_owned()))?
        .map_err(|e| bad(e.to_string()))?;
    match first {
        Some(frame) if frame.kind == FrameKind::Spec => {
            frame.parse().map_err(|e| bad(e.to_string()))
        }
        _ => Err(bad("an exec stream starts with what to run".to_owned())),
    }
}

/// The command's own environment wins over the bunker's, and that over the image's.
fn guest_spec(start: StartExec, claim: &Claim, request_id: &str) -> ExecSpec {
    let argv = match start.command {
        Some(Command::Shell(line)) => vec!["/bin/sh".to_owned(), "-c".to_owned(), line],
        Some(Command::Argv(argv)) => argv,
        None => Vec::new(),
    };
    let mut env = claim.env.clone();
    env.extend(start.env);
    ExecSpec {
        exec_id: start.exec_id.to_string(),
        request_id: request_id.to_owned(),
        argv,
        cwd: start.cwd,
        env,
        user: start.user.unwrap_or_else(|| claim.image_user.clone()),
        timeout_ms: start.timeout_s.map(|seconds| seconds.saturating_mul(1000)),
        terminal: None,
    }
}

/// Carries the command's frames until it ends, the bunker ends or the caller goes away.
async fn run(
    supervisor: Arc<Supervisor>,
    id: BunkerId,
    guest: Guest,
    spec: ExecSpec,
    input: FrameReader<Body>,
    output: mpsc::Sender<Frame>,
) {
    let (began, exec_id) = (Instant::now(), spec.exec_id.clone());
    let carried = tokio::select! {
        carried = carry(&guest, &spec, input, &output) => carried,
        () = output.closed() => Err(Broken::CallerGone),
        reason = supervisor.ended(id) => Err(Broken::Lost(reason)),
    };
    let duration_ms = began.elapsed().as_millis() as u64;
    let error = match carried {
        Ok(()) => {
            return tracing::info!(bunker_id = %id, exec_id, duration_ms, "command ended");
        }
        Err(Broken::CallerGone) => {
            return tracing::info!(bunker_id = %id, exec_id, duration_ms, "command cancelled");
        }
        Err(Broken::Refused(error)) => refused(&error),
        Err(Broken::Lost(reason)) => lost(id, &reason),
        Err(Broken::Session(reason)) => {
            // The session breaks a moment before the VM's end is known, which is the better reason.
            let reason = timeout(END_LIMIT, supervisor.ended(id)).await.unwrap_or(reason);
            lost(id, &reason)
        }
    };
    tracing::warn!(bunker_id = %id, exec_id, duration_ms, %error, "command failed");
    if let Ok(frame) = Frame::json(FrameKind::Error, &error) {
        // The caller may have gone meanwhile.
        let _ = output.send(frame).await;
    }
}

fn lost(id: BunkerId, reason: &str) -> ErrorBody {
    let message = format!("bunker {id} was lost while the command ran: {reason}");
    ErrorBody::new(ErrorCode::BunkerLost, message)
}

fn refused(error: &GuestError) -> ErrorBody {
    let code = match error.kind {
        GuestErrorKind::Invalid => ErrorCode::ValidationError,
        GuestErrorKind::Conflict => ErrorCode::BunkerNotRunning,
        _ => ErrorCode::ExecFailed,
    };
    ErrorBody::new(code, printable(&error.message))
}

/// Why a command's frames stopped before its end.
enum Broken {
    CallerGone,
    /// The agent would not run the command, and says why.
    Refused(GuestError),
    /// The session with the agent broke, or the agent broke the protocol.
    Session(String),
    /// The bunker ended.
    Lost(String),
}

async fn carry(
    guest: &Guest,
    spec: &ExecSpec,
    mut input: FrameReader<Body>,
    output: &mpsc::Sender<Frame>,
) -> Result<(), Broken> {
    let session = |e: &(dyn std::error::Error + 'static)| Broken::Session(crate::chain(e));
    let first = Frame::json(FrameKind::Spec, spec).map_err(|e| session(&e))?;
    let (to_guest, body) = body_channel();
    to_guest.send(first.encode()).await.map_err(|e| session(&e))?;
    let feed = async {
        // A caller that stops sending, well or badly, ends the input; the answer goes on.
        while let Ok(Some(frame)) = input.next().await {
            let allowed = matches!(frame.kind, FrameKind::Stdin | FrameKind::StdinEnd);
            if !allowed || to_guest.send(frame.encode()).await.is_err() {
                break;
            }
        }
        drop(to_guest);
        std::future::pending::<Infallible>().await
    };
    let answer = async {
        let response = guest
            .channel
            .send(Method::POST, "/exec", body, &spec.request_id)
            .await
            .map_err(|e| session(&e))?;
        if response.status() != StatusCode::OK {
            return Err(Broken::Refused(refusal(response.into_body()).await));
        }
        pass_answer(FrameReader::new(response.into_body()), output).await
    };
    tokio::select! {
        answered = answer => answered,
        never = feed => match never {},
    }
}

async fn pass_answer(
    mut frames: FrameReader<Incoming>,
    output: &mpsc::Sender<Frame>,
) -> Result<(), Broken> {
    let broken = |e: &(dyn std::error::Error + 'static)| Broken::Session(crate::chain(e));
    loop {
        let Some(frame) = frames.next().await.map_err(|e| broken(&e))? else {
            return Err(Broken::Session("the guest agent stopped answering".to_owned()));
        };
        let checked = match frame.kind {
            FrameKind::Stdout | FrameKind::Stderr => frame,
            FrameKind::Started => {
                let started: Started = frame.parse().map_err(|e| broken(&e))?;
                Frame::json(FrameKind::Started, &started).map_err(|e| broken(&e))?
            }
            FrameKind::Exit => {
                let exit: Exit = frame.parse().map_err(|e| broken(&e))?;
                Frame::json(FrameKind::Exit, &exit).map_err(|e| broken(&e))?
            }
            FrameKind::Error => {
                let error: GuestError = frame.parse().map_err(|e| broken(&e))?;
                return Err(Broken::Refused(error));
            }
            kind => {
                return Err(Broken::Session(format!("the guest agent sent a {kind:?} frame")));
            }
        };
        let is_last = checked.kind == FrameKind::Exit;
        output.send(checked).await.map_err(|_| Broken::CallerGone)?;
        if is_last {
            return Ok(());
        }
    }
}

async fn refusal(body: Incoming) -> GuestError {
    let whole = http_body_util::Limited::new(body, MAX_JSON_BYTES).collect().await;
    let bytes = whole.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    serde_json::from_slice(&bytes).unwrap_or_else(|_| GuestError {
        kind: GuestErrorKind::Failed,
        message: "the guest agent gave no reason".to_owned(),
    })
}

fn body_channel() -> (mpsc::Sender<Bytes>, GuestBody) {
    let (sender, receiver) = mpsc::channel(FRAMES_IN_FLIGHT);
    let frames = tokio_stream::StreamExt::map(ReceiverStream::new(receiver), |bytes| {
        Ok::<_, io::Error>(BodyFrame::data(bytes))
    });
    (sender, BoxBody::new(StreamBody::new(frames)))
}

/// Reads frames from a body that arrives in pieces.
struct FrameReader<B> {
    body: B,
    decoder: FrameDecoder,
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("the stream broke")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Frame(#[from] scaibunker_guest_protocol::frame::FrameError),
}

impl<B> FrameReader<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new(body: B) -> Self {
        Self { body, decoder: FrameDecoder::default() }
    }

    /// The next frame; `None` at the end of the stream.
    async fn next(&mut self) -> Result<Option<Frame>, ReadError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            match self.body.frame().await {
                Some(piece) => {
                    let piece = piece.map_err(|e| ReadError::Body(e.into()))?;
                    if let Some(bytes) = piece.data_ref() {
                        self.decoder.push(bytes);
                    }
                }
                None => {
                    self.decoder.finish()?;
                    return Ok(None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use scaibunker_api::ids::ExecId;

    use super::*;

    #[test]
    fn a_string_goes_to_the_shell_and_its_environment_wins() {
        let claim = Claim {
            bunker_id: BunkerId::generate(),
            image_user: "bunker".into(),
            env: BTreeMap::from([("A".into(), "bunker".into()), ("B".into(), "bunker".into())]),
            started_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let start = StartExec {
            exec_id: ExecId::generate(),
            command: Command::Shell("echo $A".into()),
            cwd: None,
            env: BTreeMap::from([("A".into(), "exec".into())]),
            user: None,
            timeout_s: u64::MAX,
        };
        let spec = guest_spec(start, &claim, "req_1");
        assert_eq!(spec.argv, ["/bin/sh", "-c", "echo $A"]);
        assert_eq!((spec.env["A"].as_str(), spec.env["B"].as_str()), ("exec", "bunker"));
        assert_eq!((spec.user.as_str(), spec.timeout_ms), ("bunker", u64::MAX));
    }

    #[tokio::test]
    async fn a_stream_cut_inside_a_frame_is_an_error() {
        let wire = Frame::data(FrameKind::Stdout, "abc".into()).encode();
        let whole = http_body_util::Full::new(wire.clone());
        let mut reader = FrameReader::new(whole);
        assert!(matches!(reader.next().await, Ok(Some(frame)) if frame.payload == "abc"));
        assert!(matches!(reader.next().await, Ok(None)));
        let mut reader = FrameReader::new(http_body_util::Full::new(wire.slice(..6)));
        assert!(reader.next().await.is_err());
    }
}
